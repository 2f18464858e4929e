"""Small graphs of single layers, put together by hand, and what ONNX Runtime answers with them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from pipeline.models.graph_rewrite import rewrite

Array = npt.NDArray[Any]
Dim = int | str


class Toy:
    """A graph in the making; the names of values are up to the test.

    Args:
        opset: version of the standard operators.
    """

    def __init__(self, opset: int = 17) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.metadata: dict[str, str] = {}
        self.rng = np.random.default_rng(1)

    def input(self, name: str, shape: Sequence[Dim], element: int = TensorProto.FLOAT) -> str:
        """A value that is fed."""
        self.inputs.append(helper.make_tensor_value_info(name, element, list(shape)))
        return name

    def weight(self, values: Array, name: str = "") -> str:
        """A constant."""
        self.weights.append(numpy_helper.from_array(values, name or f"weight_{len(self.weights)}"))
        return self.weights[-1].name

    def whole(self, *values: int) -> str:
        """A constant of whole numbers."""
        return self.weight(np.array(values, np.int64))

    def add(self, operator: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        """A node with one output, called `to`."""
        name = to or f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def conv(self, value: str, kernel: Sequence[int], *, to: str = "", bias: bool = True, **attributes: Any) -> str:
        """A convolution with weights by chance: channels made, channels taken, height, width."""
        weights = [self.weight(self.rng.normal(size=kernel).astype(np.float32))]
        weights += [self.weight(self.rng.normal(size=kernel[0]).astype(np.float32))] if bias else []
        return self.add("Conv", value, *weights, to=to, **attributes)

    def silu(self, value: str, *, to: str = "") -> str:
        """A value times its sigmoid, as exporters write it."""
        return self.add("Mul", value, self.add("Sigmoid", value), to=to)

    def split(self, value: str, sizes: Sequence[int], names: Sequence[str], axis: int = 1) -> None:
        """Parts along an axis, in the words of the operator set."""
        attributes: dict[str, Any] = {"split": list(sizes)} if self.opset < 13 else {}
        inputs = [value] if self.opset < 13 else [value, self.whole(*sizes)]
        self.nodes.append(helper.make_node("Split", inputs, list(names), axis=axis, **attributes))

    def data(self, *outputs: str, element: int = TensorProto.FLOAT) -> bytes:
        """The model, serialised."""
        made = [helper.make_tensor_value_info(name, element, [None] * 4) for name in outputs]
        graph = helper.make_graph(self.nodes, "toy", self.inputs, made, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        helper.set_model_props(model, self.metadata)
        return bytes(model.SerializeToString())


def answers(data: bytes, feeds: Mapping[str, Array]) -> list[Array]:
    """What ONNX Runtime makes of it, just as it is written."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [np.asarray(found) for found in session.run(None, dict(feeds))]


def operators(data: bytes) -> list[str]:
    """The operators of a graph's nodes, in their order, without constants."""
    return [node.op_type for node in onnx.load_from_string(data).graph.node if node.op_type != "Constant"]


def stays(data: bytes) -> bool:
    """Whether there is nothing to rewrite: the very same object comes back."""
    return rewrite(data).data is data
