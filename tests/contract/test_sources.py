"""What every registered source must do, ours and strangers': the contract of `pipeline.contracts.source`, as tests.

A new source needs an entry in `MATERIAL` (or its package brings one under the entry points `penstock.testing.sources`).
"""

import inspect
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from media import camera_clip, damaged_clip, numbered, numbered_video
from PIL import Image
from rtsp_server import RtspServer
from web_camera import WebCamera

from pipeline.contracts.errors import ConfigError, FatalError, SourceErrorCode, TransientError
from pipeline.contracts.frame import FailedFrame, Frame, TimeSource
from pipeline.contracts.source import Counted, LiveSourceConfig, Source, SourceConfig
from pipeline.registry import Registry
from pipeline.testing import PluginContext


@dataclass(frozen=True)
class Material:
    """What a source is fed with here.

    Attributes:
        good: keys of a source that gives at least 4 good frames.
        damaged: keys of one that gives at least one good frame and one that cannot be decoded.
        absent: keys of one that has nothing to read; None for one that always has.
        enough: where it does not end by itself: stop it after so many frames and failures.
    """

    good: dict[str, Any]
    damaged: dict[str, Any]
    absent: dict[str, Any] | None
    enough: int | None = None


def _file(folder: Path) -> Material:
    numbered_video(folder / "good.mp4", 8, options={"bf": "2"})
    cut = numbered_video(folder / "cut.mkv", 60)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    return Material(
        good={"path": str(folder / "good.mp4")},
        damaged={"path": str(cut)},
        absent={"path": str(folder / "nothing.mp4")},
    )


def _directory(folder: Path) -> Material:
    for kind in ("good", "damaged"):
        (folder / kind).mkdir()
        for number in range(4):
            Image.fromarray(numbered(number)).save(folder / kind / f"{number}.png")
    (folder / "damaged" / "2.png").write_bytes(b"no picture")
    return Material(
        good={"path": str(folder / "good")},
        damaged={"path": str(folder / "damaged")},
        absent={"path": str(folder / "nothing")},
    )


def _synthetic(_: Path) -> Material:
    keys = {"width": 64, "height": 48, "fps": 0}
    faults = {"mean_s": 0.001, "kinds": ["corrupt"]}
    return Material(
        good={**keys, "frames": 8},
        damaged={**keys, "frames": 2000, "faults": faults, "on_corrupt": "skip"},
        absent=None,
    )


def _rtsp(folder: Path) -> Material:
    server = SERVERS.enter_context(RtspServer())
    good = camera_clip(folder / "good.mp4")
    return Material(
        good={"url": server.add("/good", good)},
        damaged={"url": server.add("/bad", damaged_clip(good, folder / "bad.mp4")), "on_corrupt": "skip"},
        absent={"url": server.url("/nothing")},
        enough=12,
    )


def _stream(folder: Path) -> Material:
    web = SERVERS.enter_context(WebCamera())
    jpegs = []
    for number in range(6):
        Image.fromarray(numbered(number)).save(folder / "one.jpg")
        jpegs.append((folder / "one.jpg").read_bytes())
    return Material(
        good={"url": web.mjpeg("/good", jpegs)},
        damaged={"url": web.mjpeg("/bad", [*jpegs[:3], jpegs[3][:2] + bytes(300), *jpegs[4:]])},
        absent={"url": web.url("/nothing")},
    )


def _device(_: Path) -> Material:
    pytest.skip("there is no camera at this machine that all of this could be tried with")


# The servers of the test that runs, closed at its end.
SERVERS = ExitStack()
MATERIAL: dict[str, Callable[[Path], Material]] = {
    "rtsp": _rtsp,
    "stream": _stream,
    "device": _device,
    "file": _file,
    "directory": _directory,
    "synthetic": _synthetic,
} | {point.name: point.load() for point in entry_points(group="penstock.testing.sources")}
REGISTRY = Registry.load()
TYPES = REGISTRY.types("source")


