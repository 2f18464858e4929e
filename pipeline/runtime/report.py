"""`Report`: how a run ended, from the ledger and what is left of the threads."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.contracts.errors import EnoughError
from pipeline.runtime.ledger import Account, FrameOutcome, Page, ResultOutcome
from pipeline.runtime.source_runner import SourceRunner
from pipeline.runtime.topology import Runner, Topology
from pipeline.telemetry.events import Events
from pipeline.telemetry.readings import SourceState

MAX_SHOWN = 5
"""Names of files of one sink."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a run ended.

    Attributes:
        sources: the sources' pages of the ledger.
        sinks: the sinks' pages.
        clients: what clients asked of each backend.
        written: what the sinks wrote, as the user named it: of each the first files, and how many more.
        failed: components that failed for good.
        late: threads that did not end in time.
        faults: what does not balance in the ledger: empty, or Penstock has a bug.
        abandoned: True when what was left was given up.
        enough: sinks whose reader wanted no more, as `head` does: what it did not take is nobody's loss.
        spools: the files of the sinks' spools, by sink.
    """

    sources: list[Account]
    sinks: list[Account]
    clients: list[Account]
    written: list[str]
    failed: list[str]
    late: list[str]
    faults: list[str]
    abandoned: bool
    enough: frozenset[str] = frozenset()
    spools: Mapping[str, Path] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Frames and results that failed on the way."""
        frames = sum(account.outcomes[FrameOutcome.FAILED_BACKEND] for account in self.sources)
        return frames + sum(
            account.outcomes[ResultOutcome.FAILED] for account in self.sinks if account.name not in self.enough
        )

    @property
    def exit_code(self) -> int:
        """0: all went well; 1: something failed, was late, was given up or does not balance."""
        return int(bool(self.failed or self.late or self.faults or self.abandoned or self.lost))


def report_of(topology: Topology, events: Events, *, abandoned: bool) -> Report:
    """Look once more at everything, tell what is not as it should be, and sum it up; called when all is over."""
    topology.sweep()
    runners = [*topology.runners, *topology.leaving]
    threads = [thread for runner in runners for thread in started_threads(runner)]
    late = [thread.name for thread in threads if thread.is_alive()]
    faults = topology.ledger.faults(drained=True)
    if late:
        events.late(late)
    for fault in faults:
        events.unbalanced(fault)
    events.say_leftovers()
    return Report(
        sources=_with_removed(topology.ledger.sources.values(), topology.ledger.removed_sources),
        sinks=_with_removed(topology.ledger.sinks.values(), topology.ledger.removed_sinks),
        clients=[page.read() for page in topology.ledger.clients.values()],
        written=[path for sink in topology.sinks.values() for path in _first(sink.sink.written())],
        failed=[runner.name for runner in topology.runners if runner.error is not None and not _is_passing(runner)],
        late=late,
        faults=faults,
        abandoned=abandoned,
        enough=frozenset(runner.name for runner in topology.sinks.values() if isinstance(runner.error, EnoughError)),
        spools={name: sink.spool_path for name, sink in topology.sinks.items() if sink.spool_path is not None},
    )


def _first(written: Sequence[str]) -> list[str]:
    """A recorder writes thousands of files: they are not what the end of a run is about."""
    if len(written) <= MAX_SHOWN + 1:
        return list(written)
    return [*written[:MAX_SHOWN], f"{len(written) - MAX_SHOWN:,} more files"]


def started_threads(runner: Runner) -> list[threading.Thread]:
    """Those that can be joined."""
    return [thread for thread in runner.threads if thread.ident is not None]


def _with_removed(pages: Iterable[Page], removed: Account) -> list[Account]:
    """All pages, and the sum of those that were removed, if there were any."""
    return [*(page.read() for page in pages), *([removed] if removed.entered or removed.restored else [])]


def _is_passing(runner: Runner) -> bool:
    """A camera that was being reconnected when the stop came is not what the exit code is about, nor is `| head`."""
    if isinstance(runner.error, EnoughError):
        return True
    return isinstance(runner, SourceRunner) and runner.state is not SourceState.FAILED
