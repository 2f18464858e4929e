"""`compose`: a model with its pre- and post-processing inside, as one ONNX graph."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.models.graph_bytes import PIXELS, add_bytes
from pipeline.models.graph_nodes import (
    CannotComposeError,
    Nodes,
    TensorSpec,
    opset_of,
    refuse_our_names,
    value_of,
)
from pipeline.models.graph_picks import add_picks
from pipeline.models.graph_planes import PlanesIn, SlotOut, add_planes
from pipeline.models.onnx_file import MAX_BYTES

if TYPE_CHECKING:
    import onnx

    from pipeline.models.description import ModelDescription


@dataclass(frozen=True, slots=True)
class Parts:
    """What is put into a model's graph.

    Attributes:
        front: "bytes": `PIXELS` instead of the model's input; a pair: a decoder's planes of one picture instead.
        picks: `PICKED`, a further output. The model's own outputs stay.
    """

    front: Literal["bytes"] | tuple[PlanesIn, SlotOut] | None = None
    picks: bool = False


def compose(data: bytes, model: "ModelDescription", parts: Parts, *, rewritten: bool = False) -> bytes:
    """The model with these parts, serialised.

    Args:
        data: the model's file, as `read_onnx` checked it.
        model: how it is fed and read.
        parts: what to put in.
        rewritten: `data` is what `graph_rewrite` made of that file: names of ours are ours, and others than come here.

    Raises:
        CannotComposeError: it stays as it is, and why.
    """
    import onnx

    graph_model = onnx.ModelProto()
    graph_model.ParseFromString(data)
    opset = _refuse(b"" if rewritten else data, graph_model, model)
    graph = graph_model.graph
    if parts.front is not None:
        front, inputs = _front(Nodes(opset, "in_"), model, parts.front)
        _replace_input(graph, model.image.name, inputs)
        after = list(graph.node)
        del graph.node[:]
        graph.node.extend(front.made)
        graph.node.extend(after)
    if parts.picks:
        back = Nodes(opset, "out_")
        graph.output.append(value_of(add_picks(back, model)))
        graph.node.extend(back.made)
    if graph_model.ByteSize() > MAX_BYTES:
        raise CannotComposeError("the model is too large for one file")
    return bytes(graph_model.SerializeToString())


def _front(
    nodes: Nodes, model: "ModelDescription", front: Literal["bytes"] | tuple[PlanesIn, SlotOut]
) -> tuple[Nodes, tuple[TensorSpec, ...]]:
    """The nodes before the model, and what they take in place of its picture."""
    if front == "bytes":
        add_bytes(
            nodes, model.preprocess, model.image.dtype, channels_last=model.channels_last, output=model.image.name
        )
        batch, *rest = model.image.shape or ("", "", "", "")
        height, width = rest[:2] if model.channels_last else rest[1:]
        return nodes, (TensorSpec(PIXELS, "uint8", (batch, height, width, 3)),)
    planes, slot = front
    if model.fixed_batch not in {None, 1}:
        raise CannotComposeError(f"the model takes {model.fixed_batch} pictures at once, planes are of one")
    if slot.dtype != model.image.dtype or slot.channels_last != model.channels_last:
        raise CannotComposeError("the slot is not the model's input")
    add_planes(nodes, planes, slot, output=model.image.name)
    return nodes, planes.tensors


def _refuse(data: bytes, found: "onnx.ModelProto", model: "ModelDescription") -> int:
    """The model's operator set, if it can be added to."""
    opset = opset_of(found)
    if model.file.external_files:
        raise CannotComposeError("its weights lie in other files")
    refuse_our_names(data)
    return opset


def _replace_input(graph: "onnx.GraphProto", name: str, inputs: tuple[TensorSpec, ...]) -> None:
    """Take `inputs` in place of the input `name`, which becomes a value inside of the graph."""
    for index, value in enumerate(graph.input):
        if value.name == name:
            graph.value_info.append(value)
            del graph.input[index]
            graph.input.extend(value_of(i) for i in inputs)
            return
    raise CannotComposeError("the input is not the graph's own")
