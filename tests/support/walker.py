"""A backend that finds somebody who walks to and fro: each frame's number says where."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipeline.contracts.backend import BackendConfig
from pipeline.contracts.component import Context
from pipeline.contracts.frame import Frame
from pipeline.contracts.result import Detections, Prediction

STEPS = 20
"""From one side to the other in so many frames: the middle is crossed in every STEPS frames."""

MIDDLE = {"start": [0.5, 0.0], "end": [0.5, 1.0]}
"""The line that is crossed: "out" to the right, "in" to the left."""


class WalkerBackendConfig(BackendConfig):
    type: Literal["walker"] = "walker"
    label: str = "person"

    def build(self, ctx: Context) -> "WalkerBackend":
        return WalkerBackend(self)


class WalkerBackend:
    model = "walker"
    concurrency = 2
    max_batch = 1

    def __init__(self, config: WalkerBackendConfig) -> None:
        self._names = (config.label,)

    def open(self) -> None: ...

    def close(self) -> None: ...

    def describe(self) -> str:
        return "somebody who walks to and fro"

    def infer(self, batch: Sequence[Frame]) -> Sequence[Prediction]:
        return [self._found(frame) for frame in batch]

    def _found(self, frame: Frame) -> Detections:
        width, height = frame.picture.size
        step = frame.seq % (2 * STEPS)
        share = (step if step <= STEPS else 2 * STEPS - step) / STEPS
        x = width * (0.2 + 0.6 * share)
        return Detections(
            xyxy=np.array([[x - 0.1 * width, 0.1 * height, x + 0.1 * width, 0.9 * height]], np.float32),
            confidence=np.array([0.9], np.float32),
            class_id=np.array([0], np.int32),
            names=self._names,
        )
