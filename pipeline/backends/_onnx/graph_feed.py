"""`GraphFeed`: how a model with its pre- and post-processing inside is fed from the host's memory and read there."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from pipeline.backends._onnx.feed import Placed, Ran
from pipeline.backends._onnx.graph import GraphModel
from pipeline.backends._onnx.session import raise_run_error
from pipeline.contracts.errors import TransientError
from pipeline.contracts.frame import Frame, Size
from pipeline.models.graph_bytes import PIXELS, bytes_buffer
from pipeline.models.preprocess import InputBuffer
from pipeline.models.reader import Reader

Array = npt.NDArray[Any]


class GraphFeed:
    """A composed model, fed from the host's memory and read there.

    Args:
        model: the composed model.
        reader: how the plain one is fed and read.
        max_batch: rows of a buffer.
        spare: so many buffers are kept.
        errors: what the session raises.
        now_s: a monotonic clock.
        at_no_cost: whether outputs that are not looked at cost nothing: on a CPU they lie where they are made.
    """

    def __init__(
        self,
        *,
        model: GraphModel,
        reader: Reader,
        max_batch: int,
        spare: int,
        errors: tuple[type[Exception], ...],
        now_s: Callable[[], float],
        at_no_cost: bool,
    ) -> None:
        self._model = model
        self._reader = reader
        self._max_batch = max_batch
        self._errors = errors
        self._now_s = now_s
        self._at_no_cost = at_no_cost
        self._spare: deque[tuple[Size, InputBuffer]] = deque(maxlen=spare)
        self._lock = threading.Lock()

    def run(self, batch: Sequence[Frame], places: Sequence[Placed]) -> Ran:
        """See `Feed`."""
        started = self._now_s()
        input_size = places[0].input_size
        buffer = self._take(input_size)
        try:
            for row, (frame, place) in enumerate(zip(batch, places, strict=True)):
                _put(buffer, row, frame, place)
            # A fixed batch is always fed whole: its other rows hold older pictures, whose boxes nobody reads.
            tensor = buffer.tensor if self._reader.model.fixed_batch else buffer.tensor[: len(batch)]
            feeds = self._reader.feeds(tensor, input_size)
            if self._model.bytes_in:
                feeds[PIXELS] = feeds.pop(self._reader.model.image.name)
            fed = self._now_s()
            try:
                outputs, reader = self._ask(feeds, batch)
            except self._errors as error:
                raise_run_error(error)
            return Ran(outputs, fed - started, self._now_s() - fed, reader)
        finally:
            with self._lock:
                self._spare.append((input_size, buffer))

    def close(self) -> None:
        """See `Feed`."""
        self._spare.clear()

    def _ask(self, feeds: dict[str, Array], batch: Sequence[Frame]) -> tuple[Sequence[Array], Reader | None]:
        """Outputs, and how they are read; None: as the model's own."""
        session, answers = self._model.session, self._model.answers
        if answers is None:
            return session.run(self._reader.outputs, feeds), None
        spare = answers.spare if self._at_no_cost else ()
        found = dict(zip((*answers.fetch, *spare), session.run((*answers.fetch, *spare), feeds), strict=True))
        fetched = [found[name] for name in answers.fetch]
        if answers.enough(fetched, batch):
            return fetched, answers.reader
        if not spare:
            return session.run(self._reader.outputs, feeds), None
        return [found[name] for name in self._reader.outputs], None

    def _take(self, input_size: Size) -> InputBuffer:
        with self._lock:
            for index, (size, buffer) in enumerate(self._spare):
                if size == input_size:
                    del self._spare[index]
                    return buffer
        if self._model.bytes_in:
            return bytes_buffer(self._reader.model.preprocess, input_size, batch=self._max_batch)
        return self._reader.buffer(input_size, self._max_batch)


def _put(buffer: InputBuffer, row: int, frame: Frame, place: Placed) -> None:
    try:
        buffer.put(row, frame.picture, place.placement)
    except (ValueError, OSError, MemoryError, NotImplementedError) as error:
        # Hostile or broken input: an odd pixel format, no memory for a huge picture. The next frame may be fine.
        raise TransientError(f"frame {frame.seq} of {frame.source} cannot be converted: {error}") from error
