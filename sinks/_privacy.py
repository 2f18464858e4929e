"""Making objects unrecognisable in 8-bit 4:2:0 planes: what is hidden is averaged away, not merely painted over."""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.contracts.analysis import Scene
from pipeline.contracts.errors import FatalError, PenstockError, TransientError
from pipeline.contracts.result import Detections, Prediction
from sinks._planes import Planes
from sinks._style import BlurStep, PrivacyStep

_SMALLEST_CELL_PX = 8
_SMALLEST_MARGIN_PX = 2
_NOTHING: Mapping[int, str] = {}


def hide(planes: Planes, found: Prediction | None, steps: Sequence[PrivacyStep], scene: Scene | None = None) -> None:
    """Hide what the steps ask for, all of it or with an error: then the picture must not be shown.

    Args:
        planes: writable, of even width and height.
        found: all that was found in the picture; None where that is not known.
        steps: one after the other.
        scene: what tracked objects are taken for: a person whom the model takes for a dog, once, stays hidden.

    Raises:
        FatalError: nothing that this model says can tell what to hide.
        TransientError: in this picture it cannot be told.
    """
    if not isinstance(found, Detections):
        if found is None:
            raise TransientError("a picture is not shown: what there is to hide in it is not known")
        raise FatalError("blur and pixelate need a model that finds boxes: this one tells none")
    try:
        for step in steps:
            for left, top, right, bottom in _regions(
                found, step, planes.y.shape, _NOTHING if scene is None else scene.taken_for
            ):
                _coarsen(planes.y[top:bottom, left:right], step)
                half = np.s_[top // 2 : bottom // 2, left // 2 : right // 2]
                _coarsen(planes.u[half], step)
                _coarsen(planes.v[half], step)
    except PenstockError:
        raise
    except Exception as error:  # whatever it is: a picture that is half hidden is not shown
        raise TransientError(f"a picture is not shown: hiding failed: {type(error).__name__}: {error}") from error


def _regions(
    found: Detections, step: PrivacyStep, shape: Sequence[int], taken_for: Mapping[int, str] = _NOTHING
) -> list[list[int]]:
    """xyxy of what must be hidden, even, with the margin around it, inside of the picture."""
    rows = np.arange(len(found))
    if step.classes is not None:
        _check_classes(step.classes, found.names)
        ids = [-1] * len(found) if found.tracker_id is None else found.tracker_id.tolist()
        named = [found.label(row) in step.classes or taken_for.get(ids[row]) in step.classes for row in range(len(ids))]
        rows = np.flatnonzero(named)
    boxes = found.xyxy[rows].astype(np.float64)
    if np.isnan(boxes).any():
        raise TransientError("a picture is not shown: the model does not say where an object is that must be hidden")
    height, width = shape
    limits = np.array([width, height])
    # Far outside is far enough: an infinite side would have an infinite margin on the other side as well.
    first = np.clip(np.minimum(boxes[:, :2], boxes[:, 2:]), -limits, 2 * limits)
    last = np.clip(np.maximum(boxes[:, :2], boxes[:, 2:]), -limits, 2 * limits)
    margin = np.maximum((last - first) * step.margin_ratio, _SMALLEST_MARGIN_PX if step.margin_ratio else 0)
    first = np.clip(np.floor((first - margin) / 2) * 2, 0, limits)
    last = np.clip(np.ceil((last + margin) / 2) * 2, 0, limits)
    seen = (last > first).all(axis=1)
    regions: list[list[int]] = np.concatenate([first, last], axis=1)[seen].astype(int).tolist()
    return regions


def _check_classes(classes: Sequence[str], names: Sequence[str]) -> None:
    unknown = [name for name in classes if name not in names]
    if names and unknown:
        near = difflib.get_close_matches(unknown[0], names, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise FatalError(f"the model knows no class {unknown[0]!r} that could be hidden{hint}")


def _coarsen(region: npt.NDArray[np.uint8], step: PrivacyStep) -> None:
    """Leave `step.cells` mean values along the longer side of the region, fewer where it is small."""
    height, width = region.shape
    longer = max(height, width)
    cell_px = max(longer / step.cells, _SMALLEST_CELL_PX)
    rows = _edges(height, cell_px)
    columns = _edges(width, cell_px)
    # As products of matrices: a tenth of the time that sums over slices take.
    means = _averaging(rows) @ region.astype(np.float32) @ _averaging(columns).T
    if isinstance(step, BlurStep):
        shown = _stretching(len(means), height) @ means @ _stretching(means.shape[1], width).T
    else:
        shown = np.floor(means + 0.5).repeat(np.diff(rows), axis=0).repeat(np.diff(columns), axis=1)
    np.copyto(region, shown + 0.5, casting="unsafe")  # a mean of bytes is never above 255


def _edges(length: int, cell_px: float) -> npt.NDArray[np.intp]:
    count = max(1, min(length, int(length / cell_px)))
    return np.linspace(0, length, count + 1).astype(np.intp)


def _averaging(edges: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    """float32 (cells, length): the mean of each cell."""
    lengths = np.diff(edges)
    cell_of = np.repeat(np.arange(len(lengths)), lengths)
    weights = (cell_of[None, :] == np.arange(len(lengths))[:, None]) / lengths[:, None]
    narrow: npt.NDArray[np.float32] = weights.astype(np.float32)
    return narrow


def _stretching(count: int, length: int) -> npt.NDArray[np.float32]:
    """float32 (length, count): straight lines between the middles of what `count` values stand for."""
    places = np.clip((np.arange(length) + 0.5) * count / length - 0.5, 0, count - 1)
    weights = 1 - np.abs(places[:, None] - np.arange(count)[None, :])
    narrow: npt.NDArray[np.float32] = np.maximum(weights, 0).astype(np.float32)
    return narrow
