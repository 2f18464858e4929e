"""Rows: what is said of a frame, or an event, as a flat table for people who count: one row for each object.

The columns, in their order; a row has those that the operator chose, and nothing where one does not apply:

| column | what |
|---|---|
| `record` | `result`, `event` (what an object does) or `notice` (of a source, or the daemon) |
| `id` | of the result, event or notice: the same in every sink; the rows of one result share it |
| `source` | name of the source |
| `frame_id`, `pts_s`, `captured_at`, `time_source`, `path`, `corrupt` | of the frame, as in a JSON line |
| `backend`, `model`, `config_hash`, `latency_s`, `inference_s` | who answered, and how fast |
| `image_width`, `image_height` | of the frame, in pixels |
| `object` | number of the object in its frame, from 0 |
| `class`, `class_id`, `confidence` | of the object; of a classification, a row for each class that is written |
| `x`, `y`, `width`, `height` | centre and size of its box, pixels of the original frame |
| `tracker_id`, `track_age_s`, `zones` | where something tracks; zones are parted by spaces |
| `text` | what a model of texts said |
| `event`, `phase`, `event_id`, `began_at`, `duration_s`, `zone`, `line`, `direction`, `count`, `best_id` | of events |
| `at` | when an event or notice was |
| `component`, `value`, `code`, `detail` | of notices |
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from pipeline.contracts.event import DaemonEvent, Event, ObjectEvent, SourceEvent
from pipeline.contracts.result import Detections, Result, SemanticMask
from pipeline.wire.results import event_dict, to_dict

Kind = Literal["text", "integer", "real", "time", "boolean"]
Value = str | int | float | bool | None
Row = dict[str, Value]

COLUMNS: dict[str, Kind] = {
    "record": "text",
    "id": "text",
    "source": "text",
    "frame_id": "integer",
    "pts_s": "real",
    "captured_at": "time",
    "time_source": "text",
    "path": "text",
    "corrupt": "boolean",
    "backend": "text",
    "model": "text",
    "config_hash": "text",
    "latency_s": "real",
    "inference_s": "real",
    "image_width": "integer",
    "image_height": "integer",
    "object": "integer",
    "class": "text",
    "class_id": "integer",
    "confidence": "real",
    "x": "real",
    "y": "real",
    "width": "real",
    "height": "real",
    "tracker_id": "integer",
    "track_age_s": "real",
    "zones": "text",
    "text": "text",
    "event": "text",
    "phase": "text",
    "event_id": "text",
    "began_at": "time",
    "duration_s": "real",
    "zone": "text",
    "line": "text",
    "direction": "text",
    "count": "integer",
    "best_id": "text",
    "at": "time",
    "component": "text",
    "value": "text",
    "code": "text",
    "detail": "text",
}
NO_TRACK = -1
_NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
_OF_RESULTS = (
    *("id", "source", "frame_id", "pts_s", "captured_at", "class", "class_id", "confidence"),
    *("x", "y", "width", "height", "tracker_id", "zones", "text"),
)
_OF_EVENTS = (
    *("id", "source", "event", "phase", "event_id", "at", "began_at", "duration_s", "class", "tracker_id"),
    *("confidence", "x", "y", "width", "height", "frame_id", "pts_s", "zone", "line", "direction", "count", "zones"),
)
_OF_NOTICES = ("record", "component", "event", "value", "code", "detail", "at")


def default_columns(*, events: bool, notices: bool) -> tuple[str, ...]:
    """The columns for who chose none, in the order of the table."""
    wanted = {*(_OF_EVENTS if events else _OF_RESULTS), *(_OF_NOTICES if notices else ())}
    return tuple(name for name in COLUMNS if name in wanted)


def check_columns(columns: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that the operator chose.

    Raises:
        ValueError: there is no such column, or one stands there twice.
    """
    for name in columns:
        if name not in COLUMNS:
            raise ValueError(f"there is no column {name!r}; there are {', '.join(COLUMNS)}")
    if len(set(columns)) < len(columns):
        raise ValueError("a column stands there twice")
    return columns


def rows_of(item: Result | Event, *, empty_frames: bool) -> list[Row]:
    """The rows of one result or event, each with the keys that apply; times are RFC 3339.

    Args:
        item: what it is about.
        empty_frames: a row also for a result without any object.
    """
    if isinstance(item, Result):
        return _result_rows(item, empty_frames=empty_frames)
    return [_object_event_row(item) if isinstance(item, ObjectEvent) else _notice_row(item)]


def _result_rows(result: Result, *, empty_frames: bool) -> list[Row]:
    said = to_dict(_flat(result))
    image = said["image"]
    about: Row = {
        "record": "result",
        "corrupt": result.frame.corrupt,
        "inference_s": said["time"],
        "image_width": image["width"],
        "image_height": image["height"],
    }
    about |= {key: value for key, value in said.items() if key in COLUMNS and not isinstance(value, dict | list)}
    text = said.get("result")
    if isinstance(text, str):
        return [about | {"text": text}]
    about.pop("confidence", None)  # of the best class of a classification, which has a row of its own
    tracks = result.scene.tracks if result.scene is not None else ()
    rows: list[Row] = []
    for number, item in enumerate(_objects(said.get("predictions"))):
        row: Row = {key: value for key, value in item.items() if key in COLUMNS and not isinstance(value, dict | list)}
        index = int(item["detection_id"].rpartition(".")[2]) if "detection_id" in item else number
        if row.get("tracker_id") == NO_TRACK:
            del row["tracker_id"]
        track = tracks[index] if index < len(tracks) else None
        if track is not None:
            row |= {"track_age_s": round(track.age_s, 3), "zones": " ".join(track.zones)}
        rows.append(about | {"object": index} | row)
    return rows or ([about] if empty_frames else [])


def _flat(result: Result) -> Result:
    """Without what finds no place in a table and is dear to write."""
    found = result.prediction
    if isinstance(found, Detections) and (found.masks is not None or found.keypoints is not None):
        return replace(result, prediction=replace(found, masks=None, keypoints=None))
    if isinstance(found, SemanticMask):
        return replace(result, prediction=_NOTHING)
    return result


def _objects(predictions: Any) -> Sequence[dict[str, Any]]:
    """The predictions of a response as a list: a classification with many labels has a table of them."""
    if isinstance(predictions, dict):
        return [{"class": name, **about} for name, about in predictions.items() if isinstance(about, dict)]
    return predictions if isinstance(predictions, list) else []


def _object_event_row(event: ObjectEvent) -> Row:
    said = event_dict(event)
    row: Row = {key: value for key, value in said.items() if key in COLUMNS and not isinstance(value, dict | list)}
    width, height = event.frame.picture.size
    return row | {
        "record": "event",
        "captured_at": said["at"],
        "time_source": event.frame.time_source,
        "corrupt": event.frame.corrupt,
        "image_width": width,
        "image_height": height,
        "zones": " ".join(event.zones),
        "best_id": event.best.result_id,
    }


def _notice_row(event: SourceEvent | DaemonEvent) -> Row:
    said = event_dict(event)
    return {"record": "notice"} | {key: value for key, value in said.items() if key in COLUMNS}
