"""Split: a convolution whose channels are split behind its activation, as one convolution for each part.

The blocks of YOLOv8 and later (C2f, C3k2, C2PSA) begin so. ONNX Runtime keeps channels in blocks between convolutions,
and leaves that layout for a Split.
"""

import numpy as np

from pipeline.models.graph_nodes import Nodes
from pipeline.models.graph_rewrite_net import Net

_ACTIVATIONS = ("Relu", "LeakyRelu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Mish")
_BLOCK = 16
"""Channels in ONNX Runtime's blocks, on AVX-512: a smaller part would be computed as such a block."""


def divide_convs(net: Net) -> int:
    """Divide each such convolution; gives how many there were."""
    return sum(_divide(net, split) for split in list(net.of_type("Split")))


def _divide(net: Net, split: int) -> bool:
    node = net.nodes[split]
    if net.attributes(split).get("axis", 0) not in {1, -3}:
        return False
    found = _conv_before(net, node.input[0])
    if found is None:
        return False
    conv, between = found
    before = net.nodes[conv]
    weight, bias = net.constant(before.input[1]), net.constant(before.input[2]) if len(before.input) > 2 else None
    attributes = net.attributes(conv)
    if weight is None or weight.ndim != 4 or weight.dtype.kind != "f" or attributes.get("group", 1) != 1:
        return False
    if len(before.input) > 2 and (bias is None or bias.shape != weight.shape[:1]):
        return False
    sizes = _sizes(net, split, weight.shape[0])
    if sizes is None:
        return False
    nodes = net.put(conv, split, *between)
    for output, part in zip(node.output, np.split(np.arange(weight.shape[0]), np.cumsum(sizes)[:-1]), strict=True):
        biases = [nodes.constant(bias[part], bias.dtype)] if bias is not None else []
        weights = nodes.constant(weight[part], weight.dtype)
        last = not between
        made = nodes.add("Conv", before.input[0], weights, *biases, output=output if last else None, **attributes)
        _activate(net, nodes, between, made, output)
    return True


def _activate(net: Net, nodes: Nodes, between: tuple[int, ...], made: str, output: str) -> None:
    """The nodes between convolution and Split once more, for one part."""
    if len(between) == 2:  # SiLU
        nodes.add("Mul", made, nodes.add("Sigmoid", made), output=output)
    elif between:
        node = net.nodes[between[0]]
        nodes.add(node.op_type, made, output=output, **net.attributes(between[0]))


def _conv_before(net: Net, name: str) -> tuple[int, tuple[int, ...]] | None:
    """The convolution that makes a value, and the activation's nodes behind it; nobody else may use what they make."""
    if net.users(name) is None or len(net.users(name) or ()) != 1:
        return None
    conv = net.maker(name, "Conv")
    if conv is not None:
        return conv, ()
    one = net.maker(name, *_ACTIVATIONS)
    if one is not None:
        conv = net.maker(net.nodes[one].input[0], "Conv")
        return (conv, (one,)) if conv is not None and net.users(net.nodes[one].input[0]) == [one] else None
    product = net.maker(name, "Mul")
    sigmoid = net.silu(product) if product is not None else None
    if product is None or sigmoid is None:
        return None
    straight = net.nodes[sigmoid].input[0]
    conv = net.maker(straight, "Conv")
    alone = net.users(net.nodes[sigmoid].output[0]) == [product]
    alone = alone and sorted(net.users(straight) or ()) == sorted((sigmoid, product))
    return (conv, (sigmoid, product)) if conv is not None and alone else None


def _sizes(net: Net, split: int, channels: int) -> list[int] | None:
    """How many channels each part has."""
    node, attributes = net.nodes[split], net.attributes(split)
    if len(node.input) > 1 and node.input[1]:
        sizes = net.whole_numbers(node.input[1])
    elif "split" in attributes:
        sizes = list(attributes["split"])
    else:
        each = -(-channels // len(node.output))
        sizes = [each] * (len(node.output) - 1) + [channels - each * (len(node.output) - 1)]
    fits = sizes is not None and len(sizes) == len(node.output) and sum(sizes) == channels and all(node.output)
    return sizes if sizes and fits and all(size > 0 and size % _BLOCK == 0 for size in sizes) else None
