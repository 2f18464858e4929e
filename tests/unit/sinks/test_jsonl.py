import errno
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.contracts.errors import FatalError, TransientError
from pipeline.contracts.event import SourceEvent
from pipeline.testing import PluginContext, frame, result
from sinks._line_rules import Mode
from sinks._lines import LinesSink
from sinks.jsonl import JsonlSinkConfig


def opened(ctx: PluginContext, path: Path | str, mode: Mode = "replace") -> LinesSink:
    sink = JsonlSinkConfig.model_validate({"path": str(path), "mode": mode}).build(ctx)
    sink.open()
    return sink


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["frame_id"] for line in path.read_text().splitlines()]


def test_a_file_appears_complete_and_the_old_one_stands_until_then(tmp_path: Path, ctx: PluginContext) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("old\n")
    sink = opened(ctx, path)
    sink.write([result(frame(0)), result(frame(1))])
    assert path.read_text() == "old\n"
    assert numbers(tmp_path / "a.jsonl.part") == [0, 1]
    sink.close()
    assert numbers(path) == [0, 1]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("mode", "seen"), [("append", [5, 0]), ("overwrite", [0])])
def test_lines_written_in_place_can_be_read_as_they_come(
    tmp_path: Path, ctx: PluginContext, mode: Mode, seen: list[int]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"frame_id":5}\n')
    sink = opened(ctx, path, mode)
    sink.write([result(frame(0))])
    assert numbers(path) == seen
    sink.close()
    assert numbers(path) == seen


def test_appending_cuts_off_a_line_that_a_crash_tore(tmp_path: Path, ctx: PluginContext) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"frame_id":5}\n{"frame_id":6,"pad":"' + "x" * 200_000)
    sink = opened(ctx, path, "append")
    sink.write([result(frame(7))])
    sink.close()
    assert numbers(path) == [5, 7]
    assert "its last 200021 bytes were cut off" in ctx.warnings[0]


def test_appending_keeps_a_whole_line_that_lacks_its_end(tmp_path: Path, ctx: PluginContext) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"frame_id":5}')
    sink = opened(ctx, path, "append")
    sink.write([result(frame(7))])
    sink.close()
    assert numbers(path) == [5, 7]
    assert ctx.warnings == []


def test_each_source_has_its_file(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "{source}.jsonl")
    sink.write([result(frame(seq, source=name)) for seq, name in enumerate(["gate", "yard", "gate"])])
    sink.close()
    assert numbers(tmp_path / "gate.jsonl") == [0, 2]
    assert numbers(tmp_path / "yard.jsonl") == [1]
    assert sink.written() == [str(tmp_path / "gate.jsonl"), str(tmp_path / "yard.jsonl")]


def test_a_file_is_finished_when_its_source_goes_on_to_the_next(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "{stem}.jsonl")
    for seq, name in enumerate(["a.mp4", "b.mp4"]):
        sink.write([result(replace(frame(seq), path=name))])
    assert sorted(path.name for path in tmp_path.glob("*.jsonl*")) == ["a.jsonl", "b.jsonl.part"]
    sink.close()


def test_a_loop_over_files_does_not_wipe_its_own_results(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "{stem}.jsonl")
    for seq, name in enumerate(["a.mp4", "b.mp4", "a.mp4"]):
        sink.write([result(replace(frame(seq), path=name))])
    sink.close()
    assert numbers(tmp_path / "a.jsonl") == [0, 2]
    assert sink.written() == [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]


@pytest.mark.parametrize("mode", ["replace", "append", "overwrite"])
def test_a_run_without_a_frame_leaves_an_older_result_alone(tmp_path: Path, ctx: PluginContext, mode: Mode) -> None:
    (tmp_path / "a.jsonl").write_text('{"frame_id":5}\n')
    opened(ctx, tmp_path / "a.jsonl", mode).close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    assert numbers(tmp_path / "a.jsonl") == [5]


