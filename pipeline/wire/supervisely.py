"""What a Supervisely model answers, around the annotations: results, what it says about itself, sessions.

Format: supervisely 6.74.51, `Inference` (the server), `ModelAPI` and `Session` (the clients).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.contracts.backend import ModelInfo, Task
from pipeline.wire.document import integer, items, mapping, text
from pipeline.wire.supervisely_meta import task_of, task_type

MAX_RESULTS = 10_000
RUNNING = "Running inference..."
PREPARING = "Preparing model for inference..."
FINISHED = "Finished"
CANCELLED = "Cancelled"
ERROR = "Error"
"""The stages of a session, in the words that clients compare."""

_SCHEDULED = "Scheduled inference task."


@dataclass(frozen=True, slots=True)
class Origin:
    """Which picture a result is about: a frame of a video, one that the platform keeps, or one that was sent.

    Attributes:
        name: of the picture on the platform.
        project_id: there; None, as everything else, for what was sent: whoever sent it knows best.
        dataset_id: there.
        image_id: there.
        video_id: there.
        frame_index: the frame's number in its video.
    """

    name: str | None = None
    project_id: int | None = None
    dataset_id: int | None = None
    image_id: int | None = None
    video_id: int | None = None
    frame_index: int | None = None


SENT = Origin()
"""Of a picture that came with the request."""


def result_item(annotation: Mapping[str, Any], origin: Origin = SENT) -> dict[str, Any]:
    """One result: the annotation, and which picture it is about."""
    about = asdict(origin)
    if origin.image_id is not None:
        about["image_name"] = origin.name  # their own servers leave it out, and their `Session` cannot do without it
    nobody_says: dict[str, Any] = {"data": {}, "source": None, "path": None, "url": None, "slides_data": None}
    return {"annotation": annotation, **nobody_says, **about}


def decode_result(document: object) -> Mapping[str, Any]:
    """The annotation in a result, or the annotation itself, as some serving apps send it.

    Raises:
        ValueError: there is none.
    """
    item = mapping(document, "a result")
    for key in ("annotation", "annotation_json"):
        if key in item:
            return mapping(item[key], "the annotation")
    if "objects" in item and "size" in item:
        return item
    raise ValueError("a result without annotation")


def decode_results(document: object, count: int) -> list[Mapping[str, Any]]:
    """The annotations of a batch.

    Raises:
        ValueError: there are not `count`.
    """
    results = items(document, "the answer", MAX_RESULTS)
    if len(results) != count:
        raise ValueError(f"{len(results)} results for {count} pictures")
    return [decode_result(item) for item in results]


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What a model says about itself.

    Attributes:
        app_name: of the serving app; "" where it does not say.
        task: what the model does, where it says so in words that are known.
        batches: it takes several pictures in one request.
        max_batch: at most so many; None: it does not say.
    """

    app_name: str
    task: Task | None
    batches: bool
    max_batch: int | None


def encode_session_info(name: str, info: ModelInfo, max_batch: int) -> dict[str, Any]:
    """The answer to `get_session_info`."""
    return {
        "app_name": f"Penstock {name}",
        "session_id": None,
        "number_of_classes": len(info.labels),
        "sliding_window_support": "none",
        "videos_support": True,
        "async_video_inference_support": True,
        "tracking_on_videos_support": False,
        "async_image_inference_support": True,
        "tracking_algorithms": [],
        "batch_inference_support": True,
        "max_batch_size": max_batch,
        "task type": task_type(info.task),
    }


