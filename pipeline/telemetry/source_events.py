"""What can happen to a source: the part of `Events` that is about cameras and files.

A camera may flap for days, so its turns, down and up again, are limited otherwise than all else: see `Turns`.
"""

from collections.abc import Callable
from logging import ERROR, INFO, WARNING
from typing import TYPE_CHECKING

from pipeline.contracts.clock import Clock
from pipeline.contracts.secret import redact
from pipeline.telemetry.limits import Turns
from pipeline.telemetry.saying import CHRONIC_S, Saying, and_more

if TYPE_CHECKING:
    from pipeline.telemetry.logs import Value

_SHOWN = {
    "ok": "the picture is ok",
    "frozen": "the picture is frozen",
    "black": "the picture is black",
    "moved": "the picture shows another scene: was the camera moved?",
}


class SourceEvents(Saying):
    """The events of sources; `Events` inherits them. Called from every thread."""

    def __init__(self, clock: Clock, mask: Callable[[str], str] = redact) -> None:
        super().__init__(clock, mask)
        self._turns = Turns(clock)

    def source_up(self, source: str, away_s: float | None) -> None:
        """The first frame came; `away_s` is how long it was away, None at the start."""
        back = "" if away_s is None else f" again after {away_s:.1f} s"
        away = {} if away_s is None else {"away_s": round(away_s, 1)}
        untold = 0
        with self._lock:
            told = self._turns.up(source)
            if told:
                untold = sum(self._limiter.forget(f"source {source}\0still down").values())
            else:
                self._limiter.hold(f"source {source}\0up")
        if told:
            attempts = f", {untold:,} more failed attempt{'s' * (untold != 1)}" if untold else ""
            self._say(INFO, "source_up", f"source {source}: running{back}{attempts}", source=source, **away)

    def source_down(self, source: str, code: str, delay_s: float, error: object) -> None:
        """It gave frames (or was never tried before) and failed: said once, until it is up again."""
        with self._lock:
            told = self._turns.down(source)
            if told:
                self._limiter.begin(f"source {source}\0still down: {code}")
            else:
                self._limiter.hold(f"source {source}\0down")
        if told:
            message = f"source {source}: down: {code}: {error}; next try in {delay_s:.1f} s"
            self._say(WARNING, "source_down", message, source=source, code=code, delay_s=round(delay_s, 1))

    def source_still_down(self, source: str, code: str, delay_s: float, error: object) -> None:
        """One more attempt failed; told at once where it is for another reason, else once a minute."""
        with self._lock:
            held = self._limiter.let_through(f"source {source}\0still down: {code}", CHRONIC_S)
            if held is not None:
                self._turns.said_down(source)
        if held is not None:
            message = f"source {source}: still down: {code}: {error}; next try in {delay_s:.1f} s{and_more(held)}"
            about: dict[str, Value] = {"code": code, "delay_s": round(delay_s, 1), "held_back": held}
            self._say(WARNING, "source_still_down", message, source=source, **about)

    def source_content(self, source: str, content: str, before: str) -> None:
        """What its pictures show changed: frozen, black, moved, or ok again."""
        self._say(
            INFO if content == "ok" else WARNING,
            "source_content",
            f"source {source}: {_SHOWN.get(content, content)} (before: {before})",
            source=source,
            content=content,
            before=before,
        )

    def source_paused(self, source: str) -> None:
        """Somebody paused it."""
        self._say(INFO, "source_paused", f"source {source}: paused", source=source)

    def source_resumed(self, source: str) -> None:
        """Somebody resumed it."""
        self._say(INFO, "source_resumed", f"source {source}: resumed", source=source)

    def source_restarted(self, source: str) -> None:
        """Somebody asked for a new connection."""
        self._say(INFO, "source_restarted", f"source {source}: restarted by order", source=source)

    def frame_corrupt(self, source: str) -> None:
        """The decoder concealed damage in a frame (counted)."""
        message = f"source {source}: a damaged frame"
        self._limited(WARNING, "frame_corrupt", message, "corrupt", CHRONIC_S, source=source)

    def time_jumped(self, source: str) -> None:
        """The camera's time stamps jumped (counted)."""
        message = f"source {source}: time stamps jumped"
        self._limited(WARNING, "time_jumped", message, "time jump", CHRONIC_S, source=source)

    def source_ended(self, source: str, frames: int) -> None:
        """It came to its end, as files do."""
        self._forget(source)
        self._say(INFO, "source_ended", f"source {source}: ended after {frames:,} frames", source=source, frames=frames)

    def source_stopped(self, source: str, frames: int) -> None:
        """It was told to stop."""
        self._forget(source)
        message = f"source {source}: stopped after {frames:,} frames"
        self._say(INFO, "source_stopped", message, source=source, frames=frames)

    def source_failed(self, source: str, code: str, error: object) -> None:
        """It failed for good; all others go on."""
        self._say(ERROR, "source_failed", f"source {source}: {code}: {error}", source=source, code=code)

    def frame_not_decoded(self, source: str, detail: str, file: str | None = None) -> None:
        """One frame was broken (the ledger counts it); a whole file that is, is always named."""
        message = f"source {source}: not decoded: {detail}"
        if file is not None:
            self._say(WARNING, "file_not_decoded", message, source=source, file=file)
        else:
            self._limited(WARNING, "frame_not_decoded", message, "failed_decode", source=source)

    def counts_resumed(self, source: str, away_s: float, lines: int) -> None:
        """Its lines go on with what the run before has counted; what crossed them in between was not counted."""
        counts = f"the counts of {lines} line{'s' * (lines != 1)} go on after {away_s:,.0f} s without frames"
        self._say(INFO, "counts_resumed", f"source {source}: {counts}", source=source, away_s=round(away_s, 1))
        self._announce(f"source {source}", "counts", "resumed", counts)

    def counts_not_kept(self, source: str, error: object) -> None:
        """What its lines counted could not be written; it is tried again."""
        message = f"source {source}: what its lines counted cannot be kept: {error}"
        self._limited(WARNING, "counts_not_kept", message, "counts", CHRONIC_S, source=source)

    def _forget(self, source: str) -> None:
        """It is over, and may never come again: say what was held back, and keep nothing of it."""
        with self._lock:
            self._turns.forget(source)
            held = self._limiter.forget(f"source {source}\0")
        for key, count in held.items():
            self._leftover(key, count)