def test_files_and_folders_are_for_owner_and_group_only(tmp_path: Path, ctx: PluginContext) -> None:
    old = os.umask(0)
    try:
        sink = opened(ctx, tmp_path / "x" / "y" / "{source}.jsonl")
        sink.write([result(frame(0))])
        sink.close()
    finally:
        os.umask(old)
    modes = [
        stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "x", tmp_path / "x/y", tmp_path / "x/y/test.jsonl"]
    ]
    assert modes == [0o750, 0o750, 0o640]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "a.jsonl")
    with pytest.raises(FatalError, match="being written by another process"):
        opened(ctx, tmp_path / "a.jsonl")
    sink.close()


def test_a_part_file_that_is_a_link_is_not_followed(tmp_path: Path, ctx: PluginContext) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "a.jsonl.part").symlink_to(victim)
    with pytest.raises(FatalError):
        opened(ctx, tmp_path / "a.jsonl")
    assert victim.read_text() == "precious"


def test_a_full_disk_leaves_whole_lines_only_and_passes(
    tmp_path: Path, ctx: PluginContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = opened(ctx, tmp_path / "{source}.jsonl", "overwrite")
    sink.write([result(frame(0, source="gate")), result(frame(0, source="yard"))])
    real, room = os.pwrite, 700

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = real(fd, data[:room], offset)
        room -= taken
        return taken

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(TransientError, match=r"yard\.jsonl cannot be written: No space left"):
        sink.write([result(frame(1, source="gate")), result(frame(1, source="yard"))])
    assert numbers(tmp_path / "gate.jsonl") == numbers(tmp_path / "yard.jsonl") == [0]  # all of a batch, or none
    monkeypatch.setattr(os, "pwrite", real)
    sink.write([result(frame(2, source="gate"))])
    sink.close()
    assert numbers(tmp_path / "gate.jsonl") == [0, 2]


FULL = """
import resource, sys
from pipeline.contracts.errors import TransientError
from pipeline.contracts.event import SourceEvent
from pipeline.testing import PluginContext, frame, result
from sinks.jsonl import JsonlSinkConfig

resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
sink = JsonlSinkConfig(path=sys.argv[1]).build(PluginContext())
sink.open()
failed = 0
for seq in range(50):
    try:
        sink.write([result(frame(seq))])
    except TransientError as error:
        failed += 1
sink.close()
print(failed)
"""


def test_a_limit_of_the_system_in_mid_line_leaves_a_complete_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True, timeout=50
    )
    written = numbers(path)
    assert written == list(range(50 - int(run.stdout)))
    assert 0 < len(written) < 50


def test_closing_finishes_every_file_that_can_be(
    tmp_path: Path, ctx: PluginContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = opened(ctx, tmp_path / "{source}.jsonl")
    sink.write([result(frame(0, source=name)) for name in ("a", "b", "c")])
    real = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target.name == "b.jsonl":
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(FatalError, match=r"b\.jsonl cannot be written: Input/output error"):
        sink.close()
    assert sorted(path.name for path in tmp_path.glob("*.jsonl*")) == ["a.jsonl", "b.jsonl.part", "c.jsonl"]


def test_an_event_goes_to_the_file_that_its_source_writes_to_or_to_that_of_its_hour(
    tmp_path: Path, ctx: PluginContext
) -> None:
    def event(source: str) -> SourceEvent:
        return SourceEvent("e" * 32, source, "state", "reconnecting", "TIMEOUT", "no answer", 1_700_003_600.0)

    def schemas(path: Path) -> list[str]:
        return [json.loads(line)["schema"] for line in path.read_text().splitlines()]

    table = {"path": str(tmp_path / "{source}-{date}-{hour}.jsonl")}
    sink = JsonlSinkConfig.model_validate(table).build(ctx)
    sink.open()
    sink.write([result(frame(0, source="gate"))])  # at 22:13
    sink.notice(event("gate"))
    sink.notice(event("yard"))  # at 23:13
    sink.close()
    assert schemas(tmp_path / "gate-2023-11-14-22.jsonl") == ["penstock.result/1", "penstock.event/1"]
    assert schemas(tmp_path / "yard-2023-11-14-23.jsonl") == ["penstock.event/1"]
    assert len(list(tmp_path.iterdir())) == 2
