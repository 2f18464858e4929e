"""The command line. Each command imports what it needs itself: `penstock --help` is for the impatient."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.benching.command import bench
from pipeline.contracts.errors import ConfigError
from pipeline.looking import doctor, generate, inspect_model, plugins, schema, top
from pipeline.quantize.command import quantize
from pipeline.spooled import spool

if TYPE_CHECKING:
    from pipeline.config.settings import Settings

EXIT_INTERRUPTED = 130
EXIT_BAD_CONFIG = 78
"""EX_CONFIG of sysexits.h: what is wrong is in the configuration or on the command line."""

CONFIG = click.argument("config", type=click.Path(path_type=Path), default="pipeline.toml")
QUIET = click.option("--quiet", "-q", is_flag=True, help="No progress, no summary; only warnings and errors.")


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from pipeline.version import version

        click.echo(f"penstock {version()}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
)
def cli() -> None:
    """Streaming video inference: cameras and files in, a model, results that are counted out.

    \b
    Examples:
      penstock run                                     what pipeline.toml says
      penstock check site.toml                         is that file right?
      penstock predict street.mp4 --output boxes.mp4   without any file
    """


for command in (bench, doctor, generate, inspect_model, plugins, quantize, schema, spool, top):
    cli.add_command(command)


@cli.command(short_help="Run a pipeline until its files end or a signal comes.")
@CONFIG
@QUIET
def run(config: Path, *, quiet: bool) -> int:
    """Run the pipeline of CONFIG (pipeline.toml) until its files end or a signal comes.

    SIGTERM and Ctrl-C stop the sources and let everything on its way arrive; a second one abandons what is left.
    Exit code 0: all went well; 1: something failed or was lost; 78: the configuration is wrong.

    \b
    Examples:
      penstock run
      penstock run /etc/penstock/pipeline.toml --quiet
      PENSTOCK_SOURCES__GATE__MAX_FPS=5 penstock run
    """
    return _run(_load(config, to_run=True), quiet=quiet)


@cli.command(short_help="Say everything that is wrong with a configuration.")
@CONFIG
def check(config: Path) -> int:
    """Say everything that is wrong with CONFIG (pipeline.toml), without running it.

    \b
    Examples:
      penstock check
      penstock check site.toml && systemctl restart penstock
    """
    from pipeline.config.check import check as check_components

    settings = _load(config)
    check_components(settings)
    counts = (
        (len(settings.sources), "source"),
        (len(settings.backends), "backend"),
        (len(settings.sinks), "sink"),
    )
    summary = ", ".join(f"{count} {noun}{'s' * (count != 1)}" for count, noun in counts)
    overlay = settings.overlay
    laid_over = f"; {_shortest(overlay.path)}: {overlay}" if overlay is not None and str(overlay) else ""
    click.echo(f"{config}: ok: {summary}{laid_over}")
    return 0


@cli.command(short_help="Run a model over files, without a configuration.")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--model", "-m", help="ONNX model; the demo's YOLO11n if that is installed and nothing is said.")
@click.option(
    "--output",
    "-o",
    "outputs",
    multiple=True,
    help="X.jsonl, .csv, .parquet, .db, .mp4 or - (JSON lines on stdout); may be repeated.",
)
@click.option("--confidence", type=click.FloatRange(0, 1), help="Leave out what the model is less sure of.")
@click.option("--classes", help="Keep only these, by name: person,car.")
@click.option("--iou", type=click.FloatRange(0, 1), help="Boxes that overlap more than this are one object.")
@click.option("--family", help="How the model's output is read; found out if left out.")
@click.option("--device", help="auto, cpu, cuda or cuda:1.")
@click.option("--stride", type=click.IntRange(1), help="Take every n-th frame.")
@click.option("--max-fps", type=click.FloatRange(0, min_open=True), help="Take at most this many frames of a second.")
@click.option("--num-frames", type=click.IntRange(1), help="Stop after so many frames of each file.")
@QUIET
def predict(sources: tuple[str, ...], *, quiet: bool, **options: Any) -> int:
    """Run a model over SOURCE... (videos, pictures, folders, patterns) without a configuration file.

    \b
    Examples:
      penstock predict street.mp4
      penstock predict street.mp4 -o street.jsonl -o boxes.mp4 --confidence 0.4
      penstock predict 'photos/*.jpg' --model people.onnx --classes person -o -
    """
    from pipeline.config.loader import from_tree
    from pipeline.predict import tree
    from pipeline.registry import Registry

    settings = from_tree(tree(sources, **options), base_dir=Path.cwd(), registry=Registry.load())
    return _run(settings, quiet=quiet)


@cli.command(short_help="Offer models to clients, without any camera.")
@click.argument("what", nargs=-1)
@click.option("--listen", help="host:port; 127.0.0.1:9464 if nothing is said.")
@click.option("--device", help="auto, cpu, cuda or cuda:1; for model files.")
@click.option("--confidence", type=click.FloatRange(0, 1), help="What is said where a client asks for nothing else.")
@QUIET
def serve(
    what: tuple[str, ...], *, listen: str | None, device: str | None, confidence: float | None, quiet: bool
) -> int:
    """Offer the models of a pipeline.toml, or ONNX files, to clients of Roboflow, Hugging Face, Supervisely and KServe.

    WHAT is one configuration (pipeline.toml, if that is here), whose sources and sinks are left alone, or model files.

    \b
    Examples:
      penstock serve
      penstock serve people.onnx --listen 127.0.0.1:9001
      penstock serve /etc/penstock/pipeline.toml
    """
    from pipeline.offer import of_file, of_models

    if not what and Path("pipeline.toml").is_file():
        what = ("pipeline.toml",)
    files = [Path(each) for each in what if each.endswith(".toml")]
    if files and (len(what) > 1 or device is not None or confidence is not None):
        raise click.UsageError("either one configuration or model files; --device and --confidence are for the latter")
    if files:
        return _run(of_file(_load(files[0], to_run=True), listen), quiet=quiet)
    chosen = listen or "127.0.0.1:9464"
    return _run(of_models(what, listen=chosen, device=device, confidence=confidence), quiet=quiet)


@cli.command(short_help="Say what a reload would change.")
@click.argument("new", type=click.Path(path_type=Path))
@click.argument("old", type=click.Path(path_type=Path), default=Path("pipeline.toml"))
def plan(new: Path, old: Path) -> int:
    """Say what a reload would change if NEW stood in place of OLD (pipeline.toml): by source, backend and sink.

    \b
    Examples:
      penstock plan edited.toml
      penstock plan edited.toml /etc/penstock/pipeline.toml
    """
    from pipeline.config.diff import diff

    lines = diff(_load(old), _load(new)).lines()
    for line in lines or ["nothing would change"]:
        click.echo(line)
    return 0


@cli.command(short_help="Print what makes the shell complete commands and options.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print what makes the shell complete Penstock's commands and options.

    \b
    Examples:
      penstock completion bash > /etc/bash_completion.d/penstock
      penstock completion zsh > ~/.zfunc/_penstock
    """
    from click.shell_completion import get_completion_class

    completer = get_completion_class(shell)
    if completer is not None:
        click.echo(completer(cli, {}, "penstock", "_PENSTOCK_COMPLETE").source())
    return 0


