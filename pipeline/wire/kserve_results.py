"""Predictions as tensors of the open inference protocol, as our server writes them; `kserve_reading` reads them.

N pictures, each with up to K objects; boxes, masks and keypoints are in pixels of the picture that was sent.

| output | task | what |
|---|---|---|
| `num_detections` | objects | INT32 [N]: how many of the K rows hold an object |
| `boxes` | objects | FP32 [N, K, 4]: left, top, right, bottom |
| `scores` | objects; classification | FP32 [N, K], best first; FP32 [N, C], by class |
| `classes` | objects | INT32 [N, K]; -1 in a row that holds none |
| `labels` | objects; classification | BYTES [N, K]; [N, C]: the names of the classes |
| `masks` | instance segmentation | BYTES [N, K]: COCO run lengths, `{"size": [height, width], "counts": "..."}` |
| `keypoints` | keypoints | FP32 [N, K, P, 3]: x, y, confidence; all 0 for a point that was not found |
| `class_map` | semantic segmentation | BYTES [N]: a grey PNG of the classes |
| `confidence` | semantic segmentation | BYTES [N]: a grey PNG, 255 where it is sure; empty where it does not say |
| `embedding` | embedding | FP32 [N, D] |
| `text` | text | BYTES [N] |
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.contracts.backend import ModelInfo, Task
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask, Text, label_of
from pipeline.wire import document
from pipeline.wire.kserve_models import TensorSpec
from pipeline.wire.kserve_tensors import BYTES, Tensor, strings, tensor
from pipeline.wire.masks import encode_png, encode_rle

P = TypeVar("P")

MAX_CLASSES: Final = 1000
"""No more best classes than this are listed by the classification extension."""

_encode = json.JSONEncoder(separators=(",", ":")).encode

_OBJECTS: Final = (
    TensorSpec("num_detections", "INT32", (-1,)),
    TensorSpec("boxes", "FP32", (-1, -1, 4)),
    TensorSpec("scores", "FP32", (-1, -1)),
    TensorSpec("classes", "INT32", (-1, -1)),
    TensorSpec("labels", BYTES, (-1, -1)),
)
_SCORES: Final = (TensorSpec("scores", "FP32", (-1, -1)), TensorSpec("labels", BYTES, (-1, -1)))
_OUTPUTS: Final[Mapping[Task, tuple[TensorSpec, ...]]] = {
    "object-detection": _OBJECTS,
    "instance-segmentation": (*_OBJECTS, TensorSpec("masks", BYTES, (-1, -1))),
    "keypoint-detection": (*_OBJECTS, TensorSpec("keypoints", "FP32", (-1, -1, -1, 3))),
    "classification": _SCORES,
    "multi-label-classification": _SCORES,
    "semantic-segmentation": (TensorSpec("class_map", BYTES, (-1,)), TensorSpec("confidence", BYTES, (-1,))),
    "embedding": (TensorSpec("embedding", "FP32", (-1, -1)),),
    "text": (TensorSpec("text", BYTES, (-1,)),),
}


def outputs_of(task: Task) -> tuple[TensorSpec, ...]:
    """What a model of this task gives, for its metadata."""
    return _OUTPUTS[task]


def task_of(outputs: Sequence[TensorSpec]) -> Task | None:
    """The task whose outputs these are; None where they are not ours."""
    found = {output.name: output.datatype for output in outputs}
    for task, specs in _OUTPUTS.items():
        if found == {spec.name: spec.datatype for spec in specs}:
            return task
    return None


def to_tensors(predictions: Sequence[Prediction], info: ModelInfo) -> tuple[Tensor, ...]:
    """All outputs for these pictures, in the order of the metadata.

    Raises:
        ValueError: the model said something else than its task is.
    """
    match info.task:
        case "object-detection" | "instance-segmentation" | "keypoint-detection":
            return _from_objects(_all(predictions, Detections), info)
        case "classification" | "multi-label-classification":
            return _from_scores(_all(predictions, Classification))
        case "semantic-segmentation":
            found = _all(predictions, SemanticMask)
            return (
                tensor("class_map", [encode_png(one.class_map) for one in found]),
                tensor("confidence", [b"" if one.confidence is None else encode_png(one.confidence) for one in found]),
            )
        case "embedding":
            vectors = [one.vector for one in _all(predictions, Embedding)]
            return (tensor("embedding", np.stack(vectors).astype(np.float32)),)
        case "text":
            return (tensor("text", [one.text.encode("utf-8", "replace") for one in _all(predictions, Text)]),)


def classified(one: Tensor, count: int, labels: Sequence[str]) -> Tensor:
    """The classification extension: the best values of each row as BYTES `value:index[:label]`, best first.

    Args:
        one: the output itself, its rows along the first axis; all other axes are taken as one.
        count: how many of each row, at the most.
        labels: by index; beyond them there is none.

    Raises:
        ValueError: such a tensor has no best values.
    """
    if one.array.dtype.kind not in "fiu" or one.array.ndim < 2:
        raise ValueError(f"{document.quoted(one.name)} is {one.datatype} {one.shape}, which cannot be classified")
    rows = one.array.reshape(len(one.array), -1) if one.array.size else one.array.reshape(len(one.array), 0)
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, : min(count, MAX_CLASSES)]
    texts = []
    for row, indexes in zip(rows, best, strict=True):
        for index in indexes.tolist():
            value = f"{row[index]:f}" if row.dtype.kind == "f" else str(row[index])
            label = f":{labels[index]}" if index < len(labels) else ""
            texts.append(f"{value}:{index}{label}".encode())
    return Tensor(one.name, BYTES, strings(texts, best.shape))


def _all(predictions: Sequence[Prediction], kind: type[P]) -> list[P]:
    found: list[P] = [one for one in predictions if isinstance(one, kind)]
    if len(found) != len(predictions):
        raise ValueError("the model's answer is of another kind than its task")
    return found


def _from_objects(found: Sequence[Detections], info: ModelInfo) -> tuple[Tensor, ...]:
    counts = [len(one) for one in found]
    rows, columns = len(found), max(counts, default=0)
    boxes = np.zeros((rows, columns, 4), np.float32)
    scores = np.zeros((rows, columns), np.float32)
    classes = np.full((rows, columns), -1, np.int32)
    labels = strings([b""] * (rows * columns), (rows, columns))
    for row, one in enumerate(found):
        size = len(one)
        boxes[row, :size], scores[row, :size], classes[row, :size] = one.xyxy, one.confidence, one.class_id
        labels[row, :size] = [one.label(index).encode() for index in range(size)]
    outputs = [
        tensor("num_detections", np.array(counts, np.int32)),
        tensor("boxes", boxes),
        tensor("scores", scores),
        tensor("classes", classes),
        tensor("labels", labels),
    ]
    if info.task == "instance-segmentation":
        masks = strings([b""] * (rows * columns), (rows, columns))
        for row, one in enumerate(found):
            if one.masks is not None:
                masks[row, : len(one)] = [_run_lengths(mask) for mask in one.masks]
        outputs.append(tensor("masks", masks))
    if info.task == "keypoint-detection":
        outputs.append(tensor("keypoints", _from_keypoints(found, columns, len(info.keypoints))))
    return tuple(outputs)


def _run_lengths(mask: npt.NDArray[np.bool_]) -> bytes:
    return _encode({"size": list(mask.shape), "counts": encode_rle(mask)}).encode()


def _from_keypoints(found: Sequence[Detections], columns: int, count: int) -> npt.NDArray[np.float32]:
    """float32 (N, K, P, 3), 0 where there is no point: JSON has no NaN."""
    count = max([count, *(one.keypoints.shape[1] for one in found if one.keypoints is not None)])
    points = np.zeros((len(found), columns, count, 3), np.float32)
    for row, one in enumerate(found):
        if one.keypoints is not None:
            is_there = np.isfinite(one.keypoints).all(axis=2, keepdims=True)
            points[row, : len(one), : one.keypoints.shape[1]] = np.where(is_there, one.keypoints, np.float32(0))
    return points


def _from_scores(found: Sequence[Classification]) -> tuple[Tensor, ...]:
    columns = max((len(one.scores) for one in found), default=0)
    if any(len(one.scores) != columns for one in found):
        raise ValueError("the model's answers have different numbers of classes")
    names = [label_of(one.names, index).encode() for one in found for index in range(columns)]
    scores = np.array([one.scores for one in found], np.float32).reshape(len(found), columns)
    return tensor("scores", scores), tensor("labels", strings(names, (len(found), columns)))
