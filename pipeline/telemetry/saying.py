"""How an event is said: to the log, as often as the limiter lets it, and to the sinks that want notices."""

import logging
import threading
from collections.abc import Callable, Mapping

from pipeline.contracts.clock import Clock
from pipeline.contracts.secret import redact
from pipeline.telemetry.limits import Limiter
from pipeline.telemetry.logs import LOGGER, Value

Listener = Callable[[str, str, str, str], None]
"""Component, kind, value and detail of what sinks may want to know of the daemon; see `DaemonEvent`. Never waits."""

CHRONIC_S = 60.0
"""What a camera may do for days is said once a minute."""


class Saying:
    """What `Events` says things with; it inherits this.

    Args:
        clock: for the limiters.
        mask: takes secrets out of a text that goes elsewhere than to the log, which has its own.
    """

    def __init__(self, clock: Clock, mask: Callable[[str], str] = redact) -> None:
        self.mask = mask
        self._log = logging.getLogger(LOGGER)
        self._limiter = Limiter(clock)
        self._lock = threading.Lock()
        self._listener: Listener | None = None

    def listen(self, listener: Listener) -> None:
        """From now on `listener` is told what sinks may want to know of the daemon, from any thread."""
        self._listener = listener

    def say_leftovers(self) -> None:
        """Say what the limiter held back; called once, at the end."""
        with self._lock:
            held = self._limiter.leftovers()
        for key, count in held.items():
            self._leftover(key, count)

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
            component, level, event, message, kind=kind, every_s=None, fields={**naming(component), **fields}
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
            self._say(level, event, message + and_more(held), **fields, **more)

    def _leftover(self, key: str, count: int) -> None:
        component, _, kind = key.partition("\0")
        message = f"{component}: {kind}: {count:,} more time{'s' * (count != 1)} since it was last told"
        self._say(logging.WARNING, "held_back", message, **naming(component), kind=kind, held_back=count)


def and_more(held: int) -> str:
    """The end of a message: how many like it were held back before it."""
    return f" ({held:,} more like it before)" if held else ""


def naming(component: str) -> dict[str, Value]:
    """`source gate` as the field `source=gate`."""
    kind, _, name = component.partition(" ")
    return {kind: name} if kind in {"source", "backend", "sink"} and name else {"component": component}
