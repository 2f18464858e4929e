"""What a killed run left in PATH.part, where files are replaced: it is kept beside the new one."""

import errno
import fcntl
import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.contracts.errors import FatalError, TransientError
from pipeline.testing import MovableClock, PluginContext, frame, result
from sinks._lines import LinesSink
from sinks.csv import CsvSinkConfig
from sinks.jsonl import JsonlSinkConfig
from sinks.parquet import ParquetSinkConfig

NOON = 1_763_726_400.0  # 2025-11-21T12:00:00Z
PIECE = "gate-20251121T120000Z.jsonl"


@pytest.fixture
def ctx(tmp_path: Path) -> PluginContext:
    return PluginContext("out", tmp_path / "data", MovableClock(NOON + 3600))


def opened(ctx: PluginContext, path: Path, **keys: Any) -> LinesSink:
    sink = JsonlSinkConfig.model_validate({"path": str(path), "min_free_bytes": 0, **keys}).build(ctx)
    sink.open()
    return sink


def left(folder: Path, text: str, name: str = "gate.jsonl.part", at: float = NOON) -> Path:
    """What a kill leaves."""
    part = folder / name
    part.write_bytes(text.encode())
    os.utime(part, (at, at))
    return part


def numbers(path: Path) -> list[int]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line)["frame_id"] for line in data.splitlines()]


def seen(folder: Path) -> dict[str, list[int]]:
    return {path.name: numbers(path) for path in sorted(folder.iterdir())}


def test_what_a_kill_left_is_kept_under_the_time_of_its_last_line_and_told_once(
    tmp_path: Path, ctx: PluginContext
) -> None:
    left(tmp_path, '{"frame_id":0}\n{"frame_id":1}\n')
    sink = opened(ctx, tmp_path / "gate.jsonl")
    assert seen(tmp_path) == {PIECE: [0, 1], "gate.jsonl.part": []}
    assert (tmp_path / PIECE).stat().st_mtime == NOON
    sink.write([result(frame(2))])
    sink.close()
    assert seen(tmp_path) == {PIECE: [0, 1], "gate.jsonl": [2]}
    assert sink.mended == 0
    (said,) = ctx.warnings
    assert said == f"{tmp_path}/gate.jsonl.part, left by a run before, is kept as {tmp_path}/{PIECE}"


def test_its_torn_last_line_is_cut_off_and_counted(tmp_path: Path, ctx: PluginContext) -> None:
    left(tmp_path, '{"frame_id":0}\n{"frame_id":1,"ba')
    sink = opened(ctx, tmp_path / "gate.jsonl")
    sink.close()
    assert seen(tmp_path) == {PIECE: [0]}
    assert (tmp_path / PIECE).stat().st_mtime == NOON, "mending made it no younger"
    assert sink.mended == 1
    assert len(ctx.warnings) == 2
    assert "its last 17 bytes were cut off" in ctx.warnings[0]


def test_a_last_line_that_only_lacks_its_end_is_kept(tmp_path: Path, ctx: PluginContext) -> None:
    left(tmp_path, '{"frame_id":0}\n{"frame_id":1}')
    sink = opened(ctx, tmp_path / "gate.jsonl")
    sink.close()
    assert seen(tmp_path) == {PIECE: [0, 1]}
    assert sink.mended == 0


def test_it_replaces_neither_the_last_result_nor_other_pieces(tmp_path: Path, ctx: PluginContext) -> None:
    (tmp_path / "gate.jsonl").write_text('{"frame_id":7}\n')
    for number, start in enumerate(("gate-20251121T120000Z", "gate-20251121T120000Z-3")):
        (tmp_path / f"{start}.jsonl").write_text(f'{{"frame_id":{80 + number}}}\n')
    for number in (0, 1):
        left(tmp_path, f'{{"frame_id":{number}}}\n')
        opened(ctx, tmp_path / "gate.jsonl").close()
    assert seen(tmp_path) == {
        "gate.jsonl": [7],
        PIECE: [80],
        "gate-20251121T120000Z-2.jsonl": [0],
        "gate-20251121T120000Z-3.jsonl": [81],
        "gate-20251121T120000Z-4.jsonl": [1],
    }


