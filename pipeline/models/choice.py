"""`Choice`: the family and the task of a model, settled; and what a user or the file itself says about them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.contracts.backend import Task
from pipeline.contracts.errors import ConfigError
from pipeline.models.families import FAMILIES, Family
from pipeline.models.heads import Layout
from pipeline.models.onnx_file import OnnxFile, TensorInfo
from pipeline.models.preprocess import Preprocess
from pipeline.models.scores import Values

_TASK_OF_METADATA: dict[str, Task] = {
    "detect": "object-detection",
    "object-detection": "object-detection",
    "segment": "instance-segmentation",
    "instance-segmentation": "instance-segmentation",
    "pose": "keypoint-detection",
    "keypoint-detection": "keypoint-detection",
    "classify": "classification",
    "classification": "classification",
    "image-classification": "classification",
    "semantic": "semantic-segmentation",
    "embedding": "embedding",
    "semantic-segmentation": "semantic-segmentation",
}
"""What ultralytics and others write into `task`."""

MAX_KEYPOINTS = 1000


class Points(NamedTuple):
    """How many keypoints an object has, and of how many values each: x, y, or x, y, confidence."""

    number: int
    values: int

    @property
    def extras(self) -> int:
        """How many values of a box's row they are."""
        return self.number * self.values


NO_POINTS = Points(0, 3)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known before the outputs are looked at.

    Attributes:
        family: "auto", or the one family to take.
        task: what the model does, where the config or the metadata says so.
        by_config: the task is the config's.
        labels: how many labels there are, if any.
        points: the keypoints, where the config or the metadata says so.
    """

    family: str = "auto"
    task: Task | None = None
    by_config: bool = False
    labels: int | None = None
    points: Points | None = None


class Choice(NamedTuple):
    """The family of a model, what it does, and which of its outputs to read how.

    Attributes:
        family: the row of the table.
        outputs: the outputs to read, in the order in which the family reads them; the main one first.
        why: what gave it away, for `penstock inspect`.
        task: what the model does.
        preprocess: how it is usually fed.
        layout: how the main output lies in memory.
        classes: how many classes the model has; None where the output does not say.
        extras: values of each box that are neither place nor class.
        points: the keypoints of each object.
        values: what the numbers are, where there are no boxes.
    """

    family: Family
    outputs: tuple[TensorInfo, ...]
    why: str
    task: Task
    preprocess: Preprocess
    layout: Layout = "rows"
    classes: int | None = None
    extras: int = 0
    points: Points = NO_POINTS
    values: Values = Values()

    @property
    def output(self) -> TensorInfo:
        """The main output."""
        return self.outputs[0]


def asked(file: OnnxFile, *, family: str, task: Task | None, labels: int | None, keypoints: int) -> Asked:
    """What the config and the file's metadata say.

    Args:
        file: the model.
        family: as in the config.
        task: as in the config.
        labels: how many labels there are, if any.
        keypoints: how many keypoints the config names; 0 for none.

    Raises:
        ConfigError: with key `model`: it is for a task that cannot be read.
    """
    told = file.metadata.get("task", "").strip()
    if task is None and told and told.casefold() not in _TASK_OF_METADATA:
        raise ConfigError(
            f"{file.path}: is a model for the task {told[:40]!r}, which this version cannot read: found outputs "
            f"{shown(file.outputs)}; if it is for another one, set `task`",
            key="model",
        )
    shape = re.fullmatch(r"[\[(]\s*(\d{1,4})\s*,\s*([23])\s*[\])]", file.metadata.get("kpt_shape", "")[:40])
    points = Points(int(shape[1]), int(shape[2])) if shape else None
    if keypoints and (points is None or points.number != keypoints):
        points = Points(keypoints, 3)
    if points is not None and not 1 <= points.number <= MAX_KEYPOINTS:
        points = None
    found = task or _TASK_OF_METADATA.get(told.casefold())
    return Asked(family, found, task is not None, labels, points)


def unknown(file: OnnxFile) -> ConfigError:
    """No family fits."""
    return ConfigError(
        f"{file.path}: the family of the model is not known: found outputs {shown(file.outputs)}; if it is one of "
        f"{', '.join(family.name for family in FAMILIES)}, set `family`, or set `task`",
        key="family",
    )


def shown(tensors: Sequence[TensorInfo]) -> str:
    """Tensors for an error's text, not endless."""
    more = f" and {len(tensors) - 8} more" if len(tensors) > 8 else ""
    return ", ".join(str(t)[:100] for t in tensors[:8]) + more


def fixed(side: int | str) -> int | None:
    """An axis's length; None where it is dynamic: a symbol, or a 0 or -1 as some exporters write."""
    return side if isinstance(side, int) and side > 0 else None
