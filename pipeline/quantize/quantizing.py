"""One `penstock quantize` from beginning to end: calibrate, quantise, judge, and write only what was judged good."""

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.benching.folder import passing_folder
from pipeline.benching.machine import machine
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.frame import Frame, Size
from pipeline.models.quantized import note
from pipeline.models.reader import Reader
from pipeline.quantize import graph
from pipeline.quantize.calibration import Calibration
from pipeline.quantize.judging import Accuracy, Seen, Speed, compared, opened, precision, race, seen_by
from pipeline.quantize.labels import Labelled, read_labels
from pipeline.quantize.order import Order, described, input_size_for, model_path, refuse_output
from pipeline.quantize.pictures import EVERY, files_in, pictures_of
from pipeline.quantize.ranges import Range
from pipeline.quantize.scoring import Boxes
from pipeline.version import version

RUNGS = (graph.Kept(2, 1), graph.Kept(4, 2), graph.Kept(12, 2), graph.Kept(20, 3))
"""What is left float, less first; each is tried until one loses no more than half of what may be lost."""

MAX_LOSS = {"AP": 0.02, "agreement": 0.05}
"""What may be lost if nothing is said. Boxes that appear or vanish near a threshold cost agreement, and hardly AP."""

HELD_BYTES = 256 * 2**20
"""Held-out pictures are kept while they are judged: of large ones fewer."""

ENOUGH = 8
"""Fewer pictures without labels are not all that a model is calibrated on: they may be the empty ones of a data set."""

RACERS = 8
"""So many pictures are enough for the speed."""

_EXTRAS = {"instance-segmentation": "masks", "keypoint-detection": "keypoints"}

Say = Callable[[str], object]
Again = Callable[[], Iterable[Frame]]
"""The pictures that are judged on, from the first on, whenever asked for."""


class Outcome(NamedTuple):
    """What became of it.

    Attributes:
        written: the quantised model; None where it lost too much.
        accuracy: what it costs.
        speed: what it wins.
        kept: what stayed float.
        bytes_before: size of the float model's file.
        bytes_after: size of the quantised one.
    """

    written: Path | None
    accuracy: Accuracy
    speed: Speed
    kept: graph.Kept
    bytes_before: int
    bytes_after: int


class _Try(NamedTuple):
    path: Path
    kept: graph.Kept
    accuracy: Accuracy


def quantize(order: Order, say: Say) -> Outcome:
    """Carry out the order, telling lines as things become known.

    Raises:
        ConfigError: with one line on what to change.
    """
    model = model_path(order.model)
    out = order.out or Path(f"{model.stem}_int8.onnx")
    if out.exists() and out.samefile(model):
        raise ConfigError(f"--output {out} is the model itself")
    refuse_output(out)
    with passing_folder("penstock-quantize-") as folder:
        return _Work(order, model, out, folder, say).done()


