"""Everything that can happen to a running pipeline: each event is logged here, once, and nowhere else.

ERROR: data is lost or somebody must act. WARNING: it recovered by itself. INFO: the life of a component. Nothing is
logged for each frame: what repeats goes through a limiter, and what it held back is said at the end.
"""

import logging
import threading
from collections.abc import Sequence

from pipeline.contracts.clock import Clock
from pipeline.telemetry.logs import LOGGER, Limiter


class Events:
    """Made by the app; called from every thread."""

    def __init__(self, clock: Clock) -> None:
        self._log = logging.getLogger(LOGGER)
        self._limiter = Limiter(clock)
        self._lock = threading.Lock()

    # Sources

    def source_up(self, source: str, away_s: float | None) -> None:
        """The first frame came; `away_s` is how long it was away, None at the start."""
        back = "" if away_s is None else f" again after {away_s:.1f} s"
        self._log.info("source %s: running%s", source, back)

    def source_down(self, source: str, code: str, delay_s: float, error: object) -> None:
        """It gave frames (or was never tried before) and failed: said once, until it is up again."""
        self._log.warning("source %s: down: %s: %s; next try in %.1f s", source, code, error, delay_s)

    def source_still_down(self, source: str, code: str, delay_s: float, error: object) -> None:
        """One more attempt failed."""
        self._limited(
            logging.WARNING, f"source {source}", "still down", f"source {source}: {code}: {error}; next {delay_s:.1f} s"
        )

    def source_content(self, source: str, content: str, before: str) -> None:
        """What its pictures show changed: frozen, black, moved, or ok again."""
        level = logging.INFO if content == "ok" else logging.WARNING
        self._log.log(level, "source %s: pictures are %s (were %s)", source, content, before)

    def source_paused(self, source: str) -> None:
        """Somebody paused it."""
        self._log.info("source %s: paused", source)

    def source_resumed(self, source: str) -> None:
        """Somebody resumed it."""
        self._log.info("source %s: resumed", source)

    def source_restarted(self, source: str) -> None:
        """Somebody asked for a new connection."""
        self._log.info("source %s: restarted by order", source)

    def frame_corrupt(self, source: str) -> None:
        """The decoder concealed damage in a frame (counted)."""
        self._limited(logging.WARNING, f"source {source}", "corrupt", f"source {source}: a damaged frame")

    def time_jumped(self, source: str) -> None:
        """The camera's time stamps jumped (counted)."""
        self._limited(logging.WARNING, f"source {source}", "time jump", f"source {source}: time stamps jumped")

    def source_ended(self, source: str, frames: int) -> None:
        """It came to its end, as files do."""
        self._log.info("source %s: ended after %s frames", source, f"{frames:,}")

    def source_stopped(self, source: str, frames: int) -> None:
        """It was told to stop."""
        self._log.info("source %s: stopped after %s frames", source, f"{frames:,}")

    def source_failed(self, source: str, code: str, error: object) -> None:
        """It failed for good; all others go on."""
        self._log.error("source %s: %s: %s", source, code, error)

    def frame_not_decoded(self, source: str, detail: str, file: str | None = None) -> None:
        """One frame was broken (the ledger counts it); a whole file that is, is always named."""
        message = f"source {source}: not decoded: {detail}"
        if file is not None:
            self._log.warning("%s", message)
        else:
            self._limited(logging.WARNING, f"source {source}", "failed_decode", message)

    # Backends

    def backend_opening(self, backend: str) -> None:
        """It loads and warms up."""
        self._log.debug("backend %s: opening", backend)

    def backend_ready(self, backend: str, description: str, took_s: float) -> None:
        """It is warm."""
        self._log.info("backend %s: ready in %.1f s: %s", backend, took_s, description)

    def backend_retry(self, backend: str, delay_s: float, error: object) -> None:
        """It could not be opened yet."""
        self._limited(
            logging.WARNING, f"backend {backend}", "open", f"backend {backend}: {error}; next try in {delay_s:.1f} s"
        )

    def backend_batch_failed(self, backend: str, error: object) -> None:
        """One batch failed; the next may not (the ledger counts the frames)."""
        self._limited(
            logging.ERROR, f"backend {backend}", "failed_backend", f"backend {backend}: batch failed: {error}"
        )

    def backend_failed(self, backend: str, error: object) -> None:
        """It failed for good."""
        self._log.error("backend %s: %s", backend, error)

    # Sinks

    def sink_ready(self, sink: str) -> None:
        """It is open."""
        self._log.debug("sink %s: open", sink)

    def sink_retry(self, sink: str, delay_s: float, error: object) -> None:
        """It could not be opened yet."""
        self._limited(logging.WARNING, f"sink {sink}", "open", f"sink {sink}: {error}; next try in {delay_s:.1f} s")

    def sink_write_failed(self, sink: str, results: int, error: object) -> None:
        """Some results were not delivered (the ledger counts them)."""
        self._limited(logging.ERROR, f"sink {sink}", "failed", f"sink {sink}: {results} results not delivered: {error}")

    def sink_failed(self, sink: str, error: object) -> None:
        """It failed for good; all others go on."""
        self._log.error("sink %s: %s", sink, error)

    # Any component

    def bug(self, component: str, error: BaseException) -> None:
        """A plugin raised what it should not: a traceback, since somebody must mend it."""
        self._log.error("%s: %s: %s", component, type(error).__name__, error, exc_info=error)

    def note(self, component: str, message: str) -> None:
        """A plugin has something to tell (`Context.warn`)."""
        self._log.warning("%s: %s", component, message)

    # The process

    def listening(self, url: str) -> None:
        """The HTTP server is up."""
        self._log.info("listening on %s", url)

    def stage_stuck(self, stage: str, for_s: float) -> None:
        """A stage has work and made no progress for too long: said once, until it moves again."""
        self._log.error("%s: has work and made no progress for %.0f s", stage, for_s)

    def stage_moves(self, stage: str) -> None:
        """A stage that was stuck made progress."""
        self._log.info("%s: moves again", stage)

    def reloading(self, why: str) -> None:
        """A new configuration is being read."""
        self._log.info("reload: %s", why)

    def reloaded(self, config_hash: str, changes: Sequence[str]) -> None:
        """The new configuration is in force."""
        self._log.info("reload: now %s: %s", config_hash, "; ".join(changes) or "nothing changed")

    def reload_failed(self, problems: Sequence[str]) -> None:
        """Everything stays as it was."""
        self._log.error("reload: nothing was changed: %s", "; ".join(problems))

    def stopping(self, why: str) -> None:
        """A signal came: sources stop, the rest drains."""
        self._log.info("%s: stopping the sources, then draining; a second signal abandons what is left", why)

    def abandoning(self, why: str) -> None:
        """A second signal came, or time is up."""
        self._log.error("%s: abandoning what is left", why)

    def late(self, threads: list[str]) -> None:
        """These did not end in time."""
        self._log.error("did not end in time: %s", ", ".join(threads))

    def unbalanced(self, fault: str) -> None:
        """The ledger does not balance: a bug in Penstock itself."""
        self._log.error("ledger: %s", fault)

    def say_leftovers(self) -> None:
        """Say what the limiter held back; called once, at the end."""
        with self._lock:
            held = self._limiter.leftovers()
        for key, count in held.items():
            component, _, kind = key.partition("\0")
            self._log.warning("%s: %s: %s more times", component, kind, f"{count:,}")

    def _limited(self, level: int, component: str, kind: str, message: str) -> None:
        with self._lock:
            held = self._limiter.let_through(f"{component}\0{kind}")
        if held is not None:
            self._log.log(level, "%s%s", message, f" ({held:,} more like it before)" if held else "")