@pytest.fixture(params=TYPES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def material(kind: str, tmp_path: Path) -> Iterator[Material]:
    assert kind in MATERIAL, f"add what the source {kind!r} is tested with to MATERIAL"
    with SERVERS:
        yield MATERIAL[kind](tmp_path)


def config_of(kind: str, keys: dict[str, Any]) -> SourceConfig:
    return REGISTRY.config_class("source", kind).model_validate({"type": kind, **keys})


def built(kind: str, keys: dict[str, Any]) -> Source:
    return config_of(kind, keys).build(PluginContext(kind))


def all_of(source: Source, enough: int | None = None) -> list[Frame | FailedFrame]:
    """What it gives until it ends, until it was enough, or, if it is live, until it lost its connection."""
    items: list[Frame | FailedFrame] = []
    stop = threading.Event()
    try:
        for item in source.frames(stop):
            items.append(item)
            if enough is not None and len(items) >= enough:
                stop.set()
    except TransientError:
        if not (source.live and items):
            raise
    return items


def test_our_own_sources_are_registered() -> None:
    assert {"file", "directory", "rtsp", "stream", "device"} <= set(TYPES)


def test_the_config_is_frozen_and_strict_and_has_the_keys_of_all_sources(kind: str, material: Material) -> None:
    config = config_of(kind, material.good)
    assert config.type == kind
    assert config == config_of(kind, material.good)
    assert set(SourceConfig.model_fields) <= set(type(config).model_fields)
    with pytest.raises(ValueError, match="frozen"):
        config.stride = 2  # type: ignore[misc]
    with pytest.raises(ValueError, match="no_such_key"):
        config_of(kind, {**material.good, "no_such_key": 1})
    type(config).model_json_schema()


def test_check_passes_what_is_there_and_blames_a_key_for_what_is_not(kind: str, material: Material) -> None:
    config_of(kind, material.good).check()
    if material.absent is None:
        return
    if isinstance(config_of(kind, material.absent), LiveSourceConfig):
        config_of(kind, material.absent).check()  # what is not there may come
        return
    with pytest.raises(ConfigError) as caught:
        config_of(kind, material.absent).check()
    assert caught.value.key in type(config_of(kind, material.good)).model_fields
    assert "\n" not in str(caught.value)


def test_what_it_reads_is_absolute_and_there(kind: str, material: Material) -> None:
    for path in config_of(kind, material.good).reads():
        assert path.is_absolute()
        assert path.exists()


def test_building_opens_nothing(kind: str, material: Material) -> None:
    source = built(kind, material.absent or material.good)
    assert isinstance(source.live, bool)
    assert not isinstance(source, Counted) or source.expected_frames is None


def test_frames_is_a_generator_that_starts_nothing_before_it_is_read(kind: str, material: Material) -> None:
    frames = built(kind, material.absent or material.good).frames(threading.Event())
    assert inspect.isgenerator(frames)
    frames.close()


def test_every_frame_keeps_the_contract(kind: str, material: Material) -> None:
    frames = all_of(built(kind, material.good), material.enough)
    assert len(frames) >= 4
    last_pts_s = -1.0
    for seq, frame in enumerate(frames):
        assert isinstance(frame, Frame)
        assert frame.source == kind
        assert frame.seq == seq
        assert frame.time_source in get_args(TimeSource)
        assert frame.captured_at > 0
        assert frame.decoded_at > 0
        if frame.pts_s is not None:
            assert frame.pts_s > last_pts_s
            last_pts_s = frame.pts_s
        width, height = frame.picture.size
        rgb, planes = frame.picture.rgb(), frame.picture.yuv420p()
        assert rgb.shape == (height, width, 3)
        assert rgb.dtype == np.uint8
        assert np.array_equal(rgb, frame.picture.bgr()[..., ::-1])
        assert (planes.y.shape, planes.u.shape) == ((height, width), ((height + 1) // 2, (width + 1) // 2))
        gbr = frame.picture.gbr_planes(20, 16)
        assert gbr.shape == (3, 16, 20)
        assert gbr.dtype == np.float32
        assert not any(array.flags.writeable for array in (rgb, gbr, planes.y, planes.u, planes.v))
        assert frame.picture.nbytes >= width * height


def test_what_it_expects_is_what_it_gives(kind: str, material: Material) -> None:
    source = built(kind, material.good)
    count = len(all_of(source, material.enough))
    if isinstance(source, Counted) and source.expected_frames is not None:
        assert source.expected_frames == count


def test_the_numbers_go_on_where_the_generator_before_ended(kind: str, material: Material) -> None:
    source = built(kind, material.good)
    first, second = all_of(source, material.enough), all_of(source, material.enough)
    numbers = [item.seq for item in first + second if isinstance(item, Frame)]
    assert numbers == list(range(len(first) + len(second)))


def test_a_stop_before_the_beginning_gives_nothing(kind: str, material: Material) -> None:
    stop = threading.Event()
    stop.set()
    assert list(built(kind, material.good).frames(stop)) == []


def test_a_stop_in_the_middle_ends_it_soon_and_for_good(kind: str, material: Material) -> None:
    stop = threading.Event()
    frames = built(kind, material.good).frames(stop)
    next(frames)
    stop.set()
    assert len(list(frames)) <= 1


def test_a_generator_that_is_closed_early_leaves_nothing_open(kind: str, material: Material) -> None:
    def held() -> tuple[int, int]:
        descriptors = Path("/proc/self/fd")
        return len(list(descriptors.iterdir())) if descriptors.exists() else 0, threading.active_count()

    before = held()
    frames: Iterator[Frame | FailedFrame] = built(kind, material.good).frames(threading.Event())
    next(frames)
    assert inspect.isgenerator(frames)
    frames.close()
    deadline_s = time.monotonic() + 5
    while any(now > then for now, then in zip(held(), before, strict=True)) and time.monotonic() < deadline_s:
        threading.Event().wait(0.02)  # a test's server lets go of its end a moment later
    assert all(now <= then for now, then in zip(held(), before, strict=True))


def test_what_cannot_be_decoded_is_a_failed_frame_of_one_line(kind: str, material: Material) -> None:
    items = all_of(built(kind, material.damaged), material.enough and 5 * material.enough)
    failures = [item for item in items if isinstance(item, FailedFrame)]
    good = [item for item in items if isinstance(item, Frame)]
    assert good
    assert failures
    assert [frame.seq for frame in good] == list(range(len(good)))
    assert all(failure.detail and "\n" not in failure.detail for failure in failures)


def test_nothing_to_read_is_a_deliberate_error_with_a_code(kind: str, material: Material) -> None:
    if material.absent is None:
        pytest.skip("it always has something to give")
    with pytest.raises((TransientError, FatalError)) as caught:
        all_of(built(kind, material.absent))
    assert isinstance(caught.value.code, SourceErrorCode)
    assert "\n" not in str(caught.value)


def test_frames_outlive_their_source(kind: str, material: Material) -> None:
    frames = [item for item in all_of(built(kind, material.good), material.enough) if isinstance(item, Frame)]
    pictures = [frame.picture.rgb().copy() for frame in frames]
    all_of(built(kind, material.good), material.enough)
    assert all(np.array_equal(frame.picture.rgb(), rgb) for frame, rgb in zip(frames, pictures, strict=True))
