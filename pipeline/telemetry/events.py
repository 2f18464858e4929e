"""Everything that can happen to a running pipeline: each event is logged here, once, and nowhere else.

ERROR: data is lost or somebody must act. WARNING: it recovered by itself. INFO: the life of a component. Nothing is
logged for each frame: what repeats goes through a limiter, and what it held back is said at the end. Each event has a
name and fields beside its message, for programs that read the log. `SourceEvents` has what happens to sources.
"""

from collections.abc import Sequence
from logging import DEBUG, ERROR, INFO, WARNING
from typing import TYPE_CHECKING

from pipeline.contracts.secret import redact
from pipeline.telemetry.saying import CHRONIC_S, naming
from pipeline.telemetry.source_events import SourceEvents

if TYPE_CHECKING:
    from pipeline.telemetry.logs import Value


class Events(SourceEvents):
    """Made by the app; called from every thread."""

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
        message = f"sink {sink}: refused for good: {redact(answer)[:200]} (penstock spool show {sink})"
        self._limited(ERROR, "dead_letter", message, "dead letter", sink=sink, results=results)
        if results:
            self._announce(f"sink {sink}", "sink", "dead_letter", answer)

    def dead_letters_dropped(self, sink: str, letters: int, total: int, results: int) -> None:
        """The oldest dead letters are gone, to make room for others. Where those are notices (no results) nobody is
        told: one of them may be the one that told of the last."""
        message = f"sink {sink}: spool: {letters:,} of the oldest dead letters dropped to make room, {total:,} in all"
        about: dict[str, Value] = {"letters": letters, "total": total}
        self._limited(ERROR, "dead_letters_dropped", message, "dead letters dropped", CHRONIC_S, sink=sink, **about)
        if results:
            self._announce(f"sink {sink}", "spool", "dead_letters_dropped", f"{total:,} in all")

    # Any component

    def bug(self, component: str, error: BaseException) -> None:
        """A plugin raised what it should not: a traceback, since somebody must mend it."""
        message = f"{component}: {type(error).__name__}: {error}"
        self._say(ERROR, "bug", message, error, **naming(component), error=type(error).__name__)

    def note(self, component: str, message: str) -> None:
        """A plugin has something to tell (`Context.warn`)."""
        self._say(WARNING, "note", f"{component}: {message}", **naming(component))

    def component_state(self, component: str, state: str, detail: str, *, well: bool) -> None:
        """A component's own state changed (`Context.tell`): its circuit opened, its budget is used up."""
        message = f"{component}: {state}: {detail}" if detail else f"{component}: {state}"
        self._limited_of(component, INFO if well else WARNING, "component_state", message, state, state=state)

    def fell_back(self, component: str, wanted: str, got: str, reason: str) -> None:
        """A device could not be had, and another is used in its place (`Context.fell_back`): a camera may flap."""
        what = f"{got} in place of {wanted}"
        self._limited_of(
            component, WARNING, "fell_back", f"{component}: {what}: {reason}", what, wanted=wanted, got=got
        )

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
