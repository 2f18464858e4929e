import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.loader import load
from pipeline.config.overlay import Overlay, read
from pipeline.config.problems import ConfigProblems
from pipeline.config.settings import Settings
from pipeline.registry import Registry

Load = Callable[..., Settings]
Faults = Callable[..., list[str]]

DOOR = {"type": "file", "path": "door.mp4", "max_fps": 2}


def put(folder: Path, name: str = "door", **table: object) -> None:
    read(folder).put(name, {**DOOR, **table}).save()


def test_without_a_file_there_is_nothing_over_the_sources(tmp_path: Path, load_text: Load, minimal: str) -> None:
    assert read(tmp_path) == Overlay(tmp_path / "sources.toml")
    assert set(load_text(minimal).sources) == {"gate"}
    assert not (tmp_path / "data").exists()


def test_a_source_that_was_put_is_there_after_a_restart(tmp_path: Path, load_text: Load, minimal: str) -> None:
    put(tmp_path / "data")
    settings = load_text(minimal)
    assert list(settings.sources) == ["gate", "door"]
    assert settings.sources["door"].max_fps == 2
    assert settings.sources["door"].backend == "local"
    assert settings.file_sources == {"gate"}


def test_a_table_of_the_overlay_replaces_the_files_wholly(tmp_path: Path, load_text: Load, minimal: str) -> None:
    put(tmp_path / "data", name="gate")
    text = minimal.replace('path = "in.mp4"', 'path = "in.mp4"\nstride = 3')
    assert load_text(text).sources["gate"].stride == 1
    assert load_text(text).sources["gate"].max_fps == 2


def test_defaults_and_environment_hold_for_it_too(tmp_path: Path, load_text: Load, minimal: str) -> None:
    put(tmp_path / "data")
    text = f"[defaults.source]\nstride = 3\n{minimal}"
    door = load_text(text, {"PENSTOCK_SOURCES__DOOR__MAX_FPS": "7"}).sources["door"]
    assert (door.stride, door.max_fps) == (3, 7)


def test_what_came_over_http_reads_no_environment(tmp_path: Path, load_text: Load, minimal: str) -> None:
    put(tmp_path / "data", path="${API_TOKEN}.mp4")
    door = load_text(minimal, {"API_TOKEN": "hush-hush-hush"}).sources["door"]
    assert [path.name for path in door.reads()] == ["${API_TOKEN}.mp4"]


def test_a_removed_source_is_no_more_until_it_is_put_again(tmp_path: Path, load_text: Load, minimal: str) -> None:
    text = minimal + '[sources.door]\ntype = "file"\npath = "door.mp4"\n'
    read(tmp_path / "data").remove("door", in_file=True).save()
    assert list(load_text(text).sources) == ["gate"]
    assert load_text(text).file_sources == {"gate", "door"}
    put(tmp_path / "data")
    assert read(tmp_path / "data").removed == ()
    assert list(load_text(text).sources) == ["gate", "door"]


def test_what_only_the_overlay_had_leaves_no_trace_when_it_goes(tmp_path: Path) -> None:
    put(tmp_path)
    read(tmp_path).remove("door", in_file=False).save()
    assert read(tmp_path).sources == {}
    assert read(tmp_path).removed == ()


def test_a_variable_that_only_a_replaced_table_wants_is_not_missed(
    tmp_path: Path, load_text: Load, faults: Faults, minimal: str
) -> None:
    text = minimal.replace("in.mp4", "${NOWHERE}")
    assert faults(text) == ["pipeline.toml:3: sources.gate.path: the variable NOWHERE is not set"]
    put(tmp_path / "data", name="gate")
    assert load_text(text).sources


def test_a_fault_in_the_overlay_names_the_overlay_and_its_line(tmp_path: Path, faults: Faults, minimal: str) -> None:
    put(tmp_path / "data", max_fpz=3)
    text = (tmp_path / "data" / "sources.toml").read_text().split("\n")
    line = text.index("max_fpz = 3") + 1
    bad = minimal.replace('path = "in.mp4"', 'path = "in.mp4"\nstride = 0')
    assert faults(bad) == [
        "pipeline.toml:4: sources.gate.stride: must be 1 or more, got 0",
        f"data/sources.toml:{line}: sources.door.max_fpz: unknown key; did you mean max_fps?",
    ]


