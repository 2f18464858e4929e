"""A configuration as it is measured: every source fast and endless, no result where the user wanted it."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.benching.clip import make_clip
from pipeline.benching.dry import DryContext
from pipeline.config.settings import Settings
from pipeline.contracts.backend import BackendConfig, Measured
from pipeline.contracts.component import QueueConfig
from pipeline.contracts.errors import ConfigError, PenstockError
from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.sender import SenderConfig
from pipeline.contracts.sink import SinkConfig
from pipeline.contracts.source import Described, LiveSourceConfig, SourceConfig
from pipeline.registry import Registry

USUAL = Size(1920, 1080)
USUAL_FPS = 30.0
MAX_LOOKS = 3
"""So many cameras are looked at; of more it is taken that they are like the first."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One source as it is measured.

    Attributes:
        name: in pipeline.toml.
        config: reads a file, again and again, every frame.
        fps: how many frames it gives in a second, in life.
        rate: how many of them are inferred, as configured.
        live_decode_s: CPU seconds of reading one frame from the camera itself; None: it could not be read.
        stands_in: why a clip is read in its place; None: it is the user's own file.
        video: the file that is read, for a run in real time; None: pictures, not video.
    """

    name: str
    config: SourceConfig
    fps: float
    rate: float
    live_decode_s: float | None = None
    stands_in: str | None = None
    video: Path | None = None


@dataclass(frozen=True, slots=True)
class Dry:
    """What can be measured of a configuration.

    Attributes:
        settings: to be run.
        stages: its sources.
        notes: what was left out or changed, and why; a line each.
    """

    settings: Settings
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]


def dry_of(settings: Settings, folder: Path, look_s: float) -> Dry:
    """Arrange it; cameras are looked at for `look_s` seconds each.

    Raises:
        ConfigError: there is nothing to measure: no source, or all models are elsewhere.
    """
    if not settings.sources:
        raise ConfigError("there are no sources to measure; penstock bench needs a configuration with some")
    notes: list[str] = []
    away = {name for name, each in settings.backends.items() if _is_elsewhere(name, each, folder)}
    notes += [f"backend {name} is elsewhere and is not asked: its sources are left out" for name in sorted(away)]
    named = {n: each for n, each in settings.sources.items() if settings.backend_of(n) not in away}
    if not named:
        raise ConfigError("all models are elsewhere, and penstock bench asks nobody: nothing here is to be measured")
    stages = tuple(_stages(named, folder, look_s, notes))
    used = {settings.backend_of(name) for name in named}
    backends = {
        name: each.model_copy(update={"fallback": None}) for name, each in settings.backends.items() if name in used
    }
    measured = replace(
        settings,
        sources={stage.name: stage.config for stage in stages},
        backends=backends,
        sinks=_sinks(settings, frozenset(named), folder, notes),
        server=settings.server.model_copy(update={"listen": None}),
        data_dir=folder / "data",
        models=frozenset(),
        overlay=None,
    )
    return Dry(measured, stages, tuple(notes))


def fast_file(path: Path, like: SourceConfig, **changes: Any) -> SourceConfig:
    """A `file` source of `path` with what is worked out about `like`: tracking, zones, motion."""
    shared = {
        name: getattr(like, name) for name in ("backend", "motion", "tracking", "zones", "lines") if hasattr(like, name)
    }
    table = {"type": "file", "path": [str(path)], "loop": True, **changes}
    config = Registry.load().config_class("source", "file").model_validate(table, context={"base_dir": Path.cwd()})
    return config.model_copy(update=shared)


def _is_elsewhere(name: str, config: BackendConfig, folder: Path) -> bool:
    return isinstance(config.build(DryContext(name, folder)), Measured)  # building loads nothing, by the contract


def _stages(named: dict[str, SourceConfig], folder: Path, look_s: float, notes: list[str]) -> Iterator[Stage]:
    looks = 0
    like: tuple[Size, float, str, float | None] | None = None
    clips: dict[tuple[Size, float, str], Path] = {}
    for name, config in named.items():
        if not isinstance(config, LiveSourceConfig):
            yield _own(name, config, folder)
            continue
        why = "a camera cannot be read faster than it sends"
        if looks < MAX_LOOKS and config.type != "synthetic":
            looks += 1
            found = _look(name, config, folder, look_s)
            if isinstance(found, str):
                why = f"it cannot be read ({found})"
            else:
                like = found
        size, fps, codec, decode_s = like or (_painted(config), USUAL_FPS, "h264", None)
        key = (size, fps, codec)
        if key not in clips:
            clips[key] = folder / f"clip{len(clips)}.mp4"
            make_clip(clips[key], size, fps, codec)
        notes.append(
            f"source {name}: a made-up clip of {size.width}x{size.height} at {fps:g} frames/s stands in: {why}"
            + "; decoding is told of the camera itself" * (decode_s is not None)
        )
        changed = fast_file(clips[key], config)
        yield Stage(name, changed, fps, _rate(config, fps), decode_s, why, clips[key])


def _own(name: str, config: SourceConfig, folder: Path) -> Stage:
    """A source of files, read from the user's own."""
    fps = USUAL_FPS
    source = config.build(DryContext(name, folder))
    try:
        with closing(source.frames(threading.Event())) as items:  # type: ignore[type-var]
            first = next(item for item in items if isinstance(item, Frame))
            fps = 1 / first.duration_s if first.duration_s else USUAL_FPS
            video = Path(first.path) if config.type == "file" and first.path else None
    except (PenstockError, StopIteration) as error:
        raise ConfigError(f"source {name} cannot be read: {error}") from error
    changes: dict[str, Any] = {"stride": 1, "max_fps": None, "max_staleness_s": None, "queue": QueueConfig()}
    changes |= {key: value for key, value in (("pace", "fast"), ("loop", True)) if hasattr(config, key)}
    if getattr(config, "watch", False):
        raise ConfigError(f"source {name} waits for pictures that come: there is nothing to measure it with")
    return Stage(name, config.model_copy(update=changes), fps, _rate(config, fps), video=video)


