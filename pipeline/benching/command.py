"""The command `penstock bench`."""

from pathlib import Path

import click


@click.command(short_help="Say what holds up a configuration here, and how many cameras fit.")
@click.argument("config", type=click.Path(path_type=Path), default="pipeline.toml")
@click.option("--seconds", type=click.FloatRange(4, 600), default=20.0, help="Measure for about so long; 20.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(config: Path, seconds: float, *, as_json: bool) -> int:
    """Measure CONFIG (pipeline.toml) on this machine: its stages, the whole of it, and how many such cameras fit.

    It is run dry: cameras are read for a moment, results go into a folder that is thrown away, nothing is sent, and
    models elsewhere are not asked. Do nothing else on the machine meanwhile.

    Exit code 0: measured; 78: the configuration is wrong, or cannot be measured.

    \b
    Examples:
      penstock bench
      penstock bench /etc/penstock/pipeline.toml --seconds 60
      penstock bench site.toml --json > bench.json
    """
    from functools import partial

    from pipeline.benching.measuring import bench as measure
    from pipeline.benching.report import as_json as json_of
    from pipeline.benching.report import lines
    from pipeline.config.loader import load
    from pipeline.config.secrets import secrets_of
    from pipeline.contracts.secret import Redactor
    from pipeline.registry import Registry
    from pipeline.telemetry import logs

    redactor = Redactor()
    logs.set_up("warning", mask=redactor)
    settings = load(config, registry=Registry.load())
    redactor.learn(secrets_of(settings))
    found = measure(settings, seconds, partial(click.echo, err=True))
    click.echo(json_of(found) if as_json else "\n".join(lines(found)))
    return 0
