"""Between Roboflow's stream manager and the daemon's sources: its references, states, reports and refusals."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

from aiohttp import web

from pipeline.contracts.frame import Wishes
from pipeline.contracts.result import Detections, Prediction
from pipeline.runtime.control import ReloadOutcome
from pipeline.server.inference._roboflow_answers import RoboflowRefusedError
from pipeline.server.inference._roboflow_definition import Definition, Step, resolved_field
from pipeline.server.inference.service import json_answer
from pipeline.wire.roboflow import (
    InitialisePipeline,
    PipelineSource,
    SourceState,
    encode_pipeline_answer,
    encode_pipeline_error,
    encode_report,
)

Kind = Literal["internal_error", "invalid_payload", "not_found", "operation_error", "authorisation_error"]
_ERROR_SEVERITY = 3
_STATES: Final[dict[str, SourceState]] = {
    "starting": "INITIALISING",
    "running": "RUNNING",
    "reconnecting": "RESTARTING",
    "paused": "PAUSED",
    "ended": "ENDED",
    "failed": "ERROR",
    "stopped": "TERMINATING",
}


def fault(status: int, message: str, kind: Kind) -> RoboflowRefusedError:
    """A fault in the stream manager's form; `kind` is one of its own words."""
    return RoboflowRefusedError(status, encode_pipeline_error(message, kind))


def success(pipeline_id: str | None, **more: Any) -> web.Response:
    """An answer in the stream manager's form."""
    return json_answer(encode_pipeline_answer(uuid.uuid4().hex, pipeline_id, **more))


def check(outcome: ReloadOutcome) -> None:
    """Go on if the order was carried out.

    Raises:
        RoboflowRefusedError: it was not, and why.
    """
    if not outcome.ok:
        kind: Kind = "invalid_payload" if outcome.invalid else "operation_error"
        message = "; ".join(outcome.problems[:5]) or "it could not be put in force"
        raise fault(400 if outcome.invalid else 409, message, kind)


def source_table(asked: InitialisePipeline, backend: str) -> dict[str, Any]:
    """The source's table in the configuration: its type follows from the reference.

    Raises:
        RoboflowRefusedError: 400: there are several videos, or it is no video that a source could read.
    """
    table: dict[str, Any]
    match asked.references:
        case (int(number),) if 0 <= number < 256:
            table = {"type": "device", "path": f"/dev/video{number}"}
        case (str(text),) if text.startswith(("rtsp://", "rtsps://")):
            table = {"type": "rtsp", "url": text}
        case (str(text),) if text.startswith(("http://", "https://")):
            table = {"type": "stream", "url": text}
        case (str(text),) if text and "://" not in text:
            table = {"type": "device" if text.startswith("/dev/") else "file", "path": text}
        case _:
            raise fault(400, "video_reference must be one URL, path or number of a camera", "invalid_payload")
    table["backend"] = backend
    if asked.max_fps is not None:
        table["max_fps"] = asked.max_fps
    return table


def takes_input(step: Step, definition: Definition) -> bool:
    """Whether a model step looks at the whole picture, and not at a part that another step cut out."""
    image = resolved_field(step.fields, "images")
    return any(item.is_image and image == f"$inputs.{item.name}" for item in definition.inputs)


def narrowed(prediction: Prediction, wishes: Wishes) -> Prediction:
    """What a workflow asks of its model, done afterwards: the model was asked with the source's own settings."""
    if not isinstance(prediction, Detections):
        return prediction
    rows = [
        row
        for row in range(len(prediction))
        if (wishes.confidence is None or prediction.confidence[row] >= wishes.confidence)
        and (wishes.classes is None or prediction.label(row) in wishes.classes)
    ]
    if len(rows) == len(prediction) and (wishes.max_detections is None or len(rows) <= wishes.max_detections):
        return prediction
    return prediction.picked(rows[: wishes.max_detections])


def report(source: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a source, of the daemon's status, in the stream manager's form."""
    details: Mapping[str, Any] = source.get("details") or {}
    is_file = source.get("type") == "file"
    video = PipelineSource(
        source_id=0,
        reference=source["name"],  # the real one may hold a password
        state=_STATES.get(str(source.get("state")), "NOT_STARTED"),
        width=_whole(details.get("width_px")),
        height=_whole(details.get("height_px")),
        fps=details.get("fps"),
        is_file=is_file,
        buffer_size=source.get("queue_capacity") or 0,
        filling="WAIT" if is_file else "DROP_OLDEST",
        consumption="EAGER",
    )
    updates = []
    if source.get("error"):
        update = {
            "timestamp": datetime.now(UTC).isoformat(),
            "severity": _ERROR_SEVERITY,
            "event_type": "SOURCE_ERROR",
            "payload": {"error_type": source.get("code"), "error_message": source["error"]},
            "context": "source",
        }
        updates = [update]
    return encode_report([video], throughput_fps=0.0, updates=updates)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None
