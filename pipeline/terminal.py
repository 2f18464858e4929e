"""What a person sees in the terminal while the pipeline runs, and when it has ended."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline.contracts.source import Counted
from pipeline.runtime.ledger import Account
from pipeline.runtime.report import Report
from pipeline.runtime.supervisor import Supervisor
from pipeline.telemetry.readings import SourceReading

REFRESH_S = 0.25


@contextlib.asynccontextmanager
async def progress_bars(supervisor: Supervisor, *, shown: bool) -> AsyncIterator[None]:
    """A bar for each source on stderr, while somebody watches it: frames, rate, time left, drops."""
    console = Console(stderr=True)
    if not shown or not console.is_terminal:
        yield
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[drops]}"),
    )
    # Standard output belongs to results: a bar that redirected it would swallow them.
    with Progress(*columns, console=console, auto_refresh=False, transient=True, redirect_stdout=False) as progress:
        tasks = {name: progress.add_task(name, total=None, rate="", drops="") for name in supervisor.topology.sources}
        refresher = asyncio.create_task(_refresh(progress, tasks, supervisor))
        try:
            yield
        finally:
            refresher.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):  # a terminal that went away decides nothing
                await refresher


async def _refresh(progress: Progress, tasks: dict[str, TaskID], supervisor: Supervisor) -> None:
    while True:
        for name in tasks.keys() - supervisor.topology.sources.keys():  # removed by a reload
            progress.remove_task(tasks.pop(name))
        for reading in supervisor.read_sources():
            if reading.name not in tasks:
                tasks[reading.name] = progress.add_task(reading.name, total=None, rate="", drops="")
            task = tasks[reading.name]
            source = supervisor.topology.sources[reading.name].source
            speed = progress.tasks[task].speed
            progress.update(
                task,
                completed=reading.decoded - reading.in_flight,
                total=source.expected_frames if isinstance(source, Counted) else None,
                rate=f"{speed:.1f} fps" if speed else "",
                drops=_drops(reading),
            )
        progress.refresh()
        await asyncio.sleep(REFRESH_S)


def _drops(reading: SourceReading) -> str:
    lost = {name: count for name, count in reading.outcomes.items() if count and name.startswith(("dropped", "failed"))}
    return ", ".join(f"{name.removeprefix('dropped_').replace('_', ' ')} {count:,}" for name, count in lost.items())


def summary(report: Report, took_s: float) -> list[str]:
    """The ledger at the end of a run, as lines for a person."""
    inferred = sum(account.outcomes["inferred"] for account in (*report.sources, *report.clients))
    lines = [_page("source", account, "decoded", "in flight") for account in report.sources]
    lines += [_page("sink", account, "accepted", "pending") for account in report.sinks]
    lines += [_page("clients", account, "asked", "on their way") for account in report.clients]
    lines += [
        f"  kept in {_shortest(str(report.spools[account.name]))}: {account.outcomes['kept']:,} results for sink "
        f"{account.name}, sent at the next start"
        for account in report.sinks
        if account.outcomes["kept"] and account.name in report.spools
    ]
    lines += [f"  wrote {_shortest(path)}" for path in report.written]
    verdict = "every frame and every result is accounted for" if not report.faults else "THE LEDGER DOES NOT BALANCE"
    verdict = f"NOT ALL WENT WELL; {verdict}" if report.exit_code else verdict
    lines.append(f"  {inferred:,} frames inferred in {took_s:.1f} s ({inferred / max(took_s, 1e-9):.1f}/s); {verdict}")
    return lines


def _page(kind: str, account: Account, entered: str, still_open: str) -> str:
    parts = [f"{count:,} {name.replace('_', ' ')}" for name, count in account.outcomes.items() if count]
    parts += [f"{account.open:,} {still_open}"] if account.open else []
    name = account.name.removeprefix(f"{kind} ")
    became = f" = {' + '.join(parts)}" if parts else ""
    before = f" + {account.restored:,} restored" if account.restored else ""
    skipped = f", {account.skipped:,} not decoded (not wanted)" if account.skipped else ""
    return f"  {kind} {name}: {account.entered:,} {entered}{before}{became}{skipped}"


def _shortest(path: str) -> str:
    with contextlib.suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path


def say(lines: Iterable[str]) -> None:
    """Print lines on stderr as they are."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    with contextlib.suppress(OSError):  # nobody reads it: that decides nothing
        for line in lines:
            console.print(line)
