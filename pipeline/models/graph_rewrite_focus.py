"""Focus: pixels sorted into channels by strided slices, and the convolution behind, as one convolution.

The stem of YOLOv5 (to 5.0) and YOLOX: Ge et al., "YOLOX: Exceeding YOLO Series in 2021"; SpaceToDepth does the same.
"""

import numpy as np

from pipeline.models.graph_rewrite_net import Array, Net

_RANK = 4
_MAX_STEP = 4
_TO_THE_END = 2**31 - 1
_ROWS_AND_COLUMNS = (2, 3)


def fold_focus(net: Net) -> int:
    """Fold each Focus into its convolution; gives how many there were."""
    return sum(_fold(net, conv) for conv in list(net.of_type("Conv")))


def _fold(net: Net, conv: int) -> bool:
    node = net.nodes[conv]
    maker = net.maker(node.input[0], "Concat", "SpaceToDepth")
    if maker is None or net.user(node.input[0], "Conv") != conv:
        return False
    found = _parts(net, maker)
    weight = net.constant(node.input[1])
    attributes = net.attributes(conv)
    plain = attributes.get("auto_pad", b"NOTSET") == b"NOTSET" and set(attributes.get("dilations", [1])) == {1}
    if found is None or weight is None or weight.ndim != 4 or weight.dtype != np.float32 or not plain:
        return False
    image, step, offsets, slices = found
    if attributes.get("group", 1) != 1 or weight.shape[1] % step**2:
        return False
    whole = _interleaved(weight, step, offsets)
    nodes = net.put(conv, maker, *slices)
    nodes.add(
        "Conv",
        image,
        nodes.constant(whole, whole.dtype),
        *node.input[2:],
        output=node.output[0],
        kernel_shape=list(whole.shape[2:]),
        strides=[step * side for side in attributes.get("strides", [1, 1])],
        pads=[step * side for side in attributes.get("pads", [0, 0, 0, 0])],
    )
    return True


def _interleaved(weight: Array, step: int, offsets: list[tuple[int, int]]) -> Array:
    """The kernel over pixels: each part's kernel at every `step`-th of them, from its offset on."""
    made, taken, height, width = weight.shape
    channels = taken // step**2
    whole = np.zeros((made, channels, height * step, width * step), weight.dtype)
    for part, (row, column) in enumerate(offsets):
        whole[:, :, row::step, column::step] = weight[:, part * channels : (part + 1) * channels]
    return whole


def _parts(net: Net, maker: int) -> tuple[str, int, list[tuple[int, int]], list[int]] | None:
    """What is sorted, into how many rows and columns, the offset (row, column) of each part, and the slices."""
    node = net.nodes[maker]
    attributes = net.attributes(maker)
    if node.op_type == "SpaceToDepth":
        step = attributes["blocksize"]
        if not 1 < step <= _MAX_STEP:
            return None
        return node.input[0], step, [(i // step, i % step) for i in range(step**2)], []
    if attributes.get("axis") not in {1, -3} or not 4 <= len(node.input) <= _MAX_STEP**2:
        return None
    cuts = [_cut(net, name) for name in node.input]
    found = [cut for cut in cuts if cut is not None]
    image, step, _, _ = found[0] if found else ("", 0, (0, 0), [])
    offsets = [cut[2] for cut in found]
    alike = all(cut[:2] == (image, step) for cut in found) and len(found) == len(cuts)
    if not alike or len(cuts) != step**2 or len(set(offsets)) != len(cuts):
        return None
    return image, step, offsets, [number for cut in found for number in cut[3]]


def _cut(net: Net, name: str) -> tuple[str, int, tuple[int, int], list[int]] | None:
    """Every `step`-th row and column of what, from which on, and the one or two slices that take them."""
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    steps: set[int] = set()
    slices: list[int] = []
    while len(starts) < len(_ROWS_AND_COLUMNS):
        number = net.maker(name, "Slice")
        if number is None:
            return None
        node = net.nodes[number]
        bounds = [net.whole_numbers(i) for i in node.input[1:]]
        if len(bounds) != 4 or any(not b or len(b) != len(bounds[0] or ()) for b in bounds):
            return None
        slices.append(number)
        name = node.input[0]
        for start, end, any_axis, step in zip(*(b or () for b in bounds), strict=True):
            axis = any_axis % _RANK
            if axis not in _ROWS_AND_COLUMNS or axis in starts or not 0 <= start < step <= _MAX_STEP:
                return None
            starts[axis], ends[axis] = start, end
            steps.add(step)
    sides = net.shape(name) or [None] * _RANK
    whole = len(sides) == _RANK and all(end >= (sides[axis] or _TO_THE_END) for axis, end in ends.items())
    return (name, steps.pop(), (starts[2], starts[3]), slices) if whole and len(steps) == 1 else None
