"""What a server of the open inference protocol says about its models, and the small pieces that all documents have.

Format: "Open Inference Protocol" and Triton's model configuration, of which only what others need is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pipeline.wire import document
from pipeline.wire.kserve_tensors import Parameter, is_datatype

MAX_TENSORS: Final = 64
"""Inputs or outputs of a model or a request."""

_MAX_PARAMETERS: Final = 64
_MAX_TEXT: Final = 200
# Commas and brackets in a document: what costs memory. A picture of 640 x 640 in JSON has 1.2 million.
_MAX_JSON_ITEMS: Final = 4_000_000


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model's metadata say about an input or output; a side of -1 is dynamic."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """As the protocol writes it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


class Metadata(NamedTuple):
    """What a server says about a model."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def decode_metadata(body: bytes) -> Metadata:
    """A model's metadata from the wire. Raises ValueError."""
    head = read_document(body, "the metadata")
    versions = document.items(head.get("versions") or [], "versions", 1000)
    return Metadata(
        name=short_text(head.get("name"), "the model's name"),
        versions=tuple(short_text(version, "a version") for version in versions),
        platform=short_text(head.get("platform") or "", "the platform"),
        inputs=tuple(_spec(entry) for entry in document.items(head.get("inputs"), "inputs", MAX_TENSORS)),
        outputs=tuple(_spec(entry) for entry in document.items(head.get("outputs"), "outputs", MAX_TENSORS)),
    )


def read_document(data: bytes, what: str) -> Mapping[str, Any]:
    """The object that a body is; `what` names it in the text. Raises ValueError."""
    if data.count(b",") + data.count(b"[") + data.count(b"{") > _MAX_JSON_ITEMS:
        raise ValueError(f"{what} has more than {_MAX_JSON_ITEMS} items")
    return document.mapping(document.loads(data), what)


def _spec(value: object) -> TensorSpec:
    fields = document.mapping(value, "a tensor of the metadata")
    name = short_text(fields.get("name"), "the name of a tensor")
    datatype = fields.get("datatype")
    if not is_datatype(datatype):
        raise ValueError(f"tensor {document.quoted(name)} has no known datatype but {document.quoted(datatype)}")
    sides = document.items(fields.get("shape"), f"the shape of {document.quoted(name)}", 16)
    shape = tuple(document.integer(side, f"a side of {document.quoted(name)}", -1, 2**31 - 1) for side in sides)
    return TensorSpec(name, str(datatype), shape)


def read_parameters(value: object, what: str) -> dict[str, Parameter]:
    """The parameters of a request, an answer or a tensor, none where there are none. Raises ValueError."""
    if value is None:
        return {}
    found = document.mapping(value, f"parameters of {what}")
    if len(found) > _MAX_PARAMETERS:
        raise ValueError(f"{what} has more than {_MAX_PARAMETERS} parameters")
    for key, one in found.items():
        if not isinstance(one, bool | int | float | str):
            raise ValueError(f"parameter {document.quoted(key)} of {what} is no number, text, true or false")
    return dict(found)


def short_text(value: object, what: str) -> str:
    """A name or an id. Raises ValueError."""
    found = document.text(value, what)
    if len(found) > _MAX_TEXT:
        raise ValueError(f"{what} has more than {_MAX_TEXT} characters")
    return found
