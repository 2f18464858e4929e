"""Names filled in from what is sent (topics, streams, subjects), and the parcel that all senders of lines make."""

import re
import socket
import string
from collections.abc import Callable, Set
from typing import Annotated

from pydantic import AfterValidator

from pipeline.contracts.event import DaemonEvent, Event, ObjectEvent, SourceEvent
from pipeline.contracts.result import Result
from pipeline.contracts.sender import Parcel, ParcelKind
from pipeline.wire.results import event_line, to_line

PLACEHOLDERS = frozenset({"source", "kind", "event", "phase", "class", "zone", "line", "sink", "host"})
"""kind: "results", "events" or "notices"; host: this machine's name; what an item has not is "none"."""

FIXED_PLACEHOLDERS = frozenset({"sink", "host"})
"""Those that are known without an item."""

_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_-]")
_MAX_CHARS = 100
_PLURAL: dict[ParcelKind, str] = {"result": "results", "event": "events", "notice": "notices"}


def checked_template(text: str, allowed: Set[str]) -> str:
    """A template as it is, if it can be filled in.

    Raises:
        ValueError: it cannot; for a validator.
    """
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}; write {{{{ for a brace that is meant") from error
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if name not in allowed or form or conversion:
            known = ", ".join(f"{{{each}}}" for each in sorted(allowed))
            raise ValueError(f"there is no placeholder {{{name}}} here; known are {known}")
    if not text or any(not character.isprintable() for character in text):
        raise ValueError("must not be empty or hold control characters")
    return text


def _checked(text: str) -> str:
    return checked_template(text, PLACEHOLDERS)


def template_of(rule: Callable[[str], None]) -> AfterValidator:
    """The validator of a template: its placeholders, and a rule for what stands between them."""

    def check(text: str) -> str:
        rule("".join(literal for literal, *_ in string.Formatter().parse(_checked(text))))
        return text

    return AfterValidator(check)


NameTemplate = Annotated[str, AfterValidator(_checked)]
"""A name with any of the placeholders."""


def plain(text: str) -> str:
    """What is filled in: letters, digits, `_` and `-` only, whatever separators and wildcards a broker knows."""
    return _NOT_PLAIN.sub("_", text[:_MAX_CHARS]) or "none"


def host_name() -> str:
    """This machine's name, as far as it can be part of a topic."""
    return plain(socket.gethostname().partition(".")[0])


class Names:
    """Fills in the templates of one sink. Made by the sink; used by the thread that packs."""

    def __init__(self, sink: str) -> None:
        self._fixed = {"sink": plain(sink), "host": host_name()}

    def fixed(self, template: str, source: str | None = None) -> str:
        """A name that depends on no item, or on the source only."""
        return template.format(**self._fixed, **({} if source is None else {"source": plain(source)}))

    def of(self, template: str, item: Result | Event) -> str:
        """The name for one item."""
        about = {"event": "none", "phase": "none", "class": "none", "zone": "none", "line": "none"}
        match item:
            case ObjectEvent():
                about |= {"event": item.kind, "phase": item.phase, "class": plain(item.class_name)}
                about |= {"zone": plain(item.zone or "none"), "line": plain(item.line or "none")}
            case SourceEvent() | DaemonEvent():
                about["event"] = plain(item.kind)
            case _:
                pass
        source, kind = plain(source_of(item) or "daemon"), _PLURAL[kind_of(item)]
        return template.format(**self._fixed, **about, source=source, kind=kind)


def kind_of(item: Result | Event) -> ParcelKind:
    """What sort of parcel it makes."""
    if isinstance(item, Result):
        return "result"
    return "event" if isinstance(item, ObjectEvent) else "notice"


def source_of(item: Result | Event) -> str:
    """Whose order it keeps; "" for the daemon's own."""
    if isinstance(item, Result):
        return item.frame.source
    return "" if isinstance(item, DaemonEvent) else item.source


def line_parcel(item: Result | Event, about: str = "") -> Parcel:
    """The parcel whose body is the item's line of JSON."""
    line = to_line(item) if isinstance(item, Result) else event_line(item)
    return Parcel(id=item.id, source=source_of(item), kind=kind_of(item), body=line.encode(), about=about)
