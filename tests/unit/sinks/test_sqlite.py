import errno
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sample_events import DAEMON_EVENT, OBJECT_EVENT, SOURCE_EVENT

from pipeline.contracts.errors import ConfigError, TransientError
from pipeline.contracts.result import Result, Text
from pipeline.testing import MovableClock, PluginContext, detections, frame, result
from sinks._tables import SCHEMA_VERSION
from sinks.sqlite import SqliteSink, SqliteSinkConfig


def opened(ctx: PluginContext, path: Path, **keys: Any) -> SqliteSink:
    sink = SqliteSinkConfig.model_validate({"path": str(path), "min_free_bytes": 0, **keys}).build(ctx)
    sink.open()
    return sink


def ask(path: Path, question: str) -> list[Any]:
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return database.execute(question).fetchall()
    finally:
        database.close()


def numbers(path: Path) -> list[int]:
    return [number for (number,) in ask(path, "SELECT frame_id FROM results ORDER BY n")]


def numbered(*seqs: int) -> list[Result]:
    return [result(frame(seq)) for seq in seqs]


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def ctx(tmp_path: Path, clock: MovableClock) -> PluginContext:
    return PluginContext("out", tmp_path / "data", clock)


def test_results_and_their_objects_can_be_asked_while_they_are_written(tmp_path: Path, ctx: PluginContext) -> None:
    path = tmp_path / "a.db"
    sink = opened(ctx, path)
    sink.write([result(frame(0), detections((0, 0, 10, 20), (30, 30, 50, 40))), result(frame(1), detections())])
    assert ask(path, "SELECT frame_id, captured_at FROM results") == [(0, 1.7e9), (1, 1.7e9 + 0.04)]
    assert ask(path, "SELECT frame_id, object, class, x, y, width FROM detections ORDER BY object") == [
        (0, 0, "thing", 5.0, 10.0, 10.0),
        (0, 1, "thing", 40.0, 35.0, 20.0),
    ]
    sink.write(numbered(2))
    sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"], "no log is left beside it"
    assert numbers(path) == [0, 1, 2]


def test_events_and_notices_and_texts_have_their_places(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "a.db")
    for event in (OBJECT_EVENT, SOURCE_EVENT, DAEMON_EVENT):
        sink.notice(event)
    sink.write([replace(result(frame(0)), prediction=Text("hi"))])
    sink.close()
    asked = "SELECT record, event, phase, at, began_at, zones, value, component FROM events ORDER BY n"
    assert ask(tmp_path / "a.db", asked) == [
        ("event", "zone", "end", 1_700_000_002.5, 1.7e9, "drive yard", None, None),
        ("notice", "state", None, 1.7e9, None, None, "reconnecting", None),
        ("notice", "fallback", None, 1.7e9 + 1, None, None, "taken", "backend local"),
    ]
    assert ask(tmp_path / "a.db", "SELECT text FROM results") == [("hi",)]


def test_a_second_run_goes_on_after_the_first_and_the_same_result_is_there_once(
    tmp_path: Path, ctx: PluginContext
) -> None:
    for seqs in ((0, 1), (1, 2)):
        sink = opened(ctx, tmp_path / "a.db")
        sink.write(numbered(*seqs))
        sink.close()
    assert numbers(tmp_path / "a.db") == [0, 1, 2]
    assert ask(tmp_path / "a.db", "SELECT count(*) FROM objects") == [(3,)]
    assert ask(tmp_path / "a.db", "PRAGMA user_version") == [(SCHEMA_VERSION,)]


def test_each_source_and_day_has_its_file_where_that_was_asked_for(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "{source}-{date}.db")
    for days, source in ((0, "gate"), (0, "yard"), (1, "gate")):
        one = replace(frame(days, source=source), captured_at=1.7e9 + days * 86_400)
        sink.write([replace(result(one), id=f"{source}{days}")])
    sink.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("gate-2023-11-14.db", "gate-2023-11-15.db", "yard-2023-11-14.db")
    ]


