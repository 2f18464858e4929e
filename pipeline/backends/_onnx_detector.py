"""The hot path of the ONNX backend: frames in, detections out, with as little of its own as possible."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.backends._onnx_session import Session, raise_run_error
from pipeline.contracts.errors import TransientError
from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.result import Detections, Timings
from pipeline.models.detector import ModelDescription
from pipeline.models.families import Choice
from pipeline.models.heads import HeadOptions
from pipeline.models.letterbox import Placement, fitted, to_frame
from pipeline.models.nms import nms
from pipeline.models.preprocess import InputBuffer

_MAX_PLACEMENTS = 256  # frame sizes that are remembered; cameras have one each
_SPARE_SIZES = 2  # input sizes for which buffers are kept, with `input_shape = "fit"`


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """What the config decides about the hot path.

    Attributes:
        confidence: boxes below it are dropped.
        iou_threshold: boxes of one class that overlap more than this are one object.
        max_detections: at most this many boxes a frame.
        class_agnostic_nms: boxes of different classes suppress each other, too.
        keep: bool (C,), the classes to keep; None: all.
        fit: shrink the input rectangle to the frame's shape (dynamic models only).
        max_batch: rows of the input tensor.
        concurrency: how many threads call `infer`.
    """

    confidence: float
    iou_threshold: float
    max_detections: int
    class_agnostic_nms: bool
    keep: npt.NDArray[np.bool_] | None
    fit: bool
    max_batch: int
    concurrency: int


class _Slot(NamedTuple):
    """A frame's place in the run: which input, and where in it."""

    input_size: Size
    placement: Placement


class Detector:
    """A loaded model. Made by the backend's `open`; `infer` is called by several threads at once.

    Args:
        session: the loaded model.
        model: what is known of it.
        choice: its family and output.
        settings: the config's part.
        errors: what the session raises.
        now_s: a monotonic clock.
    """

    def __init__(
        self,
        *,
        session: Session,
        model: ModelDescription,
        choice: Choice,
        settings: DetectorSettings,
        errors: tuple[type[Exception], ...],
        now_s: Callable[[], float],
    ) -> None:
        self._session = session
        self._model = model
        self._choice = choice
        self._settings = settings
        self._errors = errors
        self._now_s = now_s
        self._head = HeadOptions(settings.confidence, choice.layout, model.raw_grid)
        self._outputs = [choice.output.name]
        self._slots: dict[Size, _Slot] = {}
        self._spare: deque[tuple[Size, InputBuffer]] = deque(
            maxlen=settings.concurrency * (_SPARE_SIZES if settings.fit else 1)
        )
        self._lock = threading.Lock()

    def infer(self, batch: Sequence[Frame]) -> list[Detections]:
        """Detections for 1 to `max_batch` frames, in their order.

        Raises:
            TransientError: a picture cannot be converted, or the run failed.
            FatalError: no run will ever succeed.
        """
        slots = [self._slot(frame.picture.size) for frame in batch]
        first = slots[0].input_size
        if not self._settings.fit or all(slot.input_size == first for slot in slots):
            return self._run(first, batch, slots)
        # Frames of different shapes cannot share a tensor: one run for each shape.
        found: dict[int, Detections] = {}
        for size in dict.fromkeys(slot.input_size for slot in slots):
            members = [i for i, slot in enumerate(slots) if slot.input_size == size]
            results = self._run(size, [batch[i] for i in members], [slots[i] for i in members])
            found.update(zip(members, results, strict=True))
        return [found[i] for i in range(len(batch))]

    def _run(self, input_size: Size, batch: Sequence[Frame], slots: Sequence[_Slot]) -> list[Detections]:
        started = self._now_s()
        buffer = self._take(input_size)
        try:
            for row, (frame, slot) in enumerate(zip(batch, slots, strict=True)):
                _put(buffer, row, frame, slot.placement)
            # A fixed batch is always fed whole: its other rows hold older pictures, whose boxes nobody reads.
            tensor = buffer.tensor if self._model.fixed_batch else buffer.tensor[: len(batch)]
            fed = self._now_s()
            try:
                (output,) = self._session.run(self._outputs, {self._model.image.name: tensor})
            except self._errors as error:
                raise_run_error(error)
            ran = self._now_s()
        finally:
            with self._lock:
                self._spare.append((input_size, buffer))
        share = 1 / len(batch)
        preprocess_s, infer_s = (fed - started) * share, (ran - fed) * share
        results = []
        for row, (frame, slot) in enumerate(zip(batch, slots, strict=True)):
            xyxy, scores, class_ids = self._read(output[row], slot, frame.picture.size)
            done = self._now_s()
            timings = Timings(preprocess_s, infer_s, done - ran)
            ran = done
            results.append(Detections(xyxy, scores, class_ids, self._model.labels, timings=timings))
        return results

    def _read(self, output: npt.NDArray[Any], slot: _Slot, frame: Size) -> tuple[npt.NDArray[Any], ...]:
        """Boxes in pixels of the frame, scores and classes, most confident first."""
        settings = self._settings
        xyxy, scores, class_ids = self._choice.family.decode(output, slot.input_size, self._head)
        if settings.keep is not None:
            known = class_ids < len(settings.keep)
            wanted = known & settings.keep[np.where(known, class_ids, 0)]
            xyxy, scores, class_ids = xyxy[wanted], scores[wanted], class_ids[wanted]
        if self._choice.family.needs_nms:
            kept = nms(
                xyxy,
                scores,
                None if settings.class_agnostic_nms else class_ids,
                iou_threshold=settings.iou_threshold,
                max_detections=settings.max_detections,
            )
        else:
            kept = np.argsort(-scores, kind="stable")[: settings.max_detections]
        boxes = to_frame(xyxy[kept], slot.placement, frame)
        scores, class_ids = scores[kept], class_ids[kept]
        solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        if solid.all():
            return boxes, scores, class_ids
        return boxes[solid], scores[solid], class_ids[solid]  # without boxes that lie in the padding

    def _slot(self, frame: Size) -> _Slot:
        slot = self._slots.get(frame)
        if slot is None:
            model = self._model
            size = fitted(frame, model.input_size, model.stride_px) if self._settings.fit else model.input_size
            slot = _Slot(size, model.preprocess.place(frame, size))
            if len(self._slots) >= _MAX_PLACEMENTS:
                self._slots.clear()
            self._slots[frame] = slot
        return slot

    def _take(self, input_size: Size) -> InputBuffer:
        with self._lock:
            for index, (size, buffer) in enumerate(self._spare):
                if size == input_size:
                    del self._spare[index]
                    return buffer
        model = self._model
        return InputBuffer(
            model.preprocess,
            input_size,
            model.image.dtype,
            channels_last=model.channels_last,
            batch=self._settings.max_batch,
        )


def _put(buffer: InputBuffer, row: int, frame: Frame, placement: Placement) -> None:
    try:
        buffer.put(row, frame.picture, placement)
    except (ValueError, OSError, MemoryError, NotImplementedError) as error:
        # Hostile or broken input: an odd pixel format, no memory for a huge picture. The next frame may be fine.
        raise TransientError(f"frame {frame.seq} of {frame.source} cannot be converted: {error}") from error
