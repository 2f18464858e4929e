"""`Nodes`: a piece of an ONNX graph while it is put together, and the model made of it; imports `onnx` late."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

PREFIX = "penstock/"
"""What the names of all that is put into a graph begin with."""

OPSET = 17
"""Of models that are made here from nothing; onnxruntime has had CUDA kernels for all of it for long."""

OLDEST_OPSET = 11
"""Older models stay as they are: their Resize, Pad, Slice and Clip take other inputs."""

_IR_VERSION = 8


class CannotComposeError(ValueError):
    """What was asked for cannot be put into a graph; says why, in a few words for people."""


def opset_of(model: "onnx.ModelProto") -> int:
    """The version of a model's standard operators.

    Raises:
        CannotComposeError: it is too old.
    """
    opset = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 0)
    if opset < OLDEST_OPSET:
        raise CannotComposeError(f"its operator set {opset} is older than {OLDEST_OPSET}")
    return opset


def refuse_our_names(data: bytes) -> None:
    """What is put into a model must not meet names that are there already, wherever the format lets names hide.

    Raises:
        CannotComposeError: inner graphs and functions included, there is one.
    """
    if PREFIX.encode() in data:
        raise CannotComposeError(f"it has names that begin with {PREFIX!r}")


class TensorSpec(NamedTuple):
    """An input or output of a graph.

    Attributes:
        name: as the graph calls it.
        dtype: numpy's name of the element type.
        shape: an int for each axis that is fixed, else a symbol.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Nodes:
    """Nodes in the order in which they run. Made by the functions that put a graph together; used by one thread.

    Args:
        opset: version of the standard operators that the graph uses.
        part: what the names of these nodes begin with, behind `PREFIX`.
    """

    def __init__(self, opset: int = OPSET, part: str = "") -> None:
        self.opset = opset
        self._part = part
        self.made: list[onnx.NodeProto] = []
        self._count = 0

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """One node with one output; gives the output's name."""
        return self.add_many(operator, inputs, 1, names=(output,) if output else (), **attributes)[0]

    def add_many(
        self, operator: str, inputs: Sequence[str], outputs: int, *, names: Sequence[str] = (), **attributes: Any
    ) -> tuple[str, ...]:
        """One node with several outputs; gives their names."""
        from onnx import helper

        found = tuple(names) or tuple(self._name(operator) for _ in range(outputs))
        self.made.append(helper.make_node(operator, list(inputs), list(found), self._name(operator), **attributes))
        return found

    def constant(self, values: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        """A constant, as a node: models of old IR versions allow no initializer that is not an input, too."""
        from onnx import numpy_helper

        return self.add("Constant", value=numpy_helper.from_array(np.asarray(values, dtype)))

    def cast(self, name: str, dtype: npt.DTypeLike) -> str:
        """`name` as another element type."""
        from onnx import helper

        return self.add("Cast", name, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def cut(self, name: str, axis: int, start: int, end: int) -> str:
        """What lies from `start` to `end` along an axis."""
        bounds = (self.constant([value], np.int64) for value in (start, end, axis))
        return self.add("Slice", name, *bounds)

    def resize(self, name: str, sizes: Sequence[int], *, antialias: bool) -> str:
        """Linear, between the centres of pixels, as swscale and OpenCV do it."""
        # Empty tensors where nothing is meant: before version 13 these inputs may not be left out.
        unused = self.constant([], np.float32) if self.opset < 13 else ""
        smooth: dict[str, Any] = {"antialias": 1} if antialias else {}
        return self.add(
            "Resize",
            name,
            unused,
            unused,
            self.constant(sizes, np.int64),
            mode="linear",
            coordinate_transformation_mode="half_pixel",
            **smooth,
        )

    def reverse(self, name: str, axis: int, length: int) -> str:
        """Back to front along an axis."""
        return self.add("Gather", name, self.constant(np.arange(length)[::-1], np.int64), axis=axis)

    def reduce_max(self, name: str, axis: int) -> str:
        """The largest along an axis, which stays with length 1."""
        if self.opset < 18:
            return self.add("ReduceMax", name, axes=[axis], keepdims=1)
        return self.add("ReduceMax", name, self.constant([axis], np.int64), keepdims=1)

    def _name(self, operator: str) -> str:
        self._count += 1
        return f"{PREFIX}{self._part}{operator}_{self._count}"


def model_of(nodes: Nodes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bytes:
    """The nodes as a whole model, serialised."""
    from onnx import helper

    graph = helper.make_graph(nodes.made, "penstock", [value_of(i) for i in inputs], [value_of(o) for o in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", nodes.opset)], ir_version=_IR_VERSION)
    return bytes(model.SerializeToString())


def value_of(spec: TensorSpec) -> "onnx.ValueInfoProto":
    """How a graph declares a tensor."""
    from onnx import helper

    return helper.make_tensor_value_info(
        spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), list(spec.shape)
    )
