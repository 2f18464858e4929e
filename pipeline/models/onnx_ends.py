"""How the outputs of an ONNX graph come about: the last operator that changes values, and what quantises them."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import onnx

_MAX_STEPS_BACK = 16
_KEEP_VALUES = frozenset(
    (
        "Cast",
        "DequantizeLinear",
        "Flatten",
        "Identity",
        "QuantizeLinear",
        "Reshape",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    )
)


class OutputEnd(NamedTuple):
    """How an output comes about.

    Attributes:
        operator: the last node that changes values: "Softmax", "Sigmoid", "Gemm"; "" where that is not known.
        scale: of the last quantisation: value = scale * (number - zero_point); None without one.
        zero_point: of the last quantisation.
    """

    operator: str = ""
    scale: float | None = None
    zero_point: int = 0


def ends_of(graph: "onnx.GraphProto") -> dict[str, OutputEnd]:
    """For each output of the graph, what is known of how it is made."""
    made_by = {output: node for node in graph.node for output in node.output}
    return {output.name: _end(graph, made_by, output.name) for output in graph.output}


def _end(graph: "onnx.GraphProto", made_by: "dict[str, onnx.NodeProto]", name: str) -> OutputEnd:
    """Walk back from an output over nodes that only move or quantise its values."""
    scale, zero_point = None, 0
    for _ in range(_MAX_STEPS_BACK):
        node = made_by.get(name)
        if node is None or not node.input:
            break
        if node.op_type not in _KEEP_VALUES:
            return OutputEnd(node.op_type, scale, zero_point)
        if node.op_type == "QuantizeLinear" and scale is None:
            scale, zero_point = _quantisation(graph, node)
        name = node.input[0]
    return OutputEnd("", scale, zero_point)


def _quantisation(graph: "onnx.GraphProto", node: "onnx.NodeProto") -> tuple[float | None, int]:
    """Scale and zero point of a QuantizeLinear whose parameters are single numbers, stored in the file itself."""
    from onnx import TensorProto, numpy_helper

    wanted = list(node.input[1:3])
    stored = {t.name: t for t in graph.initializer if t.name in wanted and t.data_location != TensorProto.EXTERNAL}
    try:
        scale, *zero = [numpy_helper.to_array(stored[name]).reshape(-1) for name in wanted]
        found = float(scale.item()), int(zero[0].item()) if zero else 0
    except (KeyError, ValueError, TypeError, OverflowError):
        return None, 0
    return found if 0 < found[0] < 1e6 else (None, 0)
