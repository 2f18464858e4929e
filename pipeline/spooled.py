"""`penstock spool`: what waits to be sent, and what a server refused for good."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.contracts.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.spool.operator import Letter, SpoolFile

F = TypeVar("F", bound=Callable[..., Any])

CONFIG = click.argument("config", type=click.Path(path_type=Path), default="pipeline.toml")
NAME = click.argument("name")
DATA_DIR = click.option("--data-dir", type=click.Path(path_type=Path), help="Look here; CONFIG is not read then.")
WAITING = click.option("--waiting", is_flag=True, help="What waits, instead of the dead letters.")
NUMBERS = click.option("--number", "-n", "numbers", type=int, multiple=True, help="Only this letter; may be repeated.")
SHOWN_CHARS = 200


def _where(command: F) -> F:
    """The argument and the option that say whose spools are meant."""
    return CONFIG(DATA_DIR(command))


@click.group(short_help="Look at what waits to be sent, and at dead letters.")
def spool() -> None:
    """Look at the spools of a pipeline: what waits to be sent, and dead letters: what a server refused for good.

    All of it may be done while the pipeline runs. NAME is a sink of CONFIG (pipeline.toml).

    \b
    Examples:
      penstock spool ls
      penstock spool show alerts
      penstock spool replay alerts /etc/penstock/pipeline.toml
    """


@spool.command("ls", short_help="List the spools.")
@_where
def list_spools(config: Path, data_dir: Path | None) -> int:
    """List the spools of CONFIG (pipeline.toml): what waits, since when, and how many dead letters there are.

    \b
    Examples:
      penstock spool ls
      penstock spool ls --data-dir /var/lib/penstock
    """
    from pipeline.contracts.errors import PenstockError
    from pipeline.spool.operator import SpoolFile, spools_in

    folder, sinks = _folder(config, data_dir)
    found = spools_in(folder)
    failed = False
    for path in found:
        try:
            with SpoolFile(path) as file:
                one = file.summary()
        except PenstockError as error:
            click.echo(str(error), err=True)
            failed = True
            continue
        since = f", since {_time(one.oldest_at)}" if one.oldest_at is not None else ""
        used = "" if one.holder is None else f", in use by process {one.holder or '?'}"
        orphan = "" if sinks is None or _sink_of(path) in sinks else ", no such sink in the configuration"
        click.echo(
            f"{path.stem}: {one.waiting:,} waiting ({one.nbytes:,} bytes{since}), {one.letters:,} dead letters"
            f"{used}{orphan}"
        )
    if not found:
        click.echo(f"no spool in {folder / 'spool'}")
    return int(failed)


@spool.command(short_help="Show dead letters, and why they are.")
@NAME
@_where
@WAITING
@click.option("--limit", type=click.IntRange(1), default=20, help="At most so many; 20.")
def show(name: str, config: Path, data_dir: Path | None, *, waiting: bool, limit: int) -> int:
    """Show the dead letters of the sink NAME, oldest first: number, when, source, id, and what was answered.

    \b
    Examples:
      penstock spool show alerts
      penstock spool show alerts --waiting --limit 5
    """
    with _opened(name, config, data_dir) as file:
        for letter in islice(_chosen(file, waiting=waiting), limit):
            at = letter.parcel.accepted_at if letter.buried_at is None else letter.buried_at
            body = letter.parcel.body.decode("utf-8", "replace") if letter.answer is None else letter.answer
            what = json.dumps(body[:SHOWN_CHARS]) + " DAMAGED" * (not letter.sound)
            source = letter.parcel.source or "-"
            click.echo(f"{letter.number}  {_time(at)}  {letter.parcel.kind}  {source}  {letter.parcel.id}  {what}")
        one = file.summary()
    hint = " (--waiting shows them)" if one.waiting and not waiting else ""
    click.echo(f"{one.waiting:,} waiting{hint}, {one.letters:,} dead letters", err=True)
    return 0


@spool.command(short_help="Send dead letters once more.")
@NAME
@_where
@NUMBERS
def replay(name: str, config: Path, data_dir: Path | None, *, numbers: tuple[int, ...]) -> int:
    """Put dead letters of the sink NAME back to the end of its queue, all of them or those with a NUMBER.

    \b
    Examples:
      penstock spool replay alerts
      penstock spool replay alerts -n 17 -n 18
    """
    with _opened(name, config, data_dir) as file:
        moved, damaged = file.replay(numbers or None)
    click.echo(f"{moved:,} back in the queue" + (f", {damaged:,} are damaged and stay" if damaged else ""))
    return 0


@spool.command(short_help="Throw dead letters away, or what waits.")
@NAME
@_where
@WAITING
@NUMBERS
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(name: str, config: Path, data_dir: Path | None, *, waiting: bool, numbers: tuple[int, ...], yes: bool) -> int:
    """Throw away the dead letters of the sink NAME, all of them or those with a NUMBER; or all that waits.

    \b
    Examples:
      penstock spool purge alerts
      penstock spool purge alerts --waiting --yes
    """
    if waiting and numbers:
        raise click.UsageError("--number is for dead letters: without --waiting")
    with _opened(name, config, data_dir) as file:
        one = file.summary()
        if waiting:
            what = f"{one.waiting:,} results that were not sent"
        else:
            what = f"{len(numbers) or one.letters:,} dead letters"
        if not yes:
            click.confirm(f"{file.path}: throw away {what}?", abort=True, err=True)
        gone = file.purge_waiting() if waiting else file.purge_letters(numbers or None)
    click.echo(f"{gone:,} thrown away")
    return 0


@spool.command(short_help="Write dead letters, or what waits, as JSON lines.")
@NAME
@_where
@WAITING
def export(name: str, config: Path, data_dir: Path | None, *, waiting: bool) -> int:
    """Write the dead letters of the sink NAME to stdout, a JSON object a line; nothing is changed.

    \b
    Examples:
      penstock spool export alerts > refused.jsonl
      penstock spool export alerts --waiting | jq -r .body
    """
    with _opened(name, config, data_dir) as file:
        for letter in _chosen(file, waiting=waiting):
            click.echo(json.dumps(_as_object(letter), ensure_ascii=False))
    return 0


def _chosen(file: "SpoolFile", *, waiting: bool) -> "Iterator[Letter]":
    return file.waiting() if waiting else file.letters()


def _as_object(letter: "Letter") -> dict[str, Any]:
    parcel = letter.parcel
    try:
        body: dict[str, str] = {"body": parcel.body.decode()}
    except UnicodeDecodeError:
        body = {"body_base64": base64.b64encode(parcel.body).decode()}
    return {
        "number": letter.number,
        "id": parcel.id,
        "source": parcel.source,
        "kind": parcel.kind,
        "accepted_at": _time(parcel.accepted_at),
        **({} if letter.buried_at is None else {"refused_at": _time(letter.buried_at), "answer": letter.answer}),
        **({} if letter.sound else {"damaged": True}),
        **({"about": parcel.about} if parcel.about else {}),
        **body,
        **({"picture_base64": base64.b64encode(parcel.picture).decode()} if parcel.picture else {}),
    }


def _opened(name: str, config: Path, data_dir: Path | None) -> "SpoolFile":
    from pipeline.contracts.errors import FatalError
    from pipeline.spool.errors import SpoolError
    from pipeline.spool.operator import SpoolFile, spools_in

    folder, _ = _folder(config, data_dir)
    found = spools_in(folder)
    named = [path for path in found if name in (path.stem, _sink_of(path))]
    if len(named) > 1:
        raise ConfigError(f"penstock: {name} has several spools; say {' or '.join(path.stem for path in named)}")
    if not named:
        known = ", ".join(path.stem for path in found) or "there is none"
        raise ConfigError(f"penstock: no spool of {name} in {folder / 'spool'}: {known}")
    try:
        return SpoolFile(named[0])
    except (FatalError, SpoolError) as error:
        raise click.ClickException(str(error)) from error


def _folder(config: Path, data_dir: Path | None) -> tuple[Path, set[str] | None]:
    """Where the spools are, and the names of the sinks, where they are known."""
    if data_dir is not None:
        return data_dir.absolute(), None
    from pipeline.config.loader import load
    from pipeline.registry import Registry

    settings = load(config, registry=Registry.load())
    return settings.data_dir, set(settings.sinks)


def _sink_of(path: Path) -> str:
    return path.name.split(".")[0]


def _time(at: float | None) -> str:
    try:
        return datetime.fromtimestamp(time.time() if at is None else at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):  # a damaged row
        return "?"
