"""Rotation, compression and retention of files of lines."""

import errno
import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.contracts.errors import FatalError, TransientError
from pipeline.testing import MovableClock, PluginContext, frame, result
from sinks._lines import LinesSink
from sinks._retention import Archive, KeepConfig, Retention, SteadyClock
from sinks.jsonl import JsonlSinkConfig

NOON = 1_763_726_400.0  # 2025-11-21T12:00:00Z
HOUR = 3600.0


class JumpingClock(MovableClock):
    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self._wall += seconds


@pytest.fixture
def clock() -> JumpingClock:
    return JumpingClock(NOON)


@pytest.fixture
def ctx(tmp_path: Path, clock: JumpingClock) -> PluginContext:
    return PluginContext("out", tmp_path / "data", clock)


def opened(ctx: PluginContext, path: Path | str, **keys: Any) -> LinesSink:
    table = {"path": str(path), "mode": "append", "min_free_bytes": 0, **keys}
    sink = JsonlSinkConfig.model_validate(table).build(ctx)
    sink.open()
    return sink


def write(sink: LinesSink, *seqs: int, source: str = "gate") -> None:
    for seq in seqs:
        sink.write([result(frame(seq, source=source))])


def numbers(*paths: Path) -> list[int]:
    text = "".join(
        (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode() for path in paths
    )
    return [json.loads(line)["frame_id"] for line in text.splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def in_order(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_a_file_is_closed_before_it_is_larger_than_it_may_be(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "gate.jsonl", rotate={"max_bytes": 2000})
    write(sink, *range(20))
    sink.close()
    files = in_order(tmp_path)
    assert numbers(*files) == list(range(20))
    assert all(path.stat().st_size <= 2000 for path in files)
    assert [path.name for path in files[:2]] == ["gate-20251121T120000Z.jsonl", "gate-20251121T120000Z-2.jsonl"]
    assert files[-1].name == "gate.jsonl"
    assert sink.written() == [str(path) for path in files]


def test_a_file_is_closed_at_the_hour_although_nothing_comes(
    tmp_path: Path, ctx: PluginContext, clock: JumpingClock
) -> None:
    sink = opened(ctx, tmp_path / "{source}.jsonl", rotate={"every": "hour"})
    clock.advance(0.9 * HOUR)
    write(sink, 0)
    sink.tick()
    assert names(tmp_path) == ["gate.jsonl"]
    clock.advance(0.2 * HOUR)
    sink.tick()
    assert names(tmp_path) == ["gate-20251121T130600Z.jsonl"]
    clock.advance(10 * HOUR)
    sink.tick()
    assert names(tmp_path) == ["gate-20251121T130600Z.jsonl"], "an empty file is none"
    write(sink, 1)
    sink.close()
    assert numbers(tmp_path / "gate.jsonl") == [1]


def test_what_the_last_process_wrote_in_another_hour_is_closed_first(
    tmp_path: Path, ctx: PluginContext, clock: JumpingClock
) -> None:
    path = tmp_path / "gate.jsonl"
    path.write_text('{"frame_id":5}\n')
    os.utime(path, (NOON, NOON))
    clock.advance(HOUR)
    sink = opened(ctx, path, rotate={"every": "hour"})
    write(sink, 6)
    sink.close()
    assert numbers(tmp_path / "gate-20251121T130000Z.jsonl") == [5]
    assert numbers(path) == [6]


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_clock_that_jumps_closes_a_file_once(
    tmp_path: Path, ctx: PluginContext, clock: JumpingClock, seconds: float
) -> None:
    sink = opened(ctx, tmp_path / "gate.jsonl", rotate={"every": "hour"})
    write(sink, 0)
    clock.jump(seconds)
    for seq in range(1, 50):
        clock.advance(1)
        write(sink, seq)
        sink.tick()
    sink.close()
    assert numbers(*in_order(tmp_path)) == list(range(50))
    assert len(names(tmp_path)) == 2


def test_a_clock_set_back_never_writes_over_a_piece(tmp_path: Path, ctx: PluginContext, clock: JumpingClock) -> None:
    sink = opened(ctx, tmp_path / "gate.jsonl", rotate={"max_bytes": 1024}, compress="gzip")
    for seq in range(30):
        write(sink, seq)
        sink.tick()
        clock.jump(-1 if seq % 2 else 1)
    sink.close()
    assert sorted(numbers(*tmp_path.iterdir())) == list(range(30))


def test_pieces_appear_complete_where_files_are_replaced(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "gate.jsonl", mode="replace", rotate={"max_bytes": 1024})
    write(sink, *range(5))
    assert [name for name in names(tmp_path) if not name.startswith("gate-")] == ["gate.jsonl.part"]
    sink.close()
    assert numbers(*in_order(tmp_path)) == list(range(5))
    assert all(name.startswith("gate-2025") for name in names(tmp_path))


def test_what_a_kill_left_of_a_piece_belongs_to_the_next_one(tmp_path: Path, ctx: PluginContext) -> None:
    part = tmp_path / "gate.jsonl.part"
    part.write_text('{"frame_id":0}\n{"frame_id":1,"ba')
    os.utime(part, (NOON, NOON))
    sink = opened(ctx, tmp_path / "gate.jsonl", mode="replace", rotate={"every": "day"})
    write(sink, 1)
    sink.close()
    assert [numbers(path) for path in tmp_path.iterdir()] == [[0, 1]]
    assert "its last 17 bytes were cut off" in ctx.warnings[0]


def test_closed_files_are_compressed_and_nothing_of_them_is_lost(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "{source}.jsonl", rotate={"max_bytes": 4096}, compress="gzip")
    write(sink, *range(50))
    sink.tick()
    sink.close()
    assert numbers(*in_order(tmp_path)) == list(range(50))
    assert [name for name in names(tmp_path) if not name.endswith(".gz")] == ["gate.jsonl"]
    assert sorted(sink.written()) == sorted(str(path) for path in tmp_path.iterdir())
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes <= {0o640, 0o600}


def test_a_little_is_compressed_at_a_time_and_what_is_not_done_is_done_after_the_next_start(
    tmp_path: Path, ctx: PluginContext
) -> None:
    class Slow(MovableClock):
        def monotonic(self) -> float:
            self.advance(0.06)  # each look costs: two slices fit into a tick
            return super().monotonic()

    piece = tmp_path / "gate-20251121T110000Z.jsonl"
    piece.write_text('{"frame_id":7}\n' * 100_000)
    slow = PluginContext("out", tmp_path / "data", Slow(NOON))
    sink = opened(slow, tmp_path / "{source}.jsonl", rotate={"every": "day"}, compress="gzip")
    sink.tick()
    assert names(tmp_path) == [piece.name, f"{piece.name}.gz.part"]
    again = opened(ctx, tmp_path / "{source}.jsonl", rotate={"every": "day"}, compress="gzip")  # the first was killed
    again.tick()
    again.close()
    assert names(tmp_path) == [f"{piece.name}.gz"]
    assert len(numbers(tmp_path / f"{piece.name}.gz")) == 100_000


def test_a_file_that_cannot_be_compressed_stays_as_it_is(
    tmp_path: Path, ctx: PluginContext, clock: JumpingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sink = opened(ctx, tmp_path / "gate.jsonl", rotate={"max_bytes": 1024}, compress="gzip")
    write(sink, *range(4))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        sink.tick()
        assert not [name for name in names(tmp_path) if ".gz" in name]
        assert ctx.told[0][0] == "left as it is"
    sink.tick()
    assert not [name for name in names(tmp_path) if ".gz" in name], "not again at once"
    clock.advance(61)
    sink.tick()
    sink.close()
    assert numbers(*in_order(tmp_path)) == [0, 1, 2, 3]


# What is removed


def piece(folder: Path, name: str, age_s: float, size: int = 100) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * (size - 1) + b"\n")
    os.utime(path, (NOON - age_s, NOON - age_s))
    return path


def test_only_what_the_template_made_is_removed(tmp_path: Path, ctx: PluginContext) -> None:
    old = 100 * 86_400.0
    mine = [
        *("2025-01-01/gate.jsonl", "2025-01-02/gate.jsonl.gz", "2025-01-02/yard-20250102T100000Z.jsonl"),
        *("2025-01-03/yard-20250102T100000Z-12.jsonl.gz", "2025-01-03/backend local.jsonl"),
    ]
    others = [
        *("2025-01-01/gate.csv", "2025-01-01/notes.txt", "2025-01-01/Gate.jsonl", "2025-01-01/gate.jsonl.bak"),
        *("2025-01-01/gate.jsonl.part", "2025-01-01/sub/gate.jsonl", "other/gate.jsonl", "gate.jsonl"),
        *("2025-01-01/gate-front.jsonl", "2025-01-01/gate.2.jsonl", "2025-01-01/.jsonl"),
    ]
    for name in [*mine, *others]:
        piece(tmp_path / "out", name, old)
    outside = piece(tmp_path, "elsewhere/gate.jsonl", old)
    (tmp_path / "out" / "2025-01-05").symlink_to(outside.parent)
    (tmp_path / "out" / "2025-01-01" / "link.jsonl").symlink_to(outside)
    sink = opened(ctx, tmp_path / "out" / "{date}" / "{source}.jsonl", keep={"max_age_s": 86_400})
    sink.tick()
    sink.close()
    assert outside.exists()
    left = names(tmp_path / "out")
    assert sorted(set(left) - {"2025-01-01/link.jsonl"}) == sorted(others)
    assert not (tmp_path / "out" / "2025-01-03").exists(), "an empty folder of ours goes, too"


def test_the_oldest_go_first_and_no_more_than_the_rule_says(tmp_path: Path, ctx: PluginContext) -> None:
    for hour in range(10):
        piece(tmp_path, f"gate-20251121T{hour:02}0000Z.jsonl", (12 - hour) * HOUR)
    sink = opened(ctx, tmp_path / "{source}.jsonl", rotate={"every": "hour"}, keep={"max_files": 7, "max_bytes": 550})
    write(sink, 0)  # what is being written counts, and stays
    sink.tick()
    sink.close()
    assert len(names(tmp_path)) <= 6
    assert numbers(tmp_path / "gate.jsonl") == [0]
    assert "gate-20251121T090000Z.jsonl" in names(tmp_path) or (tmp_path / "gate.jsonl").stat().st_size > 450


def test_a_file_by_its_source_name_alone_may_be_gone_on_with_and_stays(tmp_path: Path, ctx: PluginContext) -> None:
    piece(tmp_path, "yard.jsonl", 100 * 86_400)  # a camera that has been away for long
    piece(tmp_path, "yard-20250801T000000Z.jsonl", 100 * 86_400)
    sink = opened(ctx, tmp_path / "{source}.jsonl", rotate={"every": "day"}, keep={"max_age_s": 86_400})
    sink.tick()
    sink.close()
    assert names(tmp_path) == ["yard.jsonl"]


def test_a_file_that_another_process_writes_is_not_removed(
    tmp_path: Path, ctx: PluginContext, clock: JumpingClock
) -> None:
    other = opened(PluginContext("other"), tmp_path / "gate-2025-01-01.jsonl")
    os.utime(tmp_path / "gate-2025-01-01.jsonl", (NOON - 1e7, NOON - 1e7))
    sink = opened(ctx, tmp_path / "{source}-{date}.jsonl", keep={"max_age_s": 3600})
    sink.tick()
    assert names(tmp_path) == ["gate-2025-01-01.jsonl"]
    other.close()
    clock.advance(60)
    sink.tick()
    assert names(tmp_path) == []


@pytest.mark.parametrize("seconds", [HOUR, -HOUR, 20 * 365 * 86_400.0])
def test_nothing_is_removed_because_somebody_set_the_clock(
    tmp_path: Path, ctx: PluginContext, clock: JumpingClock, seconds: float
) -> None:
    """Each file lives for its half hour of real time, before the jump and after it."""
    sink = opened(ctx, tmp_path / "{source}.jsonl", rotate={"every": 300.0}, keep={"max_age_s": 1800})
    born: dict[str, float] = {}
    gone: dict[str, float] = {}
    for minute in range(180):
        if minute == 60:
            clock.jump(seconds)
        if minute == 120:
            clock.jump(-seconds)
        write(sink, minute)
        # What the kernel would stamp: the wall clock.
        os.utime(tmp_path / "gate.jsonl", (clock.wall(), clock.wall()))
        clock.advance(60)
        sink.tick()
        now = {path.read_text() for path in tmp_path.glob("gate-*")}
        born |= {text: clock.monotonic() for text in now - born.keys()}
        gone |= {text: clock.monotonic() for text in born.keys() - now - gone.keys()}
    sink.close()
    lives = [gone[text] - born[text] for text in gone]
    assert len(born) >= 34
    assert len(gone) >= 25
    assert all(1740 <= life <= 1800 + 420 for life in lives), lives


def test_a_sweep_looks_once_a_minute_and_when_something_was_closed(
    tmp_path: Path, ctx: PluginContext, clock: JumpingClock
) -> None:
    retention = Retention(Archive(str(tmp_path / "{source}-{date}.jsonl")), KeepConfig(max_files=1), ctx)
    assert retention.sweep() == []
    for day in (1, 2):
        piece(tmp_path, f"gate-2025-01-0{day}.jsonl", 0)
    assert retention.sweep() == []
    clock.advance(60)
    assert [path.name for path in retention.sweep()] == ["gate-2025-01-01.jsonl"]
    piece(tmp_path, "gate-2025-01-03.jsonl", 0)
    retention.look_soon()
    assert [path.name for path in retention.sweep()] == ["gate-2025-01-02.jsonl"]


def test_the_steady_clock_goes_on_whatever_the_wall_clock_does(clock: JumpingClock) -> None:
    steady = SteadyClock(clock)
    clock.jump(-HOUR)
    clock.advance(5)
    assert steady.now() == NOON + 5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"keep": {"max_age_s": 1}}, "nothing to remove"),
        ({"keep": {"max_age_s": 1}, "path": "out/{stem}-{date}.jsonl"}, "nothing to remove"),
        ({"compress": "gzip", "mode": "append"}, "set rotate as well"),
        ({"rotate": {}}, "needs one of max_bytes, every"),
        ({"keep": {}}, "needs one of"),
        ({"rotate": {"every": 0.5}}, "every"),
    ],
)
def test_keys_that_make_no_sense_together_are_told(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JsonlSinkConfig.model_validate({"path": "out/{source}.jsonl", **keys})


# Disks, and people


def test_a_reserve_is_kept_and_writing_goes_on_when_there_is_room(
    tmp_path: Path, ctx: PluginContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = opened(ctx, tmp_path / "gate.jsonl", min_free_bytes=50 << 20)
    free = 49 << 20
    real = os.statvfs

    def statvfs(path: Any) -> os.statvfs_result:
        return os.statvfs_result([4096, 4096, 1 << 30, free // 4096, free // 4096, *tuple(real(path))[5:]])

    monkeypatch.setattr(os, "statvfs", statvfs)
    with pytest.raises(TransientError, match="49 MiB are free, and min_free_bytes keeps 50 MiB"):
        write(sink, 0)
    free = 51 << 20
    write(sink, 1)
    sink.close()
    assert numbers(tmp_path / "gate.jsonl") == [1]


def test_a_rotation_that_fails_leaves_the_file_as_it_was_and_is_tried_again(
    tmp_path: Path, ctx: PluginContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = opened(ctx, tmp_path / "gate.jsonl", rotate={"max_bytes": 1024})
    write(sink, 0)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TransientError):
            write(sink, 1, 2, 3)
    before = len(numbers(tmp_path / "gate.jsonl"))
    write(sink, 10, 11)
    sink.close()
    assert numbers(*in_order(tmp_path)) == [*range(before), 10, 11]


def test_a_file_left_for_the_next_is_finished_later_where_the_disk_is_full_now(
    tmp_path: Path, ctx: PluginContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = opened(ctx, tmp_path / "{stem}.jsonl", mode="replace")
    sink.write([result(replace(frame(0), path="a.mp4"))])

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        sink.write([result(replace(frame(1), path="b.mp4"))])  # these count as delivered, and are
        with pytest.raises(TransientError, match="No space left"):
            sink.tick()
    assert names(tmp_path) == ["a.jsonl.part", "b.jsonl.part"]
    sink.tick()
    assert names(tmp_path) == ["a.jsonl", "b.jsonl.part"]
    sink.close()
    assert [numbers(tmp_path / f"{name}.jsonl") for name in "ab"] == [[0], [1]]


def test_a_torn_line_that_cannot_be_cut_now_is_cut_before_the_next_is_written(
    tmp_path: Path, ctx: PluginContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = opened(ctx, tmp_path / "gate.jsonl")
    write(sink, 0)
    real = os.pwrite

    def torn(fd: int, data: memoryview, offset: int) -> int:
        real(fd, data[:-9], offset)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def broken(fd: int, size: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", torn)
        patch.setattr(os, "ftruncate", broken)
        with pytest.raises(TransientError, match="Input/output error"):
            sink.write([result(frame(seq)) for seq in (1, 2, 3)])
    write(sink, 4)
    sink.close()
    assert numbers(tmp_path / "gate.jsonl") == [0, 4]


def test_always_synced_means_that_what_could_not_be_is_not_there(
    tmp_path: Path, ctx: PluginContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = opened(ctx, tmp_path / "gate.jsonl", fsync="always")
    write(sink, 0)

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(TransientError):
            write(sink, 1)
    write(sink, 2)
    sink.close()
    assert numbers(tmp_path / "gate.jsonl") == [0, 2]


@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
def test_lines_are_brought_to_the_disk_as_often_as_was_asked(
    tmp_path: Path, ctx: PluginContext, clock: JumpingClock, monkeypatch: pytest.MonkeyPatch, fsync: str
) -> None:
    expected = {"never": 0, "interval": 2, "always": 10}[fsync]
    synced: list[int] = []
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)

        def counting(fd: int, real: Any = real) -> None:
            if Path(f"/proc/self/fd/{fd}").readlink().name == "gate.jsonl":
                synced.append(fd)
            real(fd)

        monkeypatch.setattr(os, name, counting)
    sink = opened(ctx, tmp_path / "gate.jsonl", fsync=fsync, fsync_interval_s=5)
    for seq in range(10):
        write(sink, seq)
        clock.advance(1)
        sink.tick()
    assert len(synced) == expected
    sink.close()
    assert len(synced) == expected + 1, "and at the end"


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_file_that_somebody_takes_away_gets_no_more_lines(tmp_path: Path, ctx: PluginContext, how: str) -> None:
    path = tmp_path / "gate.jsonl"
    sink = opened(ctx, path)
    write(sink, 0)
    if how == "moved":
        path.rename(tmp_path / "gate.jsonl.1")
    else:
        path.unlink()
    sink.tick()
    write(sink, 1)
    sink.close()
    assert numbers(path) == [1]
    assert how == "removed" or numbers(tmp_path / "gate.jsonl.1") == [0]
    assert "moved or removed" in ctx.warnings[0]


def test_a_file_that_somebody_empties_has_no_hole(tmp_path: Path, ctx: PluginContext) -> None:
    path = tmp_path / "gate.jsonl"
    sink = opened(ctx, path)
    write(sink, 0, 1, 2)
    os.truncate(path, 0)  # `copytruncate` of logrotate
    write(sink, 3)
    sink.close()
    assert numbers(path) == [3]


def test_a_tick_before_the_first_result_does_not_give_the_file_away(tmp_path: Path, ctx: PluginContext) -> None:
    path = tmp_path / "gate.jsonl"
    path.write_text('{"frame_id":5}\n')
    sink = opened(ctx, path, mode="replace")
    sink.tick()
    with pytest.raises(FatalError, match="another process"):
        opened(PluginContext("other"), path, mode="replace")
    write(sink, 0)
    assert numbers(path) == [5]
    sink.close()
    assert numbers(path) == [0]


def test_closing_leaves_nothing_open_although_a_piece_cannot_be_closed(
    tmp_path: Path, ctx: PluginContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = opened(ctx, tmp_path / "{source}.jsonl", mode="replace", rotate={"every": "day"})
    write(sink, 0)
    before = len(list(Path("/proc/self/fd").iterdir()))

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(FatalError, match="Input/output error"):
            sink.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 1
    assert names(tmp_path) == ["gate.jsonl.part"]


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_a_name_is_given_only_to_what_is_on_the_disk(
    tmp_path: Path, ctx: PluginContext, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def synced(fd: int) -> None:
        steps.append("folder" if Path(f"/proc/self/fd/{fd}").is_dir() else "file")
        fsync(fd)

    def renamed(self: Path, target: Path) -> Path:
        steps.append(f"-> {target.suffix}")
        return rename(self, target)

    sink = opened(ctx, tmp_path / "gate.jsonl", mode=mode, rotate={"max_bytes": 1024}, compress="gzip", fsync="never")
    write(sink, 0, 1)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write(sink, 2)
    assert steps == ["file", "-> .jsonl", "folder"]
    steps.clear()
    sink.tick()
    assert steps == ["file", "-> .gz", "folder"]
    sink.close()