def test_a_fault_in_a_table_that_was_just_sent_names_no_line_of_a_file_that_does_not_have_it(
    tmp_path: Path, load_text: Load, minimal: str, registry: Registry
) -> None:
    load_text(minimal)
    sent = read(tmp_path).put("door", {**DOOR, "max_fpz": 3})
    with pytest.raises(ConfigProblems) as caught:
        load(tmp_path / "pipeline.toml", registry=registry, environ={}, overlay=sent)
    assert str(caught.value) == "sources.door.max_fpz: unknown key; did you mean max_fps?"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[sources", "data/sources.toml:1: invalid TOML: expected ']' at the end of a table declaration"),
        ("x = 1", "data/sources.toml:1: x: unknown key; known are sources, removed"),
        ("sources = 1", "data/sources.toml:1: sources: must be a table, got 1"),
        ("[sources]\ngate = 2", "data/sources.toml:2: sources.gate: must be a table, got 2"),
        ('removed = "gate"', "data/sources.toml:1: removed: must be a list of names"),
    ],
)
def test_a_broken_overlay_is_a_problem_of_its_own(
    tmp_path: Path, faults: Faults, minimal: str, text: str, fault: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sources.toml").write_text(text)
    (found,) = faults(minimal)
    assert found.startswith(fault)


def test_it_is_looked_for_where_data_dir_says(tmp_path: Path, load_text: Load, minimal: str) -> None:
    put(tmp_path / "state")
    assert "door" in load_text(f'data_dir = "state"\n{minimal}').sources
    assert "door" in load_text(minimal, {"PENSTOCK_DATA_DIR": str(tmp_path / "state")}).sources
    assert "door" in load_text(minimal, {"STATE_DIRECTORY": str(tmp_path / "state")}).sources
    assert "door" not in load_text(minimal).sources


def test_a_data_dir_that_is_none_is_still_one_fault(faults: Faults, minimal: str) -> None:
    (found,) = faults(f"data_dir = 3\n{minimal}")
    assert found.startswith("pipeline.toml:1: data_dir: must be")


def test_one_that_is_given_counts_instead_of_the_one_on_disk(
    tmp_path: Path, load_text: Load, registry: Registry, minimal: str
) -> None:
    load_text(minimal)
    given = read(tmp_path / "data").put("door", DOOR)
    settings = load(tmp_path / "pipeline.toml", registry=registry, environ={}, overlay=given)
    assert set(settings.sources) == {"gate", "door"}
    assert settings.overlay is given
    assert not (tmp_path / "data").exists()


def test_only_its_owner_may_read_it_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        put(tmp_path / "state" / "deep")
        put(tmp_path / "state" / "deep", name="other")
    finally:
        os.umask(before)
    folder = tmp_path / "state" / "deep"
    assert [path.name for path in folder.iterdir()] == ["sources.toml"]
    assert stat.S_IMODE((folder / "sources.toml").stat().st_mode) == 0o600
    assert [stat.S_IMODE(made.stat().st_mode) for made in (folder, folder.parent)] == [0o750, 0o750]
    assert set(read(folder).sources) == {"door", "other"}


def test_a_save_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path)
    before = (tmp_path / "sources.toml").read_text()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        put(tmp_path, name="other")
    assert [path.name for path in tmp_path.iterdir()] == ["sources.toml"]
    assert (tmp_path / "sources.toml").read_text() == before


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({"queue": {"max_frames": None}}, "sources.door.queue.max_frames: null is no value here; leave the key out"),
        ({"path": "\ud800"}, "sources.door.path: is no valid Unicode text"),
        ({"a": [{"\udfff": 1}]}, "sources.door.a.0: has a key that is no valid Unicode text"),
    ],
)
def test_what_toml_cannot_hold_is_refused(tmp_path: Path, table: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigProblems) as caught:
        read(tmp_path).put("door", table)
    assert str(caught.value) == fault


def test_a_table_that_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    table: dict[str, object] = {}
    for _ in range(500):
        table = {"a": table}
    with pytest.raises(ConfigProblems, match="nested over 32 deep"):
        read(tmp_path).put("door", table)


def test_every_text_comes_back_as_it_was(tmp_path: Path) -> None:
    table = {
        "type": "file",
        "path": 'a"b\\c\n\t\x00\x7f é 😀 """ \'\'\'',
        "n": [1, 2.5, True, {"x": "y"}],
        "": {"k.k": 1},
    }
    read(tmp_path).put("door", table).save()
    assert read(tmp_path).sources == {"door": table}