def test_a_batch_that_fails_is_not_there_at_all(
    tmp_path: Path, ctx: PluginContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = opened(ctx, tmp_path / "a.db")
    with monkeypatch.context() as patch:
        patch.setattr("sinks._database.INSERT_OBJECT", "INSERT INTO no_such_table VALUES (?)")
        with pytest.raises(Exception, match="no such table"):
            sink.write(numbered(0, 1))
    sink.write(numbered(2))
    sink.close()
    assert numbers(tmp_path / "a.db") == [2]


def test_a_lock_that_somebody_holds_passes(tmp_path: Path, ctx: PluginContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks._database._BUSY_S", 0.05)
    sink = opened(ctx, tmp_path / "a.db")
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TransientError, match="locked"):
        sink.write(numbered(0))
    other.execute("ROLLBACK")
    other.close()
    sink.write(numbered(1))
    sink.close()
    assert numbers(tmp_path / "a.db") == [1]


def test_rows_go_by_age_and_the_file_becomes_smaller(tmp_path: Path, ctx: PluginContext, clock: MovableClock) -> None:
    sink = opened(ctx, tmp_path / "a.db", keep={"max_age_s": 3600})
    for first in range(0, 6000, 500):
        sink.write(numbered(*range(first, first + 500)))
    clock.advance(1800)
    sink.write(numbered(9000))
    clock.advance(1801)
    for _ in range(5):
        sink.tick()
    assert numbers(tmp_path / "a.db") == [9000]
    assert ask(tmp_path / "a.db", "SELECT count(*) FROM objects") == [(1,)]
    sink.close()
    assert (tmp_path / "a.db").stat().st_size < 200_000


def test_rows_stay_although_somebody_sets_the_clock(tmp_path: Path, ctx: PluginContext, clock: MovableClock) -> None:
    sink = opened(ctx, tmp_path / "a.db", keep={"max_age_s": 600})
    sink.write(numbered(0))
    clock._wall += 3600
    clock.advance(300)
    sink.write(numbered(1))
    sink.tick()
    clock._wall -= 7200
    clock.advance(290)
    sink.tick()
    assert numbers(tmp_path / "a.db") == [0, 1]
    clock.advance(20)
    sink.tick()
    assert numbers(tmp_path / "a.db") == [1]
    sink.close()


def test_a_file_does_not_grow_beyond_what_it_may_hold(tmp_path: Path, ctx: PluginContext, clock: MovableClock) -> None:
    sink = opened(ctx, tmp_path / "a.db", keep={"max_bytes": 500_000})
    for first in range(0, 6000, 100):
        sink.write(numbered(*range(first, first + 100)))
        clock.advance(10)
        sink.tick()
    left = numbers(tmp_path / "a.db")
    assert left[-1] == 5999
    assert left == list(range(left[0], 6000)), "the oldest went, and no other"
    assert len(left) > 500
    sink.close()
    assert (tmp_path / "a.db").stat().st_size < 800_000


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"GIF89a" + b"x" * 5000, "is no SQLite database"), (None, "a database of another program")],
)
def test_the_file_of_somebody_else_is_left_alone(
    tmp_path: Path, ctx: PluginContext, content: bytes | None, message: str
) -> None:
    path = tmp_path / "a.db"
    if content is None:
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE t (x)")
        other.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=message) as caught:
        opened(ctx, path)
    assert caught.value.key == "path"
    assert path.read_bytes() == before


def test_a_newer_file_is_left_alone(tmp_path: Path, ctx: PluginContext) -> None:
    opened(ctx, tmp_path / "a.db").close()
    newer = sqlite3.connect(tmp_path / "a.db")
    newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    newer.close()
    with pytest.raises(ConfigError, match="newer Penstock"):
        opened(ctx, tmp_path / "a.db")


@pytest.mark.parametrize("damage", ["zeros", "pages", "header"])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(tmp_path: Path, ctx: PluginContext, damage: str) -> None:
    path = tmp_path / "a.db"
    sink = opened(ctx, path)
    sink.write(numbered(*range(200)))
    sink.close()
    data = bytearray(path.read_bytes())
    match damage:
        case "zeros":
            data = bytearray(4096)  # what a power cut leaves of a young file
        case "header":
            data[16:18] = b"\xff\xff"
        case _:
            data[4096:] = b"\xaa" * (len(data) - 4096)
    path.write_bytes(data)
    sink = opened(ctx, path)
    try:
        sink.write(numbered(500))
    except TransientError:
        sink.write(numbered(500))
    sink.close()
    assert numbers(path) == [500]
    assert len([other for other in tmp_path.iterdir() if "corrupt" in other.name]) == 1
    assert ctx.told[0][0] == "set aside"


def test_a_full_disk_passes(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "a.db")
    sink.write(numbered(0))
    database = sink._open[tmp_path / "a.db"]._db
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(TransientError, match="full"):
        sink.write(numbered(*range(1, 2000)))
    database.execute("PRAGMA max_page_count = 1000000")
    sink.write(numbered(5000))
    sink.close()
    assert numbers(tmp_path / "a.db") == [0, 5000]


@pytest.mark.parametrize("keys", [{"keep": {}}, {"keep": {"max_bytes": 10}}, {"fsync": "never"}])
def test_keys_that_make_no_sense_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SqliteSinkConfig.model_validate({"path": "a.db", **keys})


def test_a_disk_that_does_not_answer_at_the_start_may_come_back(
    tmp_path: Path, ctx: PluginContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.open", full)
    with pytest.raises(TransientError, match="No space left"):
        opened(ctx, tmp_path / "a.db")
