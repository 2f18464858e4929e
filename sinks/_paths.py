"""Path templates: which file a result goes to, and that it never leaves the folder the operator named."""

import os
import string
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from pipeline.contracts.errors import ConfigError, FatalError
from pipeline.contracts.frame import Frame
from pipeline.contracts.paths import PACKAGE_PREFIX, base_dir_of, refuse_url, resolve_text

PLACEHOLDERS = {
    "source": "name of the source",
    "stem": "name of the file that the frame comes from, without folder and ending; the source's name for a camera",
    "date": "day of the frame in UTC, 2026-01-31",
    "hour": "hour of the frame in UTC, 00 to 23",
}
EVENT_PLACEHOLDERS = {
    **PLACEHOLDERS,
    "time": "time of day in UTC, 163000-123: hours, minutes, seconds, milliseconds",
    "frame": "number of the frame",
    "event": "id of the event, or of the result",
    "class": "class of the object",
    "track": "number of the tracked object, 0 without",
}
_KNOWN_BEFORE = {"source"}  # what can be filled in before the first frame is there
_MAX_NAME_BYTES = 100  # of the 255 that file systems give a name: room for the rest of the template
_EXAMPLE = dict.fromkeys(EVENT_PLACEHOLDERS, "x")


def _resolve(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    if value.startswith(PACKAGE_PREFIX):
        raise ValueError("nothing is written into an installed package")
    if value.endswith("/"):
        raise ValueError("this is a folder; the name of a file is needed")
    refuse_url(value)
    # A folder that happens to be called {x} is no placeholder.
    return resolve_text(value, Path(str(base_dir_of(info)).replace("{", "{{").replace("}", "}}")))


def _check(template: str) -> str:
    return _check_names(template, PLACEHOLDERS)


def _check_event(template: str) -> str:
    return _check_names(template, EVENT_PLACEHOLDERS)


def _check_names(template: str, allowed: Iterable[str]) -> str:
    known = ", ".join("{" + name + "}" for name in allowed)
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"a brace stands alone; placeholders are {known}, a brace itself is {{{{ or }}}}") from error
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if name not in allowed or spec or conversion:
            raise ValueError(f"unknown placeholder {{{name}}}; there are {known}; a brace itself is {{{{ or }}}}")
    if Path(template.format_map(_EXAMPLE)).name in {"", ".."}:
        raise ValueError("this is a folder; the name of a file is needed")
    root = os.path.normpath(fixed_root(template))
    if not Path(os.path.normpath(template.format_map(_EXAMPLE))).is_relative_to(root):
        raise ValueError("it leads out of its folder: take away the .. behind a placeholder")
    return template


PathTemplate = Annotated[str, BeforeValidator(_resolve), AfterValidator(_check)]
"""A file name with placeholders, absolute after validation; relative ones count from the config file."""

EventPathTemplate = Annotated[str, BeforeValidator(_resolve), AfterValidator(_check_event)]
"""The same with the placeholders that an event fills, too."""


def placeholders(template: str) -> frozenset[str]:
    """The names of the placeholders in the template."""
    return frozenset(name for _, name, _, _ in string.Formatter().parse(template) if name is not None)


def fixed_root(template: str) -> Path:
    """The folder that everything written by the template lies in: what stands before the first placeholder."""
    fixed = ""
    for literal, name, _, _ in string.Formatter().parse(template):
        fixed += literal
        if name is not None:
            # "{{" and "}}" come out of `parse` as single braces.
            return Path(fixed.rpartition("/")[0] or "/")
    return Path(fixed).parent


def known_path(template: str, source: str) -> Path | None:
    """The file for a source, where it does not depend on the frame."""
    if placeholders(template) - _KNOWN_BEFORE:
        return None
    return Path(template.format_map({"source": safe_name(source)}))


def path_for(template: str, frame: Frame) -> Path:
    """The file that a result of this frame goes to.

    Raises:
        FatalError: a link leads out of the template's folder.
    """
    stem = Path(frame.path).stem if frame.path else frame.source
    return _filled(template, frame.source, stem, frame.captured_at)


def event_path(template: str, source: str, at: float) -> Path:
    """The file that an event of a source goes to while it writes to none.

    Raises:
        FatalError: a link leads out of the template's folder.
    """
    return _filled(template, source, source, at)


def _filled(template: str, source: str, stem: str, at: float) -> Path:
    return _inside(template, _values(source, stem, at))


def item_path(template: str, frame: Frame, at: float, *, event: str, class_name: str, track: int | None) -> Path:
    """The file that something goes to that was seen in this frame, of an `EventPathTemplate`.

    Args:
        template: the template.
        frame: where it was seen.
        at: Unix seconds for `{date}`, `{hour}` and `{time}`.
        event: its id.
        class_name: of the object.
        track: of the object.

    Raises:
        FatalError: a link leads out of the template's folder.
    """
    stem = Path(frame.path).stem if frame.path else frame.source
    return _inside(
        template,
        {
            **_values(frame.source, stem, at),
            "frame": str(frame.seq),
            "event": safe_name(event),
            "class": safe_name(class_name),
            "track": str(track or 0),
        },
    )


def _values(source: str, stem: str, at: float) -> dict[str, str]:
    moment = _moment(at)
    return {
        "source": safe_name(source),
        "stem": safe_name(stem),
        "date": moment.strftime("%Y-%m-%d"),
        "hour": moment.strftime("%H"),
        "time": f"{moment:%H%M%S}-{moment.microsecond // 1000:03d}",
    }


def safe_name(text: str) -> str:
    """`text` as one part of a path: never empty, `.` or `..`, no separator, nothing unprintable, at most 100 bytes."""
    composed = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8"))
    kept = "".join(char if char.isalnum() or char in "._- " else "_" for char in composed)
    short = kept.encode()[:_MAX_NAME_BYTES].decode("utf-8", "ignore")
    # A leading dot hides the file, a leading dash makes it an option of the next command.
    return short.lstrip(".- ").rstrip(". ") or "_"


def display(path: Path) -> str:
    """The path as a person in the current folder would type it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def check_writable(template: str) -> None:
    """Find out whether the template's files can be made, without making anything.

    Raises:
        ConfigError: for the key `path`.
    """
    try:
        _check_writable(template)
    except (OSError, FatalError) as error:
        raise ConfigError(f"{template} cannot be written: {error}", key="path") from error


def _check_writable(template: str) -> None:
    target = known_path(template, "x")
    # With a placeholder in it, the name of a file is still to come; without one, it can be looked at now.
    if target is not None and not placeholders(template) and target.exists() and not target.is_file():
        what = "a folder" if target.is_dir() else "no regular file"
        raise ConfigError(f"{display(target)} is {what}; the name of a file is needed", key="path")
    folder = fixed_root(template)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise ConfigError(f"{display(folder)} is a file, so that there can be no folder of this name", key="path")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"the folder {display(folder)} cannot be written", key="path")


def _inside(template: str, values: dict[str, str]) -> Path:
    path = Path(template.format_map(values))
    if not placeholders(template):
        return path  # the operator's own words, links and all
    root = Path(os.path.realpath(fixed_root(template)))
    if os.path.commonpath([root, os.path.realpath(path)]) != str(root):
        raise FatalError(f"{display(path)} leads out of {display(root)}")
    return path


def _moment(unix_s: float) -> datetime:
    try:
        return datetime.fromtimestamp(unix_s, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)
