"""`GraphFeed`: how a model with its pre- and post-processing inside is fed from the host's memory and read there."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from pipeline.backends._onnx.feed import Buffers, Placed, Ran
from pipeline.backends._onnx.graph import GraphModel
from pipeline.backends._onnx.session import raise_run_error
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
        self._errors = errors
        self._now_s = now_s
        self._at_no_cost = at_no_cost

        def buffer(size: Size) -> InputBuffer:
            if model.bytes_in:
                return bytes_buffer(reader.model.preprocess, size, batch=max_batch)
            return reader.buffer(size, max_batch)

        self._buffers = Buffers(buffer, spare=spare, whole=bool(reader.model.fixed_batch))

    def run(self, batch: Sequence[Frame], places: Sequence[Placed]) -> Ran:
        """See `Feed`."""
        started = self._now_s()
        with self._buffers.filled(batch, places) as tensor:
            feeds = self._reader.feeds(tensor, places[0].input_size)
            if self._model.bytes_in:
                feeds[PIXELS] = feeds.pop(self._reader.model.image.name)
            fed = self._now_s()
            try:
                outputs, reader = self._ask(feeds, batch)
            except self._errors as error:
                raise_run_error(error)
            return Ran(outputs, fed - started, self._now_s() - fed, reader)

    def close(self) -> None:
        """See `Feed`."""
        self._buffers.clear()

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
