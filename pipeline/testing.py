"""What tests of plugins need, ours and strangers': a context, a clock that can be moved, frames with known pixels."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.contracts.clock import Clock, SystemClock
from pipeline.contracts.frame import Frame
from pipeline.contracts.packets import PacketRing, PacketRings
from pipeline.contracts.result import Detections, Result
from pipeline.models.pattern import block_at, read_block, read_frame_number

__all__ = [
    "MovableClock",
    "PluginContext",
    "block_at",  # the three tell what a picture of the source `synthetic` shows
    "detections",
    "frame",
    "read_block",
    "read_frame_number",
    "result",
]

T = TypeVar("T")


class MovableClock:
    """A clock that stands still until it is moved."""

    def __init__(self, wall: float = 1_700_000_000.0) -> None:
        self._monotonic = 1000.0
        self._wall = wall

    def monotonic(self) -> float:
        """Seconds, moved by `advance`."""
        return self._monotonic

    def wall(self) -> float:
        """Unix seconds, moved by `advance`."""
        return self._wall

    def advance(self, seconds: float) -> None:
        """Let both clocks go on by `seconds`."""
        self._monotonic += seconds
        self._wall += seconds


class PluginContext:
    """A `Context` outside of a pipeline: warnings are kept in `warnings`, coroutines run on a loop of their own."""

    def __init__(self, name: str = "test", data_dir: Path = Path("data"), clock: Clock | None = None) -> None:
        self.name = name
        self.data_dir = data_dir
        self.clock: Clock = clock or SystemClock()
        self.continues = False
        self.rings = PacketRings()
        self.warnings: list[str] = []
        self.fallbacks: list[tuple[str, str, str]] = []
        self.told: list[tuple[str, str, bool]] = []

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Run the coroutine to its end on a fresh loop."""
        return asyncio.run(asyncio.wait_for(coroutine, timeout_s))

    def packets(self, source: str) -> PacketRing:
        """A ring for each source."""
        return self.rings.of(source)

    def warn(self, message: str) -> None:
        """Keep the message."""
        self.warnings.append(message)

    def fell_back(self, wanted: str, got: str, reason: str) -> None:
        """Keep what happened."""
        self.fallbacks.append((wanted, got, reason))

    def tell(self, state: str, detail: str, *, well: bool) -> None:
        """Keep the message."""
        self.told.append((state, detail, well))


def frame(seq: int = 0, *, source: str = "test", width: int = 64, height: int = 48, grey: int = 128) -> Frame:
    """A frame of one grey value, 25 a second."""
    from pipeline.models.picture import from_rgb

    rgb = np.full((height, width, 3), grey, np.uint8)
    return Frame(
        source=source,
        seq=seq,
        pts_s=seq / 25,
        captured_at=1_700_000_000.0 + seq / 25,
        time_source="pts",
        picture=from_rgb(rgb),
        decoded_at=1000.0 + seq / 25,
        duration_s=1 / 25,
    )


def detections(*boxes: tuple[float, float, float, float], names: tuple[str, ...] = ("thing",)) -> Detections:
    """`Detections` of class 0 with confidence 0.9 at `boxes` (xyxy, pixels)."""
    return Detections(
        xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        confidence=np.full(len(boxes), 0.9, np.float32),
        class_id=np.zeros(len(boxes), np.int32),
        names=names,
    )


def result(of: Frame, prediction: Detections | None = None) -> Result:
    """A result for the frame, as the backend runner makes them."""
    return Result(
        id=f"{of.seq:032x}",
        frame=of,
        prediction=detections((8, 8, 24, 24)) if prediction is None else prediction,
        backend="local",
        model="fake",
        config_hash="0" * 12,
        inferred_at=of.decoded_at + 0.02,
        inference_s=0.015,
    )