def _rate(config: SourceConfig, fps: float) -> float:
    rate = fps / config.stride
    return rate if config.max_fps is None else min(rate, config.max_fps)


def _painted(config: LiveSourceConfig) -> Size:
    width, height = getattr(config, "width", USUAL.width), getattr(config, "height", USUAL.height)
    return Size(width or USUAL.width, height or USUAL.height)


def _look(
    name: str, config: LiveSourceConfig, folder: Path, look_s: float
) -> tuple[Size, float, str, float | None] | str:
    """Size, rate, codec and CPU seconds a frame of a camera; or why it cannot be read."""
    stop, counted = threading.Event(), 0
    began_at = cpu_s = 0.0
    frame: Frame | None = None
    first_pts_s: float | None = None
    try:
        source = config.model_copy(update={"max_fps": None, "stride": 1}).build(DryContext(name, folder))
        with closing(source.frames(stop)) as items:  # type: ignore[type-var]
            for item in items:
                if not isinstance(item, Frame):
                    continue
                now_s = time.monotonic()
                if frame is None:
                    began_at, cpu_s, first_pts_s = now_s, time.process_time(), item.pts_s
                frame, counted = item, counted + 1
                if now_s - began_at > look_s:
                    break
            lasted_s, cpu_s = time.monotonic() - began_at, time.process_time() - cpu_s
            codec = str(source.details().get("codec", "h264")) if isinstance(source, Described) else "h264"
    except PenstockError as error:
        return str(error)
    if frame is None or counted < 3:
        return "it gave no pictures"
    shown_s = _shown_s(first_pts_s, frame.pts_s, lasted_s)
    return frame.picture.size, round((counted - 1) / shown_s, 1), codec, cpu_s / (counted - 1)


def _shown_s(first_pts_s: float | None, last_pts_s: float | None, lasted_s: float) -> float:
    """How long a camera took for the frames that came within `lasted_s`, by its own time stamps where they can be true.

    The first frames were held back until the stream was known, and come at once: by their arrival 30 frames/s are 38.
    """
    if first_pts_s is None or last_pts_s is None or not lasted_s / 2 < last_pts_s - first_pts_s < 2 * lasted_s:
        return lasted_s
    return last_pts_s - first_pts_s


def _sinks(settings: Settings, sources: frozenset[str], folder: Path, notes: list[str]) -> dict[str, SinkConfig]:
    """What writes files writes them into a folder that is thrown away; what sends is left out."""
    kept: dict[str, SinkConfig] = {}
    registry = Registry.load()
    for name, config in settings.sinks.items():
        narrowed = None if config.sources is None else tuple(each for each in config.sources if each in sources)
        if narrowed == ():
            continue
        update: dict[str, Any] = {"sources": narrowed}
        if config.type == "stdout":
            kept[name] = _thrown_away(registry, folder / f"{name}.jsonl", narrowed)
        elif isinstance(config, SenderConfig) or not hasattr(config, "path"):
            notes.append(f"sink {name} ({config.type}) is left out: nothing is sent anywhere")
        else:
            (folder / name).mkdir()
            update["path"] = str(folder / name / _moving_part(str(config.path)))
            kept[name] = config.model_copy(update=update)
    return kept or {"nowhere": _thrown_away(registry, folder / "{source}.jsonl", None)}


def _moving_part(template: str) -> Path:
    """What of a path is different for each source or time, and the file's name."""
    parts = Path(template).parts
    first = next((index for index, part in enumerate(parts) if "{" in part), len(parts) - 1)
    return Path(*parts[first:])


def _thrown_away(registry: Registry, path: Path, sources: tuple[str, ...] | None) -> SinkConfig:
    table = {"type": "jsonl", "path": str(path), "sources": sources}
    table = {key: value for key, value in table.items() if value is not None}
    return registry.config_class("sink", "jsonl").model_validate(table, context={"base_dir": Path.cwd()})
