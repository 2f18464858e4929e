"""A spool's file as it lies there, read from a copy: nothing of it is mended, checkpointed or locked by looking."""

import hashlib
import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SpoolFile:
    """What a spool held at one moment.

    Attributes:
        waiting: by id, in their order: the hash of the body.
        letters: ids of the dead letters, in their order, and what was answered.
        nbytes: of the files.
    """

    waiting: dict[str, str]
    letters: dict[str, str]
    nbytes: int


def read_spool(path: Path) -> SpoolFile:
    """What is committed in this file; nothing where there is none yet."""
    if not path.exists():
        return SpoolFile({}, {}, 0)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        nbytes = 0
        for ending in ("", "-wal"):
            part = path.with_name(path.name + ending)
            if part.exists():
                shutil.copy(part, copy.with_name(copy.name + ending))
                nbytes += part.stat().st_size
        with closing(sqlite3.connect(copy)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not {"items", "letters"} <= tables:  # killed while it was made
                return SpoolFile({}, {}, nbytes)
            waiting = {
                name: hashlib.sha256(body).hexdigest()
                for name, body in connection.execute("SELECT id, body FROM items ORDER BY seq")
            }
            letters = dict(connection.execute("SELECT id, answer FROM letters ORDER BY number"))
        return SpoolFile(waiting, letters, nbytes)
