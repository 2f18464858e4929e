"""Everything that can happen to a running pipeline: each event is logged here, once, and nowhere else.

ERROR: data is lost or somebody must act. WARNING: it recovered by itself. INFO: the life of a component. Nothing is
logged for each frame: what repeats goes through a limiter, and what it held back is said at the end. Each event has a
name and fields beside its message, for programs that read the log.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from pipeline.contracts.clock import Clock
from pipeline.contracts.secret import redact
from pipeline.telemetry.limits import Limiter, Turns
from pipeline.telemetry.logs import LOGGER, Value

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR
Listener = Callable[[str, str, str, str], None]
"""Component, kind, value and detail of what sinks may want to know of the daemon; see `DaemonEvent`. Never waits."""

CHRONIC_S = 60.0
"""What a camera may do for days is said once a minute."""

_SHOWN = {
    "ok": "the picture is ok",
    "frozen": "the picture is frozen",
    "black": "the picture is black",
    "moved": "the picture shows another scene: was the camera moved?",
}


class Events:
    """Made by the app; called from every thread.

    Args:
        clock: for the limiters.
        mask: takes secrets out of a text that goes elsewhere than to the log, which has its own.
    """

    def __init__(self, clock: Clock, mask: Callable[[str], str] = redact) -> None:
        self.mask = mask
        self._log = logging.getLogger(LOGGER)
        self._limiter = Limiter(clock)
        self._turns = Turns(clock)
        self._lock = threading.Lock()
        self._listener: Listener | None = None

    def listen(self, listener: Listener) -> None:
        """From now on `listener` is told what sinks may want to know of the daemon, from any thread."""
        self._listener = listener

    # Sources

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
            message = f"source {source}: still down: {code}: {error}; next try in {delay_s:.1f} s{_more(held)}"
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

    # Backends

    def backend_opening(self, backend: str) -> None:
        """It loads and warms up."""
        self._say(DEBUG, "backend_opening", f"backend {backend}: opening", backend=backend)

    def backend_ready(self, backend: str, description: str, took_s: float) -> None:
        """It is warm."""
        message = f"backend {backend}: ready in {took_s:.1f} s: {description}"
        self._say(INFO, "backend_ready", message, backend=backend, took_s=round(took_s, 1))

    def backend_retry(self, backend: str, delay_s: float, error: object) -> None:
        """It could not be opened yet."""
        message = f"backend {backend}: {error}; next try in {delay_s:.1f} s"
        self._limited(WARNING, "backend_retry", message, "open", backend=backend, delay_s=round(delay_s, 1))

    def backend_batch_failed(self, backend: str, error: object) -> None:
        """One batch failed; the next may not (the ledger counts the frames)."""
        message = f"backend {backend}: batch failed: {error}"
        self._limited(ERROR, "backend_batch_failed", message, "failed_backend", backend=backend)

    def fallback_taken(self, backend: str, fallback: str, why: object) -> None:
        """Its frames go to another backend from now on."""
        message = f"backend {backend}: its frames go to {fallback}: {why}"
        self._limited(WARNING, "fallback_taken", message, "fallback taken", backend=backend, fallback=fallback)
        self._announce(f"backend {backend}", "fallback", "taken", f"its frames go to {fallback}: {why}")

    def fallback_left(self, backend: str, frames: int, for_s: float) -> None:
        """It answers by itself again."""
        message = f"backend {backend}: answers again; {frames:,} frames went elsewhere in {for_s:.1f} s"
        about: dict[str, Value] = {"frames": frames, "for_s": round(for_s, 1)}
        self._limited(INFO, "fallback_left", message, "fallback left", backend=backend, **about)
        self._announce(f"backend {backend}", "fallback", "left", f"{frames:,} frames went elsewhere in {for_s:.1f} s")

    def backend_failed(self, backend: str, error: object) -> None:
        """It failed for good."""
        self._say(ERROR, "backend_failed", f"backend {backend}: {error}", backend=backend)
        self._announce(f"backend {backend}", "backend", "failed", str(error))

    # Sinks

    def sink_ready(self, sink: str) -> None:
        """It is open."""
        self._say(DEBUG, "sink_ready", f"sink {sink}: open", sink=sink)

    def sink_retry(self, sink: str, delay_s: float, error: object) -> None:
        """It could not be opened yet."""
        message = f"sink {sink}: {error}; next try in {delay_s:.1f} s"
        self._limited(WARNING, "sink_retry", message, "open", sink=sink, delay_s=round(delay_s, 1))

    def sink_write_failed(self, sink: str, results: int, error: object) -> None:
        """Some results were not delivered (the ledger counts them)."""
        message = f"sink {sink}: {results} results not delivered: {error}"
        self._limited(ERROR, "sink_write_failed", message, "failed", sink=sink, results=results)

    def sink_closed(self, sink: str, error: object) -> None:
        """Whoever takes its results wants no more."""
        self._say(INFO, "sink_closed", f"sink {sink}: {error}", sink=sink)

    def sink_failed(self, sink: str, error: object) -> None:
        """It failed for good; all others go on."""
        self._say(ERROR, "sink_failed", f"sink {sink}: {error}", sink=sink)
        self._announce(f"sink {sink}", "sink", "failed", str(error))

    def sink_degraded(self, sink: str, error: object, meanwhile: str = "") -> None:
        """The last thing that it did failed; it is tried again."""
        message = "; ".join(filter(None, (f"sink {sink}: degraded: {error}", meanwhile)))
        self._limited(WARNING, "sink_degraded", message, "degraded", sink=sink)
        self._announce(f"sink {sink}", "sink", "degraded", str(error))

    def sink_well(self, sink: str, for_s: float, lost: int) -> None:
        """It works again; so many results were lost in between."""
        message = f"sink {sink}: works again after {for_s:.1f} s; {f'{lost:,} results' if lost else 'nothing'} lost"
        about: dict[str, Value] = {"for_s": round(for_s, 1), "lost": lost}
        self._limited(INFO, "sink_well", message, "well", sink=sink, **about)
        self._announce(f"sink {sink}", "sink", "ok", f"after {for_s:.1f} s; {lost:,} results lost")

    def spool_full(self, sink: str, why: str, then: str) -> None:
        """The spool has no room (the ledger counts what it drops)."""
        message = f"sink {sink}: spool full: {why}: {then}"
        self._limited(ERROR, "spool_full", message, "spool full", CHRONIC_S, sink=sink)
        self._announce(f"sink {sink}", "spool", "full", f"{why}: {then}")

    def spool_has_room(self, sink: str) -> None:
        """The spool has had room for a while."""
        self._limited(INFO, "spool_ok", f"sink {sink}: the spool has room again", "spool ok", CHRONIC_S, sink=sink)
        self._announce(f"sink {sink}", "spool", "ok", "")

    def spool_dropped(self, sink: str, outcome: str, results: int) -> None:
        """Results left the spool by the operator's rule or order (the ledger counts them)."""
        message = f"sink {sink}: spool: {results:,} results {outcome.replace('_', ' ')}"
        self._limited(WARNING, "spool_dropped", message, outcome, CHRONIC_S, sink=sink, results=results)

    def spool_damaged(self, sink: str, lost: int, aside: object) -> None:
        """Something in the spool could not be read; the rest goes on."""
        how_many = "nobody knows how many" if lost < 0 else f"{lost:,}"
        what = f"the damaged file is kept as {aside}" if aside is not None else "they are dead letters"
        message = f"sink {sink}: spool damaged: {how_many} results could not be read; {what}"
        self._say(ERROR, "spool_damaged", message, sink=sink, lost=lost)
        self._announce(f"sink {sink}", "spool", "damaged", f"{how_many} results could not be read")

    def dead_letter(self, sink: str, results: int, answer: str) -> None:
        """The other side will never take it; `penstock spool` shows it. Of a notice (no results) nobody is told: it may
        be the one that told of the last."""
        message = f"sink {sink}: dead letter: {redact(answer)[:200]}"
        self._limited(ERROR, "dead_letter", message, "dead letter", sink=sink, results=results)
        if results:
            self._announce(f"sink {sink}", "sink", "dead_letter", answer)

    # Any component

    def bug(self, component: str, error: BaseException) -> None:
        """A plugin raised what it should not: a traceback, since somebody must mend it."""
        message = f"{component}: {type(error).__name__}: {error}"
        self._say(ERROR, "bug", message, error, **_about(component), error=type(error).__name__)

    def note(self, component: str, message: str) -> None:
        """A plugin has something to tell (`Context.warn`)."""
        self._say(WARNING, "note", f"{component}: {message}", **_about(component))

    def component_state(self, component: str, state: str, detail: str, *, well: bool) -> None:
        """A component's own state changed (`Context.tell`): its circuit opened, its budget is used up."""
        message = f"{component}: {state}: {detail}" if detail else f"{component}: {state}"
        self._limited_of(component, INFO if well else WARNING, "component_state", message, state, state=state)

    # The process

    def listening(self, url: str) -> None:
        """The HTTP server is up."""
        self._say(INFO, "listening", f"listening on {url}", url=url)

    def offering(self, models: Sequence[str]) -> None:
        """These models are there for clients."""
        if models:
            message = f"clients may use the models {', '.join(models)}"
            self._say(INFO, "offering", message, models=len(models))

    def stage_stuck(self, stage: str, for_s: float) -> None:
        """A stage has work and made no progress for too long: said once, until it moves again."""
        message = f"{stage}: has work and made no progress for {for_s:.0f} s"
        self._say(ERROR, "stage_stuck", message, stage=stage, for_s=round(for_s, 1))

    def stage_moves(self, stage: str) -> None:
        """A stage that was stuck made progress."""
        self._say(INFO, "stage_moves", f"{stage}: moves again", stage=stage)

    def reloading(self, why: str) -> None:
        """A new configuration is being read."""
        self._say(INFO, "reloading", f"reload: {why}", why=why)

    def reloaded(self, config_hash: str, changes: Sequence[str]) -> None:
        """The new configuration is in force."""
        message = f"reload: now {config_hash}: {'; '.join(changes) or 'nothing changed'}"
        self._say(INFO, "reloaded", message, config_hash=config_hash, changes=len(changes))
        self._announce("penstock", "reload", "ok", f"now {config_hash}: {'; '.join(changes) or 'nothing changed'}")

    def reload_failed(self, problems: Sequence[str]) -> None:
        """Everything stays as it was."""
        message = f"reload: nothing was changed: {'; '.join(problems)}"
        self._say(ERROR, "reload_failed", message, problems=len(problems))
        self._announce("penstock", "reload", "failed", "; ".join(problems))

    def ordered(self, who: str, what: str, outcome: str) -> None:
        """Somebody gave an order over HTTP: who (the name of a token, or "local"), which, and what became of it."""
        self._say(INFO, "ordered", f"server: {who}: {what}: {outcome}", who=who, what=what, outcome=outcome)

    def order_denied(self, who: str, what: str, why: str) -> None:
        """Somebody gave an order that is not theirs to give."""
        message = f"server: {who}: {what}: denied: {why}"
        self._limited(WARNING, "order_denied", message, "denied", who=who, what=what, why=why)

    def stopping(self, why: str) -> None:
        """A signal came: sources stop, the rest drains."""
        message = f"{why}: stopping the sources, then draining; a second signal abandons what is left"
        self._say(INFO, "stopping", message, why=why)

    def abandoning(self, why: str) -> None:
        """A second signal came, or time is up."""
        self._say(ERROR, "abandoning", f"{why}: abandoning what is left", why=why)

    def late(self, threads: list[str]) -> None:
        """These did not end in time."""
        self._say(ERROR, "late", f"did not end in time: {', '.join(threads)}", threads=len(threads))

    def unbalanced(self, fault: str) -> None:
        """The ledger does not balance: a bug in Penstock itself."""
        self._say(ERROR, "unbalanced", f"ledger: {fault}")

    def say_leftovers(self) -> None:
        """Say what the limiter held back; called once, at the end."""
        with self._lock:
            held = self._limiter.leftovers()
        for key, count in held.items():
            self._leftover(key, count)

    # How it is said

    def _announce(self, component: str, kind: str, value: str, detail: str) -> None:
        """Tell the sinks that want notices of the daemon."""
        if self._listener is not None:
            self._listener(component, kind, value, self.mask(detail))

    def _say(self, level: int, event: str, message: str, bug: BaseException | None = None, /, **fields: Value) -> None:
        self._log.log(level, "%s", message, exc_info=bug, extra={"fields": {"event": event, **fields}})

    def _limited(
        self, level: int, event: str, message: str, kind: str, every_s: float | None = None, /, **fields: Value
    ) -> None:
        component = next((f"{key} {fields[key]}" for key in ("source", "backend", "sink") if key in fields), event)
        self._let_through(component, level, event, message, kind=kind, every_s=every_s, fields=fields)

    def _limited_of(self, component: str, level: int, event: str, message: str, kind: str, **fields: Value) -> None:
        self._let_through(
            component, level, event, message, kind=kind, every_s=None, fields={**_about(component), **fields}
        )

    def _let_through(
        self,
        component: str,
        level: int,
        event: str,
        message: str,
        *,
        kind: str,
        every_s: float | None,
        fields: Mapping[str, Value],
    ) -> None:
        with self._lock:
            held = self._limiter.let_through(f"{component}\0{kind}", every_s)
        if held is not None:
            more: dict[str, Value] = {"held_back": held} if held else {}
            self._say(level, event, message + _more(held), **fields, **more)

    def _leftover(self, key: str, count: int) -> None:
        component, _, kind = key.partition("\0")
        message = f"{component}: {kind}: {'once more' if count == 1 else f'{count:,} more times'}"
        self._say(WARNING, "held_back", message, **_about(component), kind=kind, held_back=count)

    def _forget(self, source: str) -> None:
        """It is over, and may never come again: say what was held back, and keep nothing of it."""
        with self._lock:
            self._turns.forget(source)
            held = self._limiter.forget(f"source {source}\0")
        for key, count in held.items():
            self._leftover(key, count)


def _more(held: int) -> str:
    return f" ({held:,} more like it before)" if held else ""


def _about(component: str) -> dict[str, Value]:
    """`source gate` as the field `source=gate`."""
    kind, _, name = component.partition(" ")
    return {kind: name} if kind in {"source", "backend", "sink"} and name else {"component": component}
