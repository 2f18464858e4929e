"""What a spool raises, and what SQLite's errors mean for it."""

import sqlite3

from pipeline.contracts.errors import TransientError

_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class SpoolError(TransientError):
    """The disk did not take or give it: nothing of it happened, and it is tried again."""


class DamagedError(Exception):
    """The file itself is damaged: what can still be read must be saved into a new one."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether it says that the file is no sound database."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _CORRUPT


def translated(error: sqlite3.Error) -> SpoolError | DamagedError:
    """What to raise in place of an error of SQLite."""
    if is_damage(error):
        return DamagedError(str(error))
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return SpoolError(f"the spool's file: {error} ({name})")
