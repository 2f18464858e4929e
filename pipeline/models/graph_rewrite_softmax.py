"""Softmax: the mean that a distribution of box distances has, without turning the tensor for its softmax.

The heads of YOLOv8 and later, YOLOv6 and PP-YOLOE: Li et al., "Generalized Focal Loss" (2020), equation 7. ONNX Runtime
turns a tensor whose softmax is not along the last axis, and back again; sums along any axis it takes in place.
"""

import numpy as np

from pipeline.models.graph_nodes import Nodes
from pipeline.models.graph_rewrite_net import Net

_RANK = 4
_CHANNELS = 1


def take_means(net: Net) -> int:
    """Replace each softmax whose weighted sum is all that is asked of it; gives how many there were."""
    return sum(_replace(net, softmax) for softmax in list(net.of_type("Softmax")))


def _replace(net: Net, softmax: int) -> bool:
    node = net.nodes[softmax]
    axis = net.attributes(softmax).get("axis", -1 if net.opset >= 13 else 1)
    axis += _RANK if axis < 0 else 0
    before, after = net.maker(node.input[0], "Transpose"), net.user(node.output[0], "Transpose")
    conv = net.user(node.output[0] if after is None else net.nodes[after].output[0], "Conv")
    if conv is None or (net.opset < 13 and axis != _RANK - 1):  # over all axes from there on, then
        return False
    turns = [_turn(net, number) for number in (before, after)]
    ramp = _ramp(net, conv)
    turned_for_others = before is not None and net.user(node.input[0], "Softmax") is None
    if ramp is None or turned_for_others or any(sorted(turn) != [0, 1, 2, 3] for turn in turns):
        return False
    first, second = turns
    order = [first[i] for i in second]
    if second[_CHANNELS] != axis or first[axis] == _RANK - 1:
        return False
    values = node.input[0] if before is None else net.nodes[before].input[0]
    nodes = net.put(conv, *(number for number in (softmax, before, after) if number is not None))
    mean = _mean(nodes, values, first[axis], ramp)
    nodes.add("Transpose", mean, perm=order, output=net.nodes[conv].output[0])
    return True


def _mean(nodes: Nodes, values: str, axis: int, ramp: list[float]) -> str:
    """The ramp's mean, weighted by the exponentials; no exponential is above 1."""
    weights = nodes.add("Exp", nodes.add("Sub", values, nodes.reduce_max(values, axis)))
    along = [len(ramp) if i == axis else 1 for i in range(_RANK)]
    weighted = nodes.add("Mul", weights, nodes.constant(np.reshape(ramp, along), np.float32))
    return nodes.add("Div", _sum(nodes, weighted, axis), _sum(nodes, weights, axis))


def _sum(nodes: Nodes, values: str, axis: int) -> str:
    if nodes.opset < 13:
        return nodes.add("ReduceSum", values, axes=[axis], keepdims=1)
    return nodes.add("ReduceSum", values, nodes.constant([axis], np.int64), keepdims=1)


def _turn(net: Net, number: int | None) -> list[int]:
    """Which axis of its input each axis of a Transpose is."""
    return list(range(_RANK)) if number is None else list(net.attributes(number).get("perm", ()))


def _ramp(net: Net, conv: int) -> list[float] | None:
    """The weights, if the convolution only sums up the channels of each pixel."""
    node, attributes = net.nodes[conv], net.attributes(conv)
    weight = net.constant(node.input[1])
    if weight is None or weight.dtype != np.float32 or weight.ndim != _RANK or len(node.input) != 2:
        return None
    alone = weight.shape[0] == 1 and weight.shape[2:] == (1, 1) and attributes.get("group", 1) == 1
    plain = set(attributes.get("strides", [1])) == {1} and set(attributes.get("pads", [0])) == {0}
    return [float(value) for value in weight.ravel()] if alone and plain else None
