"""What lines have counted is kept, whole or not at all; and numbers are given out once."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contracts.analysis import LineConfig
from pipeline.runtime.checkpoint import LineState, NotOurs, Numbers, SceneFile, SceneState

LINE = LineConfig(start=(0.0, 0.5), end=(1.0, 0.5))
STATE = SceneState(
    source="gate",
    next_tracker_id=42,
    last_frame_at=1e9,
    lines={"entry": LineState(line=LINE, counts={"in": {"person": 3}, "out": {}})},
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = SceneFile(tmp_path / "scenes", "gate")
    assert file.read() == SceneState(source="gate")
    file.write(STATE)
    assert SceneFile(tmp_path / "scenes", "gate").read() == STATE
    assert [path.name for path in (tmp_path / "scenes").iterdir()] == ["gate.json"]


def test_a_write_that_is_cut_off_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = SceneFile(tmp_path, "gate")
    file.write(STATE)

    def no_room(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", no_room)
        with pytest.raises(OSError, match="No space"):
            file.write(STATE.model_copy(update={"next_tracker_id": 1}))
    assert file.read() == STATE


OTHERS = [
    b"",
    b"{",
    b"\x00" * 512,
    b"[]",
    STATE.model_copy(update={"source": "door"}).model_dump_json().encode(),
    json.dumps({**STATE.model_dump(mode="json"), "version": 2}).encode(),
    json.dumps({**STATE.model_dump(mode="json"), "next_tracker_id": -1}).encode(),
    STATE.model_dump_json().replace('"person":3', '"person":-3').encode(),
]


@pytest.mark.parametrize("content", OTHERS)
def test_a_file_that_is_damaged_or_not_ours_is_set_aside(tmp_path: Path, content: bytes) -> None:
    file = SceneFile(tmp_path, "gate")
    file.path.write_bytes(content)
    with pytest.raises(NotOurs, match=r"set aside as gate\.corrupt-"):
        file.read()
    assert file.read() == SceneState(source="gate")
    (aside,) = tmp_path.iterdir()
    assert aside.read_bytes() == content


@given(st.lists(st.integers(1, 3000), max_size=8))
def test_numbers_are_never_given_twice_although_the_process_is_killed(runs: list[int]) -> None:
    kept, given_out = [1], []
    for count in runs:
        numbers = Numbers(kept[-1], kept.append)
        given_out += [numbers.take() for _ in range(count)]
        assert kept[-1] > given_out[-1]
    assert len(given_out) == len(set(given_out))


def test_after_the_last_number_comes_the_first() -> None:
    numbers = Numbers(2**31 - 3, lambda _: None)
    assert [numbers.take() for _ in range(4)] == [2**31 - 3, 2**31 - 2, 1, 2]