def _shortest(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def run_command_line(args: list[str] | None = None) -> int:  # noqa: PLR0911  (one for each kind of end)
    """The whole program: runs the command, turns a user's mistake into lines on stderr, returns the exit code."""
    try:
        code = cli.main(args, prog_name="penstock", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        message = " ".join(error.format_message().split())
        hint = f"; see `{context.command_path} --help`" if context is not None else ""
        click.echo(f"penstock: {message.rstrip('.')}{hint}", err=True)
        return EXIT_BAD_CONFIG
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except ConfigError as error:
        click.echo(str(error), err=True)
        return EXIT_BAD_CONFIG
    except BrokenPipeError:  # `penstock schema | head`: whoever read it has enough
        sys.stderr.close()
        return 1
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        click.echo(f"penstock: {file}{error.strerror or error}", err=True)
        return 1
    return code if isinstance(code, int) else 0


def _load(config: Path, *, to_run: bool = False) -> "Settings":
    """The settings, or all that is wrong with them; from here on a traceback shows no secret."""
    from functools import partial

    from pipeline.config.check import look
    from pipeline.config.loader import load
    from pipeline.config.secrets import secrets_of
    from pipeline.contracts.secret import Redactor
    from pipeline.registry import Registry
    from pipeline.telemetry import logs

    redactor = Redactor()
    logs.set_up(mask=redactor)
    logs.catch_uncaught()
    settings = load(config, registry=Registry.load(), look=partial(look, to_run=to_run))
    redactor.learn(secrets_of(settings))
    return settings


def _run(settings: "Settings", *, quiet: bool) -> int:
    from pipeline.app import run_pipeline
    from pipeline.config.check import check as check_components

    check_components(settings, to_run=True)
    return run_pipeline(settings, quiet=quiet)