class _Work:
    """One order under way; used by one thread."""

    def __init__(self, order: Order, model: Path, out: Path, folder: Path, say: Say) -> None:
        self._order = order
        self._model = model
        self._out = out
        self._folder = folder
        self._say = say
        self._keys: dict[str, Any] = {"family": order.family}
        if order.input_size is not None:
            self._keys["input_size"] = order.input_size
        self._description = described(model, order)
        self._labelled = self._labels()
        self._judged_on_its_own = False  # what it is calibrated on is what judges it
        self._others = 0  # pictures without labels, counted up to `ENOUGH`
        self._float = graph.prepare(model, folder)

    def done(self) -> Outcome:
        """All of it."""
        order, say = self._order, self._say
        limit = order.max_loss
        if limit is None:
            limit = MAX_LOSS["AP" if self._labelled else "agreement"]
        ranges, sizes, held, pictures = self._calibrate()
        if self._description.task in {"instance-segmentation", "keypoint-detection"}:
            say(f"judged      by boxes only: what becomes of the {_EXTRAS[self._description.task]} is not measured")
        if not held and not self._labelled:
            few = f"{pictures} picture{'s are' if pictures != 1 else ' is'}"
            raise ConfigError(f"{few} too few: {EVERY} are needed, so that one can be held out")
        size = _sizes(sizes)
        judges = f"{len(held)} more, held out, judge it"
        if self._labelled:
            same = "none of these among them"
            if self._judged_on_its_own:
                too_few = f"too few others ({self._others})" if self._others else "no others"
                same = f"these among them: there are {too_few}"
            judges = f"{len(self._labelled)} labelled ones judge it, {same}"
        say(f"calibrated  {pictures} picture{'s' * (pictures != 1)} at {size}, {order.method}; {judges}")
        with closing(opened(self._model, self._keys, self._folder)) as before:
            again, truth = self._judged(held)
            seen = seen_by(before, again())
            best = self._climb(ranges, seen, again, truth, limit)
            with closing(opened(best.path, self._keys, self._folder)) as after:
                speed = race(before, after, list(islice(again(), RACERS)))
        accuracy = best.accuracy
        sizes_bytes = [path.stat().st_size for path in (self._model, best.path)]
        outcome = Outcome(None, accuracy, speed, best.kept, sizes_bytes[0], sizes_bytes[1])
        if not accuracy.loss <= limit and not order.accept_loss:  # NaN: nobody knows
            return outcome
        facts = note(
            model=self._model.name,
            sha256=hashlib.sha256(self._model.read_bytes()).hexdigest(),
            method=order.method,
            pictures=pictures,
            size=size,
            kept=str(best.kept),
            measure=accuracy.measure,
            before=accuracy.before,
            after=None if math.isnan(accuracy.after) else round(accuracy.after, 4),
            judged=accuracy.pictures,
            speed=round(speed.ratio, 2),
            machine=machine(),
            version=version(),
        )
        self._write(best.path, facts)
        return outcome._replace(written=self._out, bytes_after=self._out.stat().st_size)

    def _calibrate(self) -> tuple[dict[str, Range], list[Size], list[Frame], int]:
        """Ranges of all tensors, the sizes of the input, the pictures held out, and how many were not."""
        description, order = self._description, self._order
        reader = Reader(description)
        watch: Calibration | None = None
        sizes: dict[Size, None] = {}
        held: list[Frame] = []
        held_bytes = 0
        for number, frame in enumerate(self._pictures()):
            if not self._labelled and number % EVERY == EVERY - 1:
                if held_bytes + frame.picture.nbytes <= HELD_BYTES:
                    held.append(frame)
                    held_bytes += frame.picture.nbytes
                continue
            size = input_size_for(description, frame.picture.size)
            sizes[size] = None
            buffer = reader.buffer(size, description.fixed_batch or 1)
            for row in range(description.fixed_batch or 1):
                buffer.put(row, frame.picture, reader.place(frame.picture.size, size))
            feeds = reader.feeds(buffer.tensor, size)
            if watch is None:
                watch = Calibration(self._float, graph.watchable(self._float), feeds)
            watch.look(feeds)
        if watch is None:
            raise ConfigError(f"{', '.join(order.pictures)}: no pictures to calibrate on")
        return watch.ranges(order.method), list(sizes), held, watch.pictures

    def _pictures(self) -> Iterator[Frame]:
        """What is there to calibrate on, and to hold out; what labels judge only where hardly anything else is."""
        order = self._order
        if not self._labelled:
            return pictures_of(order.pictures, order.frames + order.frames // (EVERY - 1), self._folder)
        labelled = [each.path for each in self._labelled]
        enough = min(ENOUGH, order.frames)
        self._others = sum(1 for _ in pictures_of(order.pictures, enough, self._folder, besides=labelled))
        if self._others == enough:
            return pictures_of(order.pictures, order.frames, self._folder, besides=labelled)
        self._judged_on_its_own = True
        return pictures_of(order.pictures, order.frames, self._folder)

    def _labels(self) -> list[Labelled]:
        order = self._order
        if order.labels is None:
            return []
        folders = [path for each in order.pictures if (path := Path(each)).is_dir()]
        return read_labels(order.labels, self._description.labels, folders)

    def _judged(self, held: Sequence[Frame]) -> tuple[Again, list[Boxes]]:
        """What is judged on: labelled pictures, if there are any, and what is in them."""
        if not self._labelled:
            return lambda: held, []
        by_path = {str(each.path.absolute()): each for each in self._labelled}
        paths = [each.path for each in self._labelled]
        truth = [by_path[str(frame.path)].in_pixels(*frame.picture.size) for frame in files_in(paths, self._folder)]
        return lambda: files_in(paths, self._folder), truth

    def _climb(
        self,
        ranges: dict[str, Range],
        seen: Sequence[Seen],
        again: Again,
        truth: Sequence[Boxes],
        limit: float,
    ) -> _Try:
        """From the fastest on, until one loses little; else the one that loses least."""
        own = precision(seen, truth) if truth else None
        tried: list[_Try] = []
        for number, kept in enumerate(RUNGS):
            if number and not graph.leaves_enough(self._float, kept):
                continue
            path = self._folder / f"rung{number}.onnx"
            graph.quantise(
                self._float, ranges, kept, folder=self._folder, target=path, metadata=self._description.file.metadata
            )
            with closing(opened(path, self._keys, self._folder)) as backend:
                found = seen_by(backend, again())
            if own is None:
                accuracy = compared(seen, found)
            else:
                accuracy = Accuracy("AP", own, precision(found, truth), len(found))
            self._say(f"tried       {kept}: {accuracy}")
            tried.append(_Try(path, kept, accuracy))
            if accuracy.loss <= limit / 2:
                return tried[-1]
        return min(tried, key=lambda each: math.inf if math.isnan(each.accuracy.loss) else each.accuracy.loss)

    def _write(self, path: Path, facts: dict[str, str]) -> None:
        import onnx

        model = onnx.load(path)
        onnx.helper.set_model_props(model, {**self._description.file.metadata, **facts})
        half = self._out.with_name(f".{self._out.name}.{os.getpid()}")
        try:
            onnx.save(model, half)
            half.replace(self._out)
        finally:
            half.unlink(missing_ok=True)


def _sizes(sizes: Sequence[Size]) -> str:
    texts = [f"{each.width}x{each.height}" for each in sizes[:3]]
    return ", ".join(texts) + (f" and {len(sizes) - 3} more sizes" if len(sizes) > 3 else "")
