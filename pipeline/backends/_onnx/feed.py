"""How pictures come to a session and answers from it: `Feed`, and the one that goes through the host's memory."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from pipeline.backends._onnx.session import Session, raise_run_error
from pipeline.contracts.errors import TransientError
from pipeline.contracts.frame import Frame, Size
from pipeline.models.letterbox import Placement
from pipeline.models.preprocess import UNCONVERTIBLE, InputBuffer
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


class Buffers:
    """Input tensors that are used again and again. Made by a feed, used by its threads.

    Args:
        make: a new one for inputs of this size.
        spare: so many are kept.
        whole: they are always fed whole, to a model with a fixed batch: what no frame is in holds older pictures,
            whose boxes nobody reads.
    """

    def __init__(self, make: Callable[[Size], InputBuffer], *, spare: int, whole: bool) -> None:
        self._make = make
        self._whole = whole
        self._spare: deque[tuple[Size, InputBuffer]] = deque(maxlen=spare)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def filled(self, batch: Sequence[Frame], places: Sequence[Placed]) -> Iterator[npt.NDArray[Any]]:
        """The tensor with these frames in it, for as long as it is read.

        Raises:
            TransientError: a picture cannot be converted.
        """
        size = places[0].input_size
        buffer = self._take(size)
        try:
            for row, (frame, place) in enumerate(zip(batch, places, strict=True)):
                put(buffer, row, frame, place.placement)
            yield buffer.tensor if self._whole else buffer.tensor[: len(batch)]
        finally:
            with self._lock:
                self._spare.append((size, buffer))

    def clear(self) -> None:
        """Let go of all memory."""
        self._spare.clear()

    def _take(self, input_size: Size) -> InputBuffer:
        with self._lock:
            for index, (size, buffer) in enumerate(self._spare):
                if size == input_size:
                    del self._spare[index]
                    return buffer
        return self._make(input_size)


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
        self._errors = errors
        self._now_s = now_s
        self._buffers = Buffers(
            lambda size: reader.buffer(size, max_batch), spare=spare, whole=bool(reader.model.fixed_batch)
        )

    def run(self, batch: Sequence[Frame], places: Sequence[Placed]) -> Ran:
        """See `Feed`."""
        started = self._now_s()
        with self._buffers.filled(batch, places) as tensor:
            fed = self._now_s()
            try:
                outputs = self._session.run(self._reader.outputs, self._reader.feeds(tensor, places[0].input_size))
            except self._errors as error:
                raise_run_error(error)
            return Ran(outputs, fed - started, self._now_s() - fed)

    def close(self) -> None:
        """See `Feed`."""
        self._buffers.clear()


def put(buffer: InputBuffer, row: int, frame: Frame, placement: Placement) -> None:
    """Shrink a frame's picture into a row of the buffer.

    Raises:
        TransientError: it cannot be converted; the next frame may be fine.
    """
    try:
        buffer.put(row, frame.picture, placement)
    except UNCONVERTIBLE as error:
        raise TransientError(f"frame {frame.seq} of {frame.source} cannot be converted: {error}") from error
