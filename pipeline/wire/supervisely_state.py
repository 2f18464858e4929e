"""What a request to a Supervisely model asks for: its `state`, with settings, pictures and frames of a video.

Format: supervisely 6.74.51; every spelling that one of its clients writes or its servers read.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.contracts.frame import Wishes
from pipeline.wire.document import integer, items, mapping, number, quoted, text
from pipeline.wire.supervisely_settings import parse_settings

MAX_CLASSES = 10_000
MAX_FRAMES = 2**31 - 1
MAX_BATCH = 1024
MAX_IDS, MAX_ID = 100_000, 2**53
UPLOAD_MODES = ("create", "append", "replace", "iou_merge")
"""What a client may want done with the results on the platform."""

IDS = ("batch_ids", "image_ids", "images_ids", "imageIds", "image_id", "imageId")
"""Every spelling of the images' ids in a request."""

_CONFIDENCE = (
    *("conf", "confidence", "confidence_threshold", "confidence_thresh", "conf_thres", "conf_thresh", "conf_threshold"),
    *("score_threshold", "score_thr", "threshold"),
)
_IOU = ("iou", "iou_threshold", "iou_thres", "iou_thresh", "nms_iou", "nms_iou_thresh", "nms_threshold")
_MOST = ("max_det", "max_detections", "max_dets")
_AGNOSTIC = ("agnostic_nms", "class_agnostic_nms", "nms_agnostic")
_START = ("startFrameIndex", "start_frame_index", "start_frame")
_COUNT = ("framesCount", "frames_count", "num_frames")
_END = ("endFrameIndex", "end_frame_index", "end_frame")
_STRIDE = ("stride", "step")
_DURATION = ("duration", "duration_s")
_VIDEO_ID, _PROJECT_ID = ("videoId", "video_id"), ("projectId", "project_id")
_DATASET_IDS = ("dataset_ids", "datasetIds")
_DIRECTION = ("direction", "framesDirection", "frames_direction")

SETTINGS: Mapping[str, Any] = dict.fromkeys((*_CONFIDENCE, *_IOU, *_MOST, *_AGNOSTIC, "classes"))
"""What a client may set, and that nothing of it is: the model's own configuration holds."""


@dataclass(frozen=True, slots=True)
class FrameWindow:
    """Which frames of a video are wanted.

    Attributes:
        start: number of the first one; None: the first of all, or the last one if `backward`.
        count: so many frames from there, those left out by `stride` included; None: see the next two.
        end: number of the last one.
        duration_s: so long.
        stride: every so many-th.
        backward: from the start towards the beginning.
    """

    start: int | None = None
    count: int | None = None
    end: int | None = None
    duration_s: float | None = None
    stride: int = 1
    backward: bool = False

    def indexes(self, frames: int, fps: float) -> range:
        """The frames' numbers in the order in which they are wanted.

        Args:
            frames: that the video has.
            fps: a second.
        """
        if frames <= 0:
            return range(0)
        start = self.start if self.start is not None else (frames - 1 if self.backward else 0)
        if self.count is not None:
            count = self.count
        elif self.end is not None:
            count = (start - self.end if self.backward else self.end - start) + 1
        elif self.duration_s is not None:
            count = min(int(min(self.duration_s * fps, MAX_FRAMES)), MAX_FRAMES)
        else:
            count = frames
        if self.backward:
            wanted = range(start, max(start - count, -1), -self.stride)
            return wanted[_strides_to(start, frames - 1, self.stride) :]
        return range(start, min(start + count, frames), self.stride)


def _strides_to(start: int, last: int, stride: int) -> int:
    """So many frames that are wanted lie behind the end of the video."""
    return max(0, math.ceil((start - last) / stride))


