"""Two models side by side on the same pictures: what each finds, and how long each takes."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from pipeline.benching.dry import DryContext
from pipeline.config.explain import explain
from pipeline.contracts.backend import Backend
from pipeline.contracts.errors import ConfigError, PenstockError
from pipeline.contracts.frame import Frame
from pipeline.contracts.result import Classification, Detections, Prediction
from pipeline.quantize.scoring import SURE, Boxes, agreement, average_precision, boxes
from pipeline.registry import Registry

Seen = Boxes | int
"""The boxes in a picture, or its class."""

FLOOR = 0.001
"""Confidence from which boxes count for AP."""

RACE_S = 4.0
"""So long the two models take turns, for the speed."""

MAX_TURNS = 200
"""Of small models so many are enough."""


class Accuracy(NamedTuple):
    """What quantising cost.

    Attributes:
        measure: "AP" against labels, or "agreement" with the float model (F1 of boxes, share of equal classes).
        before: the float model's AP; None where it is the measure itself.
        after: the quantised model's AP, or how far it agrees.
        pictures: on how many.
        finer: of agreement: AP of the boxes, with the float model's sure ones for labels; it also sees that boxes move.
    """

    measure: str
    before: float | None
    after: float
    pictures: int
    finer: float | None = None

    @property
    def loss(self) -> float:
        """What was lost, 0..1; NaN where nothing was found at all."""
        return (1.0 if self.before is None else self.before) - self.after

    def __str__(self) -> str:
        if self.before is not None:
            change = f"{abs(self.loss):.4f} {'lost' if self.loss >= 0 else 'won'}"
            return f"AP {self.before:.4f} -> {self.after:.4f} on {self.pictures} labelled pictures: {change}"
        if math.isnan(self.after):
            return (
                f"unknown: nothing is found in {self.pictures} held-out pictures, by neither model; calibrate on "
                f"pictures in which there is something"
            )
        finer = "" if self.finer is None else f"; AP {self.finer:.3f} with the float model's boxes for labels"
        return (
            f"{self.after:.4f} of what either model finds in {self.pictures} held-out pictures is found by both: "
            f"{self.loss:.4f} lost{finer} (agreement with the float model; what it is worth needs --labels)"
        )


class Speed(NamedTuple):
    """Seconds of one run on one core, medians of turns taken."""

    before_s: float
    after_s: float

    @property
    def ratio(self) -> float:
        """How many times as fast it is now."""
        return self.before_s / self.after_s


def opened(model: Path, keys: dict[str, Any], data_dir: Path) -> Backend:
    """The model as Penstock runs it: on one core, with every box that it has an idea of.

    Raises:
        ConfigError: it cannot be run.
    """
    table = {"type": "onnx", "model": str(model), "confidence": FLOOR, "device": "cpu", **keys}
    table |= {"workers": 1, "intra_op_threads": 1}
    config_class = Registry.load().config_class("backend", "onnx")
    try:
        config = config_class.model_validate(table, context={"base_dir": Path.cwd()})
    except ValidationError as error:
        faults = explain(error, config_class, table)
        raise ConfigError("\n".join(f"{'.'.join(key)}: {message}" for key, message in faults)) from error
    backend: Backend = config.build(DryContext("model", data_dir))
    try:
        backend.open()
    except BaseException:
        backend.close()
        raise
    return backend


def seen_by(backend: Backend, frames: Iterable[Frame]) -> list[Seen]:
    """What the model says about each of them; masks and keypoints are not kept.

    Raises:
        ConfigError: a run fails, or it says something that cannot be judged.
    """
    try:
        return [_seen(backend.infer([frame])[0]) for frame in frames]
    except PenstockError as error:
        raise ConfigError(f"the model cannot be judged: {error}") from error


def compared(before: Sequence[Seen], after: Sequence[Seen]) -> Accuracy:
    """How far the quantised model agrees with the float one."""
    boxes_before = [each for each in before if isinstance(each, Boxes)]
    boxes_after = [each for each in after if isinstance(each, Boxes)]
    if boxes_before and boxes_after:
        finer = average_precision(boxes_after, [_sure(each) for each in boxes_before])
        found = agreement(boxes_after, boxes_before)
        return Accuracy("agreement", None, found, len(before), None if math.isnan(finer) else finer)
    equal = [one == other for one, other in zip(before, after, strict=True)]
    return Accuracy("agreement", None, sum(equal) / len(equal) if equal else float("nan"), len(before))


def precision(found: Sequence[Seen], truth: Sequence[Boxes]) -> float:
    """AP of what was found in labelled pictures.

    Raises:
        ConfigError: the model finds no boxes.
    """
    own = [each for each in found if isinstance(each, Boxes)]
    if len(own) != len(truth):
        raise ConfigError("--labels are of objects; without them a classifier is compared with its float twin")
    return average_precision(own, truth)


def race(
    before: Backend, after: Backend, frames: Sequence[Frame], now_s: Callable[[], float] = time.perf_counter
) -> Speed:
    """Both models by turns on the same frames, for `RACE_S` seconds: a busy moment hits both alike."""
    times: tuple[list[float], list[float]] = ([], [])
    ends_at, index = now_s() + RACE_S, 0
    while (now_s() < ends_at and index < MAX_TURNS) or index < 3:
        frame = frames[index % len(frames)]
        for backend, taken in zip((before, after), times, strict=True):
            (answer,) = backend.infer([frame])
            taken.append(answer.timings.infer_s)
        index += 1
    return Speed(*(statistics.median(taken) for taken in times))


def _sure(found: Boxes) -> Boxes:
    rows = found.scores >= SURE
    return boxes(found.xyxy[rows], None, found.class_ids[rows])


def _seen(found: Prediction) -> Seen:
    if isinstance(found, Detections):
        return boxes(found.xyxy, found.confidence, found.class_id)
    if isinstance(found, Classification):
        return int(np.argmax(found.scores))
    kind = type(found).__name__.lower()
    raise ConfigError(f"only models for objects and classes can be judged; this one gives a {kind}", key="model")
