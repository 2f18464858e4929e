"""The JSON form of a `Result`: a Roboflow inference response with Penstock's envelope around it.

One result is one object on one line of strict JSON (ASCII, no NaN). Its keys are, in this order:

| key | what |
|---|---|
| `schema` | `"penstock.result/1"`; the number goes up when a key changes its meaning, not when one is added |
| `id` | unique to the result, the same in every sink |
| `source`, `frame_id` | name of the source, and the frame's number in it from 0, counted as decoded |
| `pts_s` | position in the source's timeline in seconds, or null |
| `captured_at`, `time_source` | RFC 3339 in UTC with milliseconds, and where that time comes from |
| `path` | the file that the frame was read from; left out for cameras |
| `corrupt` | true where the decoder concealed damage in the frame; left out otherwise |
| `backend`, `model`, `config_hash` | who answered, under which configuration |
| `latency_s`, `time` | seconds from the decoder to the answer, and of those for inference |
| `image` | `{"width", "height"}` of the original, upright frame in pixels |
| `zones` | how many of each class are in each zone: `{"door": {"person": 2}}`; left out where the source has none |
| `lines` | how many of each class have crossed each line so far: `{"entry": {"in": {"person": 3}, "out": {}}}` |
| `predictions` | as in a Roboflow response of the same task; empty where the task has no objects |

Objects: `x`, `y` (centre), `width`, `height` in pixels of the original frame, `confidence`, `class`, `class_id`,
`detection_id`, and where they exist `tracker_id` (-1: of no track, or not yet; readers such as supervision take all ids
of a result or none), `keypoints` (`class` is the point's name, or its number where it has none) and `rle` (COCO's run
lengths, with `mask_format = "rle"`). An object whose box or score is not a finite number cannot be written: it is left
out and counted in `invalid_predictions`.

Where a sink writes events as well, such a line is told by its schema, `"penstock.event/1"`. `event` says what it is
about, and which keys follow:

| `event` | what | keys |
|---|---|---|
| `state`, `content` | a source's state, or what its pictures show | `source`, `value`, `code`, `detail`, `at` |
| `object` | a tracked object is there | those below |
| `zone` | a tracked object is inside of a zone | and `zone` |
| `crossing` | a tracked object crossed a line | and `line`, `direction`, `count`: of its class, this way, so far |
| `presence` | a class of objects is there, where nothing tracks | and `count`: how many, in this frame |
| others | the daemon: `fallback`, `reload`, `spool`, `sink`, `start`, `stop` | `component`, `value`, `detail`, `at` |

What objects do has `event_id` and `phase`: "new", any number of "update", and "end" have one `event_id`; a crossing is
"once". `began_at` and `at` are times of frames, `duration_s` lies between them; `frame_id`, `pts_s`, `confidence` and
the box (`x`, `y`, `width`, `height` as above) are those of the frame at `at`: for an "end" the last one in which the
object was seen. `best` is the frame in which confidence times area was greatest, by the `result_id` of its line.
`zones` are all zones that the object is in. `id` is of this message alone. A process that is killed tells no ends: its
next run has other `event_id`s, and its `start` (of the daemon) says that nothing told before goes on.

Format: Roboflow inference, `ObjectDetectionInferenceResponse` and its sisters.
"""

import json
from datetime import UTC, datetime
from typing import Any

from pipeline.contracts.analysis import Scene
from pipeline.contracts.event import Best, DaemonEvent, Event, ObjectEvent, SourceEvent
from pipeline.contracts.result import Result
from pipeline.wire.roboflow import encode_prediction

SCHEMA = "penstock.result/1"
EVENT_SCHEMA = "penstock.event/1"
TOP_CLASSES = 10
"""How many classes of a classification are written at the most (and every one that a multi-label model says yes to)."""

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def to_line(result: Result) -> str:
    """The result as one line of JSON, without the newline."""
    return _encode(to_dict(result))


