import datetime as dt
import errno
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sample_events import DAEMON_EVENT, OBJECT_EVENT, SOURCE_EVENT

from pipeline.contracts.errors import ConfigError
from pipeline.testing import MovableClock, PluginContext, detections, frame, result
from sinks.parquet import ParquetSink, ParquetSinkConfig, parquet_path

NOON = 1_763_726_400.0  # 2025-11-21T12:00:00Z


def opened(ctx: PluginContext, path: Path, **keys: Any) -> ParquetSink:
    sink = ParquetSinkConfig.model_validate({"path": str(path), "min_free_bytes": 0, **keys}).build(ctx)
    sink.open()
    return sink


def table(*paths: Path) -> list[dict[str, Any]]:
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock(NOON)


@pytest.fixture
def ctx(tmp_path: Path, clock: MovableClock) -> PluginContext:
    return PluginContext("out", tmp_path / "data", clock)


def test_a_table_with_types_is_there_at_the_end(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "{source}.parquet")
    sink.write([result(frame(0)), result(frame(1), detections()), result(frame(2))])
    assert names(tmp_path) == ["test.parquet.rows.part"]
    sink.close()
    assert names(tmp_path) == ["test.parquet"]
    assert sink.written() == [str(tmp_path / "test.parquet")]
    first, second = table(tmp_path / "test.parquet")
    assert (first["frame_id"], second["frame_id"]) == (0, 2)
    assert (first["class"], first["x"], first["tracker_id"]) == ("thing", 16.0, None)
    assert first["captured_at"] == dt.datetime(2023, 11, 14, 22, 13, 20, tzinfo=dt.UTC)


