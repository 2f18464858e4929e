"""`Net`: a model's graph while it is rewritten: who makes a value, who uses it, what is constant."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.models.graph_nodes import CannotComposeError, Nodes
from pipeline.models.onnx_external import is_external

if TYPE_CHECKING:
    import onnx

_SMALL = 4096
"""Elements of a constant that may be read wherever it is used; a larger one is read by its only user."""

_MAX_PLACES = 1000
"""A real model has some dozens."""

_MAX_USERS = 16
_MAX_NUMBERS = 64

Array = npt.NDArray[Any]


class Use(NamedTuple):
    """Where a value is used: the `position`-th input of node `node`."""

    node: int
    position: int


class Net:
    """The main graph of a model, looked at once, and what is put in place of its nodes.

    A node is called by its number in the file. One that was taken is not given again, so all work is bounded by the
    size of the file, whatever is in it. Made by `rewrite` for each kind of rewriting; used by one thread.

    Args:
        model: is changed by `apply` only.
        part: what the names of new values begin with, behind `PREFIX`.
    """

    def __init__(self, model: "onnx.ModelProto", opset: int, part: str) -> None:
        graph = model.graph
        self.opset = opset
        self.nodes = list(graph.node)
        self._graph = graph
        self._part = part
        self._maker: dict[str, int] = {}
        self._uses: dict[str, list[Use]] = {}
        self._placed: dict[int, Nodes] = {}
        self._taken: set[int] = set()
        for number, node in enumerate(self.nodes):
            for name in node.output:
                self._maker[name] = number
            for position, name in enumerate(node.input):
                self._uses.setdefault(name, []).append(Use(number, position))
        self._kept = {value.name for value in (*graph.input, *graph.output)} | inner_names(graph)
        fed = {value.name for value in graph.input}
        self._weights = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in fed}
        values = (*graph.input, *graph.value_info, *graph.output)
        self._types = {value.name: value.type.tensor_type for value in values}

    def of_type(self, *operators: str) -> Iterator[int]:
        """The nodes of these standard operators that are not taken yet, in their order."""
        for number in range(len(self.nodes)):
            if self.is_one(number, *operators):
                yield number

    def is_one(self, number: int, *operators: str) -> bool:
        """Whether a node is one of these standard operators, and not taken."""
        node = self.nodes[number]
        return node.op_type in operators and node.domain in {"", "ai.onnx"} and number not in self._taken

    def maker(self, name: str, *operators: str) -> int | None:
        """The node that makes a value, if it is one of these operators."""
        number = self._maker.get(name)
        return number if number is not None and self.is_one(number, *operators) else None

    def users(self, name: str) -> list[int] | None:
        """All nodes that use a value; None if they are many, or it is an output, too, or is used in inner graphs."""
        uses = self._uses.get(name, [])
        return None if name in self._kept or len(uses) > _MAX_USERS else [use.node for use in uses]

    def user(self, name: str, *operators: str) -> int | None:
        """The node that alone uses a value, as its first input and once, if it is one of these operators."""
        uses = [] if name in self._kept else self._uses.get(name, [])
        alone = len(uses) == 1 and uses[0].position == 0 and self.is_one(uses[0].node, *operators)
        return uses[0].node if alone else None

    def constant(self, name: str) -> Array | None:
        """A value that never changes: a weight that only one node uses, or a small one. None: it is not that."""
        from onnx import numpy_helper

        tensor = self._weights.get(name)
        if tensor is None:
            number = self.maker(name, "Constant")
            values = [a.t for a in self.nodes[number].attribute if a.name == "value"] if number is not None else []
            tensor = values[0] if values else None
        if tensor is None or (len(self._uses.get(name, ())) > 1 and _elements(tensor) > _SMALL):
            return None
        try:
            return np.asarray(numpy_helper.to_array(tensor))
        except (ValueError, TypeError, KeyError):  # not as many bytes as its shape says, or no type that numpy has
            return None

    def whole_numbers(self, name: str) -> list[int] | None:
        """A constant of few whole numbers."""
        found = self.constant(name) if name else None
        few = found is not None and found.dtype == np.int64 and found.size <= _MAX_NUMBERS
        return [int(i) for i in found.ravel()] if found is not None and few else None

    def shape(self, name: str) -> list[int | None] | None:
        """The declared shape, an int where fixed. None: not declared."""
        if name in self._weights:
            return list(self._weights[name].dims)
        found = self._types.get(name)
        if found is None or not found.HasField("shape"):
            return None
        return [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in found.shape.dim]

    def silu(self, product: int) -> int | None:
        """The Sigmoid of a Mul that takes a value times its sigmoid."""
        factors = list(self.nodes[product].input)
        for straight, through in (factors, factors[::-1]) if len(factors) == 2 else ():
            sigmoid = self.maker(through, "Sigmoid")
            if sigmoid is not None and list(self.nodes[sigmoid].input) == [straight]:
                return sigmoid
        return None

    def attributes(self, number: int) -> dict[str, Any]:
        """A node's attributes: numbers, lists of few numbers, and a few bytes.

        Raises:
            CannotComposeError: they are longer, or something else; new nodes take copies of them.
        """
        from onnx import helper

        found = {a.name: helper.get_attribute_value(a) for a in self.nodes[number].attribute}
        for name, value in found.items():
            short = isinstance(value, list | bytes) and len(value) <= _MAX_NUMBERS
            if not short and not isinstance(value, int | float):
                raise CannotComposeError(f"a node's attribute {name[:_MAX_NUMBERS]!r} is not what it should be")
        return found

    def put(self, at: int, *instead_of: int) -> Nodes:
        """Nodes to fill, in the place of node `at`; it and `instead_of` are taken.

        One whose value someone still uses stays, unless a new node makes that value.

        Raises:
            CannotComposeError: there are too many places to rewrite.
        """
        if len(self._placed) >= _MAX_PLACES:
            raise CannotComposeError(f"more than {_MAX_PLACES} places to rewrite")
        self._placed[at] = Nodes(self.opset, f"{self._part}{at}_")
        self._taken |= {at, *instead_of}
        return self._placed[at]

    def apply(self) -> None:
        """Change the graph: the new nodes in their places, without what none uses any more for them."""
        placed = [node for nodes in self._placed.values() for node in nodes.made]
        made = {name for node in placed for name in node.output}
        left = Counter(name for node in (*self.nodes, *placed) for name in node.input)
        nodes: list[onnx.NodeProto] = []
        for number in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[number]
            if number in self._placed:
                nodes += reversed(self._placed[number].made)
            if self._goes(number, made, left):
                left.subtract(node.input)
            else:
                nodes.append(node)
        gone = {name for name in self._uses if left[name] <= 0} - self._kept
        there = {name for node in nodes for name in node.output} | self._kept
        graph = self._graph
        _replace(graph.node, nodes[::-1])
        _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in gone])
        _replace(graph.value_info, [value for value in graph.value_info if value.name in there])

    def _goes(self, number: int, made: set[str], left: Mapping[str, int]) -> bool:
        node = self.nodes[number]
        if number in self._taken:
            return not any((left[name] > 0 or name in self._kept) and name not in made for name in node.output)
        if node.op_type != "Constant" or not node.output:
            return False
        return left[node.output[0]] <= 0 and node.output[0] in self._uses and node.output[0] not in self._kept


def inner_names(graph: "onnx.GraphProto") -> set[str]:
    """All names that inner graphs use, theirs and the outer graph's.

    Raises:
        CannotComposeError: a tensor lies in another file, wherever in the graph.
    """
    names: set[str] = set()
    graphs, pending = [graph], [graph]
    while pending:
        inner = [g for node in pending.pop().node for a in node.attribute for g in _graphs(a)]
        pending += inner
        graphs += inner
    for one in graphs:
        if one is not graph:
            names.update(name for node in one.node for name in node.input)
            names.update(value.name for value in one.output)
        values = (a.t for node in one.node for a in node.attribute if a.HasField("t"))
        if any(is_external(tensor) for tensor in (*one.initializer, *values)):
            raise CannotComposeError("its weights lie in other files")
    return names


def _graphs(attribute: "onnx.AttributeProto") -> "list[onnx.GraphProto]":
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _elements(tensor: "onnx.TensorProto") -> int:
    return math.prod(max(0, side) for side in tensor.dims)


def _replace(field: Any, values: list[Any]) -> None:
    """`values` as all that a repeated field holds."""
    if len(values) != len(field) or any(a is not b for a, b in zip(values, field, strict=True)):
        del field[:]
        field.extend(values)
