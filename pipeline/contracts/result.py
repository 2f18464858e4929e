"""`Prediction`: what a model said about one frame, and `Result`: that, with the frame and who said it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    import numpy.typing as npt
    import supervision as sv

    from pipeline.contracts.analysis import Scene
    from pipeline.contracts.frame import Frame

T = TypeVar("T")


class Timings(NamedTuple):
    """Seconds that a backend spent on one frame (its share of a batch); 0.0 where a stage does not exist."""

    preprocess_s: float = 0.0
    infer_s: float = 0.0
    postprocess_s: float = 0.0


NO_TIMINGS = Timings()


def label_of(names: Sequence[str], class_id: int) -> str:
    """The name of a class: its label, or `class_N` where the model has no name for it."""
    return names[class_id] if 0 <= class_id < len(names) else f"class_{class_id}"


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Objects found in one frame: K boxes with what belongs to them, most confident first.

    Attributes:
        xyxy: float32 (K, 4), left, top, right, bottom in pixels of the original, upright frame.
        confidence: float32 (K,), 0..1.
        class_id: int32 (K,), index into `names`.
        names: the model's labels; shared by all results of the model, not copied.
        masks: bool (K, H, W) in pixels of the original frame, or None.
        keypoints: float32 (K, P, 3), x, y, confidence in pixels of the original frame, or None; a point that was not
            found is a row of NaN.
        tracker_id: int32 (K,), or None where nothing tracks.
        keypoint_names: P names of the keypoints; () where the model has none for them.
        timings: what the backend spent on the frame.
    """

    xyxy: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    class_id: npt.NDArray[np.int32]
    names: tuple[str, ...] = ()
    masks: npt.NDArray[np.bool_] | None = None
    keypoints: npt.NDArray[np.float32] | None = None
    tracker_id: npt.NDArray[np.int32] | None = None
    timings: Timings = NO_TIMINGS
    keypoint_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.class_id)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, for the limits of queues."""
        arrays = (self.xyxy, self.confidence, self.class_id, self.masks, self.keypoints, self.tracker_id)
        return sum(array.nbytes for array in arrays if array is not None)

    def label(self, index: int) -> str:
        """The name of object `index`: its label, or `class_N` where the model has no name for it."""
        return label_of(self.names, int(self.class_id[index]))

    def picked(self, rows: Sequence[int]) -> Detections:
        """Only these objects, in this order."""
        index = np.array(rows, np.intp)
        return replace(
            self,
            xyxy=self.xyxy[index],
            confidence=self.confidence[index],
            class_id=self.class_id[index],
            masks=None if self.masks is None else self.masks[index],
            keypoints=None if self.keypoints is None else self.keypoints[index],
            tracker_id=None if self.tracker_id is None else self.tracker_id[index],
        )

    def to_supervision(self) -> sv.Detections:
        """The same as `supervision.Detections` (imported here: it costs half a second and 58 MB)."""
        import supervision as sv

        return sv.Detections(
            xyxy=self.xyxy.astype(np.float32),
            confidence=self.confidence,
            class_id=self.class_id.astype(int),
            mask=self.masks,
            tracker_id=None if self.tracker_id is None else self.tracker_id.astype(int),
            data={"class_name": np.array([self.label(i) for i in range(len(self))], dtype=str)},
        )


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """One score per class for the whole frame.

    Attributes:
        scores: float32 (C,), 0..1; they sum to 1 unless `multi_label`.
        names: C labels.
        multi_label: True where each class is its own yes or no.
        timings: what the backend spent on the frame.
    """

    scores: npt.NDArray[np.float32]
    names: tuple[str, ...] = ()
    multi_label: bool = False
    timings: Timings = NO_TIMINGS

    @property
    def nbytes(self) -> int:
        """Bytes of the array, for the limits of queues."""
        return self.scores.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class SemanticMask:
    """One class per pixel.

    Attributes:
        class_map: int32 (H, W) in pixels of the original frame, index into `names`.
        names: the model's labels.
        confidence: uint8 (H, W), 255 where the model is sure; None where it does not say.
        timings: what the backend spent on the frame.
    """

    class_map: npt.NDArray[np.int32]
    names: tuple[str, ...] = ()
    confidence: npt.NDArray[np.uint8] | None = None
    timings: Timings = NO_TIMINGS

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, for the limits of queues."""
        return self.class_map.nbytes + (0 if self.confidence is None else self.confidence.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """One vector for the frame: float32 (D,)."""

    vector: npt.NDArray[np.float32]
    timings: Timings = NO_TIMINGS

    @property
    def nbytes(self) -> int:
        """Bytes of the array, for the limits of queues."""
        return self.vector.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """A text about the frame: a caption, or what was read in it."""

    text: str
    timings: Timings = NO_TIMINGS

    @property
    def nbytes(self) -> int:
        """Bytes of the text, roughly, for the limits of queues."""
        return len(self.text)


Prediction = Detections | Classification | SemanticMask | Embedding | Text


class Shared:
    """What one sink made of a result and others need, too: a drawn picture. Goes with the result; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[Hashable, object] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gave the first time it was asked for this key; who comes meanwhile waits."""
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            return cast("T", self._made[key])


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What the pipeline says about one frame. Made by the backend's runner, read by every sink, never changed.

    Attributes:
        id: unique to this result and the same in every sink: 32 hex digits, which sort by time (UUIDv7).
        frame: the frame; its picture is a `NoPicture` in sinks that do not want pixels.
        prediction: what the model said.
        backend: name of the backend in pipeline.toml that answered.
        model: what that backend calls its model.
        config_hash: hash of the configuration that was in force, 12 hex digits.
        inferred_at: monotonic seconds at which the answer was there; minus `frame.decoded_at` it is the latency.
        inference_s: seconds that the backend spent on the frame, queueing not counted.
        scene: what the results of its source so far say about the frame: tracks, zones, lines; None where nobody asks.
        unfiltered: what the model said before some objects were left out for this sink; None where none were.
        shared: where sinks keep what they make of the picture for each other; None where only one sink wants it.
    """

    id: str
    frame: Frame
    prediction: Prediction
    backend: str
    model: str
    config_hash: str
    inferred_at: float
    inference_s: float
    scene: Scene | None = None
    unfiltered: Prediction | None = None
    shared: Shared | None = None

    @property
    def latency_s(self) -> float:
        """Seconds from the decoder to the answer, never negative."""
        return max(0.0, self.inferred_at - self.frame.decoded_at)

    def released(self) -> Result:
        """The same result without the frame's pixels."""
        return Result(
            self.id,
            self.frame.released(),
            self.prediction,
            self.backend,
            self.model,
            self.config_hash,
            self.inferred_at,
            self.inference_s,
            self.scene,
            self.unfiltered,
        )
