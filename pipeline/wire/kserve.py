"""Requests and answers of the open inference protocol (KServe v2) with Triton's extensions, to and from bytes.

A body is JSON, behind which the raw buffers of binary tensors may follow in the order of the tensors; then the header
`Inference-Header-Content-Length` says how long the JSON is. Format: "Open Inference Protocol"; Triton's binary tensor
data and classification extensions.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pipeline.wire import document
from pipeline.wire.kserve_models import MAX_TENSORS, TensorSpec, read_document, read_parameters, short_text
from pipeline.wire.kserve_tensors import (
    BINARY_ONLY,
    BYTES,
    Parameters,
    Tensor,
    from_buffer,
    from_json,
    is_datatype,
    shape_of,
    tensor,
    to_buffer,
    to_json,
)

HEADER: Final = "Inference-Header-Content-Length"
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


class Body(NamedTuple):
    """What goes over the wire.

    Attributes:
        data: the whole body, not compressed.
        header_length: the bytes of JSON in front, for `HEADER`; None: all of it is JSON.
    """

    data: bytes
    header_length: int | None

    @property
    def media_type(self) -> str:
        """For `Content-Type`."""
        return "application/json" if self.header_length is None else "application/octet-stream"


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """One output that a request asks for.

    Attributes:
        name: of the output.
        binary: as a raw buffer (True) or as JSON (False); None: as the request says for all.
        classification: 0: the tensor itself; else so many of its best classes.
    """

    name: str
    binary: bool | None = None
    classification: int = 0


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request for inference.

    Attributes:
        inputs: the tensors.
        outputs: what is asked for; () for all outputs.
        id: comes back in the answer.
        parameters: what else was said, without `binary_data_output`.
        binary_output: outputs come as raw buffers where nothing else is said of them.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[RequestedOutput, ...] = ()
    id: str | None = None
    parameters: Parameters = field(default_factory=dict)
    binary_output: bool = False


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The answer to it."""

    model_name: str
    model_version: str
    outputs: tuple[Tensor, ...]
    id: str | None = None
    parameters: Parameters = field(default_factory=dict)


def header_length(text: str | None) -> int | None:
    """The value of `HEADER`; None without. Raises ValueError."""
    if text is None:
        return None
    # At most 18 digits: int() of a million digits takes its time.
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ValueError(f"{HEADER} is no number of bytes")
    return int(text)


def encode_request(request: InferRequest, *, binary: bool = True) -> Body:
    """A request for the wire, its inputs as raw buffers or, where JSON has a form for them, as JSON."""
    names = {one.name for one in request.inputs if binary or one.datatype in BINARY_ONLY}
    parameters = dict(request.parameters)
    if request.binary_output:
        parameters["binary_data_output"] = True
    head: dict[str, Any] = {} if request.id is None else {"id": request.id}
    if parameters:
        head["parameters"] = parameters
    inputs, buffers = _written(request.inputs, names)
    head["inputs"] = inputs
    if request.outputs:
        head["outputs"] = [_asked(output) for output in request.outputs]
    return _body(head, buffers)


def decode_request(body: bytes, length: int | None, raw: TensorSpec | None = None) -> InferRequest:
    """A request from the wire.

    Args:
        body: all of it, not compressed.
        length: what `HEADER` says.
        raw: the model's only input, which a header of 0 makes of the whole body; None: such a body is refused.

    Raises:
        ValueError: one line on what is wrong with it.
    """
    if length == 0:
        return _raw_request(body, raw)
    head, rest = _split(body, length, "the request")
    asked = document.items(head.get("outputs") or [], "outputs", MAX_TENSORS)
    parameters = read_parameters(head.get("parameters"), "the request")
    binary = _flag(parameters.pop("binary_data_output", False), "binary_data_output")
    return InferRequest(
        inputs=_read(head.get("inputs"), rest, "inputs"),
        outputs=tuple(_requested(output) for output in asked),
        id=_id(head),
        parameters=parameters,
        binary_output=binary,
    )


def encode_response(response: InferResponse, binary: Collection[str] = ()) -> Body:
    """An answer for the wire.

    Args:
        response: the answer.
        binary: names of the outputs that come as raw buffers; half floats always do.

    Raises:
        ValueError: JSON cannot hold an output.
    """
    head: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id is not None:
        head["id"] = response.id
    if response.parameters:
        head["parameters"] = dict(response.parameters)
    names = {one.name for one in response.outputs if one.name in binary or one.datatype in BINARY_ONLY}
    head["outputs"], buffers = _written(response.outputs, names)
    return _body(head, buffers)


def decode_response(body: bytes, length: int | None) -> InferResponse:
    """An answer from the wire.

    Raises:
        ValueError: one line on what is wrong with it.
    """
    head, rest = _split(body, length, "the answer")
    if "error" in head:
        raise ValueError(f"the answer is an error: {document.quoted(head['error'])}")
    return InferResponse(
        model_name=short_text(head.get("model_name", ""), "model_name"),
        model_version=short_text(head.get("model_version") or "", "model_version"),
        outputs=_read(head.get("outputs"), rest, "outputs"),
        id=_id(head),
        parameters=read_parameters(head.get("parameters"), "the answer"),
    )