def decode_session_info(document: object) -> SessionInfo:
    """The answer to `get_session_info`.

    Raises:
        ValueError: it is none.
    """
    info = mapping(document, "the session info")
    most = info.get("max_batch_size")
    name = info.get("app_name")
    return SessionInfo(
        app_name=name if isinstance(name, str) else "",
        task=task_of(info.get("task type")),
        batches=info.get("batch_inference_support") is True,
        max_batch=None if most is None else integer(most, "max_batch_size", 1, 2**31),
    )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a session is.

    Attributes:
        uuid: of the session.
        stage: "Running inference..." and the like.
        current: so many pictures are done.
        total: of so many, as far as one knows.
        pending: so many results wait to be fetched.
        finished: no more will come.
        stopped: because somebody stopped it.
        paused: it waits until results are fetched.
        error: kind and text of what went wrong; None: nothing.
        created_at: seconds, of no particular clock.
        updated_at: the same.
    """

    uuid: str
    stage: str
    current: int
    total: int
    pending: int
    finished: bool
    stopped: bool = False
    paused: bool = False
    error: tuple[str, str] | None = None
    created_at: float = 0.0
    updated_at: float = 0.0


def encode_start(uuid: str) -> dict[str, Any]:
    """The answer to whoever starts a session."""
    return {"message": _SCHEDULED, "inference_request_uuid": uuid}


def decode_start(document: object) -> str:
    """The id of the session that was started.

    Raises:
        ValueError: there is none.
    """
    return text(mapping(document, "the answer").get("inference_request_uuid"), "inference_request_uuid")


def encode_preparing(progress: Progress) -> dict[str, Any]:
    """The answer to `get_preparing_progress`: what was uploaded is here already, there is nothing to prepare."""
    return {"status": progress.stage, "current": progress.current, "total": progress.total, "is_size": False}


def encode_progress(progress: Progress) -> dict[str, Any]:
    """The answer to `get_inference_progress`; `pop_inference_results` has a list in place of `pending_results`."""
    counts = {"current": progress.current, "total": progress.total, "is_size": False}
    return {
        "uuid": progress.uuid,
        "inference_request_uuid": progress.uuid,
        "stage": progress.stage,
        "progress": {"message": progress.stage, "status": progress.stage, **counts},
        "pending_results": progress.pending,
        "final_result": False,
        "exception": None
        if progress.error is None
        else {"type": progress.error[0], "message": progress.error[1], "traceback": ""},
        # True until the end: one of their clients stops to ask once it is false.
        "is_inferring": not progress.finished,
        "stopped": progress.stopped,
        "paused": progress.paused,
        "finished": progress.finished,
        "created_at": progress.created_at,
        "updated_at": progress.updated_at,
        "cancel_inference": progress.stopped,
        "has_result": False,
        "result": None,
        "preparing_progress": encode_preparing(progress),
    }


def encode_status(progress: Progress, memory: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to `get_inference_status`.

    Args:
        progress: how far it is.
        memory: `gpu_memory` and `ram_memory`.
    """
    left_out = ("pending_results", "final_result", "created_at", "updated_at")
    return {key: value for key, value in encode_progress(progress).items() if key not in left_out} | dict(memory)


@dataclass(frozen=True, slots=True)
class Popped:
    """What `pop_inference_results` gave.

    Attributes:
        annotations: in the order in which the pictures were sent.
        finished: no more will come.
        error: what went wrong on the server; "": nothing.
    """

    annotations: Sequence[Mapping[str, Any]]
    finished: bool
    error: str


def decode_popped(document: object) -> Popped:
    """The answer to `pop_inference_results`.

    Raises:
        ValueError: it is none.
    """
    answer = mapping(document, "the answer")
    results = items(answer.get("pending_results"), "pending_results", MAX_RESULTS)
    finished, inferring = answer.get("finished"), answer.get("is_inferring")
    if not isinstance(finished, bool) and not isinstance(inferring, bool):
        raise ValueError("the answer does not say whether the session is finished")
    exception = answer.get("exception")
    error = ""
    if exception is not None:
        about = mapping(exception, "the exception")
        error = ": ".join(str(about[key]) for key in ("type", "message") if about.get(key)) or "no reason given"
    # Servers of old say only whether they are at work.
    is_over = finished if isinstance(finished, bool) else not inferring
    return Popped([decode_result(item) for item in results], is_over, error)


def encode_error(message: str) -> dict[str, Any]:
    """The body of a refusal."""
    return {"detail": {"title": "Penstock", "message": message}, "success": False, "message": message}


def decode_error(document: object) -> str:
    """What a server says that is wrong; "" where it does not say."""
    if not isinstance(document, dict):
        return ""
    detail = document.get("detail")
    for candidate in (document.get("message"), detail.get("message") if isinstance(detail, dict) else detail):
        if isinstance(candidate, str):
            return candidate
    return ""
