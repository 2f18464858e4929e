"""Masks: the last layers of a segmenting model's masks, done before they are enlarged instead of behind.

The prototypes of YOLOv8-seg and later are enlarged by a transposed convolution of 2x2 pixels, and convolved 3x3 with
nothing between: each of the four pixels that come of one is a convolution of 2x2 small ones, less than half the work
(sub-pixel convolution, Shi et al. 2016). What follows is for each pixel alone: it is done before they are put together.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np

from pipeline.models.graph_nodes import Nodes
from pipeline.models.graph_rewrite_net import Array, Net

_CORNERS = tuple(itertools.product((0, 1), (0, 1)))


class _Layer(NamedTuple):
    """A convolution: the node, its kernel and its bias."""

    number: int
    kernel: Array
    bias: Array


def enlarge_last(net: Net) -> int:
    """Do it for each such stack of layers; gives how many there were."""
    return sum(_change(net, number) for number in list(net.of_type("ConvTranspose")))


def _change(net: Net, transposed: int) -> bool:
    grow = _layer(net, transposed, {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0] * 4})
    mix_at = net.user(net.nodes[transposed].output[0], "Conv")
    mix = _layer(net, mix_at, {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4})
    first = _activation(net, mix_at)
    last_at = None if first is None else net.user(net.nodes[first[-1]].output[0], "Conv")
    last = _layer(net, last_at, {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4})
    second = _activation(net, last_at)
    if grow is None or mix is None or last is None or first is None or second is None or not _pays(grow, mix):
        return False
    nodes = net.put(second[-1], *second, last.number, *first, mix.number, transposed)
    small, end = net.nodes[transposed].input[0], net.nodes[second[-1]].output[0]
    kernels, biases = _of_small_pixels(grow, mix)
    ones = _ones(nodes, small)
    last_weights = [nodes.constant(values, np.float32) for values in (last.kernel, last.bias)]
    mix_bias = nodes.constant(mix.bias, np.float32)
    corners = []
    for row, column in _CORNERS:
        around: dict[str, Any] = {"kernel_shape": [2, 2], "pads": [1 - row, 1 - column, row, column]}
        kernel, bias = (nodes.constant(of[row, column], np.float32) for of in (kernels, biases))
        mixed = nodes.add("Conv", small, kernel, mix_bias, **around)
        mixed = _silu(nodes, nodes.add("Add", mixed, nodes.add("Conv", ones, bias, **around)))
        corners.append(_silu(nodes, nodes.add("Conv", mixed, *last_weights, kernel_shape=[1, 1])))
    nodes.add("DepthToSpace", nodes.add("Concat", *corners, axis=1), blocksize=2, mode="DCR", output=end)
    return True


def _pays(grow: _Layer, mix: _Layer) -> bool:
    """Whether there is less to multiply for a small pixel; else the new kernels could be far larger than the file."""
    (made, between), taken = mix.kernel.shape[:2], len(grow.kernel)
    return bool(16 * made * taken < 4 * between * (taken + 9 * made))


def _of_small_pixels(grow: _Layer, mix: _Layer) -> tuple[Array, Array]:
    """For each corner (row, column) the kernel over small pixels, and one over ones for what `grow` adds.

    Outside of the picture `grow` adds nothing, for `mix` is padded with zeros: only what is inside is counted so.
    """
    made, taken = mix.kernel.shape[0], grow.kernel.shape[0]
    kernels, biases = np.zeros((2, 2, made, taken, 2, 2)), np.zeros((2, 2, made, 1, 2, 2))
    mixes, grows = mix.kernel.astype(np.float64), grow.kernel.astype(np.float64)
    for (row, column), (down, across) in itertools.product(_CORNERS, itertools.product(range(3), range(3))):
        (small_row, y), (small_column, x) = divmod(row + down - 1, 2), divmod(column + across - 1, 2)
        at = (row, column, ..., small_row + 1 - row, small_column + 1 - column)
        kernels[at] += mixes[:, :, down, across] @ grows[:, :, y, x].T
        biases[at] += (mixes[:, :, down, across] @ grow.bias.astype(np.float64))[:, None]
    return kernels, biases


def _ones(nodes: Nodes, small: str) -> str:
    """As many rows and columns of ones as a map has."""
    from onnx import numpy_helper

    sides = nodes.cut(nodes.add("Shape", small), 0, 2, 4)
    shape = nodes.add("Concat", nodes.constant([1, 1], np.int64), sides, axis=0)
    return nodes.add("ConstantOfShape", shape, value=numpy_helper.from_array(np.ones(1, np.float32)))


def _silu(nodes: Nodes, value: str) -> str:
    return nodes.add("Mul", value, nodes.add("Sigmoid", value))


def _activation(net: Net, conv: int | None) -> tuple[int, int] | None:
    """The Sigmoid and the Mul of the SiLU that alone uses what a convolution makes."""
    users = [] if conv is None else sorted(net.users(net.nodes[conv].output[0]) or ())
    product = next((number for number in users if net.is_one(number, "Mul")), None)
    sigmoid = None if product is None else net.silu(product)
    if product is None or sigmoid is None or users != sorted((sigmoid, product)):
        return None
    return (sigmoid, product) if net.users(net.nodes[sigmoid].output[0]) == [product] else None


def _layer(net: Net, number: int | None, wanted: dict[str, Any]) -> _Layer | None:
    """A convolution in float32 with a bias, and with these attributes and no others that matter."""
    if number is None or len(net.nodes[number].input) != 3:
        return None
    usual = {
        "group": 1,
        "dilations": [1, 1],
        "strides": [1, 1],
        "pads": [0] * 4,
        "kernel_shape": wanted["kernel_shape"],
    }
    kernel, bias = (net.constant(name) for name in net.nodes[number].input[1:])
    if kernel is None or bias is None or kernel.dtype != np.float32 or kernel.ndim != 4 or bias.ndim != 1:
        return None
    plain = {**usual, **net.attributes(number)} == {**usual, **wanted}
    return _Layer(number, kernel, bias) if plain and list(kernel.shape[2:]) == wanted["kernel_shape"] else None