def to_dict(result: Result) -> dict[str, Any]:
    """The result as a dict that `json.dumps(..., allow_nan=False)` takes."""
    frame = result.frame
    width, height = frame.picture.size
    envelope: dict[str, Any] = {
        "schema": SCHEMA,
        "id": result.id,
        "source": frame.source,
        "frame_id": frame.seq,
        "pts_s": _seconds(frame.pts_s),
        "captured_at": rfc3339(frame.captured_at),
        "time_source": frame.time_source,
    }
    if frame.path is not None:
        envelope["path"] = _printable(frame.path)
    if frame.corrupt:
        envelope["corrupt"] = True
    envelope |= {
        "backend": result.backend,
        "model": result.model,
        "config_hash": result.config_hash,
        "latency_s": _seconds(result.latency_s),
        "time": _seconds(result.inference_s),
        "image": {"width": width, "height": height},
    }
    if result.scene is not None:
        envelope |= _scene(result.scene)
    return envelope | encode_prediction(
        result.prediction, detection_ids=result.id + ".", masks="rle", most_classes=TOP_CLASSES
    )


def _scene(scene: Scene) -> dict[str, Any]:
    """What is counted in the zones and at the lines of a source that has any."""
    about: dict[str, Any] = {}
    if scene.occupancy:
        about["zones"] = {zone: dict(counts) for zone, counts in scene.occupancy.items()}
    if scene.crossed:
        about["lines"] = {
            line: {direction: dict(counts) for direction, counts in directions.items()}
            for line, directions in scene.crossed.items()
        }
    return about


def event_line(event: Event) -> str:
    """The event as one line of JSON, without the newline."""
    return _encode(event_dict(event))


def event_dict(event: Event) -> dict[str, Any]:
    """The event as a dict that `json.dumps(..., allow_nan=False)` takes; `event` says which keys follow."""
    match event:
        case SourceEvent():
            return {
                "schema": EVENT_SCHEMA,
                "id": event.id,
                "event": event.kind,
                "source": event.source,
                "value": event.value,
                "code": event.code,
                "detail": _printable(event.detail),
                "at": rfc3339(event.at),
            }
        case DaemonEvent():
            return {
                "schema": EVENT_SCHEMA,
                "id": event.id,
                "event": event.kind,
                "component": event.component,
                "value": event.value,
                "detail": _printable(event.detail),
                "at": rfc3339(event.at),
            }
        case ObjectEvent():
            return _object_event(event)


def _object_event(event: ObjectEvent) -> dict[str, Any]:
    width, height = event.frame.picture.size
    about: dict[str, Any] = {
        "schema": EVENT_SCHEMA,
        "id": event.id,
        "event": event.kind,
        "event_id": event.event_id,
        "phase": event.phase,
        "source": event.source,
        "class": event.class_name,
        "tracker_id": event.tracker_id,
        "began_at": rfc3339(event.began_at),
        "at": rfc3339(event.at),
        "duration_s": _seconds(event.duration_s),
        "frame_id": event.frame.seq,
        "pts_s": _seconds(event.frame.pts_s),
        "image": {"width": width, "height": height},
        "confidence": _seconds(event.confidence),
        **_box(event.xyxy),
        "best": _best(event.best),
        "zones": list(event.zones),
    }
    optional = {"zone": event.zone, "line": event.line, "direction": event.direction, "count": event.count}
    return about | {key: value for key, value in optional.items() if value is not None}


def _best(best: Best) -> dict[str, Any]:
    return {
        "result_id": best.result_id,
        "frame_id": best.frame_id,
        "pts_s": _seconds(best.pts_s),
        "captured_at": rfc3339(best.captured_at),
        "confidence": _seconds(best.confidence),
        **_box(best.xyxy),
    }


def _box(xyxy: tuple[float, float, float, float]) -> dict[str, Any]:
    """Centre and size, as the objects of a result have them."""
    left, top, right, bottom = xyxy
    return {
        "x": _seconds((left + right) / 2),
        "y": _seconds((top + bottom) / 2),
        "width": _seconds(right - left),
        "height": _seconds(bottom - top),
    }


def rfc3339(unix_s: float) -> str | None:
    """Unix seconds as `2026-01-31T12:34:56.789Z`; None for what is no date, such as a camera's broken clock."""
    try:
        # isoformat cuts off what is behind the milliseconds: round first.
        return datetime.fromtimestamp(round(unix_s, 3), UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
    except (OverflowError, ValueError, OSError):
        return None


def _seconds(value: float | None) -> float | None:
    """Rounded to a microsecond; None for what is no number."""
    return None if value is None or value - value != 0.0 else round(value, 6)


def _printable(path: str) -> str:
    """The path as Unicode: bytes that are no UTF-8 become the replacement character, never a lone surrogate."""
    return path if path.isascii() else path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
