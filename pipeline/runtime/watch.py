"""`Watch`: which stages have work and make no progress; what the watchdog and `/livez` are fed with."""

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.telemetry.events import Events


class Stage(NamedTuple):
    """One stage at one moment: `done` grows with every piece of work that it finishes.

    `patience_s`: so long it may wait for somebody else, who has a limit of his own; only then it begins to be stuck.
    """

    kind: str
    name: str
    has_work: bool
    done: int
    patience_s: float = 0.0


class _Seen(NamedTuple):
    had_work: bool
    done: int
    moved_at: float
    told: bool


class Watch:
    """Made by the supervisor, which lets it look every half second; everything runs in the main thread.

    A camera that is down is no stage with work: it is absent, not stuck.
    """

    def __init__(self, events: Events, tell_after_s: float = 10.0) -> None:
        self.tell_after_s = tell_after_s
        self._events = events
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._stuck_s: dict[tuple[str, str], float] = {}

    def look(self, stages: Iterable[Stage], now: float) -> None:
        """Compare with what was seen before; stages that are not there any more are forgotten."""
        before, self._seen, self._stuck_s = self._seen, {}, {}
        for kind, name, has_work, done, patience_s in stages:
            key = (kind, name)
            seen = before.get(key)
            if seen is None or not has_work or not seen.had_work or done != seen.done:
                if seen is not None and seen.told:
                    self._events.stage_moves(f"{kind} {name}")
                self._seen[key] = _Seen(has_work, done, now, told=False)
                self._stuck_s[key] = 0.0
                continue
            stuck_s = max(0.0, now - seen.moved_at - patience_s)
            tell = not seen.told and stuck_s >= self.tell_after_s
            if tell:
                self._events.stage_stuck(f"{kind} {name}", stuck_s)
            self._seen[key] = seen._replace(told=seen.told or tell)
            self._stuck_s[key] = stuck_s

    def stuck(self, for_s: float) -> list[str]:
        """The stages that have had work and made no progress for so long, e.g. "backend people"."""
        return [f"{kind} {name}" for (kind, name), stuck_s in self._stuck_s.items() if stuck_s >= for_s]

    def read(self) -> dict[tuple[str, str], float]:
        """For how many seconds each stage (kind, name) has had work and made no progress; 0 while all is well."""
        return dict(self._stuck_s)
