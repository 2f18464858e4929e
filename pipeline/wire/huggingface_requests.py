"""Requests of the Hugging Face inference protocol, from and to bytes.

Two generations of `huggingface_hub` write them differently; `Ask` is what both mean.

Format: huggingface_hub 0.17.3 ("0.17") and 2.4.0 ("current").
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.wire.document import loads, number
from pipeline.wire.huggingface import SPECS, Spec, sniff

Generation = Literal["0.17", "current"]
"""Which client wrote a request, as far as that shows."""

MAX_LABELS = 1000
"""Candidate labels in one request, at most."""
MAX_LABEL_CHARS = 1000

_OPTIONAL_FIELDS = frozenset({"generated_responses", "past_user_inputs"})
_WITH_LABELS = frozenset({"zero-shot-classification", "zero-shot-image-classification"})
_SELDOM_WITH_PARAMETERS = frozenset(
    {"feature-extraction", "conversational", "summarization", "text-generation", "text-to-image"}
)
_TRUE = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True, slots=True)
class Ask:
    """What one request asks for.

    Attributes:
        inputs: by their names in `Spec`. A file is bytes where it came as the body itself, else the text in which it
            came: base64, or a URL.
        parameters: of the task, as sent; without those that are null.
        wait_for_model: rather wait than be told that the model is loading.
        generation: of the client that wrote it.
    """

    inputs: Mapping[str, Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    wait_for_model: bool = False
    generation: Generation = "current"


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body: either the bytes of a file, with their type, or a document to be sent as JSON."""

    data: bytes | None = None
    media_type: str = "application/json"
    document: Any = None


@dataclass(frozen=True, slots=True)
class VisionParameters:
    """The parameters of tasks on pictures; None: as the model likes.

    Attributes:
        threshold: leave out what the model is less sure of, 0..1.
        mask_threshold: from which value on a pixel belongs to a mask, 0..1.
        overlap_mask_area_threshold: masks of which less is left are parts of others, 0..1.
        subtask: of image-segmentation.
        top_k: so many classes, at most.
        function_to_apply: how scores are made of what the model says.
        candidate_labels: what to choose from.
        hypothesis_template: what is made of each label before it is compared; holds `{}`.
    """

    threshold: float | None = None
    mask_threshold: float | None = None
    overlap_mask_area_threshold: float | None = None
    subtask: Literal["instance", "panoptic", "semantic"] | None = None
    top_k: int | None = None
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    candidate_labels: tuple[str, ...] = ()
    hypothesis_template: str | None = None


def decode_ask(task: str, body: bytes) -> Ask:
    """What a request to `task` asks for, of either generation, with any Content-Type or none.

    Raises:
        ValueError: it makes no sense; in one line, fit for the client.
    """
    spec = SPECS[task]
    kind = sniff(body)
    if task == "feature-extraction" and kind is not None and kind.startswith("image/"):
        return Ask({"image": body})  # what can be asked of a model for texts and pictures
    if spec.binary is not None and kind != "application/json":
        if not body:
            raise ValueError(f"the request has no body; {spec.binary} is missing")
        if spec.fields:
            raise ValueError(f"{spec.fields[0]!r} is missing: send JSON with the {spec.binary} in base64")
        return Ask({spec.binary: body}, generation="0.17")
    document = loads(body)
    if not isinstance(document, dict):
        raise ValueError("the JSON is no object with 'inputs'")
    options = _mapping(document, "options")
    parameters = _parameters(task, document)
    return Ask(
        _inputs(spec, document),
        parameters,
        wait_for_model=is_true(options.get("wait_for_model")),
        generation=_generation(task, spec, document, parameters),
    )


def encode_ask(task: str, ask: Ask, media_type: str = "application/octet-stream") -> Body:
    """The body that the client of `ask.generation` would send; `media_type` is that of a file that is its own body."""
    spec, current = SPECS[task], ask.generation == "current"
    inputs = dict(ask.inputs)
    parameters = _written_parameters(task, ask)
    if spec.binary is not None:
        data = inputs[spec.binary]
        if isinstance(data, bytes):
            if not (spec.fields or parameters or ask.wait_for_model):
                return Body(data, media_type)
            inputs[spec.binary] = base64.b64encode(data).decode("ascii")
    document = _laid_out(task, spec, inputs, current=current)
    if "stream" in parameters:
        document["stream"] = parameters.pop("stream")
    if task == "feature-extraction":
        document |= parameters  # beside `inputs`, by both
    elif parameters or (current and task not in _SELDOM_WITH_PARAMETERS):
        document["parameters"] = parameters
    if ask.wait_for_model:
        document["options"] = {"wait_for_model": True}
    return Body(document=document)


