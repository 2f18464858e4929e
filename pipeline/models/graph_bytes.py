"""From a shrunk picture's bytes to a model's input as ONNX nodes: range, mean, layout."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Size
from pipeline.models.graph_nodes import Nodes, TensorSpec, model_of
from pipeline.models.graph_planes import SLOT, SlotOut
from pipeline.models.preprocess import InputBuffer, Preprocess

PIXELS = "penstock/pixels"
"""The input that takes bytes: uint8 (B, H, W, 3), the channels in the model's order."""


def bytes_graph(slot: SlotOut) -> bytes:
    """A model of its own: `PIXELS` of one picture, padding included, in; `slot.tensor` out."""
    width, height = slot.placement.input_size
    nodes = Nodes()
    add_bytes(nodes, slot.preprocess, slot.dtype, channels_last=slot.channels_last, output=SLOT)
    return model_of(nodes, [TensorSpec(PIXELS, "uint8", (1, height, width, 3))], [slot.tensor])


def add_bytes(nodes: Nodes, preprocess: Preprocess, dtype: str, *, channels_last: bool, output: str) -> None:
    """The nodes that make `output`, the model's input, of `PIXELS`."""
    found = PIXELS
    if not channels_last:
        found = nodes.add("Transpose", found, perm=[0, 3, 1, 2])  # of bytes: a quarter of the floats
    gain, offset = np.array(preprocess.affine).T
    shape = (1, 1, 1, 3) if channels_last else (1, 3, 1, 1)
    found = nodes.cast(found, np.float32)
    found = nodes.add("Mul", found, nodes.constant(_short(gain / 255, shape), np.float32))
    if offset.any():
        found = nodes.add("Add", found, nodes.constant(_short(offset, shape), np.float32))
    if dtype == "uint8":
        found = nodes.add("Add", found, nodes.constant(0.5, np.float32))
    from onnx import helper

    nodes.add("Cast", found, output=output, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def bytes_buffer(preprocess: Preprocess, input_size: Size, *, batch: int) -> InputBuffer:
    """Where pictures become what `PIXELS` takes: as on the plain path, and then rounded to bytes.

    swscale's own ways to RGB of 8 bits are cheaper and not the same picture: averaged (AREA) or shifted
    (FAST_BILINEAR). The padding is in the buffer: where a picture lies is the source's matter, not the model's.
    """
    as_bytes = replace(preprocess, value_range="0..255", mean=Preprocess().mean, std=Preprocess().std)
    return InputBuffer(as_bytes, input_size, np.uint8, channels_last=True, batch=batch)


def _short(values: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """One number where all three are the same."""
    return values[0] if len(set(values)) == 1 else values.reshape(shape)
