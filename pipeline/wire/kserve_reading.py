"""Predictions out of the tensors that `kserve_results` writes, looked at before they are believed."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.contracts.backend import ModelInfo
from pipeline.contracts.frame import Size
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask, Text
from pipeline.wire import document
from pipeline.wire.kserve_tensors import Array, Tensor
from pipeline.wire.masks import decode_png, decode_rle

_MAX_OBJECTS: Final = 10_000
_MAX_MASK_BYTES: Final = 1 << 28


def from_tensors(outputs: Sequence[Tensor], sizes: Sequence[Size], info: ModelInfo) -> list[Prediction]:
    """The predictions in the outputs of a Penstock.

    Args:
        outputs: all that the metadata name.
        sizes: of the pictures that were sent.
        info: about the model.

    Raises:
        ValueError: one line on what is wrong with them.
    """
    by_name = {one.name: one for one in outputs}
    match info.task:
        case "object-detection" | "instance-segmentation" | "keypoint-detection":
            return list(_to_objects(by_name, sizes, info))
        case "classification" | "multi-label-classification":
            return list(_to_scores(by_name, len(sizes), info))
        case "semantic-segmentation":
            return list(_to_maps(by_name, sizes, info))
        case "embedding":
            vectors = _numbers(by_name, "embedding", (len(sizes), None))
            return [Embedding(vector) for vector in vectors]
        case "text":
            texts = _strings(by_name, "text", (len(sizes),)).tolist()
            return [Text(_decoded(text, "text")) for text in texts]


def _to_objects(outputs: Mapping[str, Tensor], sizes: Sequence[Size], info: ModelInfo) -> Sequence[Prediction]:
    rows = len(sizes)
    counts = _array(outputs, "num_detections", "i", (rows,))
    boxes = _numbers(outputs, "boxes", (rows, None, 4))
    columns = boxes.shape[1]
    if columns > _MAX_OBJECTS or (counts < 0).any() or (counts > columns).any():
        raise ValueError(f"num_detections does not fit boxes for {columns} objects")
    scores = _numbers(outputs, "scores", (rows, columns))
    classes = _array(outputs, "classes", "i", (rows, columns))
    names = _strings(outputs, "labels", (rows, columns)) if "labels" in outputs else None
    masks = _strings(outputs, "masks", (rows, columns)) if info.task == "instance-segmentation" else None
    points = _numbers(outputs, "keypoints", (rows, columns, None, 3)) if info.task == "keypoint-detection" else None
    found: list[Prediction] = []
    for row, (size, count) in enumerate(zip(sizes, counts.tolist(), strict=True)):
        class_id = classes[row, :count].astype(np.int64)
        if count and not 0 <= class_id.min() <= class_id.max() < 65_536:
            raise ValueError("classes holds a class that cannot be")
        xyxy = boxes[row, :count]
        if (xyxy[:, 2:] < xyxy[:, :2]).any():
            raise ValueError("boxes holds a box that is inside out")
        if count and not 0 <= scores[row, :count].min() <= scores[row, :count].max() <= 1:
            raise ValueError("scores holds a score that is not from 0 to 1")
        labels = info.labels
        if names is not None and not labels:
            labels = _named(class_id, names[row, :count].tolist())
        found.append(
            Detections(
                xyxy,
                scores[row, :count],
                class_id.astype(np.int32),
                labels,
                masks=None if masks is None else _to_masks(masks[row, :count].tolist(), size),
                keypoints=None if points is None else _to_keypoints(points[row, :count]),
                keypoint_names=info.keypoints,
            )
        )
    return found


def _named(class_ids: npt.NDArray[np.int64], names: Sequence[bytes]) -> tuple[str, ...]:
    """Names by class where the server tells no list of them: those of the objects that are there."""
    by_id = {class_id: _decoded(name, "labels") for class_id, name in zip(class_ids.tolist(), names, strict=True)}
    return tuple(by_id.get(index, f"class_{index}") for index in range(max(by_id, default=-1) + 1))


def _to_masks(texts: Sequence[bytes], size: Size) -> npt.NDArray[np.bool_]:
    if len(texts) * size.width * size.height > _MAX_MASK_BYTES:
        raise ValueError(f"{len(texts)} masks of {size.width} x {size.height} pixels are too many")
    masks = np.zeros((len(texts), size.height, size.width), np.bool_)
    for index, text in enumerate(texts):
        fields = document.mapping(document.loads(text), "a mask")
        if fields.get("size") != [size.height, size.width]:
            raise ValueError(f"a mask is not of the picture's size, {size.width} x {size.height}")
        counts = document.text(fields.get("counts"), "the counts of a mask")
        masks[index] = decode_rle(counts, size.height, size.width)
    return masks


def _to_keypoints(points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    found = points.copy()
    found[(points == 0).all(axis=2)] = np.nan
    return found


def _to_scores(outputs: Mapping[str, Tensor], rows: int, info: ModelInfo) -> Sequence[Prediction]:
    scores = _numbers(outputs, "scores", (rows, None))
    if scores.size and not 0 <= scores.min() <= scores.max() <= 1:
        raise ValueError("scores holds a score that is not from 0 to 1")
    labels = info.labels
    if "labels" in outputs and not labels and rows:
        names = _strings(outputs, "labels", scores.shape)
        labels = tuple(_decoded(name, "labels") for name in names[0].tolist())
    if labels and len(labels) != scores.shape[1]:
        raise ValueError(f"scores holds {scores.shape[1]} classes, but there are {len(labels)} labels")
    multi = info.task == "multi-label-classification"
    return [Classification(row, labels, multi_label=multi) for row in scores]


def _to_maps(outputs: Mapping[str, Tensor], sizes: Sequence[Size], info: ModelInfo) -> Sequence[Prediction]:
    maps = _strings(outputs, "class_map", (len(sizes),)).tolist()
    sure = _strings(outputs, "confidence", (len(sizes),)).tolist() if "confidence" in outputs else [b""] * len(sizes)
    found: list[Prediction] = []
    for size, one, confidence in zip(sizes, maps, sure, strict=True):
        classes = decode_png(one, "class_map")
        values = decode_png(confidence, "confidence") if confidence else None
        for values_of in (classes, values):
            if values_of is not None and values_of.shape != (size.height, size.width):
                raise ValueError(f"class_map is not of the picture's size, {size.width} x {size.height}")
        if values is not None and values.max(initial=0) > 255:
            raise ValueError("confidence has more than 8 bits")
        found.append(SemanticMask(classes, info.labels, None if values is None else values.astype(np.uint8)))
    return found


def _array(outputs: Mapping[str, Tensor], name: str, kinds: str, shape: Sequence[int | None]) -> Array:
    """An output whose values are of these kinds and which has this shape. Raises ValueError."""
    one = outputs.get(name)
    if one is None:
        raise ValueError(f"the answer has no output {name!r}")
    array = one.array
    fits = array.ndim == len(shape) and all(
        side is None or own == side for own, side in zip(array.shape, shape, strict=True)
    )
    if array.dtype.kind not in kinds or not fits:
        raise ValueError(f"output {name!r} is {one.datatype} {one.shape}, which does not fit")
    return array


def _numbers(outputs: Mapping[str, Tensor], name: str, shape: Sequence[int | None]) -> npt.NDArray[np.float32]:
    array = _array(outputs, name, "f", shape)
    if not np.isfinite(array).all():
        raise ValueError(f"output {name!r} holds what is no finite number")
    with np.errstate(over="ignore"):
        found = array.astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError(f"output {name!r} holds what is no finite number")
    return found


def _strings(outputs: Mapping[str, Tensor], name: str, shape: Sequence[int | None]) -> Any:
    return _array(outputs, name, "O", shape)


def _decoded(text: bytes, what: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{what} holds what is no UTF-8 text") from None
