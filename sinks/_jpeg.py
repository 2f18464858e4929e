"""A part of a picture, shrunk, and what was found in it moved along; and planes as JPEG."""

import dataclasses
import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.contracts.analysis import Scene
from pipeline.contracts.frame import Size, YuvPlanes
from pipeline.contracts.result import Detections, Prediction
from sinks._planes import Planes, planes_of

if TYPE_CHECKING:
    import av

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the original frame."""


class Cut(NamedTuple):
    """A part of a picture and how large it becomes. All whole pixels.

    Attributes:
        left: of the original picture, even.
        top: of the original picture, even.
        width: of the part.
        height: of the part.
        size: how large it becomes.
    """

    left: int
    top: int
    width: int
    height: int
    size: Size


def cut_of(picture: Size, crop: Box | None, max_size: int | None) -> Cut:
    """The part that `crop` asks for, as far as it lies in the picture (all of it where it does not), not enlarged."""
    left, top, right, bottom = 0, 0, picture.width, picture.height
    if crop is not None and np.isfinite(crop).all():
        x1, x2 = (int(np.clip(value, 0, picture.width)) for value in (np.floor(crop[0]), np.ceil(crop[2])))
        y1, y2 = (int(np.clip(value, 0, picture.height)) for value in (np.floor(crop[1]), np.ceil(crop[3])))
        if x2 > x1 and y2 > y1:
            left, top, right, bottom = x1 // 2 * 2, y1 // 2 * 2, x2, y2
    width, height = right - left, bottom - top
    ratio = 1.0 if max_size is None else min(1.0, max_size / max(width, height))
    return Cut(left, top, width, height, Size(max(1, round(width * ratio)), max(1, round(height * ratio))))


def cut_picture(planes: YuvPlanes, cut: Cut) -> YuvPlanes:
    """The part of the picture, as large as it shall be; a view of the picture where it is not shrunk."""
    right, bottom = cut.left + cut.width, cut.top + cut.height
    half = np.s_[cut.top // 2 : (bottom + 1) // 2, cut.left // 2 : (right + 1) // 2]
    part = dataclasses.replace(
        planes, y=planes.y[cut.top : bottom, cut.left : right], u=planes.u[half], v=planes.v[half]
    )
    if cut.size == (cut.width, cut.height):
        return part
    from av.video.reformatter import Interpolation, VideoReformatter

    shrunk = VideoReformatter().reformat(
        as_frame(part),
        width=cut.size.width,
        height=cut.size.height,
        interpolation=Interpolation.AREA | Interpolation.ACCURATE_RND,
        threads=1,
    )
    y, u, v = planes_of(shrunk)
    return dataclasses.replace(planes, y=y, u=u, v=v)


def cut_prediction(prediction: Prediction, cut: Cut) -> Prediction:
    """The same with everything where it is in the part."""
    if not isinstance(prediction, Detections):
        return prediction
    ratio = np.array([cut.size.width / cut.width, cut.size.height / cut.height], np.float32)
    origin = np.array([cut.left, cut.top], np.float32)
    keypoints = prediction.keypoints
    if keypoints is not None:
        keypoints = keypoints.copy()
        keypoints[..., :2] = (keypoints[..., :2] - origin) * ratio
    return dataclasses.replace(
        prediction,
        xyxy=(prediction.xyxy - np.tile(origin, 2)) * np.tile(ratio, 2),
        keypoints=keypoints,
        masks=None if prediction.masks is None else _cut_masks(prediction.masks, cut),
    )


def cut_scene(scene: Scene | None, cut: Cut, picture: Size) -> Scene | None:
    """The same with zones and lines where they are in the part."""
    if scene is None or (cut.width, cut.height) == picture:
        return scene

    def moved(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point
        return (x * picture.width - cut.left) / cut.width, (y * picture.height - cut.top) / cut.height

    return dataclasses.replace(
        scene,
        zone_shapes={name: tuple(map(moved, corners)) for name, corners in scene.zone_shapes.items()},
        line_shapes={name: (moved(start), moved(end)) for name, (start, end) in scene.line_shapes.items()},
    )


def encoded(planes: Planes, like: YuvPlanes, size: Size, quality: int) -> bytes:
    """The planes as JPEG, only their first `size.width` columns and `size.height` rows."""
    from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
    from PIL import Image

    spaces = {"bt601": Colorspace.ITU601, "bt709": Colorspace.ITU709, "bt2020": Colorspace.BT2020}
    frame = as_frame(dataclasses.replace(like, y=planes.y, u=planes.u, v=planes.v))
    rgb = VideoReformatter().reformat(
        frame,
        format="rgb24",
        src_colorspace=spaces[like.matrix],
        src_color_range=ColorRange.JPEG if like.full_range else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        threads=1,
    )
    file = io.BytesIO()
    image = Image.fromarray(rgb.to_ndarray()[: size.height, : size.width])
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def as_frame(planes: YuvPlanes) -> "av.VideoFrame":
    """A copy of the planes as a frame of yuv420p."""
    import av

    height, width = planes.y.shape
    frame = av.VideoFrame(width, height, "yuv420p")
    for to, of in zip(planes_of(frame), (planes.y, planes.u, planes.v), strict=True):
        to[:] = of
    return frame


def _cut_masks(masks: npt.NDArray[np.bool_], cut: Cut) -> npt.NDArray[np.bool_]:
    rows = cut.top + (np.arange(cut.size.height) * cut.height) // cut.size.height
    columns = cut.left + (np.arange(cut.size.width) * cut.width) // cut.size.width
    return masks[:, rows][:, :, columns]
