"""How pictures come to a session and answers from it: `Feed`, and the one that goes through the host's memory."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from pipeline.backends._onnx.session import Session, raise_run_error
from pipeline.contracts.errors import TransientError
from pipeline.contracts.frame import Frame, Size
from pipeline.models.letterbox import Placement
from pipeline.models.preprocess import InputBuffer
from pipeline.models.reader import Reader


class Placed(NamedTuple):
    """A frame's place in a run: which input, and where in it."""

    input_size: Size
    placement: Placement


class Ran(NamedTuple):
    """What one run gave.

    Attributes:
        outputs: one array for each of the reader's outputs, batch axis first; host memory, good until the next run
            of the same thread.
        preprocess_s: seconds until the pictures were in the input.
        infer_s: seconds of the run.
        reader: how these outputs are read; None: as the model's own.
    """

    outputs: Sequence[npt.NDArray[Any]]
    preprocess_s: float
    infer_s: float
    reader: Reader | None = None


class Feed(Protocol):
    """The way of pictures into a session, and of its answers back. Made when a backend opens; used by
    `concurrency` threads at once."""

    def run(self, batch: Sequence[Frame], places: Sequence[Placed]) -> Ran:
        """Run 1 to `max_batch` frames, all of one input size.

        Raises:
            TransientError: a picture cannot be converted, or the run failed.
            FatalError: no run will ever succeed.
        """
        ...

    def close(self) -> None:
        """Let go of all memory; no run is under way."""
        ...


class HostFeed:
    """Pictures are shrunk by swscale into a buffer that is used again, and the session copies from there.

    Args:
        session: the loaded model.
        reader: how it is fed.
        max_batch: rows of a buffer.
        spare: so many buffers are kept.
        errors: what the session raises.
        now_s: a monotonic clock.
    """

    def __init__(
        self,
        *,
        session: Session,
        reader: Reader,
        max_batch: int,
        spare: int,
        errors: tuple[type[Exception], ...],
        now_s: Callable[[], float],
    ) -> None:
        self._session = session
        self._reader = reader
        self._max_batch = max_batch
        self._errors = errors
        self._now_s = now_s
        self._spare: deque[tuple[Size, InputBuffer]] = deque(maxlen=spare)
        self._lock = threading.Lock()

    def run(self, batch: Sequence[Frame], places: Sequence[Placed]) -> Ran:
        """See `Feed`."""
        started = self._now_s()
        input_size = places[0].input_size
        buffer = self._take(input_size)
        try:
            for row, (frame, place) in enumerate(zip(batch, places, strict=True)):
                _put(buffer, row, frame, place.placement)
            # A fixed batch is always fed whole: its other rows hold older pictures, whose boxes nobody reads.
            tensor = buffer.tensor if self._reader.model.fixed_batch else buffer.tensor[: len(batch)]
            fed = self._now_s()
            try:
                outputs = self._session.run(self._reader.outputs, self._reader.feeds(tensor, input_size))
            except self._errors as error:
                raise_run_error(error)
            return Ran(outputs, fed - started, self._now_s() - fed)
        finally:
            with self._lock:
                self._spare.append((input_size, buffer))

    def close(self) -> None:
        """See `Feed`."""
        self._spare.clear()

    def _take(self, input_size: Size) -> InputBuffer:
        with self._lock:
            for index, (size, buffer) in enumerate(self._spare):
                if size == input_size:
                    del self._spare[index]
                    return buffer
        return self._reader.buffer(input_size, self._max_batch)


def _put(buffer: InputBuffer, row: int, frame: Frame, placement: Placement) -> None:
    try:
        buffer.put(row, frame.picture, placement)
    except (ValueError, OSError, MemoryError, NotImplementedError) as error:
        # Hostile or broken input: an odd pixel format, no memory for a huge picture. The next frame may be fine.
        raise TransientError(f"frame {frame.seq} of {frame.source} cannot be converted: {error}") from error
