"""Objects that move as a test says, as the results of one source, and what is made of them."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np

from pipeline.analytics.scene import SceneAnalyser, Wanted
from pipeline.contracts.analysis import LineConfig, Scene, TrackingConfig, ZoneConfig
from pipeline.contracts.frame import Frame, NoPicture, Size
from pipeline.contracts.result import Detections, Result

NAMES = ("person", "car", "truck", "dog")
SIZE = Size(1000, 500)
EPOCH = 1_700_000_000.0

Box = tuple[float, float, float, float]
Found = tuple[str, Box] | tuple[str, Box, float]


def box(x: float, y: float, width: float = 40.0, height: float = 80.0) -> Box:
    """A box by the middle of its lower edge."""
    return (x - width / 2, y - height, x + width / 2, y)


def result(
    found: Iterable[Found],
    *,
    seq: int,
    at_s: float,
    size: Size = SIZE,
    pts: bool = True,
    jump: bool = False,
    decoded_at: float | None = None,
) -> Result:
    """One frame of the source `cam` with these objects."""
    rows = [(*each, 0.9) if len(each) == 2 else each for each in found]
    detections = Detections(
        xyxy=np.array([xyxy for _, xyxy, _ in rows], np.float32).reshape(-1, 4),
        confidence=np.array([confidence for _, _, confidence in rows], np.float32),
        class_id=np.array([NAMES.index(name) for name, _, _ in rows], np.int32),
        names=NAMES,
    )
    frame = Frame(
        "cam",
        seq,
        at_s if pts else None,
        EPOCH + at_s,
        "pts",
        NoPicture(size),
        1000.0 + at_s if decoded_at is None else decoded_at,
        time_jump=jump,
    )
    return Result(f"{seq:032x}", frame, detections, "model", "fake", "0" * 12, 0.0, 0.0)


def wanted(
    tracking: Mapping[str, Any] | None = None,
    zones: Mapping[str, Mapping[str, Any]] | None = None,
    lines: Mapping[str, Mapping[str, Any]] | None = None,
) -> Wanted:
    """What is asked for, as it stands in pipeline.toml."""
    return Wanted(
        None if tracking is None else TrackingConfig.model_validate(tracking),
        {name: ZoneConfig.model_validate(table) for name, table in (zones or {}).items()},
        {name: LineConfig.model_validate(table) for name, table in (lines or {}).items()},
    )


class Film:
    """Frames one after the other, 10 a second unless told otherwise, in front of one analyser."""

    def __init__(self, asked: Wanted, *, fps: float = 10.0) -> None:
        self.analyser = SceneAnalyser(asked, count(1).__next__)
        self.seq = 0
        self.at_s = 0.0
        self._step_s = 1 / fps

    def show(self, *found: Found, after_s: float | None = None, **keys: Any) -> tuple[Result, Scene]:
        """The next frame; `after_s` after the one before."""
        if self.seq:
            self.at_s += self._step_s if after_s is None else after_s
        looked_at = self.analyser.look(result(found, seq=self.seq, at_s=self.at_s, **keys))
        self.seq += 1
        assert looked_at.scene is not None
        return looked_at, looked_at.scene

    def show_all(self, frames: Iterable[Sequence[Found]]) -> list[Scene]:
        """All of these frames."""
        return [self.show(*found)[1] for found in frames]


def ids(looked_at: Result) -> list[int]:
    """The numbers of a frame's objects."""
    assert isinstance(looked_at.prediction, Detections)
    assert looked_at.prediction.tracker_id is not None
    numbers: list[int] = looked_at.prediction.tracker_id.tolist()
    return numbers


def walk(name: str, start: tuple[float, float], end: tuple[float, float], frames: int) -> list[list[Found]]:
    """Somebody who goes straight from here to there; the points are where the feet are."""
    shares = np.linspace(0.0, 1.0, frames).tolist()
    return [[(name, box(start[0] + s * (end[0] - start[0]), start[1] + s * (end[1] - start[1])))] for s in shares]