def test_a_time_that_is_still_to_come_is_now(tmp_path: Path, ctx: PluginContext) -> None:
    left(tmp_path, '{"frame_id":0}\n', at=NOON + 9e9)
    opened(ctx, tmp_path / "gate.jsonl").close()
    assert seen(tmp_path) == {"gate-20251121T130000Z.jsonl": [0]}


@pytest.mark.parametrize("text", ["", '{"fra'])
def test_what_holds_no_line_is_no_file_of_its_own(tmp_path: Path, ctx: PluginContext, text: str) -> None:
    left(tmp_path, text)
    sink = opened(ctx, tmp_path / "gate.jsonl")
    sink.write([result(frame(2))])
    sink.close()
    assert seen(tmp_path) == {"gate.jsonl": [2]}
    assert sink.mended == bool(text)


def test_with_placeholders_it_is_kept_when_its_file_is_begun(tmp_path: Path, ctx: PluginContext) -> None:
    for name in ("gate", "yard"):
        left(tmp_path, '{"frame_id":0}\n', f"{name}.jsonl.part")
    sink = opened(ctx, tmp_path / "{source}.jsonl")
    sink.write([result(frame(2, source="gate"))])
    sink.close()
    assert seen(tmp_path) == {PIECE: [0], "gate.jsonl": [2], "yard.jsonl.part": [0]}


def test_what_another_process_writes_is_not_touched(tmp_path: Path, ctx: PluginContext) -> None:
    part = left(tmp_path, '{"frame_id":0}\n{"frame_id":1,"ba')
    text = part.read_bytes()
    with part.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(FatalError, match="another process"):
            opened(ctx, tmp_path / "gate.jsonl")
    assert part.read_bytes() == text
    assert list(tmp_path.iterdir()) == [part]


def test_it_is_compressed_like_any_closed_file(tmp_path: Path, ctx: PluginContext) -> None:
    left(tmp_path, '{"frame_id":0}\n')
    sink = opened(ctx, tmp_path / "gate.jsonl", compress="gzip")
    sink.write([result(frame(1))])
    sink.close()
    assert seen(tmp_path) == {f"{PIECE}.gz": [0], "gate.jsonl.gz": [1]}
    assert sink.written() == [str(tmp_path / name) for name in (f"{PIECE}.gz", "gate.jsonl.gz")]
    assert ctx.told == []


def test_keep_counts_it_like_any_closed_file(tmp_path: Path, ctx: PluginContext) -> None:
    old = tmp_path / "2023-11-14-20251121T110000Z.jsonl"
    old.write_text('{"frame_id":8}\n')
    os.utime(old, (NOON - 3600, NOON - 3600))
    left(tmp_path, '{"frame_id":0}\n', "2023-11-14.jsonl.part")
    sink = opened(ctx, tmp_path / "{date}.jsonl", keep={"max_files": 1})
    sink.write([result(frame(1))])
    sink.tick()
    assert seen(tmp_path) == {"2023-11-14-20251121T120000Z.jsonl": [0], "2023-11-14.jsonl.part": [1]}
    sink.close()


def test_a_reload_and_a_loop_go_on_with_the_file_that_is_there(tmp_path: Path, ctx: PluginContext) -> None:
    (tmp_path / "a.jsonl").write_text('{"frame_id":0}\n')
    ctx.continues = True
    sink = opened(ctx, tmp_path / "{stem}.jsonl")
    for seq, name in enumerate(["a.mp4", "b.mp4", "a.mp4", "b.mp4"], 1):
        sink.write([result(replace(frame(seq), path=name))])
    sink.close()
    assert seen(tmp_path) == {"a.jsonl": [0, 1, 3], "b.jsonl": [2, 4]}
    assert ctx.warnings == []


