"""Roboflow workflows: what is sent to run one, and what comes back."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.contracts.backend import Task
from pipeline.contracts.frame import Size
from pipeline.contracts.result import Prediction, Text
from pipeline.wire._roboflow_decode import MAX_TEXT, decode_prediction
from pipeline.wire._roboflow_encode import encode_prediction
from pipeline.wire._roboflow_labels import Labels, PointLabels
from pipeline.wire._roboflow_options import InvalidRequestError, MaskFormat, Problem
from pipeline.wire._roboflow_requests import body_of, key_of, optional_text
from pipeline.wire.document import as_text, items, mapping

MAX_OUTPUTS = 1000
MAX_FIELDS = 1000


@dataclass(frozen=True, slots=True)
class WorkflowRequest:
    """One run of a workflow.

    Attributes:
        inputs: by name: pictures as `{"type", "value"}` or lists of them, and parameters.
        specification: the workflow itself; None: that of `workspace` and `workflow_id`.
        workspace: where the workflow is found.
        workflow_id: its id there.
        version_id: which version of it.
        excluded_fields: outputs that are not wanted.
        use_cache: the server may use the definition that it fetched before.
        enable_profiling: the answer is to say what took how long.
        api_key: the client's.
    """

    inputs: Mapping[str, Any] = field(repr=False)
    specification: Mapping[str, Any] | None = None
    workspace: str | None = None
    workflow_id: str | None = None
    version_id: str | None = None
    excluded_fields: tuple[str, ...] = ()
    use_cache: bool = True
    enable_profiling: bool = False
    api_key: str | None = field(default=None, repr=False)

    @property
    def path(self) -> str:
        """Where a client sends it."""
        return "/workflows/run" if self.specification is not None else f"/{self.workspace}/workflows/{self.workflow_id}"

    def to_json(self) -> dict[str, Any]:
        """As a client sends it."""
        body: dict[str, Any] = {
            "api_key": self.api_key,
            "use_cache": self.use_cache,
            "enable_profiling": self.enable_profiling,
            "inputs": dict(self.inputs),
        }
        if self.specification is not None:
            body["specification"] = dict(self.specification)
        elif self.version_id is not None:
            body["workflow_version_id"] = self.version_id
        if self.excluded_fields:
            body["excluded_fields"] = list(self.excluded_fields)
        return body


def parse_workflow_request(
    body: object, *, workspace: str | None = None, workflow_id: str | None = None
) -> WorkflowRequest:
    """The body of the workflow paths; `workspace` and `workflow_id` where they stand in the path.

    Raises:
        InvalidRequestError: the body breaks the schema: 422.
    """
    document = body_of(body)
    specification = document.get("specification")
    if workflow_id is None and not isinstance(specification, dict):
        kind = "missing" if specification is None else "dict_type"
        message = "Field required" if specification is None else "Input should be a valid dictionary"
        raise InvalidRequestError([Problem(kind, ("body", "specification"), message, None)])
    inputs = document.get("inputs")
    if not isinstance(inputs, dict):
        message = "Field required" if inputs is None else "Input should be a valid dictionary"
        kind = "missing" if inputs is None else "dict_type"
        raise InvalidRequestError([Problem(kind, ("body", "inputs"), message, None)])
    return WorkflowRequest(
        inputs,
        specification if workflow_id is None else None,
        workspace,
        workflow_id,
        optional_text(document, "workflow_version_id"),
        _excluded(document.get("excluded_fields")),
        document.get("use_cache", True) is not False,
        document.get("enable_profiling", False) is True,
        key_of(document),
    )


def _excluded(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_FIELDS or not all(isinstance(name, str) for name in value):
        message = "Input should be a valid list of strings"
        raise InvalidRequestError([Problem("list_type", ("body", "excluded_fields"), message, None)])
    return tuple(value)


def encode_workflow_answer(
    outputs: Sequence[Mapping[str, Any]], profiler_trace: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The answer: one object of outputs for each picture of the batch."""
    return {"outputs": [dict(output) for output in outputs], "profiler_trace": [dict(step) for step in profiler_trace]}


def encode_workflow_image(data: bytes) -> dict[str, Any]:
    """A picture file among the outputs."""
    return {"type": "base64", "value": base64.b64encode(data).decode("ascii"), "video_metadata": None}


def encode_workflow_prediction(
    prediction: Prediction, size: Size, *, detection_ids: str = "", masks: MaskFormat = "polygon"
) -> dict[str, Any]:
    """What a model said, among the outputs."""
    image = {"width": size.width, "height": size.height}
    return {"image": image, **encode_prediction(prediction, detection_ids=detection_ids, masks=masks)}


def encode_workflow_error(
    message: str,
    error_type: str,
    *,
    context: str,
    inner_error_type: str | None = None,
    inner_error_message: str = "",
    blocks_errors: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The body of a 400 about the workflow itself."""
    return {
        "message": message,
        "error_type": error_type,
        "context": context,
        "inner_error_type": inner_error_type,
        "inner_error_message": inner_error_message,
        "blocks_errors": [dict(error) for error in blocks_errors],
    }


def parse_workflow_answer(document: object, count: int) -> list[Mapping[str, Any]]:
    """The outputs for each of `count` pictures. Raises ValueError."""
    found = items(mapping(document, "the answer").get("outputs"), "outputs", MAX_OUTPUTS)
    if len(found) != count:
        raise ValueError(f"the workflow answers for {len(found)} pictures, not for {count}")
    return [mapping(output, "an output of the workflow") for output in found]


def decode_workflow_output(
    value: object,
    size: Size,
    *,
    task: Task | None = None,
    labels: Labels | None = None,
    points: PointLabels | None = None,
) -> Prediction:
    """What one output says: predictions of a model, or as a text whatever else it is. Raises ValueError."""
    if isinstance(value, dict) and ("predictions" in value or "is_stub" in value):
        return decode_prediction(value, size, task=task, labels=labels, points=points)
    if task not in (None, "text"):
        raise ValueError(f"the output holds no predictions, where {task} belongs")
    said = value if isinstance(value, str) else as_text(value)
    if len(said) > MAX_TEXT:
        raise ValueError(f"the output is a text of {len(said)} characters")
    return Text(said)


def find_output(outputs: Mapping[str, Any], name: str | None) -> object:
    """The output of that name; without one, the only one that holds predictions.

    Raises:
        ValueError: there is none, or there are several.
    """
    if name is not None:
        if name not in outputs:
            known = ", ".join(sorted(map(ascii, outputs))[:20])
            raise ValueError(f"the workflow has no output {name!r}; it has {known[:200] or 'none'}")
        return outputs[name]
    found = [key for key, value in outputs.items() if isinstance(value, dict) and "predictions" in value]
    if len(found) != 1:
        known = ", ".join(sorted(map(ascii, found or outputs))[:20])[:200]
        raise ValueError(f"which output of the workflow counts must be said: it has {known or 'none'}")
    return outputs[found[0]]
