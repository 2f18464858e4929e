"""`GraphStore`: rewritten models, and those with pre- or post-processing inside, kept in the data folder."""

import contextlib
import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from pipeline.backends._onnx.device import CPU, DeviceChoice, usable_cores
from pipeline.backends._onnx.tuning_store import machine
from pipeline.contracts.component import FrozenModel
from pipeline.contracts.errors import ConfigError
from pipeline.devices.gpus import gpus
from pipeline.models.graph_nodes import CannotComposeError
from pipeline.models.onnx_file import MAX_BYTES, OnnxFile, fingerprint, read_onnx

FOLDER = "graphs"

MOST_MODELS = 32
"""So many models, or notes that there is none, are kept: those used last. A model in use has one or two."""

MOST_BYTES = 4 << 30
"""And so many bytes of them, but always the newest one."""

_MOST_NOTE_BYTES = 1 << 16
_PARTIAL = ".part"
_LOST_S = 3600.0  # nobody writes a file for so long: its process was killed


class Note(FrozenModel):
    """What was found out about a composed model, beside it for whoever looks, and for the next start.

    Attributes:
        key: what it holds for, in a hash.
        about: the same in words: model, options, versions, device.
        sha256: of the composed model; None where the model stays as it is.
        inside: the parts that run inside of the graph.
        outside: the parts that do not, and why.
        done: what was rewritten.
        checked: how the composed model compares with the plain one.
        run_s: seconds of a run with all that belongs to it, by way: "plain", "graph".
    """

    version: Literal[1] = 1
    key: str
    about: dict[str, str]
    sha256: str | None = None
    inside: tuple[str, ...] = ()
    outside: dict[str, str] = Field(default_factory=dict)
    done: tuple[str, ...] = ()
    checked: str = ""
    run_s: dict[str, float] = Field(default_factory=dict)


class GraphStore:
    """Made when a backend opens. Damage costs a new composition, no more: what is not whole is as if it were not there.

    Args:
        folder: the data folder; made when something is kept.
        about: all that a composed model depends on.
    """

    def __init__(self, folder: Path, about: Mapping[str, str]) -> None:
        self._folder = folder / FOLDER
        self.about = dict(about)
        self.key = hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()

    @property
    def model(self) -> Path:
        """Where the composed model is."""
        return self._folder / f"{self.key[:32]}.onnx"

    @property
    def note(self) -> Path:
        """Where what is known of it is."""
        return self._folder / f"{self.key[:32]}.json"

    def find(self) -> Note | None:
        """What was kept for exactly this, once it is sure that the model beside it is the one that was written."""
        try:
            with self.note.open("rb") as file:
                note = Note.model_validate_json(file.read(_MOST_NOTE_BYTES + 1))
        except (OSError, ValidationError):
            return None
        if note.key != self.key or note.about != self.about:
            return None
        if note.sha256 is not None and not self._is_whole(note.sha256):
            return None
        with contextlib.suppress(OSError):
            for path in (self.note, self.model):
                os.utime(path)  # used now: others go first
        return note

    def keep(self, note: Note, model: bytes | None) -> None:
        """Keep both, and the newest of what else is there.

        Raises:
            OSError: they cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        if model is None:
            self.model.unlink(missing_ok=True)
        else:
            _write(self.model, model)
        _write(self.note, note.model_dump_json(indent=1).encode() + b"\n")  # last: a model without a note is nothing
        self._forget_oldest()

    def discard(self) -> None:
        """What is kept is of no use: it is as if it were not there."""
        with contextlib.suppress(OSError):  # whatever cannot be removed cannot be written either
            self.note.unlink(missing_ok=True)
            self.model.unlink(missing_ok=True)

    def _is_whole(self, sha256: str) -> bool:
        """Whether the file is the one that was written, and passes all that a model from anywhere has to pass."""
        try:
            descriptor = os.open(self.model, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0))
            with os.fdopen(descriptor, "rb") as file:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
                    return False
                whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
            return whole and not read_onnx(self.model).external_files
        except (OSError, ConfigError):
            return False

    def _forget_oldest(self) -> None:
        entries = []
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                found = path.stat()
                entries.append((found.st_mtime_ns, found.st_size, path))
                if path.suffix == _PARTIAL and time.time() - found.st_mtime > _LOST_S:
                    path.unlink()
        entries.sort(reverse=True)
        kept: list[str] = [self.key[:32]]
        size_bytes = 0
        for _, length, path in entries:
            if path.suffix not in {".onnx", ".json"}:
                continue
            size_bytes += length
            if path.stem not in kept and len(kept) < MOST_MODELS and size_bytes <= MOST_BYTES:
                kept.append(path.stem)
            if path.stem not in kept:
                path.unlink(missing_ok=True)


def own_bytes(file: OnnxFile, digest: str | None = None) -> bytes:
    """A model's file, which must still be the one that was checked.

    Args:
        file: the model.
        digest: its SHA-256; None: as it was found when it was read.

    Raises:
        CannotComposeError: it is not, or cannot be read.
    """
    try:
        data = file.path.read_bytes()
    except OSError as error:
        raise CannotComposeError(f"its file cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != (digest or fingerprint(file)):
        raise CannotComposeError("its file changed while it was read")
    return data


def device_facts(choice: DeviceChoice) -> dict[str, str]:
    """What of a device decides which graph suits it, for keys: its name, and what CPU or GPU that is here."""
    facts = {"device": choice.device}
    if choice.must_have == CPU:
        return facts | machine(usable_cores())
    return facts if choice.gpu is None else facts | {"gpu": gpus().gpu(choice.gpu).name}


def notes_about(folder: Path, fingerprint: str) -> list[Note]:
    """What a data folder knows of the model with this fingerprint, the newest first."""
    found: list[tuple[int, Note]] = []
    with contextlib.suppress(OSError):
        for path in (folder / FOLDER).glob("*.json"):
            with contextlib.suppress(OSError, ValidationError), path.open("rb") as file:
                note = Note.model_validate_json(file.read(_MOST_NOTE_BYTES + 1))
                if note.about.get("fingerprint") == fingerprint:
                    found.append((path.stat().st_mtime_ns, note))
    return [note for _, note in sorted(found, key=lambda entry: entry[0], reverse=True)]


def _write(path: Path, data: bytes) -> None:
    # Several processes and threads may share the folder: each writes a file of its own, the last one stays.
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{_PARTIAL}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
