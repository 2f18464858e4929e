"""Semantic segmentation: from numbers per class and place, or class numbers, to one class per pixel of the frame."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Size
from pipeline.contracts.result import SemanticMask, Timings
from pipeline.models.letterbox import Placement
from pipeline.models.scores import Values, sigmoid

_STRIP_VALUES = 8_000_000  # so many numbers are worked on at once: 32 MB

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


def semantic_mask(
    output: npt.NDArray[Any],
    values: Values,
    labels: tuple[str, ...],
    *,
    placement: Placement,
    frame: Size,
    timings: Callable[[], Timings],
) -> SemanticMask:
    """The class of each pixel.

    Args:
        output: (C, h, w) logits or probabilities; (1, h, w) of one class against the rest; or (h, w), (1, h, w) and
            (h, w, 1) class numbers.
        values: what the numbers are.
        labels: names of the classes.
        placement: where the frame lay in the input; the output covers all of the input, padding included.
        frame: its size.
        timings: asked when all is read.

    Logits are enlarged linearly to the picture's size in the model's input (or the frame's, where that is smaller)
    before the best class is taken, which smooths edges; from there each pixel of the frame takes the nearest one.
    There is no confidence where the numbers may be logits as well as probabilities.
    """
    if values.meaning == "ids":
        ids = output if output.ndim == 2 else output[0] if len(output) == 1 else output[..., 0]
        rows, columns = _grid(Size(ids.shape[1], ids.shape[0]), placement, frame)
        nearest = ids[np.rint(rows).astype(np.intp)][:, np.rint(columns).astype(np.intp)]
        with np.errstate(invalid="ignore"):  # numbers of classes that are floats, and none
            return SemanticMask(nearest.astype(np.int32), labels, None, timings())
    size = Size(min(placement.content.width, frame.width), min(placement.content.height, frame.height))
    rows, columns = _grid(Size(output.shape[2], output.shape[1]), placement, frame, size)
    classes = np.empty((size.height, size.width), np.int32)
    confidence = np.zeros((size.height, size.width), np.uint8)
    step = max(1, _STRIP_VALUES // (len(output) * size.width))
    with np.errstate(over="ignore", invalid="ignore"):  # a broken model's inf and NaN: some class, not sure at all
        for first in range(0, size.height, step):
            strip = slice(first, first + step)
            classes[strip], confidence[strip] = _best(_between(output, values, rows[strip], columns), values)
    if size != frame:
        down = _nearest(frame.height, size.height)
        across = _nearest(frame.width, size.width)
        classes, confidence = classes[down][:, across], confidence[down][:, across]
    known = not values.meaning.endswith("unknown")
    return SemanticMask(classes, labels, confidence if known else None, timings())


def _grid(output: Size, placement: Placement, frame: Size, wanted: Size | None = None) -> tuple[Floats, Floats]:
    """Where the centres of `wanted` rows and columns, spread over the frame, lie in the output."""
    found = []
    for pixels, side, count, whole, scale, offset in (
        (
            output.height,
            frame.height,
            (wanted or frame).height,
            placement.input_size.height,
            placement.scale_y,
            placement.top,
        ),
        (
            output.width,
            frame.width,
            (wanted or frame).width,
            placement.input_size.width,
            placement.scale,
            placement.left,
        ),
    ):
        centres = (np.arange(count) + 0.5) * (side / count) * scale + offset
        found.append(np.clip(centres * (pixels / whole) - 0.5, 0, pixels - 1).astype(np.float32))
    return found[0], found[1]


def _between(output: npt.NDArray[Any], values: Values, rows: Floats, columns: Floats) -> Floats:
    """float32 (C, rows, columns): the output at these places, linear between its own."""
    top, left = rows.astype(np.intp), columns.astype(np.intp)
    bottom = np.minimum(top + 1, output.shape[1] - 1)
    right = np.minimum(left + 1, output.shape[2] - 1)
    first, last = int(top[0]), int(bottom[-1]) + 1
    part = values.real(output[:, first:last])
    wide = part[:, :, left]
    wide += (part[:, :, right] - wide) * (columns - left)
    found = wide[:, top - first]
    found += (wide[:, bottom - first] - found) * (rows - top)[:, None]
    return found


def _best(numbers: Floats, values: Values) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """The best class at each place, and how sure that is, 0..255."""
    if len(numbers) == 1:  # one class against the rest
        one = sigmoid(numbers[0]) if values.meaning.endswith("logits") else numbers[0]
        classes = (one >= 0.5).astype(np.int32)
        sure = np.maximum(one, 1 - one)
    else:
        classes = numbers.argmax(axis=0).astype(np.int32)
        sure = numbers.max(axis=0)
        if values.meaning == "logits":
            sure = 1 / np.exp(numbers - sure).sum(axis=0)  # the best one's share of the softmax
        elif values.meaning == "independent-logits":
            sure = sigmoid(sure)
    return classes, np.rint(np.clip(np.nan_to_num(sure), 0, 1) * 255).astype(np.uint8)


def _nearest(count: int, of: int) -> Indices:
    """For each of `count` pixels the nearest of `of`, both over the same length."""
    return np.minimum(((np.arange(count) + 0.5) * (of / count)).astype(np.intp), of - 1)
