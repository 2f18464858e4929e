"""From pictures to the model's input tensor: letterboxed, normalised, in a buffer that is used again and again."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, FiniteFloat

from pipeline.contracts.component import FrozenModel
from pipeline.contracts.frame import Picture, Size
from pipeline.models.letterbox import Placement, centre_crop, place, stretch

UNCONVERTIBLE = (ValueError, OSError, MemoryError, NotImplementedError)
"""What a hostile or broken picture raises on its way into the input: an odd pixel format, no memory for a huge one."""

_MAX_CUT = 8  # a resized picture of more than so many inputs is cut before it is resized

Channels = Literal["rgb", "bgr"]
ValueRange = Literal["0..1", "0..255"]
Align = Literal["centre", "top_left"]
Resize = Literal["letterbox", "stretch", "crop"]
"""How a picture comes into an input of another shape: padded, out of proportion, or only its middle."""
Triple = tuple[float, float, float]
Spread = Annotated[float, Field(ge=1e-3, le=1e6)]

# Where each channel of the model lies in the G, B, R planes that a picture gives.
_PLANES: dict[str, tuple[int, int, int]] = {"rgb": (2, 0, 1), "bgr": (1, 0, 2)}


class PreprocessConfig(FrozenModel):
    """What the model wants to be fed, where it is not what its family usually wants."""

    channels: Channels | None = Field(default=None, description="order of the colour channels: rgb or bgr")
    range: ValueRange | None = Field(default=None, description='range of the values: "0..1" or "0..255"')
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] | None = Field(
        default=None, description="taken off each channel, in the model's order and range"
    )
    std: tuple[Spread, Spread, Spread] | None = Field(default=None, description="then each channel is divided by this")
    pad: int | None = Field(default=None, ge=0, le=255, description="grey value of the padding, 0 to 255")
    align: Align | None = Field(default=None, description="where the picture lies in the input: centre or top_left")
    resize: Resize | None = Field(
        default=None, description="letterbox: padded, stretch: out of proportion, or crop: the middle of the picture"
    )
    crop_ratio: float | None = Field(
        default=None, ge=0.1, le=1.0, description="crop: the input's side by the shorter side of the resized picture"
    )


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a picture becomes the model's input.

    Attributes:
        channels: order of the colour channels.
        value_range: range of the values before `mean` and `std`.
        align: where the picture lies in the input.
        pad: grey value of the padding, 0..255.
        mean: taken off each channel, in the model's order and range.
        std: then each channel is divided by it; none is 0.
        resize: how a picture comes into an input of another shape.
        crop_ratio: with "crop": the input's side by the shorter side of the resized picture.
    """

    channels: Channels = "rgb"
    value_range: ValueRange = "0..1"
    align: Align = "centre"
    pad: int = 114
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    resize: Resize = "letterbox"
    crop_ratio: float = 1.0

    def overridden(self, config: PreprocessConfig) -> Self:
        """This one with what a config says differently."""
        changes = config.model_dump(exclude_none=True)
        if "range" in changes:
            changes["value_range"] = changes.pop("range")
        return replace(self, **changes)

    def place(self, frame: Size, input_size: Size) -> Placement:
        """Where a frame of this size lies in the input."""
        if self.resize == "stretch":
            return stretch(frame, input_size)
        if self.resize == "crop":
            return centre_crop(frame, input_size, self.crop_ratio)
        return place(frame, input_size, centred=self.align == "centre")

    @property
    def affine(self) -> tuple[tuple[float, float], ...]:
        """Per channel `(gain, offset)`: model value = gain * (0..1 value) + offset."""
        top = 255.0 if self.value_range == "0..255" else 1.0
        return tuple((top / s, -m / s) for m, s in zip(self.mean, self.std, strict=True))

    def __str__(self) -> str:
        how = {
            "letterbox": f"letterbox {self.align}, padding {self.pad}",
            "stretch": "stretched",
            "crop": f"centre crop, {self.crop_ratio:g} of the shorter side",
        }[self.resize]
        text = f"{self.channels.upper()} {self.value_range}, {how}"
        if any(self.mean) or set(self.std) != {1.0}:
            text += f", mean {self.mean}, std {self.std}"
        return text