def vision_parameters(parameters: Mapping[str, Any]) -> VisionParameters:
    """The parameters of a task on pictures; those that are unknown do not matter.

    Raises:
        ValueError: one of them is nothing that can be meant.
    """
    subtask = parameters.get("subtask")
    if subtask not in (None, "instance", "panoptic", "semantic"):
        raise ValueError("'subtask' is instance, panoptic or semantic")
    function = parameters.get("function_to_apply")
    if function not in (None, "sigmoid", "softmax", "none"):
        raise ValueError("'function_to_apply' is sigmoid, softmax or none")
    top_k = parameters.get("top_k")
    if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
        raise ValueError("'top_k' is a whole number from 1 on")
    template = parameters.get("hypothesis_template")
    if template is not None and (not isinstance(template, str) or template.count("{}") != 1 or len(template) > 1000):
        raise ValueError("'hypothesis_template' is a text with {} in it once")
    return VisionParameters(
        threshold=_share(parameters, "threshold"),
        mask_threshold=_share(parameters, "mask_threshold"),
        overlap_mask_area_threshold=_share(parameters, "overlap_mask_area_threshold"),
        subtask=subtask,
        top_k=top_k,
        function_to_apply=function,
        candidate_labels=candidate_labels(parameters),
        hypothesis_template=template,
    )


def candidate_labels(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels to choose from, from a list or from one text with commas; () where there are none.

    Raises:
        ValueError: they are no such thing, or too many.
    """
    given = parameters.get("candidate_labels")
    if given is None:
        return ()
    if isinstance(given, str):
        given = given.split(",", MAX_LABELS)
    if not isinstance(given, list | tuple) or not all(isinstance(label, str) for label in given):
        raise ValueError("'candidate_labels' is a list of texts")
    labels = tuple(dict.fromkeys(label.strip() for label in given))
    if "" in labels or not labels:
        raise ValueError("'candidate_labels' holds an empty label, or none")
    if len(labels) > MAX_LABELS or max(map(len, labels)) > MAX_LABEL_CHARS:
        raise ValueError(f"'candidate_labels' are too many or too long: {MAX_LABELS} of {MAX_LABEL_CHARS} characters")
    return labels


def is_true(value: object) -> bool:
    """Whether an option is on: true, 1, or a text that says so."""
    return value.strip().lower() in _TRUE if isinstance(value, str) else value is True or value == 1


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{key!r} is no object")
    return value


def _parameters(task: str, document: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(_mapping(document, "parameters"))
    if task == "feature-extraction":
        found |= {key: value for key, value in document.items() if key not in {"inputs", "options", "parameters"}}
    if "stream" in document:
        found["stream"] = document["stream"]
    return {key: value for key, value in found.items() if value is not None}


def _inputs(spec: Spec, document: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs by name, from inside of `inputs` or from beside it."""
    inside = document.get("inputs")
    names = ((spec.binary,) if spec.binary else ()) + spec.fields
    places = [inside, document] if isinstance(inside, dict) else [document]
    found = {name: place[name] for place in reversed(places) for name in names if place.get(name) is not None}
    # What stands in `inputs` itself is the file, or the one text.
    if inside is not None and not isinstance(inside, dict) and names[0] not in found:
        found[names[0]] = inside
    missing = [name for name in names if name not in found and name not in _OPTIONAL_FIELDS]
    if missing:
        shown = "inputs" if missing[0] in {"text", spec.binary} else missing[0]
        raise ValueError(f"{shown!r} is missing")
    if spec.binary is not None and not isinstance(found[spec.binary], str | list):
        raise ValueError(f"the {spec.binary} is no text in base64")
    return found


def _generation(task: str, spec: Spec, document: Mapping[str, Any], parameters: Mapping[str, Any]) -> Generation:
    if task in _WITH_LABELS:  # the one place where the answer's form depends on it
        return "0.17" if isinstance(parameters.get("candidate_labels"), str) else "current"
    if spec.fields and not spec.nested and spec.fields != ("text",):
        return "current" if "inputs" in document or "parameters" in document else "0.17"
    return "current"


def _written_parameters(task: str, ask: Ask) -> dict[str, Any]:
    parameters = dict(ask.parameters)
    labels = parameters.get("candidate_labels")
    if task in _WITH_LABELS and labels is not None and not isinstance(labels, str):
        parameters["candidate_labels"] = ",".join(labels) if ask.generation == "0.17" else list(labels)
    return parameters


def _laid_out(task: str, spec: Spec, inputs: dict[str, Any], *, current: bool) -> dict[str, Any]:
    """The document with the inputs where this generation puts them."""
    if spec.fields == ("text",):
        return {"inputs": inputs["text"]}
    if spec.binary is None:
        return {"inputs": inputs} if spec.nested or (current and not spec.plain) else inputs
    if not spec.fields:
        key = "image" if task == "zero-shot-image-classification" and not current else "inputs"
        return {key: inputs[spec.binary]}
    if not current:
        return inputs
    return {"inputs": inputs[spec.binary], **inputs} if spec.plain else {"inputs": inputs}


def _share(parameters: Mapping[str, Any], key: str) -> float | None:
    value = parameters.get(key)
    if value is None:
        return None
    share = number(value, repr(key))
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{key!r} is a number from 0 to 1")
    return share
