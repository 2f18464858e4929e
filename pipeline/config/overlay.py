"""The overlay: sources that were put or removed over HTTP, kept in a file so that a restart knows them."""

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.config.explain import shown, unknown_key
from pipeline.config.locate import Key
from pipeline.config.problems import ConfigProblems, Places, Problem
from pipeline.config.toml_file import parse, read_text, refuse_deep
from pipeline.contracts.paths import make_folders

FILE_NAME = "sources.toml"
_KEYS = ("sources", "removed")

_HEADER = """\
# Sources that were added, changed or removed over HTTP (PUT and DELETE of /api/v1/sources/NAME).
# Written by Penstock: a table here stands in place of the one of that name in pipeline.toml.
"""


@dataclass(frozen=True, slots=True)
class Overlay:
    """What is laid over the sources of a pipeline.toml. Never changes: `put` and `remove` make a new one.

    A table replaces the file's own of that name wholly; `[defaults.source]` holds for it like for any other. Values are
    literal: no `${VARIABLE}` is replaced in them, since who may name a source may not read the environment.

    Attributes:
        path: the file that it is kept in; it need not exist.
        sources: tables by name.
        removed: names of sources of the file that are no more.
        text: what stands in the file, or will stand there once it is saved.
        kept: the file has this text: it was read from there.
    """

    path: Path
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    text: str = ""
    kept: bool = False

    def put(self, name: str, table: Mapping[str, Any]) -> "Overlay":
        """With this table for source `name`, whatever the file has.

        Raises:
            ConfigProblems: the table holds what TOML cannot.
        """
        problems = [Problem(None, None, None, ".".join(key), why) for key, why in _faults(table, ("sources", name))]
        if problems:
            raise ConfigProblems(problems)
        return self._with({**self.sources, name: table}, [other for other in self.removed if other != name])

    def remove(self, name: str, *, in_file: bool) -> "Overlay":
        """Without source `name`.

        Args:
            name: the source to remove.
            in_file: the file has a source of that name: it is hidden from now on.
        """
        sources = {other: table for other, table in self.sources.items() if other != name}
        return self._with(sources, [*(other for other in self.removed if other != name), *([name] if in_file else [])])

    def apply(self, tree: dict[str, Any]) -> None:
        """Change the sources of a tree whose variables are replaced."""
        if not self.sources and not self.removed:
            return
        own = tree.get("sources", {})
        if isinstance(own, Mapping):  # what it is else is reported as such
            kept = {name: table for name, table in own.items() if name not in self.removed}
            tree["sources"] = {**kept, **self.sources}

    def hides(self, key: Key) -> bool:
        """Whether what the file says under `key` is not looked at."""
        return len(key) > 1 and key[0] == "sources" and (key[1] in self.sources or key[1] in self.removed)

    def __str__(self) -> str:
        """`put yard, door; removed gate`, or nothing."""
        parts = (("put", tuple(self.sources)), ("removed", self.removed))
        return "; ".join(f"{what} {', '.join(names)}" for what, names in parts if names)

    @property
    def places(self) -> Places:
        """Where its keys stand; nowhere yet, where they were just sent."""
        return Places(str(self.path), self.text) if self.kept else Places()

    def save(self) -> None:
        """Write it: only the owner can read it, and a crash leaves the old file or the new one.

        Raises:
            OSError: the folder or the file cannot be written.
        """
        folder = self.path.parent
        make_folders(folder)
        temporary = folder / f".{self.path.name}.{secrets.token_hex(4)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123  (there is a descriptor already)
                file.write(self.text.encode())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(folder)

    def _with(self, sources: Mapping[str, Mapping[str, Any]], removed: list[str]) -> "Overlay":
        import tomli_w

        document: dict[str, Any] = {"removed": removed} if removed else {}
        if sources:
            document["sources"] = sources
        text = f"{_HEADER}\n{tomli_w.dumps(document)}"
        return replace(self, sources=sources, removed=tuple(removed), text=text, kept=False)


def read(data_dir: Path) -> Overlay:
    """The overlay in that folder; an empty one if there is none.

    Raises:
        ConfigProblems: it cannot be read, or is no overlay.
    """
    path = data_dir / FILE_NAME
    try:
        if not path.exists():
            return Overlay(path)
    except OSError as error:
        raise ConfigProblems([Problem(str(path), None, None, "", f"cannot be read: {error.strerror}")]) from error
    text = read_text(path)
    tree = parse(text, str(path))
    places = Places(str(path), text)
    problems = [places.problem((name,), unknown_key(name, _KEYS)) for name in tree if name not in _KEYS]
    sources, removed = tree.get("sources", {}), tree.get("removed", [])
    if not isinstance(sources, dict):
        problems.append(places.problem(("sources",), f"must be a table, got {shown(sources)}"))
    else:
        problems += [
            places.problem(("sources", name), f"must be a table, got {shown(table)}")
            for name, table in sources.items()
            if not isinstance(table, dict)
        ]
    if not isinstance(removed, list) or not all(isinstance(name, str) for name in removed):
        problems.append(places.problem(("removed",), "must be a list of names"))
    if problems:
        raise ConfigProblems(problems)
    return Overlay(path, sources, tuple(removed), text, kept=True)


def _faults(value: Any, key: Key) -> Iterator[tuple[Key, str]]:
    """What JSON can hold and TOML cannot."""
    refuse_deep({"": value}, None)
    pending: list[tuple[Key, Any]] = [(key, value)]
    while pending:
        at, node = pending.pop()
        if node is None:
            yield at, "null is no value here; leave the key out"
        elif isinstance(node, str):
            if not _is_text(node):
                yield at, "is no valid Unicode text"
        elif isinstance(node, Mapping):
            if not all(map(_is_text, node)):
                yield at, "has a key that is no valid Unicode text"
            else:
                pending += [((*at, name), inner) for name, inner in node.items()]
        elif isinstance(node, list):
            pending += [((*at, str(index)), inner) for index, inner in enumerate(node)]


def _is_text(text: str) -> bool:
    """False for halves of surrogate pairs, which JSON can write and no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut; some file systems cannot, which changes nothing for the file."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
