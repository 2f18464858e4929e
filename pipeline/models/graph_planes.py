"""From a decoder's planes to a model's input as ONNX nodes: colours, size, place, range, layout; for GPUs."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import ColorMatrix, Size
from pipeline.models.graph_nodes import OPSET, CannotComposeError, Nodes, TensorSpec, model_of
from pipeline.models.letterbox import Placement
from pipeline.models.preprocess import Preprocess

PlanesFormat = Literal["nv12", "p010", "i420"]
"""How the planes lie: luma, then U and V in turns, of 8 bits or of the upper 10 of 16; or luma, U and V apart."""

SLOT = "slot"
"""The output of `planes_graph` and `bytes_graph`: one picture as the model takes it."""

MAX_CUT = 8
"""A resized picture of more than so many inputs, most of which is cut off, is not made here."""

# swscale's float planes count to 65535; white of 8 bits is 255 * 256 there, of 10 bits 1023 * 64. So it is here: one
# picture shall give one answer wherever it lies.
_WHITE = 255 * 256 / 65535
_WHITE_OF_10_BITS = 1023 * 64 / 65535

_ANTIALIAS_OPSET = 18  # the first whose Resize has it
_LUMA_WEIGHTS: dict[ColorMatrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}


@dataclass(frozen=True, slots=True)
class PlanesIn:
    """A decoder's picture as it lies in memory; also the key under which what is made for it is kept.

    Attributes:
        format: how the planes lie.
        size: of the picture as decoded, not turned.
        luma_pitch_bytes: from one row of luma to the next.
        chroma_pitch_bytes: from one row of the chroma plane (or of each of the two) to the next.
        matrix: which YCbCr matrix the values are in.
        full_range: True for 0..255, False for 16..235.
        rotation_deg: by how much the picture must be turned clockwise to be upright.
    """

    format: PlanesFormat
    size: Size
    luma_pitch_bytes: int
    chroma_pitch_bytes: int
    matrix: ColorMatrix = "bt709"
    full_range: bool = False
    rotation_deg: Literal[0, 90, 180, 270] = 0

    @property
    def chroma_size(self) -> Size:
        """Width and height of the colours' planes."""
        return Size(-(-self.size.width // 2), -(-self.size.height // 2))

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """What is bound by pointer, luma first: whole rows, so that the pitch is a width.

        Raises:
            CannotComposeError: the pitch is no whole number of values, or shorter than a row.
        """
        dtype, wide = ("uint16", 2) if self.format == "p010" else ("uint8", 1)
        chroma = self.chroma_size
        across = 1 if self.format == "i420" else 2
        luma_px, rest = divmod(self.luma_pitch_bytes, wide)
        chroma_px, chroma_rest = divmod(self.chroma_pitch_bytes, wide * across)
        if rest or chroma_rest or luma_px < self.size.width or chroma_px < chroma.width:
            raise CannotComposeError(f"rows of {self.luma_pitch_bytes} and {self.chroma_pitch_bytes} bytes do not fit")
        luma = TensorSpec("y", dtype, (1, 1, self.size.height, luma_px))
        if self.format == "i420":
            plane = (1, 1, chroma.height, chroma_px)
            return luma, TensorSpec("u", dtype, plane), TensorSpec("v", dtype, plane)
        return luma, TensorSpec("uv", dtype, (1, chroma.height, chroma_px, 2))


@dataclass(frozen=True, slots=True)
class SlotOut:
    """One picture's place in a model's input; also the key under which what is made for it is kept.

    Attributes:
        preprocess: how the model is fed.
        placement: where the upright picture lies in the input.
        dtype: of the input: float32, float16 or uint8.
        channels_last: True for NHWC.
    """

    preprocess: Preprocess
    placement: Placement
    dtype: str = "float32"
    channels_last: bool = False

    @property
    def tensor(self) -> TensorSpec:
        """The output `slot`."""
        width, height = self.placement.input_size
        return TensorSpec(SLOT, self.dtype, (1, height, width, 3) if self.channels_last else (1, 3, height, width))


def planes_graph(planes: PlanesIn, slot: SlotOut, *, antialias: bool = False) -> bytes:
    """A model of its own: `planes.tensors` in, `slot.tensor` out. Every operator in it has a CUDA kernel for its type.

    Args:
        planes: the picture.
        slot: where it goes.
        antialias: average over all pixels that become one; swscale's filter, and so the plain path, does not.

    Raises:
        CannotComposeError: the picture cannot come into the input this way.
    """
    nodes = Nodes(_ANTIALIAS_OPSET if antialias else OPSET)
    add_planes(nodes, planes, slot, antialias=antialias, output=SLOT)
    return model_of(nodes, planes.tensors, [slot.tensor])


def add_planes(nodes: Nodes, planes: PlanesIn, slot: SlotOut, *, antialias: bool = False, output: str) -> None:
    """The nodes that make `output`, one picture as the model takes it, of the inputs `planes.tensors`.

    Raises:
        CannotComposeError: the picture cannot come into the input this way.
    """
    place = slot.placement
    width, height = place.input_size
    if place.content.width * place.content.height > MAX_CUT * width * height:
        raise CannotComposeError(f"{place.content.width} x {place.content.height} pixels, most of them cut off")
    sides = place.content[::-1] if planes.rotation_deg in {0, 180} else place.content
    luma, *chroma = _cropped(nodes, planes)
    # Cast first: a Resize of bytes rounds, and luma and chroma would each lose half a step.
    values = [nodes.resize(nodes.cast(luma, np.float32), (1, 1, *sides), antialias=antialias)]
    for name in chroma:
        together = 2 // len(chroma)
        shrunk = nodes.resize(nodes.cast(name, np.float32), (1, together, *sides), antialias=antialias)
        values += [nodes.cut(shrunk, 1, at, at + 1) for at in (0, 1)] if together == 2 else [shrunk]
    matrix, offset, low, high = _to_channels(planes, slot.preprocess)
    # Three products instead of a Conv or a MatMul: CUDA would round those to 10 bits (TF32), and load cuDNN for one.
    found = nodes.constant(offset.reshape(1, 3, 1, 1), np.float32)
    for name, column in zip(values, matrix.T, strict=True):
        weights = nodes.constant(column.reshape(1, 3, 1, 1), np.float32)
        found = nodes.add("Add", nodes.add("Mul", name, weights), found)
    found = _bounded(nodes, found, low, high)
    found = _upright(nodes, found, planes.rotation_deg, place.content)
    found = _placed(nodes, found, slot)
    if slot.dtype == "uint8":
        found = nodes.add("Add", found, nodes.constant(0.5, np.float32))
    steps: list[tuple[str, dict[str, object]]] = []
    if slot.dtype != "float32":
        from onnx import helper

        steps.append(("Cast", {"to": helper.np_dtype_to_tensor_dtype(np.dtype(slot.dtype))}))
    if slot.channels_last:
        steps.append(("Transpose", {"perm": [0, 2, 3, 1]}))
    for at, (operator, attributes) in enumerate(steps or [("Identity", {})], start=1):
        found = nodes.add(operator, found, output=output if at >= len(steps) else None, **attributes)


def _cropped(nodes: Nodes, planes: PlanesIn) -> tuple[str, ...]:
    """Luma (1, 1, H, W) and chroma (1, 2, h, w), or each of its two, without what fills up the rows."""
    found = []
    for tensor in planes.tensors:
        name, axis = tensor.name, 2 if tensor.name == "uv" else 3
        width = planes.size.width if tensor.name == "y" else planes.chroma_size.width
        if tensor.shape[axis] != width:
            name = nodes.cut(name, axis, 0, width)
        found.append(nodes.add("Transpose", name, perm=[0, 3, 1, 2]) if tensor.name == "uv" else name)
    return tuple(found)


def rgb_of_yuv(planes: PlanesIn) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(3, 3) and (3,): R, G, B 0..1, white as in `Picture.gbr_planes`, = matrix @ (Y, U, V as stored) + offset.

    Source: ITU-R BT.601, BT.709 and BT.2020, "digital representation"; P010 holds 10 bits in the upper part of 16.
    """
    red, blue = _LUMA_WEIGHTS[planes.matrix]
    green = 1 - red - blue
    deep = planes.format == "p010"
    one = 256.0 if deep else 1.0  # a step of 8 bits
    white = _WHITE_OF_10_BITS if deep and planes.full_range else _WHITE
    if planes.full_range:
        top = 1023 * 64.0 if deep else 255.0
        luma, chroma, black = white / top, white / top, 0.0
    else:
        luma, chroma, black = white / (219 * one), white / (224 * one), 16 * one
    u, v = 2 * (1 - blue) * chroma, 2 * (1 - red) * chroma
    matrix = np.array([[luma, 0, v], [luma, -u * blue / green, -v * red / green], [luma, u, 0]])
    return matrix, -matrix @ np.array([black, 128 * one, 128 * one])


def _to_channels(
    planes: PlanesIn, preprocess: Preprocess
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Matrix and offset from stored values to the model's, and its channels' least and largest value."""
    matrix, offset = rgb_of_yuv(planes)
    if preprocess.channels == "bgr":
        matrix, offset = matrix[::-1], offset[::-1]
    gain, low = np.array(preprocess.affine).T
    return gain[:, None] * matrix, gain * offset + low, low, gain + low


def _bounded(nodes: Nodes, name: str, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> str:
    """Between black and white: not every YCbCr value is a colour."""
    if len(set(low)) == 1 and len(set(high)) == 1:
        return nodes.add("Clip", name, nodes.constant(low[0], np.float32), nodes.constant(high[0], np.float32))
    name = nodes.add("Max", name, nodes.constant(low.reshape(1, 3, 1, 1), np.float32))
    return nodes.add("Min", name, nodes.constant(high.reshape(1, 3, 1, 1), np.float32))


def _upright(nodes: Nodes, name: str, rotation_deg: int, content: Size) -> str:
    """(1, 3, H, W) turned clockwise; `content` is what comes out."""
    if rotation_deg in {90, 270}:
        name = nodes.add("Transpose", name, perm=[0, 1, 3, 2])
    if rotation_deg in {90, 180}:
        name = nodes.reverse(name, 3, content.width)
    if rotation_deg in {180, 270}:
        name = nodes.reverse(name, 2, content.height)
    return name


def _placed(nodes: Nodes, name: str, slot: SlotOut) -> str:
    """Cut to the input, and padded. CUDA has no Pad for bytes: this comes before the last Cast."""
    place, (width, height) = slot.placement, slot.placement.input_size
    for axis, start, side, whole in (
        (3, place.left, width, place.content.width),
        (2, place.top, height, place.content.height),
    ):
        if start < 0 or whole > side:
            name = nodes.cut(name, axis, max(0, -start), max(0, -start) + side)
    left, top = max(0, place.left), max(0, place.top)
    right, bottom = max(0, width - place.right), max(0, height - place.bottom)
    if not any((left, top, right, bottom)):
        return name
    values = [gain * slot.preprocess.pad / 255 + offset for gain, offset in slot.preprocess.affine]
    pads = nodes.constant([0, 0, top, left, 0, 0, bottom, right], np.int64)
    if len(set(values)) == 1:
        return nodes.add("Pad", name, pads, nodes.constant(values[0], np.float32), mode="constant")
    # A Pad has one value: with one for each channel it is zeros, and then the channels' own on top of the bands.
    band = np.broadcast_to(np.array(values, np.float32)[None, :, None, None], (1, 3, height, width)).copy()
    band[:, :, top : height - bottom, left : width - right] = 0
    padded = nodes.add("Pad", name, pads, nodes.constant(0, np.float32), mode="constant")
    return nodes.add("Add", padded, nodes.constant(band, np.float32))
