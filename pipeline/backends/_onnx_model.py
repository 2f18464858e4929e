"""The hot path of the ONNX backend: frames in, predictions out, with as little of its own as possible."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from pipeline.backends._onnx_session import Session, raise_run_error
from pipeline.contracts.errors import TransientError
from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.result import Prediction, Timings
from pipeline.models.letterbox import Placement, fitted
from pipeline.models.preprocess import InputBuffer
from pipeline.models.reader import Reader

_MAX_PLACEMENTS = 256  # frame sizes that are remembered; cameras have one each
_SPARE_SIZES = 2  # input sizes for which buffers are kept, with `input_shape = "fit"`


class RunSettings(NamedTuple):
    """What the config decides about running.

    Attributes:
        fit: shrink the input rectangle to the frame's shape (dynamic models only).
        max_batch: rows of the input tensor.
        concurrency: how many threads call `infer`.
    """

    fit: bool
    max_batch: int
    concurrency: int


class _Slot(NamedTuple):
    """A frame's place in the run: which input, and where in it."""

    input_size: Size
    placement: Placement


class LoadedModel:
    """A model in its session. Made by the backend's `open`; `infer` is called by several threads at once.

    Args:
        session: the loaded model.
        reader: how it is fed and read.
        settings: the config's part.
        errors: what the session raises.
        now_s: a monotonic clock.
    """

    def __init__(
        self,
        *,
        session: Session,
        reader: Reader,
        settings: RunSettings,
        errors: tuple[type[Exception], ...],
        now_s: Callable[[], float],
    ) -> None:
        self._session = session
        self._reader = reader
        self._model = reader.model
        self._settings = settings
        self._errors = errors
        self._now_s = now_s
        self._slots: dict[Size, _Slot] = {}
        self._spare: deque[tuple[Size, InputBuffer]] = deque(
            maxlen=settings.concurrency * (_SPARE_SIZES if settings.fit else 1)
        )
        self._lock = threading.Lock()

    def infer(self, batch: Sequence[Frame]) -> list[Prediction]:
        """Predictions for 1 to `max_batch` frames, in their order, each by its own wishes.

        Raises:
            TransientError: a picture cannot be converted, or the run failed.
            FatalError: no run will ever succeed.
        """
        slots = [self._slot(frame.picture.size) for frame in batch]
        first = slots[0].input_size
        if not self._settings.fit or all(slot.input_size == first for slot in slots):
            return self._run(first, batch, slots)
        # Frames of different shapes cannot share a tensor: one run for each shape.
        found: dict[int, Prediction] = {}
        for size in dict.fromkeys(slot.input_size for slot in slots):
            members = [i for i, slot in enumerate(slots) if slot.input_size == size]
            results = self._run(size, [batch[i] for i in members], [slots[i] for i in members])
            found.update(zip(members, results, strict=True))
        return [found[i] for i in range(len(batch))]

    def _run(self, input_size: Size, batch: Sequence[Frame], slots: Sequence[_Slot]) -> list[Prediction]:
        started = self._now_s()
        buffer = self._take(input_size)
        try:
            for row, (frame, slot) in enumerate(zip(batch, slots, strict=True)):
                _put(buffer, row, frame, slot.placement)
            # A fixed batch is always fed whole: its other rows hold older pictures, whose boxes nobody reads.
            tensor = buffer.tensor if self._model.fixed_batch else buffer.tensor[: len(batch)]
            fed = self._now_s()
            try:
                outputs = self._session.run(self._reader.outputs, self._reader.feeds(tensor, input_size))
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
            began = ran

            def timings(began: float = began) -> Timings:
                return Timings(preprocess_s, infer_s, self._now_s() - began)

            answer = self._read([output[row] for output in outputs], slot.placement, frame, timings)
            ran = began + answer.timings.postprocess_s
            results.append(answer)
        return results

    def _read(
        self, outputs: list[npt.NDArray[Any]], placement: Placement, frame: Frame, timings: Callable[[], Timings]
    ) -> Prediction:
        try:
            return self._reader.read(outputs, placement, frame.picture.size, frame.wishes, timings)
        except MemoryError as error:
            raise TransientError(f"frame {frame.seq} of {frame.source}: no memory for its masks") from error
        except ValueError as error:
            raise TransientError(f"frame {frame.seq} of {frame.source}: {error}") from error

    def _slot(self, frame: Size) -> _Slot:
        slot = self._slots.get(frame)
        if slot is None:
            model = self._model
            size = fitted(frame, model.input_size, model.stride_px) if self._settings.fit else model.input_size
            slot = _Slot(size, self._reader.place(frame, size))
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
        return self._reader.buffer(input_size, self._settings.max_batch)


def _put(buffer: InputBuffer, row: int, frame: Frame, placement: Placement) -> None:
    try:
        buffer.put(row, frame.picture, placement)
    except (ValueError, OSError, MemoryError, NotImplementedError) as error:
        # Hostile or broken input: an odd pixel format, no memory for a huge picture. The next frame may be fine.
        raise TransientError(f"frame {frame.seq} of {frame.source} cannot be converted: {error}") from error
