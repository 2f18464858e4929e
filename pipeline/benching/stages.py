"""Each stage of a configuration alone, one after the other: decode, shrink, infer, read, sinks."""

import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pipeline.benching.dry import DryContext
from pipeline.benching.dry_run import Dry, Stage
from pipeline.contracts.backend import Backend
from pipeline.contracts.errors import ConfigError, PenstockError
from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.ids import new_id
from pipeline.contracts.result import Prediction, Result, Timings
from pipeline.models.description import ModelDescription

KEPT = 8
"""Frames that are inferred again and again: more than caches hold."""

ATTEMPTS = 400
"""No stage is done more often, however fast it is."""


class Decoded(NamedTuple):
    """What reading one source costs.

    Attributes:
        name: of the source.
        size: of its pictures.
        cpu_s: CPU seconds a frame, of all threads of the decoder.
        stage: as it was measured.
    """

    name: str
    size: Size
    cpu_s: float
    stage: Stage


class Modelled(NamedTuple):
    """What one model costs, one frame at a time.

    Attributes:
        name: of the backend.
        what: in its own words.
        device: where it runs.
        shrink_s: seconds from the picture to the input.
        infer_s: seconds of the run.
        read_s: seconds from the output to boxes, NMS included.
        cpu_s: CPU seconds of all of it; of a GPU less than the seconds above.
        description: the model, where it is known.
    """

    name: str
    what: str
    device: str
    shrink_s: float
    infer_s: float
    read_s: float
    cpu_s: float
    description: ModelDescription | None


class Written(NamedTuple):
    """CPU seconds of one result in one sink."""

    name: str
    kind: str
    cpu_s: float


class Stages(NamedTuple):
    """All that was measured alone."""

    decoded: tuple[Decoded, ...]
    modelled: tuple[Modelled, ...]
    written: tuple[Written, ...]


def measure(dry: Dry, folder: Path, seconds: float) -> Stages:
    """Measure each for its share of the time.

    Raises:
        ConfigError: one of them does not work.
    """
    try:
        return _measure(dry, folder, seconds)
    except ConfigError:
        raise
    except PenstockError as error:
        raise ConfigError(f"it cannot be measured: {error}") from error


def _measure(dry: Dry, folder: Path, seconds: float) -> Stages:
    share_s = seconds / 3
    decoded: list[Decoded] = []
    frames: dict[str, list[Frame]] = {}
    kinds: dict[tuple[str, ...], Decoded] = {}
    for stage in dry.stages:
        kind = (stage.config.type, *map(str, getattr(stage.config, "path", (stage.name,))))
        if kind in kinds:  # read from the same clip
            decoded.append(kinds[kind]._replace(name=stage.name, stage=stage))
            frames[stage.name] = frames[kinds[kind].name]
            continue
        found, frames[stage.name] = _decode(stage, folder, share_s / min(4, len(dry.stages)))
        kinds[kind] = found
        decoded.append(found)
    modelled: list[Modelled] = []
    answers: dict[str, list[tuple[Frame, Prediction]]] = {}
    for name, config in dry.settings.backends.items():
        own = [each for each in dry.stages if dry.settings.backend_of(each.name) == name]
        pictures = [frame for each in own[:4] for frame in frames[each.name]][: KEPT * 2]
        backend = config.build(DryContext(name, folder / "data"))
        try:
            backend.open()
            found_model, seen = _model(name, backend, pictures, share_s / len(dry.settings.backends))
        finally:
            backend.close()
        modelled.append(found_model)
        answers[name] = seen
    results = [
        Result(
            id=new_id(),
            frame=frame,
            prediction=prediction,
            backend=name,
            model=name,
            config_hash="0" * 12,
            inferred_at=frame.decoded_at,
            inference_s=0.0,
        )
        for name, seen in answers.items()
        for frame, prediction in seen
    ]
    return Stages(tuple(decoded), tuple(modelled), tuple(_sinks(dry, folder, results, share_s)))


def _decode(stage: Stage, folder: Path, seconds: float) -> tuple[Decoded, list[Frame]]:
    stop = threading.Event()
    kept: list[Frame] = []
    source = stage.config.build(DryContext(stage.name, folder))
    with closing(source.frames(stop)) as items:  # type: ignore[type-var]  # a generator, by the contract
        frames = (item for item in items if isinstance(item, Frame))
        first = next(frames, None)
        if first is None:
            raise ConfigError(f"source {stage.name} gives no pictures")
        count, cpu_s, ends_at = 0, time.process_time(), time.monotonic() + seconds
        for frame in frames:
            count += 1
            if count % 5 == 1 and len(kept) < KEPT:
                kept.append(frame)
            if time.monotonic() > ends_at:
                break
        cpu_s = time.process_time() - cpu_s
    return Decoded(stage.name, first.picture.size, cpu_s / max(count, 1), stage), kept or [first]


def _model(
    name: str, backend: Backend, frames: Sequence[Frame], seconds: float
) -> tuple[Modelled, list[tuple[Frame, Prediction]]]:
    seen = [(frame, backend.infer([frame])[0]) for frame in frames[:KEPT]]  # also warms up
    timings: list[Timings] = []
    cpu_s, ends_at = time.process_time(), time.monotonic() + seconds
    while time.monotonic() < ends_at and len(timings) < ATTEMPTS:
        timings.append(backend.infer([frames[len(timings) % len(frames)]])[0].timings)
    cpu_s = (time.process_time() - cpu_s) / len(timings)
    shrink_s, infer_s, read_s = (statistics.median(column) for column in zip(*timings, strict=True))
    description = getattr(backend, "description", None)
    known = description if isinstance(description, ModelDescription) else None
    device = str(getattr(backend, "device", "unknown"))
    return Modelled(name, backend.describe(), device, shrink_s, infer_s, read_s, cpu_s, known), seen


def _sinks(dry: Dry, folder: Path, results: Sequence[Result], seconds: float) -> "list[Written]":
    found = []
    for name, config in dry.settings.sinks.items():
        wanted = [each for each in results if config.sources is None or each.frame.source in config.sources]
        if config.file_per_source:  # what would go into several files is measured on one
            wanted = [each for each in wanted if each.frame.source == wanted[0].frame.source]
        if not wanted or config.emit != "frames":
            continue
        sink = config.build(DryContext(name, folder / "data"))
        count = 0
        try:
            sink.open()
            cpu_s, ends_at = time.process_time(), time.monotonic() + seconds / len(dry.settings.sinks)
            while time.monotonic() < ends_at and count < ATTEMPTS:
                sink.write([_numbered(wanted[count % len(wanted)], count)])
                count += 1
        finally:
            sink.close()
        found.append(Written(name, config.type, (time.process_time() - cpu_s) / max(count, 1)))
    return found


def _numbered(result: Result, number: int) -> Result:
    """The same as if it came later: writers of video want time to go on."""
    frame = result.frame
    step_s = frame.duration_s or 1 / 25
    return replace(
        result, frame=replace(frame, seq=number, pts_s=number * step_s, captured_at=frame.captured_at + number * step_s)
    )