@dataclass(frozen=True, slots=True)
class State:
    """The `state` of a request: what is asked for. Made by `decode_body` and `decode_form`."""

    values: Mapping[str, Any]
    settings: Mapping[str, Any]

    def uuid(self) -> str | None:
        """Of a session that runs; None: the request names none.

        Raises:
            ValueError: it is no text.
        """
        value = self.values.get("inference_request_uuid")
        return None if value is None else text(value, "inference_request_uuid")

    def batch_size(self) -> int | None:
        """Pictures in one run of the model, as the client wishes.

        Raises:
            ValueError: it is no number from 1.
        """
        return self._integer(("batch_size",), 1, MAX_BATCH)

    def image_url(self) -> str:
        """Where the picture is to be fetched.

        Raises:
            ValueError: it does not say.
        """
        return text(self.values.get("image_url"), "image_url")

    def image_ids(self) -> list[int]:
        """Pictures of the platform, in the order in which they are wanted; one may come twice.

        Raises:
            ValueError: there are none, or what is there are no ids.
        """
        return self._ids(IDS)

    def video_id(self) -> int:
        """A video of the platform.

        Raises:
            ValueError: there is none.
        """
        return self._id(_VIDEO_ID)

    def project_id(self) -> int:
        """A project of the platform.

        Raises:
            ValueError: there is none.
        """
        return self._id(_PROJECT_ID)

    def dataset_ids(self) -> list[int] | None:
        """Which of the project's datasets are wanted; None: all.

        Raises:
            ValueError: what is there are no ids.
        """
        return None if _first(self.values, _DATASET_IDS) is None else self._ids(_DATASET_IDS)

    def uploads(self) -> str | None:
        """What the client wants to have written to the platform, as it says that; None: nothing.

        Raises:
            ValueError: there is no such `upload_mode`.
        """
        mode = self._find(("upload_mode",))
        if mode is not None:
            if mode not in UPLOAD_MODES:
                raise ValueError(f"upload_mode {quoted(mode)} is none of {', '.join(UPLOAD_MODES)}")
            return f"upload_mode = {mode}"
        if self._find(("output_project_id",)) is not None:
            return "output_project_id"
        return "upload" if self.values.get("upload") is True else None

    def tracks(self) -> bool:
        """Whether objects are to be followed from frame to frame."""
        return bool(self._find(("tracker",))) or self._find(("tracking",)) is True

    def wishes(self) -> Wishes | None:
        """What is asked of the model; None: nothing.

        Raises:
            ValueError: a setting makes no sense. What is not known is passed over, as their servers do.
        """
        settings = self.settings
        agnostic = _first(settings, _AGNOSTIC)
        if agnostic is not None and not isinstance(agnostic, bool):
            raise ValueError("agnostic_nms is neither true nor false")
        most = _first(settings, _MOST)
        wishes = Wishes(
            confidence=_ratio(_first(settings, _CONFIDENCE), "the confidence"),
            iou_threshold=_ratio(_first(settings, _IOU), "iou"),
            max_detections=None if most is None else integer(most, "max_det", 1, 2**31),
            class_agnostic_nms=agnostic,
            classes=_classes(settings.get("classes")),
        )
        return None if wishes == Wishes() else wishes

    def window(self) -> FrameWindow:
        """Which frames of a video are asked for, in whatever spelling.

        Raises:
            ValueError: it makes no sense.
        """
        duration = self._find(_DURATION)
        duration_s = None if duration is None else number(duration, "duration")
        if duration_s is not None and duration_s < 0:
            raise ValueError("duration is negative")
        direction = self._find(_DIRECTION)
        if direction not in (None, "forward", "backward"):
            raise ValueError(f"direction {quoted(direction)} is neither forward nor backward")
        return FrameWindow(
            start=self._integer(_START, 0, MAX_FRAMES),
            count=self._integer(_COUNT, 0, MAX_FRAMES),
            end=self._integer(_END, 0, MAX_FRAMES),
            duration_s=duration_s,
            stride=self._integer(_STRIDE, 1, MAX_FRAMES) or 1,
            backward=direction == "backward",
        )

    def _find(self, names: Sequence[str]) -> Any:
        """In the state itself, or in the settings, where their client writes it a second time."""
        value = _first(self.values, names)
        return _first(self.settings, names) if value is None else value

    def _ids(self, names: Sequence[str]) -> list[int]:
        value = _first(self.values, names)
        found = items([value] if isinstance(value, int | float) else value, names[0], MAX_IDS)
        if not found:
            raise ValueError(f"{names[0]} is empty")
        return [integer(item, names[0], 1, MAX_ID) for item in found]

    def _id(self, names: Sequence[str]) -> int:
        return integer(_first(self.values, names), names[-1], 1, MAX_ID)

    def _integer(self, names: Sequence[str], least: int, most: int) -> int | None:
        value = self._find(names)
        return None if value is None else integer(value, names[0], least, most)


def decode_body(document: object) -> State:
    """The state in a JSON body: under `state`, and without one the body itself.

    Raises:
        ValueError: it is none.
    """
    body = mapping(document, "the body")
    state = body.get("state")
    return _state(body if state is None else state)


def decode_form(parts: Mapping[str, str]) -> State:
    """The state in the text parts of a form: `state`, or `settings` where there is none.

    Raises:
        ValueError: it is none.
    """
    written = next((parts[name] for name in ("state", "settings") if parts.get(name, "").strip() not in ("", "{}")), "")
    state = parse_settings(written)
    # Their clients wrap the settings; a person with curl does not.
    return _state(state if "settings" in state or "inference_request_uuid" in state else {**state, "settings": state})


def _state(document: object) -> State:
    values = mapping(document, "the state")
    settings = values.get("settings")
    if settings is None:
        return State(values, {})
    return State(values, parse_settings(settings) if isinstance(settings, str) else mapping(settings, "the settings"))


def encode_state(settings: Mapping[str, Any], **values: Any) -> dict[str, Any]:
    """The state of a request; what is None is left out."""
    state = {name: value for name, value in values.items() if value is not None}
    return state | {"settings": dict(settings)} if settings else state


def encode_body(state: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The JSON body of a request."""
    return {"state": dict(state), "context": {}} | more


def _first(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _ratio(value: object, what: str) -> float | None:
    if value is None:
        return None
    found = number(value, what)
    if not 0.0 <= found <= 1.0:
        raise ValueError(f"{what} is not from 0 to 1")
    return found


def _classes(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return tuple(text(item, "a class") for item in items(value, "classes", MAX_CLASSES))
