"""Settings as a text: JSON, or the plain part of YAML in which Supervisely's apps write theirs."""

import contextlib
import json
import re
from typing import Any, Final

from pipeline.wire.document import loads, mapping

MAX_LINES = 10_000

_KEY = re.compile(r"""(?:"([^"]+)"|'([^']+)'|([^\s'"#\[{][^:#]*?))\s*:(?:\s+(.*))?$""")
_QUOTED = re.compile(r"""('(?:[^']|'')*'|"(?:[^"\\]|\\.)*")\s*(?:#.*)?$""")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_COMMENT = re.compile(r"\s+#.*$")
_WORDS: Final[dict[str, Any]] = {
    **dict.fromkeys(("true", "True", "TRUE", "yes", "on"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "off"), False),
    **dict.fromkeys(("", "null", "Null", "NULL", "~"), None),
}


def parse_settings(written: str) -> dict[str, Any]:
    """The settings in a text: an object in JSON, or `key: value` lines of YAML with lists of plain values.

    What lies deeper in YAML is passed over: it is no setting that anybody here knows.

    Raises:
        ValueError: it is neither.
    """
    if not written.strip():
        return {}
    if written.lstrip().startswith(("{", "[")):
        return dict(mapping(loads(written), "the settings"))
    lines = written.splitlines()
    if len(lines) > MAX_LINES:
        raise ValueError(f"the settings have more than {MAX_LINES} lines")
    settings: dict[str, Any] = {}
    key = ""
    for line in lines:
        bare = line.strip()
        if not bare or bare.startswith(("#", "---")):
            continue
        if bare == "-" or bare.startswith("- "):
            _append(settings, key, bare[1:])
            continue
        if line[0] in " \t":  # a level deeper
            continue
        found = _KEY.match(line)
        if found is None:
            raise ValueError("the settings are neither JSON nor lines of the form key: value")
        key = found[1] or found[2] or found[3]
        settings[key] = _value(found[4] or "")
    return settings


def _append(settings: dict[str, Any], key: str, written: str) -> None:
    if settings.get(key) is None:
        settings[key] = []
    if not key or not isinstance(settings[key], list):
        raise ValueError("the settings have an item that belongs to no list")
    settings[key].append(_value(written))


def _value(written: str) -> Any:
    found = _QUOTED.match(written.strip())
    plain = found[1] if found else _COMMENT.sub("", " " + written).strip()
    if plain.startswith("[") and plain.endswith("]"):
        return [_scalar(item.strip()) for item in plain[1:-1].split(",") if item.strip()]
    return _scalar(plain)


def _scalar(plain: str) -> Any:
    if plain in _WORDS:
        return _WORDS[plain]
    if len(plain) > 1 and plain[0] == plain[-1] == "'":
        return plain[1:-1].replace("''", "'")
    number = _number(plain)
    if number is not None:
        return number
    if plain.startswith('"'):
        with contextlib.suppress(ValueError):
            return str(json.loads(plain))
    return plain


def _number(plain: str) -> float | None:
    """What JSON or YAML calls a number, `.5` and `1.` included."""
    if not _NUMBER.fullmatch(plain):
        return None
    try:
        return int(plain) if plain.lstrip("+-").isdecimal() else float(plain)
    except ValueError:  # thousands of digits
        return None
