"""Whether a composed model says the same as the plain one, and which of the two is faster; tried once, with both."""

import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.backends._onnx.session import Session
from pipeline.contracts.frame import Size, Wishes
from pipeline.contracts.result import Detections
from pipeline.models.description import ModelDescription
from pipeline.models.graph_bytes import PIXELS
from pipeline.models.reader import Reader

_ROUNDS = 5
_NEAR = 2e-3  # of the largest value: sums in another order, fused otherwise; a wrong channel is off by all of it
_NEAR_HALF = 3e-2
_LIKELY_BOXES = 50

Array = npt.NDArray[Any]


class Checked(NamedTuple):
    """What came of a comparison.

    Attributes:
        fault: how the two differ, in a few words; None: they say the same.
        detail: how near they are.
        run_s: seconds of a run and of reading its answer, by way: "plain", "graph".
    """

    fault: str | None
    detail: str
    run_s: dict[str, float]


class Both(NamedTuple):
    """A model as it is, and composed.

    Attributes:
        plain: the session of the one.
        composed: the session of the other.
        reader: reads the plain one's answers.
        picks: reads the composed one's, where its post-processing is inside.
        bytes_in: whether the composed one takes bytes.
        errors: what sessions raise.
    """

    plain: Session
    composed: Session
    reader: Reader
    picks: Reader | None
    bytes_in: bool
    errors: tuple[type[Exception], ...]


def compare(both: Both) -> Checked:
    """Run one made-up picture through both, read both answers, and take the time."""
    size = both.reader.model.input_size
    plain_feeds, composed_feeds = _feeds(both, size)
    names = both.reader.outputs
    fetched = (both.picks or both.reader).outputs
    try:
        raw = both.plain.run(names, plain_feeds)
        own = both.composed.run(names, composed_feeds)
        picked = own if both.picks is None else both.composed.run(fetched, composed_feeds)
        detail = _largest_difference(raw, own)
        near = _NEAR_HALF if "16" in both.reader.model.image.dtype else _NEAR
        fault = f"its outputs differ by {detail:.2g} of the largest value" if not detail <= near else None
        if fault is None and both.picks is not None:
            fault = _boxes_differ(both.reader, both.picks, own, picked, size)
        run_s = {} if fault else _race(both, plain_feeds, composed_feeds, size)
    except both.errors as error:
        return Checked(f"it does not run: {' '.join(str(error).split())[:200]}", "", {})
    return Checked(fault, f"outputs differ by {detail:.1g} of the largest value at most", run_s)


def runs_alike(both: Both) -> bool:
    """Whether the composed model runs at all and gives outputs of the plain one's shapes; what they say is not compared
    again."""
    plain_feeds, composed_feeds = _feeds(both, both.reader.model.input_size)
    names = both.reader.outputs
    extra = () if both.picks is None else tuple(name for name in both.picks.outputs if name not in names)
    try:
        wanted = both.plain.run(names, plain_feeds)
        found = both.composed.run((*names, *extra), composed_feeds)
        same = all(np.shape(a) == np.shape(b) for a, b in zip(wanted, found[: len(names)], strict=True))
        if both.picks is not None:  # reading is what would fail, picture by picture
            picked = dict(zip((*names, *extra), found, strict=True))
            size = both.reader.model.input_size
            both.picks.read([picked[name][0] for name in both.picks.outputs], both.picks.place(size), size)
    except both.errors:
        return False
    except (ValueError, IndexError):
        return False
    return same


def feeds_of(model: ModelDescription, pixels: npt.NDArray[np.uint8]) -> dict[str, Array]:
    """All inputs of the model for pictures of its input's size, uint8 (B, H, W, 3)."""
    _, height, width, _ = pixels.shape
    gain, offset = np.array(model.preprocess.affine).T
    values = pixels * (gain / 255) + offset
    if model.image.dtype == "uint8":
        values = values + 0.5
    tensor = (values if model.channels_last else values.transpose(0, 3, 1, 2)).astype(model.image.dtype)
    return model.feeds(np.ascontiguousarray(tensor), Size(width, height))


def _feeds(both: Both, size: Size) -> tuple[dict[str, Array], dict[str, Array]]:
    """The same picture, as each of the two takes it."""
    model = both.reader.model
    shape = (model.fixed_batch or 1, size.height, size.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    plain = feeds_of(model, pixels)
    if not both.bytes_in:
        return plain, plain
    return plain, {PIXELS if name == model.image.name else name: value for name, value in plain.items()} | {
        PIXELS: pixels
    }


def _largest_difference(first: Sequence[Array], second: Sequence[Array]) -> float:
    """By output, the largest difference as a part of the largest value; the worst of all."""
    worst = 0.0
    for one, other in zip(first, second, strict=True):
        if np.shape(one) != np.shape(other):
            return float("inf")
        a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
        known = np.isfinite(a) & np.isfinite(b)
        if not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return float("inf")
        largest = float(np.abs(a[known]).max(initial=0.0))
        if largest > 0:
            worst = max(worst, float(np.abs(a - b)[known].max(initial=0.0)) / largest)
    return worst


def _boxes_differ(
    plain: Reader, picks: Reader, raw: Sequence[Array], picked: Sequence[Array], size: Size
) -> str | None:
    """How the boxes of the first picture differ, at the threshold which some fifty candidates reach."""
    rows = picked[0][0]
    least = float(rows[min(len(rows) - 1, _LIKELY_BOXES), 4]) if len(rows) else 0.0
    if not 0 < least <= 1:  # a model that is sure of nothing tells nothing
        return None
    wish, place = Wishes(confidence=least), plain.place(size)
    one = plain.read([output[0] for output in raw], place, size, wish)
    other = picks.read([output[0] for output in picked], place, size, wish)
    if not isinstance(one, Detections) or not isinstance(other, Detections) or len(one) != len(other):
        return "its boxes are others"
    same = np.array_equal(one.class_id, other.class_id) and np.allclose(one.xyxy, other.xyxy, atol=0.01, rtol=1e-4)
    return None if same and np.allclose(one.confidence, other.confidence, atol=1e-4) else "its boxes are others"


def _race(both: Both, plain_feeds: dict[str, Array], composed_feeds: dict[str, Array], size: Size) -> dict[str, float]:
    """Seconds of a run with its reading, the median of a few, in turns."""
    ways = {
        "plain": (both.plain, both.reader, plain_feeds),
        "graph": (both.composed, both.picks or both.reader, composed_feeds),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, (session, reader, feeds) in ways.items():
            began_s = time.perf_counter()
            outputs = session.run(reader.outputs, feeds)
            reader.read([output[0] for output in outputs], reader.place(size), size)
            taken[name].append(time.perf_counter() - began_s)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}
