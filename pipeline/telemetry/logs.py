"""The program's log: one line an event on stderr, as text or as JSON, and a limiter for what repeats."""

import json
import logging
import sys
import time
from typing import Any, Literal, TextIO

from pipeline.contracts.clock import Clock

LOGGER = "penstock"


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is at the moment, so that a progress bar can lift itself over the lines."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """The current stderr."""
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        raise AttributeError("the stream is sys.stderr")


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up(level: str = "info", style: Literal["text", "json"] = "text") -> None:
    """Send the program's log to stderr; called once, by the program, never by a library's user."""
    handler = _StderrHandler()
    handler.setFormatter(_JsonFormatter() if style == "json" else _TextFormatter())
    logger = logging.getLogger(LOGGER)
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


class Limiter:
    """Lets a repeated event through once in `every_s` seconds and says how many it held back. Not thread-safe."""

    def __init__(self, clock: Clock, every_s: float = 10.0) -> None:
        self._clock = clock
        self._every_s = every_s
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def let_through(self, key: str) -> int | None:
        """None: hold this one back. A number: log it, and so many were held back before it."""
        now = self._clock.monotonic()
        last = self._last.get(key)
        if last is not None and now - last < self._every_s:
            self._held[key] = self._held.get(key, 0) + 1
            return None
        self._last[key] = now
        return self._held.pop(key, 0)

    def leftovers(self) -> dict[str, int]:
        """What is still held back, by key, and no longer after this."""
        held, self._held = self._held, {}
        return held
