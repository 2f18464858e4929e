"""Upsample: a convolution of single pixels over a map that was enlarged, done before it is enlarged.

The necks of all YOLO enlarge a map, put it beside a larger one and convolve both. What that does to one pixel's
channels is the same before and after; before there are a quarter as many pixels, and behind fewer channels to enlarge.
"""

from typing import Any, NamedTuple

import numpy as np

from pipeline.models.graph_rewrite_net import Array, Net

_KEEPS_CHANNELS = ("Sigmoid", "Relu", "LeakyRelu", "HardSwish", "HardSigmoid", "Tanh", "Clip", "Resize", "MaxPool")
_MAX_BACK = 16
_MAX_BESIDE = 16


class _Conv(NamedTuple):
    """A convolution of single pixels: the node, its kernel, and which channels of it are over the enlarged map."""

    number: int
    weight: Array
    attributes: dict[str, Any]


def convolve_first(net: Net) -> int:
    """Do it for each map that is enlarged and put beside others; gives how many there were."""
    return sum(_change(net, concat) for concat in list(net.of_type("Concat")))


def _change(net: Net, concat: int) -> bool:
    node = net.nodes[concat]
    if not 1 < len(node.input) <= _MAX_BESIDE:  # what is beside is put together anew for each convolution
        return False
    enlarged = [place for place, name in enumerate(node.input) if _is_enlarged(net, name)]
    convs = _convs(net, node.output[0])
    if net.attributes(concat).get("axis") not in {1, -3} or len(enlarged) != 1 or not convs:
        return False
    (place,) = enlarged
    resize = net.maker(node.input[place], "Resize")
    if resize is None or net.users(node.input[place]) != [concat] or place not in {0, len(node.input) - 1}:
        return False
    small, channels, whole = net.nodes[resize].input[0], 0, convs[0].weight.shape[1]
    channels = _channels(net, small)
    if not 0 < channels < whole or sum(len(conv.weight) for conv in convs) > channels:
        return False  # as many channels to enlarge as before, or more
    first = slice(0, channels) if place == 0 else slice(whole - channels, whole)
    others = slice(channels, whole) if place == 0 else slice(0, whole - channels)
    beside = [name for i, name in enumerate(node.input) if i != place]
    for conv in convs:
        nodes = net.put(conv.number, concat, resize)
        old = net.nodes[conv.number]
        weights = [nodes.constant(conv.weight[:, part], conv.weight.dtype) for part in (first, others)]
        convolved = nodes.add("Conv", small, weights[0], **conv.attributes)
        rest = beside[0] if len(beside) == 1 else nodes.add("Concat", *beside, axis=1)
        grown = nodes.add("Resize", convolved, *net.nodes[resize].input[1:], **net.attributes(resize))
        nodes.add(
            "Add", nodes.add("Conv", rest, weights[1], *old.input[2:], **conv.attributes), grown, output=old.output[0]
        )
    return True


def _is_enlarged(net: Net, name: str) -> bool:
    """Whether a value is made by a Resize of rows and columns whose pixels are copies, or means, of the map's."""
    number = net.maker(name, "Resize")
    if number is None or len(net.nodes[number].input) != 3:
        return False
    attributes, scales = net.attributes(number), net.constant(net.nodes[number].input[2])
    if attributes.get("mode", b"nearest") not in {b"nearest", b"linear"} or "axes" in attributes:
        return False
    if attributes.get("coordinate_transformation_mode") == b"tf_crop_and_resize" or scales is None:
        return False
    return scales.shape == (4,) and bool((scales[:2] == 1).all() and (scales[2:] >= 1).all() and scales.max() > 1)


def _convs(net: Net, name: str) -> list[_Conv]:
    """All that uses a value, if these are convolutions of single pixels in float32; else nothing."""
    found = []
    for number in net.users(name) or ():
        node = net.nodes[number]
        weight = net.constant(node.input[1]) if net.is_one(number, "Conv") else None
        attributes = net.attributes(number) if weight is not None else {}
        if weight is None or weight.dtype != np.float32 or weight.ndim != 4 or weight.shape[2:] != (1, 1):
            return []
        moves = set(attributes.get("strides", [1])) != {1} or set(attributes.get("pads", [0])) != {0}
        if moves or attributes.get("group", 1) != 1 or node.input[0] != name:
            return []
        found.append(_Conv(number, weight, attributes))
    return found if len({conv.weight.shape[1] for conv in found}) == 1 else []


def _channels(net: Net, name: str) -> int:
    """How many channels a value has, looked for some nodes back; 0: not known."""
    for _ in range(_MAX_BACK):
        shape = net.shape(name)
        if shape is not None and len(shape) == 4 and shape[1]:
            return shape[1]
        conv = net.maker(name, "Conv")
        if conv is not None:
            kernel = net.shape(net.nodes[conv].input[1])
            return (kernel[0] or 0) if kernel else 0
        product = net.maker(name, "Mul")
        number = net.maker(name, *_KEEPS_CHANNELS) if product is None else net.silu(product)
        if number is None:
            return 0
        name = net.nodes[number].input[0]
    return 0