def encode_error(message: str) -> bytes:
    """What a refusal's body is."""
    return _encode({"error": message}).encode()


def decode_error(body: bytes) -> str | None:
    """The text of a refusal; None where it has none."""
    try:
        text = document.mapping(document.loads(body), "the error").get("error")
    except ValueError:
        return None
    return text if isinstance(text, str) else None


def _written(tensors: Sequence[Tensor], binary: Collection[str]) -> tuple[list[dict[str, Any]], list[bytes]]:
    entries, buffers = [], []
    for one in tensors:
        entry: dict[str, Any] = {"name": one.name, "datatype": one.datatype, "shape": one.shape}
        parameters: dict[str, Any] = dict(one.parameters)
        if one.name in binary:
            buffer = to_buffer(one)
            buffers.append(buffer)
            parameters["binary_data_size"] = len(buffer)
        else:
            entry["data"] = to_json(one)
        if parameters:
            entry["parameters"] = parameters
        entries.append(entry)
    return entries, buffers


def _asked(output: RequestedOutput) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    if output.binary is not None:
        parameters["binary_data"] = output.binary
    if output.classification:
        parameters["classification"] = output.classification
    return {"name": output.name, "parameters": parameters} if parameters else {"name": output.name}


def _body(head: Mapping[str, Any], buffers: Sequence[bytes]) -> Body:
    front = _encode(head).encode()
    return Body(b"".join([front, *buffers]), len(front) if buffers else None)


def _split(body: bytes, length: int | None, what: str) -> tuple[Mapping[str, Any], memoryview]:
    if length is None:
        return read_document(body, what), memoryview(b"")
    if not 0 < length <= len(body):
        raise ValueError(f"{HEADER} is {length}, but {what} has {len(body)} bytes")
    return read_document(body[:length], what), memoryview(body)[length:]


def _read(value: object, rest: memoryview, what: str) -> tuple[Tensor, ...]:
    """The tensors of a list, with their buffers out of what follows the JSON, which must be used up."""
    found: list[Tensor] = []
    for entry in document.items(value, what, MAX_TENSORS):
        fields = document.mapping(entry, f"one of {what}")
        name = short_text(fields.get("name"), "the name of a tensor")
        said = f"tensor {document.quoted(name)}"
        if any(one.name == name for one in found):
            raise ValueError(f"{said} is there twice")
        datatype = fields.get("datatype")
        if not is_datatype(datatype):
            raise ValueError(f"{said} has no known datatype but {document.quoted(datatype)}")
        shape = shape_of(fields.get("shape"), f"the shape of {said}")
        parameters = read_parameters(fields.get("parameters"), said)
        size = parameters.pop("binary_data_size", None)
        if size is None:
            array = from_json(fields.get("data"), str(datatype), shape, said)
        else:
            if "data" in fields:
                raise ValueError(f"{said} has both JSON and binary data")
            taken = document.integer(size, f"binary_data_size of {said}", 0, 2**62)
            if taken > len(rest):
                raise ValueError(f"{said} is said to have {taken} bytes of binary data, but {len(rest)} are left")
            array = from_buffer(rest[:taken], str(datatype), shape, said)
            rest = rest[taken:]
        found.append(Tensor(name, str(datatype), array, parameters))
    if len(rest):
        raise ValueError(f"{len(rest)} bytes of binary data belong to no tensor")
    return tuple(found)


def _raw_request(body: bytes, raw: TensorSpec | None) -> InferRequest:
    if raw is None:
        raise ValueError(f"{HEADER} is 0, but the model's input cannot be sent as a bare buffer")
    if raw.datatype == BYTES:
        # Triton's clients put the element's length in front of it; plain HTTP programs send the file as it is.
        framed = len(body) >= 4 and int.from_bytes(body[:4], "little") == len(body) - 4
        return InferRequest((tensor(raw.name, [body[4:] if framed else body]),), binary_output=True)
    if any(side < 0 for side in raw.shape):
        raise ValueError(f"{HEADER} is 0, but the shape of {document.quoted(raw.name)} is not fixed")
    array = from_buffer(memoryview(body), raw.datatype, raw.shape, f"tensor {document.quoted(raw.name)}")
    return InferRequest((Tensor(raw.name, raw.datatype, array),), binary_output=True)


def _requested(value: object) -> RequestedOutput:
    fields = document.mapping(value, "one of outputs")
    name = short_text(fields.get("name"), "the name of an output")
    parameters = read_parameters(fields.get("parameters"), f"output {document.quoted(name)}")
    binary = parameters.get("binary_data")
    return RequestedOutput(
        name=name,
        binary=None if binary is None else _flag(binary, "binary_data"),
        classification=document.integer(parameters.get("classification", 0), "classification", 0, 2**31 - 1),
    )


def _flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{what} is neither true nor false")
    return value


def _id(head: Mapping[str, Any]) -> str | None:
    value = head.get("id")
    return None if value is None else short_text(value, "id")
