"""Pictures as writable 8-bit 4:2:0 planes: the copy that is drawn on."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import YuvPlanes

if TYPE_CHECKING:
    import av


class Planes(NamedTuple):
    """Writable 8-bit 4:2:0 planes of even width and height.

    Attributes:
        y: uint8 (H, W).
        u: uint8 (H / 2, W / 2).
        v: uint8 (H / 2, W / 2).
    """

    y: npt.NDArray[np.uint8]
    u: npt.NDArray[np.uint8]
    v: npt.NDArray[np.uint8]


def planes_of(frame: "av.VideoFrame") -> Planes:
    """The planes of a yuv420p frame as arrays on its own memory, without the padding behind each row."""
    y, u, v = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        for plane in frame.planes
    )
    return Planes(y, u, v)


def copy_planes(target: Planes, source: YuvPlanes) -> None:
    """Copy a picture into planes as large as it, or one column or row larger: its last ones are doubled there."""
    for to, planes in zip(target, (source.y, source.u, source.v), strict=True):
        height, width = planes.shape
        to[:height, :width] = planes
        if to.shape[1] > width:
            to[:height, width] = planes[:, -1]
        if to.shape[0] > height:
            to[height] = to[height - 1]