def test_where_it_cannot_be_kept_nothing_is_begun_in_its_place(
    tmp_path: Path, ctx: PluginContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    left(tmp_path, '{"frame_id":0}\n', "test.jsonl.part")
    sink = opened(ctx, tmp_path / "{source}.jsonl")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(TransientError, match="Input/output error"):
            sink.write([result(frame(1))])
    assert seen(tmp_path) == {"test.jsonl.part": [0]}
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    sink.write([result(frame(2))])
    sink.close()
    assert seen(tmp_path) == {"test-20251121T120000Z.jsonl": [0], "test.jsonl": [2]}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("frame_id,class\r\n7,a\r\n8", "frame_id,class\r\n7,a\r\n"),
        ("frame_id\r\n7\r\n", "frame_id\r\n7\r\n"),
        ("frame_id,class\r\n", None),
        ("frame_id,cl", None),
    ],
    ids=["torn", "other columns", "a head alone", "a torn head"],
)
def test_rows_keep_their_own_head(tmp_path: Path, ctx: PluginContext, text: str, kept: str | None) -> None:
    (tmp_path / "gate.csv").write_text("old")
    left(tmp_path, text, "gate.csv.part")
    keys = {"path": str(tmp_path / "gate.csv"), "columns": ["frame_id", "class"], "min_free_bytes": 0}
    sink = CsvSinkConfig.model_validate(keys).build(ctx)
    sink.open()
    sink.close()
    texts = {path.name: path.read_bytes().decode() for path in tmp_path.iterdir()}
    assert texts == {"gate.csv": "old"} | ({} if kept is None else {"gate-20251121T120000Z.csv": kept})


def test_rows_become_a_parquet_file_of_their_own(tmp_path: Path, ctx: PluginContext) -> None:
    left(tmp_path, '["frame_id"]\n[0]\n[1]\n[2', "gate.parquet.rows.part")
    keys = {"path": str(tmp_path / "gate.parquet"), "columns": ["frame_id", "class"], "min_free_bytes": 0}
    sink = ParquetSinkConfig.model_validate(keys).build(ctx)
    sink.open()
    sink.write([result(frame(3))])
    sink.close()
    found = {path.name: pq.read_table(path)["frame_id"].to_pylist() for path in tmp_path.iterdir()}
    assert found == {"gate-20251121T120000Z.parquet": [0, 1], "gate.parquet": [3]}
    assert sink.mended == 1


def lines_of(folder: Path) -> dict[str, list[int]]:
    """The numbers of the frames in each file, of whatever kind."""
    return {
        path.name: pq.read_table(path)["frame_id"].to_pylist() if path.suffix == ".parquet" else numbers(path)
        for path in sorted(folder.iterdir())
    }


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (JsonlSinkConfig.model_validate({"path": "x.jsonl", "compress": "gzip", "min_free_bytes": 0}), "gate.jsonl"),
        (ParquetSinkConfig.model_validate({"path": "x.parquet", "min_free_bytes": 0}), "gate.parquet"),
    ],
    ids=["gzip", "parquet"],
)
@pytest.mark.parametrize("reloads", [1, 3])
def test_what_was_packed_before_a_reload_is_not_replaced(
    tmp_path: Path, ctx: PluginContext, config: JsonlSinkConfig | ParquetSinkConfig, name: str, reloads: int
) -> None:
    config = config.model_copy(update={"path": str(tmp_path / name)})
    for seq in range(1 + reloads):
        ctx.continues = seq > 0
        sink = config.build(ctx)
        sink.open()
        sink.write([result(frame(seq))])
        sink.close()
    kept = lines_of(tmp_path)
    assert sorted(seq for seqs in kept.values() for seq in seqs) == list(range(1 + reloads)), kept
    assert len(kept) == 1 + reloads


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("works_between", [False, True])
def test_a_loop_of_files_replaces_nothing_of_its_own_when_they_are_packed(
    tmp_path: Path, ctx: PluginContext, suffix: str, works_between: bool
) -> None:
    keys: dict[str, Any] = {"path": str(tmp_path / f"{{stem}}.{suffix}"), "min_free_bytes": 0}
    config: JsonlSinkConfig | ParquetSinkConfig = (
        ParquetSinkConfig.model_validate(keys)
        if suffix == "parquet"
        else JsonlSinkConfig.model_validate({**keys, "compress": "gzip"})
    )
    sink = config.build(ctx)
    sink.open()
    for seq, stem in enumerate("abab"):
        sink.write([result(replace(frame(seq), path=f"{stem}.mp4"))])
        if works_between:
            for _ in range(5):
                sink.tick()
    sink.close()
    kept = lines_of(tmp_path)
    assert sorted(seq for seqs in kept.values() for seq in seqs) == [0, 1, 2, 3], kept
    assert {name[0]: 0 for name in kept} == {"a": 0, "b": 0}
