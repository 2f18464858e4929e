"""A backend that says what a model once said: for tests of what is made of it."""

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from pipeline.contracts.backend import BackendConfig
from pipeline.contracts.component import Context
from pipeline.contracts.frame import Frame
from pipeline.contracts.paths import ConfigPath
from pipeline.contracts.result import Detections, Prediction


class ReplayBackendConfig(BackendConfig):
    """`path`: a line for each frame, its number and its boxes: class, confidence, left, top, right, bottom."""

    type: Literal["replay"] = "replay"
    path: ConfigPath

    def build(self, ctx: Context) -> "ReplayBackend":
        return ReplayBackend(self)


class ReplayBackend:
    model = "replay"
    concurrency = 2
    max_batch = 1

    def __init__(self, config: ReplayBackendConfig) -> None:
        lines = [json.loads(line) for line in config.path.read_text().splitlines()]
        self._rows: dict[int, list[list[Any]]] = dict(lines)
        self._names = tuple(sorted({row[0] for rows in self._rows.values() for row in rows}))

    def open(self) -> None: ...

    def close(self) -> None: ...

    def describe(self) -> str:
        return "what a model once said"

    def infer(self, batch: Sequence[Frame]) -> Sequence[Prediction]:
        return [self._found(self._rows[frame.seq]) for frame in batch]

    def _found(self, rows: list[list[Any]]) -> Detections:
        return Detections(
            xyxy=np.array([row[2:] for row in rows], np.float32).reshape(-1, 4),
            confidence=np.array([row[1] for row in rows], np.float32),
            class_id=np.array([self._names.index(row[0]) for row in rows], np.int32),
            names=self._names,
        )
