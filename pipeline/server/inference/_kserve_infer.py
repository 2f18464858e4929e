"""`Inferring`: one KServe request for inference, from its body to the answer's."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from aiohttp import web

from pipeline.contracts.backend import ModelInfo
from pipeline.contracts.frame import Picture, Wishes
from pipeline.contracts.result import Prediction
from pipeline.runtime.asking import Served
from pipeline.server.inference._kserve_models import IMAGE, TEXT, VERSION, inputs_of
from pipeline.server.inference._kserve_stats import Stats
from pipeline.server.inference.refusal import RefusedError
from pipeline.server.inference.service import Service
from pipeline.wire import document
from pipeline.wire.kserve import (
    HEADER,
    Body,
    InferRequest,
    InferResponse,
    RequestedOutput,
    decode_request,
    encode_response,
    header_length,
)
from pipeline.wire.kserve_models import TensorSpec
from pipeline.wire.kserve_results import classified, outputs_of, to_tensors
from pipeline.wire.kserve_tensors import BYTES, Tensor

_MAX_SIDE_PX: Final = 65_535
_MAX_NAMES: Final = 1000
_RAW: Final = TensorSpec(IMAGE.name, BYTES, (-1,))
"""With a header length of 0 the body is one file."""


class Inferring:
    """Answers requests for inference. Made by the dialect; used on the main loop, what takes long is done in threads.

    Args:
        service: pictures and models.
        stats: hears of every request that reached a model.
    """

    def __init__(self, service: Service, stats: Stats) -> None:
        self._service = service
        self._stats = stats

    async def answer(self, request: web.Request, served: Served) -> web.Response:
        """What a client gets.

        Raises:
            RefusedError: 400 for what is wrong with the request; or as the service does.
        """
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        try:
            body = await self._asked(request, served, began_at)
        except RefusedError as error:
            # Who sends nonsense has not asked the model: as with Triton, only what reached it is counted.
            if error.status >= 500:
                self._stats.went_badly(served.name, loop.time() - began_at)
            raise
        except ValueError as error:  # of the codecs: the client's own mistake in their words
            raise RefusedError(400, str(error)) from error
        response = web.Response(body=body.data, headers={"Content-Type": body.media_type})
        if body.header_length is not None:
            response.headers[HEADER] = str(body.header_length)
        # The length in the header is that of the JSON before it is packed, as Triton's clients want it.
        response.enable_compression()
        return response

    async def _asked(self, request: web.Request, served: Served, began_at: float) -> Body:
        service = self._service
        length = header_length(request.headers.get(HEADER))
        body = await service.body(request)
        asked = await asyncio.to_thread(decode_request, body, length, _RAW)
        del body
        wishes = wishes_of(asked.parameters, question=served.info is not None and served.info.texts == "question")
        given, info = _checked(asked, served, wishes, name := request.match_info["model"])
        predictions, inference_s = await self._inferred(served, given, wishes)
        made = await asyncio.to_thread(_written, asked, predictions, info, name)
        took_s = asyncio.get_running_loop().time() - began_at
        self._stats.went_well(served.name, len(predictions), took_s, inference_s)
        return made

    async def _inferred(self, served: Served, given: Tensor, wishes: Wishes | None) -> tuple[list[Prediction], float]:
        if given.name == TEXT.name:
            texts = _texts(given)
            return list(await self._service.embed_texts(served.name, texts)), 0.0
        pictures = await self._pictures(given)
        answers = await self._service.infer(served.name, pictures, wishes)
        return [answer.prediction for answer in answers], sum(answer.inference_s for answer in answers)

    async def _pictures(self, given: Tensor) -> list[Picture]:
        """The pictures in an input, in their order."""
        service, array = self._service, given.array
        if given.datatype == BYTES:
            service.check_count(array.size)
            pictures = [await service.pictures.decode(data) for data in array.ravel().tolist()]
        elif given.datatype == "UINT8":
            pictures = await asyncio.to_thread(self._raw_pictures, array)
        else:
            raise RefusedError(
                400, f"inference input 'image' data-type is {given.datatype!r}, but it takes UINT8 or BYTES"
            )
        if not pictures:
            raise RefusedError(400, "there is no picture in the input 'image'")
        return pictures

    def _raw_pictures(self, array: npt.NDArray[np.uint8]) -> list[Picture]:
        """In a thread: what is sent as it is, is copied."""
        from pipeline.models.picture import from_rgb

        rows = array[None] if array.ndim == 3 else array
        if rows.ndim != 4 or rows.shape[3] != 3 or not all(0 < side <= _MAX_SIDE_PX for side in rows.shape[1:3]):
            shape = list(array.shape)
            raise RefusedError(
                400, f"unexpected shape for input 'image'. Expected [-1,-1,-1,3] or [-1,-1,3], got {shape}"
            )
        self._service.check_count(len(rows))
        limit = self._service.limits.max_pixels
        if rows.shape[1] * rows.shape[2] > limit:
            raise RefusedError(413, f"a picture has more than {limit} pixels")
        return [from_rgb(row) for row in rows]


def wishes_of(parameters: Mapping[str, Any], *, question: bool = False) -> Wishes | None:
    """What the parameters of a request ask of the model; None: nothing.

    Args:
        parameters: of the request.
        question: `texts` is one, with whatever commas there are in it.

    Raises:
        RefusedError: 400.
    """
    try:
        wishes = Wishes(
            confidence=_ratio(parameters, "confidence"),
            iou_threshold=_ratio(parameters, "iou_threshold"),
            max_detections=_count(parameters, "max_detections"),
            class_agnostic_nms=_flag(parameters, "class_agnostic_nms"),
            classes=_names(parameters, "classes"),
            keypoint_confidence=_ratio(parameters, "keypoint_confidence"),
            texts=_question(parameters) if question else _names(parameters, "texts") or (),
        )
    except ValueError as error:
        raise RefusedError(400, str(error)) from error
    return None if wishes == Wishes() else wishes


def _ratio(parameters: Mapping[str, Any], name: str) -> float | None:
    if name not in parameters:
        return None
    value = document.number(parameters[name], f"parameter {name!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"parameter {name!r} is not from 0 to 1")
    return value


def _count(parameters: Mapping[str, Any], name: str) -> int | None:
    if name not in parameters:
        return None
    return document.integer(parameters[name], f"parameter {name!r}", 0, 1_000_000)


def _flag(parameters: Mapping[str, Any], name: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"parameter {name!r} is neither true nor false")
    return value


def _names(parameters: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    if name not in parameters:
        return None
    text = document.text(parameters[name], f"parameter {name!r}")
    found = tuple(part for part in map(str.strip, text.split(",")) if part)
    if len(found) > _MAX_NAMES:
        raise ValueError(f"parameter {name!r} has more than {_MAX_NAMES} names")
    return found


def _question(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    found = document.text(parameters.get("texts", ""), "parameter 'texts'")
    return (found,) if found else ()


def _texts(given: Tensor) -> list[str]:
    if given.datatype != BYTES:
        raise RefusedError(400, f"inference input 'text' data-type is {given.datatype!r}, but it takes BYTES")
    if not given.array.size:
        raise RefusedError(400, "there is no text in the input 'text'")
    try:
        return [text.decode("utf-8") for text in given.array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise RefusedError(400, "a text is no UTF-8") from error


def _checked(asked: InferRequest, served: Served, wishes: Wishes | None, name: str) -> tuple[Tensor, ModelInfo]:
    """The one input, and what the answer will be.

    Raises:
        RefusedError: 400: it is not what the model takes, or the model has no such output.
    """
    inputs, info = inputs_of(served)
    compares = info.task == "embedding" or info.texts == "labels"
    if compares and wishes is not None and wishes.texts:
        info = replace(info, task="classification", labels=wishes.texts)  # the picture is compared with them
    for given in asked.inputs:
        if given.name not in {spec.name for spec in inputs}:
            raise RefusedError(400, f"unexpected inference input {document.quoted(given.name)} for model {name!r}")
    for wanted in asked.outputs:
        if wanted.name not in {spec.name for spec in outputs_of(info.task)}:
            raise RefusedError(400, f"unexpected inference output {document.quoted(wanted.name)} for model {name!r}")
    if len(asked.inputs) != 1:
        raise RefusedError(400, f"expected 1 input but got {len(asked.inputs)} inputs for model {name!r}")
    return asked.inputs[0], info


def _written(asked: InferRequest, predictions: Sequence[Prediction], info: ModelInfo, name: str) -> Body:
    """In a thread: masks and PNG files take their time."""
    try:
        found = {one.name: one for one in to_tensors(predictions, info)}
    except ValueError as error:
        raise RefusedError(500, str(error), kind="failed") from error
    wanted = asked.outputs or tuple(RequestedOutput(output) for output in found)
    outputs, binary = [], set()
    for output in wanted:
        one = found[output.name]
        outputs.append(_classified(one, output, info) if output.classification else one)
        if asked.binary_output if output.binary is None else output.binary:
            binary.add(output.name)
    return encode_response(InferResponse(name, VERSION, tuple(outputs), asked.id), binary)


def _classified(one: Tensor, output: RequestedOutput, info: ModelInfo) -> Tensor:
    """The scores of classes have the classes' names; those of objects have none, there is one for each object."""
    by_class = info.task in {"classification", "multi-label-classification"} and math.prod(one.shape[1:]) > 0
    return classified(one, output.classification, info.labels if by_class else ())
