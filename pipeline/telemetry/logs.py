"""The program's log: one line an event on stderr (text, logfmt, JSON) or in systemd's journal, without secrets."""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, TextIO

from pipeline.contracts.secret import redact
from pipeline.telemetry.journal import Journal, is_stderr_journal

LOGGER = "penstock"

Style = Literal["auto", "text", "logfmt", "json", "journal"]
Value = str | int | float

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class Line(NamedTuple):
    """One event, ready to be written: nothing secret is in it, control characters still may be.

    Attributes:
        unix_s: when, for people; never used for intervals.
        level: as in `logging`.
        message: for people; it says all that the fields say, in words.
        fields: `event` and what it is about, for programs.
        traceback: for a bug, with newlines; "" otherwise.
    """

    unix_s: float
    level: int
    message: str
    fields: Mapping[str, Value]
    traceback: str


def printable(text: str) -> str:
    r"""The text in one line: control characters, as a camera may send them, become `\n` or `\x1b`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def as_text(line: Line) -> str:
    """For people: the time of day, the level, the message; a traceback is indented, so that it forges no line."""
    clock = time.strftime("%H:%M:%S", time.localtime(line.unix_s))
    rows = [f"{clock} {logging.getLevelName(line.level):7} {printable(line.message)}"]
    return "\n".join([*rows, *(f"    {printable(row)}" for row in line.traceback.split("\n") if row)])


def as_logfmt(line: Line) -> str:
    """`time=2026-01-31T12:34:56.789Z level=warning event=source_down source=gate code=TIMEOUT msg="..."`."""
    pairs: dict[str, Value] = {"time": _rfc3339(line.unix_s), "level": logging.getLevelName(line.level).lower()}
    pairs |= {**line.fields, "msg": line.message}
    if line.traceback:
        pairs["traceback"] = line.traceback
    return " ".join(f"{key}={_logfmt_value(value)}" for key, value in pairs.items())


def as_json(line: Line) -> str:
    """One JSON object."""
    entry: dict[str, Value] = {
        "time": _rfc3339(line.unix_s),
        "level": logging.getLevelName(line.level).lower(),
        **line.fields,
        "message": line.message,
    }
    if line.traceback:
        entry["traceback"] = line.traceback
    return _json(entry)


FORMS: Mapping[str, Callable[[Line], str]] = {"text": as_text, "logfmt": as_logfmt, "json": as_json}


class _Handler(logging.Handler):
    """Makes a `Line` of each record, masks secrets in all of it, and writes it; called from every thread.

    Writes to whatever `sys.stderr` is at the moment, so that a progress bar can lift itself over the lines.
    """

    def __init__(self, form: Callable[[Line], str], mask: Callable[[str], str], journal: Journal | None) -> None:
        super().__init__()
        self._form = form
        self._mask = mask
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; a log that cannot be written is no reason to stop."""
        try:
            line = self._line(record)
            if self._journal is not None and self._journal.send(_priority(line.level), _journal_fields(line)):
                return
            # systemd reads the priority of a line on stderr from a prefix.
            prefix = "" if self._journal is None else f"<{_priority(line.level)}>"
            self._stream().write(f"{prefix}{self._form(line)}\n")
            self._stream().flush()
        except (OSError, ValueError):  # the terminal is gone, or stderr was closed
            return

    def close(self) -> None:
        """Let go of the journal."""
        if self._journal is not None:
            self._journal.close()
        super().close()

    def _stream(self) -> TextIO:
        if sys.stderr is None:
            raise ValueError("there is no stderr")
        return sys.stderr

    def _line(self, record: logging.LogRecord) -> Line:
        mask = self._mask
        fields: Mapping[str, Value] = getattr(record, "fields", None) or {"event": "library", "logger": record.name}
        shown = {key: mask(value) if isinstance(value, str) else value for key, value in fields.items()}
        traceback = mask(_TRACEBACKS.formatException(record.exc_info)) if record.exc_info else ""
        return Line(record.created, record.levelno, mask(record.getMessage()), shown, traceback)


_TRACEBACKS = logging.Formatter()


def set_up(level: str = "info", style: Style = "text", mask: Callable[[str], str] = redact) -> None:
    """Send the program's log to stderr or the journal; called once, by the program, never by a library's user.

    What libraries log goes the same way, from warnings up: a library's traceback may hold a camera's URL.

    Args:
        level: the least that is logged.
        style: "auto": the journal where stderr is connected to it, as systemd does it, else text.
        mask: takes secrets out of every text.
    """
    to_journal = style == "journal" or (style == "auto" and is_stderr_journal())
    form = as_text if style == "auto" and not to_journal else FORMS.get(style, as_logfmt)
    handler = _Handler(form, mask, Journal() if to_journal else None)
    logger, root = logging.getLogger(LOGGER), logging.getLogger()
    for before in [found for found in (*logger.handlers, *root.handlers) if isinstance(found, _Handler)]:
        root.removeHandler(before)
        before.close()
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
    root.addHandler(handler)  # the root's own level, WARNING, holds for libraries


def catch_uncaught() -> None:
    """Log what nobody caught, in any thread, instead of letting Python print it as it is."""
    logger = logging.getLogger(LOGGER)

    def uncaught(where: str, error: BaseException) -> None:
        fields = {"event": "uncaught", "thread": where, "error": type(error).__name__}
        logger.critical("%s: %s: %s", where, type(error).__name__, error, exc_info=error, extra={"fields": fields})

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            uncaught(args.thread.name if args.thread is not None else "a thread", args.exc_value)

    sys.excepthook = lambda _, error, __: uncaught("penstock", error)
    threading.excepthook = in_thread


def _priority(level: int) -> int:
    return _PRIORITIES.get(level, 6)


def _journal_fields(line: Line) -> dict[str, str]:
    fields = {f"PENSTOCK_{key.upper()}": str(value) for key, value in line.fields.items()}
    fields["MESSAGE"] = printable(line.message)
    if line.traceback:
        fields["PENSTOCK_TRACEBACK"] = line.traceback
    return fields


def _rfc3339(unix_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix_s)) + f".{int(unix_s % 1 * 1000):03d}Z"


def _logfmt_value(value: Value) -> str:
    text = str(value)
    bare = text and text.isprintable() and not any(char in text for char in ' "=\\')
    return text if bare else _json(text)


def _json(value: object) -> str:
    """JSON in one line without control characters; other alphabets stay readable."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f")
