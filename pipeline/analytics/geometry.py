"""Points, polygons and lines in the picture, all in pixels; pure arithmetic on whole arrays.

The y axis points down, as in pictures: who looks along a line from its start to its end has on the right what is on
the right on the screen.
"""

import numpy as np
import numpy.typing as npt

from pipeline.contracts.analysis import Anchor, Point
from pipeline.contracts.frame import Size

Floats = npt.NDArray[np.float64]


def in_pixels(points: tuple[Point, ...], size: Size) -> Floats:
    """float64 (M, 2), x and y in pixels, of points given as shares of the picture."""
    return np.array(points, np.float64) * (size.width, size.height)


def anchors(xyxy: Floats, anchor: Anchor) -> Floats:
    """The points of boxes that count for where they are: float64 (N, 1, 2), or (N, 4, 2) for `any_corner`."""
    left, top, right, bottom = xyxy.T
    if anchor == "any_corner":
        corners = np.stack([left, top, right, top, right, bottom, left, bottom], axis=1)
        return corners.reshape(-1, 4, 2)
    y = {"center": (top + bottom) / 2, "bottom_center": bottom, "top_center": top}[anchor]
    return np.stack([(left + right) / 2, y], axis=1)[:, None, :]


def inside(points: Floats, polygon: Floats) -> npt.NDArray[np.bool_]:
    """Which of the points lie inside, by the even-odd rule: a point on the right or lower edge does not.

    Args:
        points: float64 (..., 2).
        polygon: float64 (M, 2), its corners.

    Returns:
        bool (...).
    """
    x, y = points[..., 0, None], points[..., 1, None]
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
    straddles = (y0 > y) != (y1 > y)
    height = np.where(y1 == y0, 1.0, y1 - y0)  # an edge that lies flat straddles nothing
    crosses = straddles & (x < x0 + (y - y0) * (x1 - x0) / height)
    within: npt.NDArray[np.bool_] = (np.count_nonzero(crosses, axis=-1) % 2).astype(np.bool_)
    return within


def distance_to_edge(points: Floats, polygon: Floats) -> Floats:
    """How far each point is from the nearest edge of the polygon.

    Args:
        points: float64 (..., 2).
        polygon: float64 (M, 2).

    Returns:
        float64 (...).
    """
    start, along = polygon, np.roll(polygon, -1, axis=0) - polygon
    to_point = points[..., None, :] - start
    squared = np.maximum((along * along).sum(axis=-1), 1e-12)
    share = np.clip((to_point * along).sum(axis=-1) / squared, 0.0, 1.0)
    away = to_point - share[..., None] * along
    nearest: Floats = np.sqrt((away * away).sum(axis=-1)).min(axis=-1)
    return nearest


def beside(points: Floats, start: Floats, end: Floats) -> tuple[Floats, Floats]:
    """Where points are as seen from a line.

    Args:
        points: float64 (N, 2).
        start: float64 (2,).
        end: float64 (2,), another point.

    Returns:
        float64 (N,), the distance from the endless line, positive on the right of who looks from start to end; and
        float64 (N,), the place along the line, 0 at its start, 1 at its end.
    """
    along, to_point = end - start, points - start
    length = max(float(np.hypot(*along)), 1e-9)
    across = (along[0] * to_point[:, 1] - along[1] * to_point[:, 0]) / length
    return across, to_point @ along / length**2