class InputBuffer:
    """One input tensor, kept between calls, so that padding is written once and no memory is asked for per frame.

    Made by the backend, used by one thread at a time.

    Args:
        preprocess: what the model wants.
        input_size: width and height of the tensor.
        dtype: float32, float16 or uint8.
        channels_last: True for NHWC, False for NCHW.
        batch: frames in it.
    """

    def __init__(
        self, preprocess: Preprocess, input_size: Size, dtype: npt.DTypeLike, *, channels_last: bool, batch: int
    ) -> None:
        width, height = input_size
        shape = (batch, height, width, 3) if channels_last else (batch, 3, height, width)
        self.tensor: npt.NDArray[np.generic] = np.empty(shape, dtype)
        """What the model is fed: (batch, 3, H, W), or (batch, H, W, 3)."""
        self._planes = self.tensor.transpose(0, 3, 1, 2) if channels_last else self.tensor
        self._input_size = input_size
        self._preprocess = preprocess
        self._order = _PLANES[preprocess.channels]
        self._affine = preprocess.affine
        self._integer = self.tensor.dtype.kind == "u"
        self._plain = not self._integer and all(pair == (1.0, 0.0) for pair in self._affine)
        # All values lie between 0 and the largest gain: half floats can be made the cheap way.
        self._half = self.tensor.dtype == np.float16 and all(g < 65_000 and not offset for g, offset in self._affine)
        self._placed: list[Placement | None] = [None] * batch
        for slot in range(batch):
            self._pad(slot, preprocess.place(input_size, input_size))

    def put(self, slot: int, picture: Picture, placement: Placement) -> None:
        """Shrink a picture into the tensor's row `slot`."""
        planes = _middle(picture, placement) if placement.cut else picture.gbr_planes(*placement.content)
        if self._placed[slot] != placement:
            self._pad(slot, placement)
        left, top = max(0, placement.left), max(0, placement.top)
        target = self._planes[slot, :, top : placement.bottom, left : placement.right]
        if self._half:
            for channel, (plane, (gain, _)) in enumerate(zip(self._order, self._affine, strict=True)):
                _write_half(planes[plane], gain, target[channel].view(np.uint16))
            return
        if self._plain:
            for channel, plane in enumerate(self._order):
                target[channel] = planes[plane]
            return
        for channel, (plane, (gain, offset)) in enumerate(zip(self._order, self._affine, strict=True)):
            values = planes[plane] * np.float32(gain)
            if offset:
                values += np.float32(offset)
            if self._integer:  # rounded to nearest
                values += np.float32(0.5)
            target[channel] = values

    def _pad(self, slot: int, placement: Placement) -> None:
        for channel, (gain, offset) in enumerate(self._affine):
            value = gain * self._preprocess.pad / 255 + offset
            plane = self._planes[slot, channel]
            for band in (plane[: max(0, placement.top)], plane[placement.bottom :]):
                band[...] = value
            for band in (plane[:, : max(0, placement.left)], plane[:, placement.right :]):
                band[...] = value
        self._placed[slot] = placement


def _middle(picture: Picture, placement: Placement) -> npt.NDArray[np.float32]:
    """float32 (3, height, width) of the input: what of the resized picture is not cut off."""
    (width, height), content = placement.input_size, placement.content
    left, top = max(0, -placement.left), max(0, -placement.top)
    if content.width * content.height <= _MAX_CUT * width * height:
        return picture.gbr_planes(*content)[:, top : top + height, left : left + width]
    # A picture like a ribbon would become a huge one, nearly all of which is cut off: here it is cut first.
    from pipeline.models.picture import from_rgb

    by, frame = placement.scale, picture.size
    x, y = min(frame.width - 1, int(left / by)), min(frame.height - 1, int(top / by))
    right, bottom = max(x + 1, round((left + width) / by)), max(y + 1, round((top + height) / by))
    return from_rgb(np.ascontiguousarray(picture.rgb()[y:bottom, x:right])).gbr_planes(width, height)


def _write_half(values: npt.NDArray[np.float32], gain: float, half_bits: npt.NDArray[np.uint16]) -> None:
    """Write `gain * values`, none negative, as the bits of float16: 0.15 ms where NumPy's own cast takes 1.0 ms.

    Times 2**-112 the exponent of a float32 counts from where that of a float16 does, subnormals included: what is
    left is to round away 13 bits of the mantissa. Ties go up, NumPy's go to even.
    """
    bits = (values * np.float32(gain * 2.0**-112)).view(np.uint32)
    bits += np.uint32(0x1000)
    bits >>= np.uint32(13)
    half_bits[...] = bits
