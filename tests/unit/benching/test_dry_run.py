"""What a look at a camera tells of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.benching import dry_run
from pipeline.contracts.frame import Frame, NoPicture, Size

HELD_BACK = 15
"""Frames that come at once: they were read while the stream was looked at."""


class _Camera:
    """A source's table and the source itself: 30 frames a second on a clock of its own, the first ones in a burst."""

    def __init__(self, stamp: Callable[[int], float | None]) -> None:
        self.now_s = 100.0
        self._stamp = stamp

    def model_copy(self, **_: object) -> "_Camera":
        return self

    def build(self, _: object) -> "_Camera":
        return self

    def frames(self, _: object) -> Iterator[Frame]:
        for seq in range(1000):
            if seq >= HELD_BACK:
                self.now_s += 1 / 30
            yield Frame("gate", seq, self._stamp(seq), 0.0, "pts", NoPicture(Size(64, 48)), self.now_s)


@pytest.mark.parametrize(
    ("stamp", "fps"),
    [
        pytest.param(lambda seq: 5 + seq / 30, 30.0, id="as the camera's time stamps say"),
        pytest.param(lambda _: None, 36.9, id="as they come, where it gives none"),
        pytest.param(lambda _: 7.0, 36.9, id="as they come, where they stand still"),
        pytest.param(lambda seq: seq * 1000.0, 36.9, id="as they come, where they cannot be true"),
    ],
)
def test_a_camera_gives_so_many_frames_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stamp: Callable[[int], float | None], fps: float
) -> None:
    camera: Any = _Camera(stamp)
    clock = SimpleNamespace(monotonic=lambda: camera.now_s, process_time=lambda: 0.0)
    monkeypatch.setattr(dry_run, "time", clock)
    found = dry_run._look("gate", camera, tmp_path, 2.0)
    assert not isinstance(found, str)
    assert found[1] == pytest.approx(fps, abs=0.2)
