"""Roboflow's stream manager, `/inference_pipelines`: what starts a pipeline, and what is said about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.wire._roboflow_options import InvalidRequestError, Problem
from pipeline.wire._roboflow_requests import body_of, key_of
from pipeline.wire.document import items, mapping, text

MAX_SOURCES = 100
MAX_BUFFER = 100_000

SourceState = Literal[
    "NOT_STARTED", "INITIALISING", "RESTARTING", "RUNNING", "PAUSED", "MUTED", "TERMINATING", "ENDED", "ERROR"
]

ErrorKind = Literal["internal_error", "invalid_payload", "not_found", "operation_error", "authorisation_error"]


@dataclass(frozen=True, slots=True)
class InitialisePipeline:
    """The body of `POST /inference_pipelines/initialise`.

    Attributes:
        references: the videos: URLs, paths or numbers of devices.
        max_fps: at most so many frames a second; None: all.
        filling: what a full buffer does: "WAIT", "DROP_OLDEST", "ADAPTIVE_DROP_OLDEST", "DROP_LATEST", ...
        consumption: "LAZY" or "EAGER".
        specification: the workflow; None: that of `workspace` and `workflow_id`.
        workspace: where the workflow is found.
        workflow_id: its id there.
        image_input: name of the input that takes the frames.
        parameters: of the workflow.
        buffer_results: so many results wait to be consumed.
        api_key: the client's.
    """

    references: tuple[str | int, ...]
    max_fps: float | None = None
    filling: str | None = None
    consumption: str | None = None
    specification: Mapping[str, Any] | None = None
    workspace: str | None = None
    workflow_id: str | None = None
    image_input: str = "image"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    buffer_results: int = 64
    api_key: str | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """As a client sends it."""
        video = {
            "type": "VideoConfiguration",
            "video_reference": list(self.references) if len(self.references) > 1 else self.references[0],
            "max_fps": self.max_fps,
            "source_buffer_filling_strategy": self.filling or "DROP_OLDEST",
            "source_buffer_consumption_strategy": self.consumption or "EAGER",
        }
        processing = {
            "type": "WorkflowConfiguration",
            "workflow_specification": self.specification,
            "workspace_name": self.workspace,
            "workflow_id": self.workflow_id,
            "image_input_name": self.image_input,
            "workflows_parameters": dict(self.parameters) or None,
        }
        return {
            "api_key": self.api_key,
            "video_configuration": video,
            "processing_configuration": processing,
            "sink_configuration": {"type": "MemorySinkConfiguration", "results_buffer_size": self.buffer_results},
        }


def parse_initialise(body: object) -> InitialisePipeline:
    """The same read. Raises InvalidRequestError (400 in Roboflow's server here)."""
    document = body_of(body)
    video = _section(document, "video_configuration", required=True)
    processing = _section(document, "processing_configuration", required=True)
    sink = _section(document, "sink_configuration", required=False)
    reference = video.get("video_reference")
    references: list[Any] = reference if isinstance(reference, list) else [reference]
    where = ("video_configuration", "video_reference")
    if not 1 <= len(references) <= MAX_SOURCES or any(
        isinstance(one, bool) or not isinstance(one, str | int) for one in references
    ):
        raise _bad(where, "Input should be a URL, a path or the number of a device, or a list of them")
    specification = processing.get("workflow_specification")
    if specification is not None and not isinstance(specification, dict):
        raise _bad(("processing_configuration", "workflow_specification"), "Input should be a valid dictionary")
    parameters = processing.get("workflows_parameters") or {}
    if not isinstance(parameters, dict):
        raise _bad(("processing_configuration", "workflows_parameters"), "Input should be a valid dictionary")
    buffer = sink.get("results_buffer_size", 64)
    if isinstance(buffer, bool) or not isinstance(buffer, int) or not 1 <= buffer <= MAX_BUFFER:
        raise _bad(("sink_configuration", "results_buffer_size"), f"Input should be a number from 1 to {MAX_BUFFER}")
    return InitialisePipeline(
        tuple(references),
        _fps(video.get("max_fps")),
        _text(video, "video_configuration", "source_buffer_filling_strategy"),
        _text(video, "video_configuration", "source_buffer_consumption_strategy"),
        specification,
        _text(processing, "processing_configuration", "workspace_name"),
        _text(processing, "processing_configuration", "workflow_id"),
        _text(processing, "processing_configuration", "image_input_name") or "image",
        parameters,
        buffer,
        key_of(document),
    )


def _fps(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1000:
        raise _bad(("video_configuration", "max_fps"), "Input should be a number above 0")
    return float(value)


def _section(document: Mapping[str, Any], name: str, *, required: bool) -> Mapping[str, Any]:
    value = document.get(name)
    if value is None and not required:
        return {}
    if not isinstance(value, dict):
        raise _bad((name,), "Field required" if value is None else "Input should be a valid dictionary")
    return value


def _text(section: Mapping[str, Any], where: str, name: str) -> str | None:
    value = section.get(name)
    if value is not None and (not isinstance(value, str) or len(value) > 1000):
        raise _bad((where, name), "Input should be a valid string")
    return value


def _bad(loc: tuple[str, ...], message: str) -> InvalidRequestError:
    return InvalidRequestError([Problem("value_error", ("body", *loc), message, None)])


def encode_pipeline_answer(request_id: str, pipeline_id: str | None, **more: Any) -> dict[str, Any]:
    """Every good answer of the stream manager: with `pipelines`, `report`, `outputs` and `frames_metadata` in it."""
    return {"status": "success", "context": {"request_id": request_id, "pipeline_id": pipeline_id}, **more}


def parse_pipeline_answer(document: object) -> Mapping[str, Any]:
    """The same read: the whole object, of which `status` was looked at. Raises ValueError."""
    answer = mapping(document, "the answer")
    if answer.get("status") != "success":
        raise ValueError("the stream manager did not succeed")
    context = mapping(answer.get("context"), "context of the answer")
    if context.get("pipeline_id") is not None:
        text(context["pipeline_id"], "pipeline_id")
    return answer


def encode_pipeline_error(message: str, error_type: ErrorKind, inner_error_type: str = "") -> dict[str, Any]:
    """The body of every other answer."""
    return {"message": message, "error_type": error_type, "inner_error_type": inner_error_type or error_type}


@dataclass(frozen=True, slots=True)
class PipelineSource:
    """One video of a pipeline, as `report` has it."""

    source_id: int
    reference: str | int
    state: SourceState
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    is_file: bool = False
    total_frames: int | None = None
    buffer_size: int = 64
    filling: str | None = None
    consumption: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As in `sources_metadata`."""
        properties = {
            "width": self.width,
            "height": self.height,
            "total_frames": self.total_frames,
            "is_file": self.is_file,
            "fps": self.fps,
            "is_reconnectable": not self.is_file,
            "timestamp_created": None,
        }
        return {
            "source_properties": None if self.width is None else properties,
            "source_reference": self.reference,
            "buffer_size": self.buffer_size,
            "state": self.state,
            "buffer_filling_strategy": self.filling,
            "buffer_consumption_strategy": self.consumption,
            "source_id": self.source_id,
        }


def encode_report(
    sources: Sequence[PipelineSource],
    *,
    throughput_fps: float,
    latencies_s: Sequence[tuple[int, float | None, float | None, float | None]] = (),
    updates: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """`report` of `/inference_pipelines/{id}/status`.

    Args:
        sources: the videos.
        throughput_fps: results a second.
        latencies_s: of each source: its id, decoding, inference, from the frame to the result.
        updates: `{timestamp, severity, event_type, payload, context}` of what happened to the videos.
    """
    names = ("source_id", "frame_decoding_latency", "inference_latency", "e2e_latency")
    return {
        "video_source_status_updates": [dict(update) for update in updates],
        "latency_reports": [dict(zip(names, latency, strict=True)) for latency in latencies_s],
        "inference_throughput": throughput_fps,
        "sources_metadata": [source.to_json() for source in sources],
    }


def parse_pipelines(document: object) -> list[str]:
    """The ids of `GET /inference_pipelines/list`. Raises ValueError."""
    found = items(parse_pipeline_answer(document).get("pipelines"), "pipelines", 10_000)
    return [text(one, "a pipeline's id") for one in found]
