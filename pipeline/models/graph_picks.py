"""The best rows of a detector's output, picked by ONNX nodes behind the model, and how they are read.

A detector gives thousands of rows of which some twenty count. Behind the model, the best class of each row is found and
the most confident rows are taken; boxes are decoded on the host, as always, from the rows that are left.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Size
from pipeline.models.choice import Choice, fixed
from pipeline.models.description import ModelDescription
from pipeline.models.graph_nodes import PREFIX, CannotComposeError, Nodes, TensorSpec
from pipeline.models.heads import YOLOX_STRIDES_PX, Candidates, HeadOptions, grid_of, sane

PICKED = f"{PREFIX}picked"
"""The further output: float32 (B, K, 7 + E), the most confident rows, best first: four values of the box as the model
gives them, score, class, number of the row, extras."""

MOST_PICKED = 512
"""So many rows are picked; where more are over the threshold, the model's own output is read."""

_FAMILIES = frozenset(("yolov5", "yolov8", "yolox"))
_LEAST_BYTES = 64 << 10  # outputs that are no larger come home in no time
_HEAD_VALUES = 7


def why_not(model: ModelDescription) -> str | None:
    """Why nothing is picked from what this model gives; None where it can be done."""
    choice = model.choice
    if choice is None or choice.family.kind != "boxes":
        return "the model gives no boxes"
    if choice.family.name not in _FAMILIES:
        return f"what {choice.family.name} gives is small, or already picked"
    if choice.output.dtype not in {"float32", "float16"}:
        return f"the output is {choice.output.dtype}"
    values, rows = _sides(choice)
    if values is None:
        return "the output's shape is not known"
    if rows is not None and values * rows * np.dtype(choice.output.dtype).itemsize < _LEAST_BYTES:
        return "the output is small"
    return None


def _sides(choice: Choice) -> tuple[int | None, int | None]:
    """How many values a row of the main output has, and how many rows there are; None where that is open."""
    shape = choice.output.shape
    if shape is None or len(shape) != 3:
        return None, None
    sides = fixed(shape[1]), fixed(shape[2])
    return sides if choice.layout == "columns" else sides[::-1]


def add_picks(nodes: Nodes, model: ModelDescription) -> TensorSpec:
    """The nodes that make `PICKED` of the model's main output.

    Raises:
        CannotComposeError: see `why_not`.
    """
    reason, choice = why_not(model), model.choice
    if reason is not None or choice is None:
        raise CannotComposeError(reason or "the model gives no boxes")
    main, columns = choice.output, choice.layout == "columns"
    values, rows = _sides(choice)
    if values is None:
        raise CannotComposeError("the output's shape is not known")
    across, along = (1, 2) if columns else (2, 1)  # the axes of a row's values, and of the rows
    first_class = choice.family.box_values or 4
    end = values - choice.extras
    scores = nodes.reduce_max(nodes.cut(main.name, across, first_class, end), across)
    scores = nodes.cast(scores, np.float32)
    if first_class == 5:
        objects = nodes.cut(main.name, across, 4, 5)
        scores = nodes.add("Mul", scores, nodes.cast(objects, np.float32))
    # What is no number would be sorted anywhere: it counts as less than nothing.
    scores = nodes.add("Where", nodes.add("IsNaN", scores), nodes.constant(-1, np.float32), scores)
    most = _most(nodes, scores, along, None if model.dynamic_size else rows)
    best, indices = nodes.add_many("TopK", (scores, most), 2, axis=along, largest=1, sorted=1)
    spread = [1, values, 1] if columns else [1, 1, values]
    picked = nodes.add(
        "GatherElements",
        main.name,
        nodes.add("Expand", indices, nodes.constant(spread, np.int64)),
        axis=along,
    )
    picked = nodes.cast(picked, np.float32)
    class_ids = nodes.add("ArgMax", nodes.cut(picked, across, first_class, end), axis=across, keepdims=1)
    parts = [
        nodes.cut(picked, across, 0, 4),
        best,
        nodes.cast(class_ids, np.float32),
        nodes.cast(indices, np.float32),  # exact up to 16 million
    ]
    if choice.extras:
        parts.append(nodes.cut(picked, across, end, values))
    if columns:
        nodes.add("Transpose", nodes.add("Concat", *parts, axis=across), output=PICKED, perm=[0, 2, 1])
    else:
        nodes.add("Concat", *parts, axis=across, output=PICKED)
    batch = (main.shape or (1,))[0] if model.fixed_batch else "penstock_batch"
    return TensorSpec(PICKED, "float32", (batch, "penstock_picked", _HEAD_VALUES + choice.extras))


def _most(nodes: Nodes, scores: str, along: int, rows: int | None) -> str:
    """How many rows are picked, int64 (1,): no more than there are, which a dynamic model knows only when it runs."""
    if rows is not None:
        return nodes.constant([min(rows, MOST_PICKED)], np.int64)
    there = nodes.add("Gather", nodes.add("Shape", scores), nodes.constant([along], np.int64), axis=0)
    most = nodes.constant([MOST_PICKED], np.int64)
    return nodes.add("Where", nodes.add("Less", there, most), there, most)


def choice_of_picks(model: ModelDescription) -> Choice:
    """How `PICKED`, and what else the model gives, is read: a `Choice` that takes the place of the model's own.

    Raises:
        CannotComposeError: the model gives no boxes.
    """
    choice = model.choice
    if choice is None:
        raise CannotComposeError("the model gives no boxes")
    # YOLOv8's scores are compared in their own type, products of two always as float32.
    own_type = choice.output.dtype if choice.family.name == "yolov8" else "float32"

    def decode(outputs: Sequence[npt.NDArray[Any]], input_size: Size, options: HeadOptions) -> Candidates:
        least = np.float32(np.array(options.confidence, own_type))
        rows = outputs[0][outputs[0][:, 4] >= least]
        rows = rows[np.argsort(rows[:, 6])]  # in the order of the model's own rows: of equals the first one stays
        centre, size = rows[:, :2], rows[:, 2:4]
        with np.errstate(over="ignore", invalid="ignore"):  # a broken model's infinities: dropped by `sane`
            if options.raw_grid:
                grid = grid_of(input_size, YOLOX_STRIDES_PX)[rows[:, 6].astype(np.intp)]
                centre, size = (centre + grid[:, :2]) * grid[:, 2:], np.exp(size) * grid[:, 2:]
            half = size * np.float32(0.5)
            xyxy = np.concatenate((centre - half, centre + half), axis=1)
        extras = rows[:, _HEAD_VALUES:] if options.extras else None
        return sane(xyxy, rows[:, 4], rows[:, 5].astype(np.int32), extras)

    picked = replace(choice.output, name=PICKED, dtype="float32", shape=None)
    family = replace(choice.family, decode=None, decode_all=decode)
    return choice._replace(family=family, outputs=(picked, *choice.outputs[1:]))


def enough(picked: npt.NDArray[np.float32], confidence: float) -> bool:
    """Whether all rows of one picture that reach `confidence` are among the (K, 7 + E) picked ones."""
    return len(picked) < MOST_PICKED or bool(picked[-1, 4] < confidence * 0.999)
