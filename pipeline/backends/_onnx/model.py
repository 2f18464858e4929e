"""The hot path of the ONNX backend: frames in, predictions out, with as little of its own as possible."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy.typing as npt

from pipeline.backends._onnx.feed import Feed, Placed
from pipeline.contracts.errors import TransientError
from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.result import Prediction, Timings
from pipeline.models.letterbox import Placement, fitted
from pipeline.models.reader import Reader

_MAX_PLACEMENTS = 256  # frame sizes that are remembered; cameras have one each


class LoadedModel:
    """A model in its session. Made by the backend's `open`; `infer` is called by several threads at once.

    Args:
        feed: how it is run.
        reader: how its answers are read.
        fit: shrink the input rectangle to the frame's shape (dynamic models only).
        now_s: a monotonic clock.
    """

    def __init__(self, *, feed: Feed, reader: Reader, fit: bool, now_s: Callable[[], float]) -> None:
        self._feed = feed
        self._reader = reader
        self._model = reader.model
        self._fit = fit
        self._now_s = now_s
        self._places: dict[Size, Placed] = {}

    def infer(self, batch: Sequence[Frame]) -> list[Prediction]:
        """Predictions for 1 to `max_batch` frames, in their order, each by its own wishes.

        Raises:
            TransientError: a picture cannot be converted, or the run failed.
            FatalError: no run will ever succeed.
        """
        places = [self._place(frame.picture.size) for frame in batch]
        first = places[0].input_size
        if not self._fit or all(place.input_size == first for place in places):
            return self._run(batch, places)
        # Frames of different shapes cannot share a tensor: one run for each shape.
        found: dict[int, Prediction] = {}
        for size in dict.fromkeys(place.input_size for place in places):
            members = [i for i, place in enumerate(places) if place.input_size == size]
            results = self._run([batch[i] for i in members], [places[i] for i in members])
            found.update(zip(members, results, strict=True))
        return [found[i] for i in range(len(batch))]

    def kind_of(self, frame: Frame) -> Hashable:
        """What frames that share a run have in common: the input, and the device on which their pixels lie."""
        # Not isinstance(..., OnDevice), which costs 20 times as much: the queue asks this for each frame.
        surface = getattr(frame.picture, "surface", None)
        return self._place(frame.picture.size).input_size, None if surface is None else surface.device

    def close(self) -> None:
        """Let the session and all buffers go; no `infer` is under way."""
        self._feed.close()

    def _run(self, batch: Sequence[Frame], places: Sequence[Placed]) -> list[Prediction]:
        outputs, preprocess_s, infer_s, own_reader = self._feed.run(batch, places)
        reader = own_reader or self._reader
        share = 1 / len(batch)
        preprocess_s, infer_s = preprocess_s * share, infer_s * share
        ran = self._now_s()
        results = []
        for row, (frame, place) in enumerate(zip(batch, places, strict=True)):
            began = ran

            def timings(began: float = began) -> Timings:
                return Timings(preprocess_s, infer_s, self._now_s() - began)

            answer = _read(reader, [output[row] for output in outputs], place.placement, frame, timings)
            ran = began + answer.timings.postprocess_s
            results.append(answer)
        return results

    def _place(self, frame: Size) -> Placed:
        place = self._places.get(frame)
        if place is None:
            model = self._model
            size = fitted(frame, model.input_size, model.stride_px) if self._fit else model.input_size
            place = Placed(size, self._reader.place(frame, size))
            if len(self._places) >= _MAX_PLACEMENTS:
                self._places.clear()
            self._places[frame] = place
        return place


def _read(
    reader: Reader,
    outputs: list[npt.NDArray[Any]],
    placement: Placement,
    frame: Frame,
    timings: Callable[[], Timings],
) -> Prediction:
    try:
        return reader.read(outputs, placement, frame.picture.size, frame.wishes, timings)
    except MemoryError as error:
        raise TransientError(f"frame {frame.seq} of {frame.source}: no memory for its masks") from error
    except ValueError as error:
        raise TransientError(f"frame {frame.seq} of {frame.source}: {error}") from error