def test_files_are_made_as_often_as_the_operator_wants_and_removed_by_his_rule(
    tmp_path: Path, ctx: PluginContext, clock: MovableClock
) -> None:
    sink = opened(ctx, tmp_path / "gate.parquet", rotate={"every": "hour"}, keep={"max_age_s": 3 * 3600.0})
    for hour in range(6):
        sink.write([result(frame(hour))])
        os.utime(tmp_path / "gate.parquet.rows.part", (clock.wall(), clock.wall()))
        clock.advance(3600)
        for path in tmp_path.glob("*.parquet"):  # the kernel's clock is not ours
            stamp = dt.datetime.strptime(path.stem[5:], "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
            os.utime(path, (stamp.timestamp(), stamp.timestamp()))
        sink.tick()
    assert names(tmp_path)[-1] == "gate-20251121T180000Z.parquet"
    assert 2 <= len(names(tmp_path)) <= 4
    sink.close()


def test_pieces_of_one_second_do_not_replace_each_other(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "gate.parquet", rotate={"max_bytes": 1024})
    for seq in range(40):
        sink.write([result(frame(seq))])
        sink.tick()
    sink.close()
    assert len(names(tmp_path)) > 3
    assert sorted(row["frame_id"] for row in table(*tmp_path.iterdir())) == list(range(40))


def test_rows_that_a_kill_left_are_in_the_next_file(tmp_path: Path, ctx: PluginContext, clock: MovableClock) -> None:
    sink = opened(ctx, tmp_path / "{source}.parquet", rotate={"every": "hour"}, columns=["frame_id", "class"])
    sink.write([result(frame(0)), result(frame(1))])
    part = tmp_path / "test.parquet.rows.part"
    left = part.read_bytes()
    sink.close()
    for path in tmp_path.iterdir():
        path.unlink()
    part.write_bytes(left + b'[2,"thi')
    os.utime(part, (NOON, NOON))
    again = opened(ctx, tmp_path / "{source}.parquet", rotate={"every": "hour"}, columns=["frame_id", "class"])
    again.write([result(frame(2))])
    again.close()
    assert [row["frame_id"] for row in table(*tmp_path.iterdir())] == [0, 1, 2]
    assert "its last 7 bytes were cut off" in ctx.warnings[0]


@pytest.mark.parametrize("name", ["gate.parquet-20251121T110000Z.rows", "gate.parquet.rows"])
def test_closed_rows_that_the_last_process_did_not_come_to_become_a_file(
    tmp_path: Path, ctx: PluginContext, name: str
) -> None:
    (tmp_path / name).write_text('["frame_id","at"]\n[1,"2025-11-21T11:00:00.000Z"]\n[2,null]\n')
    os.utime(tmp_path / name, (NOON, NOON))
    sink = opened(ctx, tmp_path / "{source}.parquet", rotate={"every": "hour"})
    sink.tick()
    assert names(tmp_path) == [parquet_path(Path(name)).name]
    assert next(tmp_path.iterdir()).stat().st_mtime == NOON, "it is as old as what is in it"
    assert [row["frame_id"] for row in table(*tmp_path.iterdir())] == [1, 2]
    sink.close()


def test_rows_that_came_back_damaged_are_left_out_and_told(tmp_path: Path, ctx: PluginContext) -> None:
    rows = tmp_path / "gate.parquet-20251121T110000Z.rows"
    bad = ['"x"', "[1]", '["1"]', "[1,2]", "{", "[1.5]", "[1e400]", f"[{1 << 64}]", "\0\0\0"]
    rows.write_text('["frame_id"]\n[1]\n' + "\n".join(bad[:1] + bad[2:]) + "\n[2]\n")
    sink = opened(ctx, tmp_path / "{source}.parquet", rotate={"every": "hour"})
    sink.tick()
    sink.close()
    assert [row["frame_id"] for row in table(*tmp_path.iterdir())] == [1, 2]
    assert "8 rows could not be read back" in ctx.warnings[0]


def test_a_disk_that_is_full_leaves_the_rows_where_they_are(
    tmp_path: Path, ctx: PluginContext, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sink = opened(ctx, tmp_path / "gate.parquet", rotate={"max_bytes": 1024})
    for seq in range(8):
        sink.write([result(frame(seq))])
    with monkeypatch.context() as patch:
        patch.setattr("sinks._parquet_file.OutputFile.settle", full)
        sink.tick()
    assert not [name for name in names(tmp_path) if name.endswith((".parquet", ".parquet.part"))]
    assert ctx.told[0][0] == "left as it is"
    clock.advance(61)
    sink.tick()
    sink.close()
    assert sorted(row["frame_id"] for row in table(*tmp_path.iterdir())) == list(range(8))


def test_events_and_notices_are_rows_as_well(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "all.parquet", emit="events", notices=["sources", "daemon"])
    for event in (OBJECT_EVENT, SOURCE_EVENT, DAEMON_EVENT):
        sink.notice(event)
    sink.close()
    rows = table(tmp_path / "all.parquet")
    assert [(row["record"], row["event"], row["phase"], row["value"]) for row in rows] == [
        ("event", "zone", "end", None),
        ("notice", "state", None, "reconnecting"),
        ("notice", "fallback", None, "taken"),
    ]


def test_an_older_file_stands_until_the_new_one_is_complete(tmp_path: Path, ctx: PluginContext) -> None:
    (tmp_path / "gate.parquet").write_text("old")
    sink = opened(ctx, tmp_path / "gate.parquet")
    sink.write([result(frame(0))])
    assert (tmp_path / "gate.parquet").read_text() == "old"
    sink.close()
    assert len(table(tmp_path / "gate.parquet")) == 1


def test_a_library_that_is_not_there_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'penstock\[parquet\]'") as caught:
        ParquetSinkConfig.model_validate({"path": str(tmp_path / "a.parquet")}).check()
    assert caught.value.key == "type"


def test_a_name_of_rows_gives_the_name_of_its_file() -> None:
    pairs = {
        "x.parquet.rows": "x.parquet",
        "x.parquet-20251121T110000Z.rows": "x-20251121T110000Z.parquet",
        "x.parquet-20251121T110000Z-12.rows": "x-20251121T110000Z-12.parquet",
        "x-20251121T110000Z.rows": "x-20251121T110000Z",  # a path without an ending
    }
    assert {name: parquet_path(Path(name)).name for name in pairs} == pairs


def test_what_waits_can_be_read_by_a_person(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "gate.parquet", columns=["class", "corrupt", "frame_id"])
    sink.write([result(frame(0))])
    lines = (tmp_path / "gate.parquet.rows.part").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [["class", "corrupt", "frame_id"], ["thing", False, 0]]
    sink.close()
