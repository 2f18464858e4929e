"""The tables of the sink `sqlite`, and how they come into a file.

Times are Unix seconds; `datetime(captured_at, 'unixepoch')` shows them. The number of the schema stands in
`PRAGMA user_version`; it goes up when a column changes, and an older file is brought up to date when it is opened.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from pipeline.contracts.errors import ConfigError
from sinks._paths import display

SCHEMA_VERSION = 1
APPLICATION_ID = 0x50454E53  # "PENS"

RESULT = (
    *("id", "source", "frame_id", "pts_s", "captured_at", "time_source", "path", "corrupt", "backend", "model"),
    *("config_hash", "latency_s", "inference_s", "image_width", "image_height", "text"),
)
OBJECT = (
    *("object", "class", "class_id", "confidence", "x", "y", "width", "height"),
    *("tracker_id", "track_age_s", "zones"),
)
EVENT = (
    *("record", "id", "source", "event", "phase", "event_id", "at", "began_at", "duration_s", "frame_id", "pts_s"),
    *("class", "tracker_id", "confidence", "x", "y", "width", "height", "zone", "line", "direction", "count"),
    *("zones", "best_id", "component", "value", "code", "detail"),
)

_TABLES = """
CREATE TABLE results (
  n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, source TEXT NOT NULL, frame_id INTEGER NOT NULL,
  pts_s REAL, captured_at REAL, time_source TEXT, path TEXT, corrupt INTEGER NOT NULL, backend TEXT, model TEXT,
  config_hash TEXT, latency_s REAL, inference_s REAL, image_width INTEGER, image_height INTEGER, text TEXT,
  written_at REAL NOT NULL);
CREATE INDEX results_by_time ON results (source, captured_at);
CREATE TABLE objects (
  result INTEGER NOT NULL REFERENCES results (n), object INTEGER NOT NULL, class TEXT, class_id INTEGER,
  confidence REAL, x REAL, y REAL, width REAL, height REAL, tracker_id INTEGER, track_age_s REAL, zones TEXT,
  PRIMARY KEY (result, object)) WITHOUT ROWID;
CREATE TABLE events (
  n INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL, id TEXT NOT NULL UNIQUE, source TEXT, event TEXT,
  phase TEXT, event_id TEXT, at REAL, began_at REAL, duration_s REAL, frame_id INTEGER, pts_s REAL, class TEXT,
  tracker_id INTEGER, confidence REAL, x REAL, y REAL, width REAL, height REAL, zone TEXT, line TEXT, direction TEXT,
  count INTEGER, zones TEXT, best_id TEXT, component TEXT, value TEXT, code TEXT, detail TEXT,
  written_at REAL NOT NULL);
CREATE INDEX events_by_time ON events (source, at);
CREATE VIEW detections AS
  SELECT r.id, r.source, r.frame_id, r.pts_s, r.captured_at, o.object, o.class, o.class_id, o.confidence,
         o.x, o.y, o.width, o.height, o.tracker_id, o.zones
  FROM results r JOIN objects o ON o.result = r.n;
"""


def refuse_foreign(db: sqlite3.Connection, path: Path) -> None:
    """See that a file is empty, or ours; changes nothing.

    Raises:
        ConfigError: it belongs to something else.
        sqlite3.Error: it cannot be read.
    """
    if problem := _problem(db):
        raise ConfigError(f"{display(path)} {problem}", key="path")


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables where there are none.

    Raises:
        sqlite3.Error: they cannot be made.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        if _number(db, "user_version") == 0:
            for statement in filter(str.strip, _TABLES.split(";\n")):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _problem(db: sqlite3.Connection) -> str | None:
    tables: int = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and _number(db, "application_id") != APPLICATION_ID:
        return "is a database of another program"
    if _number(db, "user_version") > SCHEMA_VERSION:
        return "was made by a newer Penstock"
    return None


def _number(db: sqlite3.Connection, pragma: str) -> int:
    number: int = db.execute(f"PRAGMA {pragma}").fetchone()[0]
    return number


def _insert(table: str, columns: Sequence[str], *more: str) -> str:
    names = ", ".join([*more, *columns])
    marks = ", ".join("?" * (len(more) + len(columns)))
    return f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})"  # noqa: S608  (our own names)


INSERT_RESULT = _insert("results", (*RESULT, "written_at"))
INSERT_OBJECT = _insert("objects", OBJECT, "result")
INSERT_EVENT = _insert("events", (*EVENT, "written_at"))
