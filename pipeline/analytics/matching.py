"""Which box of one frame is which object of the frames before: overlap, and pairs by it."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def overlap(boxes: Floats, others: Floats, doubt: Floats | None = None) -> Floats:
    """Intersection over union of each box with each other.

    Args:
        boxes: float64 (N, 4) xyxy.
        others: float64 (M, 4) xyxy, in the same pixels.
        doubt: float64 (N,), pixels by which both boxes of a pair are enlarged on each side, so that boxes that are
            near each other are alike, too. As in C-BIoU (Yang et al., 2023, https://arxiv.org/abs/2211.14317).

    Returns:
        float64 (N, M), 0..1.
    """
    grown = np.zeros((len(boxes), 1)) if doubt is None else 2 * doubt[:, None]
    common = _common(boxes, others, 0) + grown
    np.maximum(common, 0.0, out=common)
    common *= np.maximum(_common(boxes, others, 1) + grown, 0.0)
    union = _areas(boxes[:, None], grown) + _areas(others[None, :], grown) - common
    common /= np.maximum(union, 1e-9, out=union)
    return common


def pairs(likeness: Floats, least: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Pair rows with columns, the most alike first, each once, none that are less alike than `least`.

    Round by round all pairs are taken in which each is the other's best: the same pairs as one after the other by
    falling likeness, but whole arrays at a time.

    Args:
        likeness: float64 (N, M).
        least: what is below is no pair.

    Returns:
        The rows and the columns, intp (P,) each.
    """
    rows, columns = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)]
    left = np.where(likeness >= least, likeness, -1.0)
    while left.size and left.max() >= 0.0:
        best_column = left.argmax(axis=1)
        best_row = left.argmax(axis=0)
        row = np.arange(len(left))
        mutual = (best_row[best_column] == row) & (left[row, best_column] >= 0.0)
        rows.append(row[mutual])
        columns.append(best_column[mutual])
        left[row[mutual], :] = -1.0
        left[:, best_column[mutual]] = -1.0
    return np.concatenate(rows), np.concatenate(columns)


def _common(boxes: Floats, others: Floats, axis: int) -> Floats:
    """How far each two boxes cover each other along x or y, float64 (N, M); negative where they do not."""
    ends = np.minimum(boxes[:, None, axis + 2], others[None, :, axis + 2])
    ends -= np.maximum(boxes[:, None, axis], others[None, :, axis])
    return ends


def _areas(boxes: Floats, grown: Floats) -> Floats:
    """Of boxes (..., 4), all sides longer by `grown`."""
    areas: Floats = (boxes[..., 2] - boxes[..., 0] + grown) * (boxes[..., 3] - boxes[..., 1] + grown)
    return areas
