"""Where a picture lies inside a model's input: letterboxed, stretched or cropped; and the way back."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Size


@dataclass(frozen=True, slots=True)
class Placement:
    """A picture inside the input rectangle; the rest of the rectangle is padding.

    Attributes:
        input_size: the whole input, pixels.
        content: the shrunk (or enlarged) picture, pixels.
        left: columns of padding on the left; negative where as many columns of the picture are cut off.
        top: rows of padding above; negative where as many rows of the picture are cut off.
        scale: input pixels per pixel of the frame, along a row.
        scale_y: the same along a column; another number only where the picture is stretched.
    """

    input_size: Size
    content: Size
    left: int
    top: int
    scale: float
    scale_y: float

    @property
    def right(self) -> int:
        """First column behind the picture."""
        return self.left + self.content.width

    @property
    def bottom(self) -> int:
        """First row below the picture."""
        return self.top + self.content.height

    @property
    def cut(self) -> bool:
        """Whether the picture reaches over the input's edges."""
        return self.left < 0 or self.top < 0


def place(frame: Size, input_size: Size, *, centred: bool) -> Placement:
    """Place a frame of any size into the input.

    Args:
        frame: size of the frame, both sides at least 1 pixel.
        input_size: size of the input.
        centred: True for YOLOv5 and later (`letterbox` of ultralytics; an odd row or column of padding goes below or
            to the right), False for the upper left corner, as in YOLOX.

    Sides are rounded to the nearest pixel. YOLOX's own `preproc` rounds down; the reference boxes here do not.
    """
    scale = min(input_size.width / frame.width, input_size.height / frame.height)
    content = Size(max(1, round(frame.width * scale)), max(1, round(frame.height * scale)))
    if not centred:
        return Placement(input_size, content, 0, 0, scale, scale)
    left, top = (input_size.width - content.width) // 2, (input_size.height - content.height) // 2
    return Placement(input_size, content, left, top, scale, scale)


def stretch(frame: Size, input_size: Size) -> Placement:
    """A frame that fills the whole input, its aspect ratio lost: DETR and its children."""
    width, height = input_size
    return Placement(input_size, input_size, 0, 0, width / frame.width, height / frame.height)


def centre_crop(frame: Size, input_size: Size, ratio: float) -> Placement:
    """The middle of a frame: its shorter side is made `input / ratio` long, what reaches over is cut off.

    Source: `Resize` and `CenterCrop` of torchvision; sides are rounded to the nearest pixel.
    """
    scale = max(side / ratio / own for side, own in zip(input_size, frame, strict=True))
    content = Size(*(max(side, round(own * scale)) for side, own in zip(input_size, frame, strict=True)))
    left, top = (-round((long - side) / 2) for long, side in zip(content, input_size, strict=True))
    return Placement(input_size, content, left, top, scale, scale)


def fitted(frame: Size, limit: Size, stride_px: int) -> Size:
    """The smallest input, in multiples of `stride_px`, that holds the frame as it would lie in `limit`."""
    content = place(frame, limit, centred=True).content
    return Size(*(min(-(-side // stride_px) * stride_px, top) for side, top in zip(content, limit, strict=True)))


def to_input(xyxy: npt.NDArray[np.float32], placement: Placement) -> npt.NDArray[np.float32]:
    """Boxes float32 (K, 4) xyxy, pixels of the frame, in pixels of the input."""
    offset = np.array((placement.left, placement.top) * 2, np.float32)
    return xyxy * _scales(placement) + offset


def to_frame(xyxy: npt.NDArray[np.float32], placement: Placement, frame: Size) -> npt.NDArray[np.float32]:
    """Boxes float32 (K, 4) xyxy, pixels of the input, in pixels of the frame and clipped to it; a new array."""
    offset = np.array((placement.left, placement.top) * 2, np.float32)
    boxes = (xyxy - offset) / _scales(placement)
    # Two calls for each axis are cheaper than np.clip with an array of bounds.
    np.maximum(boxes, 0, out=boxes)
    np.minimum(boxes, np.array((frame.width, frame.height) * 2, np.float32), out=boxes)
    return boxes


def points_to_frame(points: npt.NDArray[np.float32], placement: Placement, frame: Size) -> npt.NDArray[np.float32]:
    """Points float32 (K, P, 2) x and y, pixels of the input, in pixels of the frame and clipped to it; a new array.

    What is no number stays none.
    """
    offset = np.array((placement.left, placement.top), np.float32)
    found = (points - offset) / np.array((placement.scale, placement.scale_y), np.float32)
    clipped: npt.NDArray[np.float32] = np.clip(found, 0, np.array(frame, np.float32))
    return clipped


def _scales(placement: Placement) -> npt.NDArray[np.float32] | np.float32:
    if placement.scale == placement.scale_y:
        return np.float32(placement.scale)  # cheaper than an array of four
    return np.array((placement.scale, placement.scale_y) * 2, np.float32)
