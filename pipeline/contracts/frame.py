"""`Frame`: one decoded picture on its way through the pipeline, and `Picture`, its pixels, which stay unconverted."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

TimeSource = Literal["rtcp", "pts", "arrival"]
"""Where `Frame.captured_at` comes from: the camera's own clock, the container's time stamps, or the time of arrival."""

ColorMatrix = Literal["bt601", "bt709", "bt2020"]


class Size(NamedTuple):
    """Width and height in pixels, as a viewer sees the picture (after rotation)."""

    width: int
    height: int


@dataclass(frozen=True, slots=True, eq=False)
class YuvPlanes:
    """A picture as 8-bit 4:2:0 planes, upright.

    Attributes:
        y: uint8 (H, W), luma.
        u: uint8 (ceil(H / 2), ceil(W / 2)), blue difference.
        v: uint8 (ceil(H / 2), ceil(W / 2)), red difference.
        matrix: which YCbCr matrix the values are in.
        full_range: True for 0..255 ("PC", JPEG), False for 16..235 ("TV").
        tagged: False where the source does not say its matrix and `matrix` is what is assumed.

    The arrays may be the decoder's own reference pictures: never write into them, copy first.
    """

    y: npt.NDArray[np.uint8]
    u: npt.NDArray[np.uint8]
    v: npt.NDArray[np.uint8]
    matrix: ColorMatrix
    full_range: bool
    tagged: bool = True


class Picture(Protocol):
    """The pixels of one frame, held as the decoder gave them and converted where and when they are needed.

    Made by a source; read by any thread. Every array that it hands out is read-only.
    """

    @property
    def size(self) -> Size:
        """Width and height of the upright picture in pixels."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the picture holds on to, for the limits of queues."""
        ...

    def rgb(self, width: int | None = None, height: int | None = None) -> npt.NDArray[np.uint8]:
        """uint8 (height, width, 3), HWC, RGB, 0..255; at the picture's own size when none is given. Cached."""
        ...

    def bgr(self, width: int | None = None, height: int | None = None) -> npt.NDArray[np.uint8]:
        """uint8 (height, width, 3), HWC, BGR, 0..255; at the picture's own size when none is given. Cached."""
        ...

    def gbr_planes(self, width: int, height: int) -> npt.NDArray[np.float32]:
        """float32 (3, height, width), planes in the order G, B, R, 0..1: the cheap way into a model. Not cached.

        One pass of the scaler from the decoder's own format to the model's size, without an 8-bit stop between.
        """
        ...

    def yuv420p(self) -> YuvPlanes:
        """The full-size picture as 8-bit 4:2:0 planes; the decoder's own memory where that is what it has."""
        ...

    def luma(self, width: int, height: int) -> npt.NDArray[np.uint8]:
        """uint8 (height, width), brightness 0..255 as stored, shrunk from the decoder's own luma plane. Not cached.

        For looking at what changes, not for a model: each value stands for its spot of the picture, cheaply found.
        Never larger than the picture.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class NoPicture:
    """What is left of a picture once the pixels were let go: its size. Asking it for pixels is a bug."""

    size: Size

    @property
    def nbytes(self) -> int:
        """Nothing is held."""
        return 0

    def _gone(self) -> RuntimeError:
        return RuntimeError("the pixels of this frame were released: a sink that wants them sets wants_pictures = True")

    def rgb(self, width: int | None = None, height: int | None = None) -> npt.NDArray[np.uint8]:
        """Raises RuntimeError."""
        raise self._gone()

    def bgr(self, width: int | None = None, height: int | None = None) -> npt.NDArray[np.uint8]:
        """Raises RuntimeError."""
        raise self._gone()

    def gbr_planes(self, width: int, height: int) -> npt.NDArray[np.float32]:
        """Raises RuntimeError."""
        raise self._gone()

    def yuv420p(self) -> YuvPlanes:
        """Raises RuntimeError."""
        raise self._gone()

    def luma(self, width: int, height: int) -> npt.NDArray[np.uint8]:
        """Raises RuntimeError."""
        raise self._gone()


@dataclass(frozen=True, slots=True)
class Wishes:
    """What somebody asks of the model for one picture; None: as the model is configured.

    Attributes:
        confidence: leave out what the model is less sure of, 0..1.
        iou_threshold: boxes that overlap more are one object, 0..1.
        max_detections: at most so many.
        class_agnostic_nms: boxes of different classes suppress each other, too.
        classes: names of the classes to keep.
        keypoint_confidence: leave out keypoints that the model is less sure of, 0..1.
        texts: what to compare the picture with: the candidate labels of zero-shot classification; or the question
            about it, and behind that what was asked and answered before, in turns.
    """

    confidence: float | None = None
    iou_threshold: float | None = None
    max_detections: int | None = None
    class_agnostic_nms: bool | None = None
    classes: tuple[str, ...] | None = None
    keypoint_confidence: float | None = None
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decoded picture, with where and when it comes from. Made by a source, read by every thread, never changed.

    Attributes:
        source: name of the source in pipeline.toml.
        seq: 0, 1, 2, ... in this source; every gap is counted: as an outcome in the ledger, or, in a file, as frames
            that were never decoded because nobody would have wanted them (`Sparing`).
        pts_s: position in the source's own timeline in seconds, from the container; never `seq / fps` where the
            container knows better. None where the source has no timeline.
        captured_at: Unix seconds.
        time_source: where `captured_at` comes from.
        picture: the pixels, lazily converted.
        path: the file that the frame was read from, as the user named it; None for a camera.
        decoded_at: monotonic seconds at which the decoder gave the frame: ages and staleness count from here.
        duration_s: how long the frame is shown, in seconds, where the container says so.
        file_pts_s: position in the video file `path`, in seconds since the start of its video stream; other than
            `pts_s` where several files are played on one timeline. None for cameras and pictures.
        corrupt: True where the decoder concealed damage: what is shown is in part made up.
        time_jump: True where the camera's time stamps jumped or wrapped just before this frame.
        clock_offset_s: by how much the camera's clock was behind ours when the frame arrived, in seconds, transport
            included; None where the camera tells no time.
        decode_s: how long the decoder worked on it, in seconds, for a source that waits for its frames; None: the
            runner takes the time itself.
        stale_at: monotonic seconds after which nobody wants its result any more; None: it may take its time.
        wishes: what is asked of the model for this picture alone; None: nothing.
    """

    source: str
    seq: int
    pts_s: float | None
    captured_at: float
    time_source: TimeSource
    picture: Picture
    decoded_at: float
    path: str | None = None
    duration_s: float | None = None
    file_pts_s: float | None = None
    corrupt: bool = False
    time_jump: bool = False
    clock_offset_s: float | None = None
    decode_s: float | None = None
    stale_at: float | None = None
    wishes: Wishes | None = None

    def released(self) -> "Frame":
        """The same frame without its pixels, for who does not want them and may keep it for long."""
        return Frame(
            self.source,
            self.seq,
            self.pts_s,
            self.captured_at,
            self.time_source,
            NoPicture(self.picture.size),
            self.decoded_at,
            self.path,
            self.duration_s,
            self.file_pts_s,
            self.corrupt,
            self.time_jump,
            self.clock_offset_s,
            self.decode_s,
            self.stale_at,
            self.wishes,
        )


@dataclass(frozen=True, slots=True)
class FailedFrame:
    """A frame that a source could not decode: yielded in its place, so that it is counted (`failed_decode`).

    Attributes:
        detail: one line for the log: what was wrong, and in which file or at which time stamp.
        file: the file, where all of it is of no use: each such file is named in the log.
        corrupt: True where the decoder did give a picture, but concealed damage in it.
    """

    detail: str
    file: str | None = None
    corrupt: bool = False
