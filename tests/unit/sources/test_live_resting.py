"""A camera that rests while nothing moves, on encoded clips: it gives what the full decoder would have given."""

import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from live_plan import plan
from still_scene import ENCODERS, FPS, GOP, encoded, scene

from pipeline.analytics.motion import MotionGate
from pipeline.contracts.clock import SystemClock
from pipeline.contracts.errors import SourceErrorCode, TransientError
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.contracts.scene import MotionConfig
from pipeline.contracts.source import Resting, Sparing
from pipeline.runtime.sampling import Sampler
from pipeline.testing import PluginContext
from sources import _live_kept
from sources._live import LiveSource

FRAMES = 300
SQUARE = range(207, 240)  # in the middle of a group
RESTING = [name for name in ENCODERS if name != "refresh"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, pictures = tmp_path_factory.mktemp("clips"), scene(FRAMES, SQUARE)
    return {name: encoded(folder / f"{name}.mkv", pictures, name) for name in ENCODERS}


@dataclass
class Seen:
    """What a connection gave: time stamps in seconds of the file, and a checksum of the pixels of each."""

    source: LiveSource
    pixels: dict[float, int] = field(default_factory=dict)
    inferred_s: list[float] = field(default_factory=list)
    resting_s: list[float] = field(default_factory=list)
    failed: int = 0
    corrupt: int = 0
    decoding: list[str] = field(default_factory=list)


def source(path: Path, *, keepalive_s: float | None = 3.0, max_fps: float | None = None) -> LiveSource:
    return LiveSource(replace(plan(path, max_fps), rest_keepalive_s=keepalive_s), PluginContext())


def watch(of: LiveSource, *, keepalive_s: float = 3.0, max_fps: float | None = None, stop_after: int = 10_000) -> Seen:
    """Read one connection as the runner does: sample, ask the gate, tell the source."""
    assert isinstance(of, Resting)
    gate, sampler = MotionGate(MotionConfig(keepalive_s=keepalive_s, hold_s=0.4)), Sampler(max_fps=max_fps)
    seen, stop = Seen(of), threading.Event()
    for item in until_lost(of, stop):
        if isinstance(item, FailedFrame):
            seen.failed += 1
            continue
        assert item.pts_s is not None
        at_s = round(item.pts_s, 3)
        assert at_s not in seen.pixels
        seen.pixels[at_s] = zlib.crc32(item.picture.rgb().tobytes())
        seen.corrupt += item.corrupt
        seen.decoding.append(str(of.details()["decoding"]))
        if of.resting:
            seen.resting_s.append(at_s)
        if sampler.takes(item):
            if gate.passes(item):
                seen.inferred_s.append(at_s)
            of.rest(gate.still_s)
        if len(seen.pixels) >= stop_after:
            stop.set()
    return seen


def until_lost(of: LiveSource, stop: threading.Event) -> Iterator[Any]:
    try:
        yield from of.frames(stop)
    except TransientError:
        return


def everything(path: Path) -> dict[float, int]:
    return watch(source(path, keepalive_s=None)).pixels


@pytest.mark.parametrize("max_fps", [None, 5.0], ids=str)
@pytest.mark.parametrize("name", RESTING)
def test_what_comes_is_what_the_full_decoder_gives_and_all_else_is_counted(
    clips: dict[str, Path], name: str, max_fps: float | None
) -> None:
    every = everything(clips[name])
    assert len(every) == FRAMES
    seen = watch(source(clips[name], max_fps=max_fps), max_fps=max_fps)
    assert seen.pixels.items() <= every.items()
    assert list(seen.pixels) == sorted(seen.pixels)
    assert (seen.failed, seen.corrupt) == (0, 0)
    assert isinstance(seen.source, Sparing)
    assert len(seen.pixels) + seen.source.skipped_frames == FRAMES
    assert len(seen.resting_s) >= 4
    assert "keyframes" in seen.decoding
    assert len(seen.pixels) < 250


@pytest.mark.parametrize("name", RESTING)
def test_what_begins_to_move_is_seen_within_a_keyframe_interval_and_much_sooner_where_packets_grow(
    clips: dict[str, Path], name: str
) -> None:
    without = watch(source(clips[name], keepalive_s=None))
    seen = watch(source(clips[name]))
    began_s = next(at_s for at_s in without.inferred_s if at_s >= SQUARE.start / FPS)
    delay_s = next(at_s for at_s in seen.inferred_s if at_s >= SQUARE.start / FPS) - began_s
    assert 0 <= delay_s <= (GOP / FPS if name == "constant" else 0.21)
    moving_s = [at_s for at_s in without.inferred_s if began_s + delay_s <= at_s < (SQUARE.stop - 1) / FPS]
    assert set(moving_s) <= set(seen.inferred_s)  # and from there on nothing is missing


def test_b_frames_that_were_left_out_before_it_rested_are_left_out_after_it(clips: dict[str, Path]) -> None:
    seen = watch(source(clips["b-frames"], max_fps=5.0), max_fps=5.0)
    first = seen.decoding.index("keyframes")
    assert "references" in seen.decoding[:first]
    assert set(seen.decoding[first:]) == {"keyframes", "references"}


def test_a_frame_comes_as_often_as_the_keepalive_says_though_keyframes_are_not_in_time(clips: dict[str, Path]) -> None:
    seen = watch(source(clips["b-frames"], keepalive_s=1.0), keepalive_s=1.0)
    gaps_s = [later - earlier for earlier, later in pairwise(seen.inferred_s)]
    assert max(gaps_s) <= 1.0 + 4 / FPS  # B-frames come behind what follows them
    looks = [at_s for at_s in seen.resting_s if round(at_s * FPS) % GOP]
    assert looks
    assert len(seen.pixels) + seen.source.skipped_frames == FRAMES


def test_keyframes_that_are_no_whole_pictures_end_it_for_the_connection(clips: dict[str, Path]) -> None:
    every, seen = everything(clips["refresh"]), watch(source(clips["refresh"]))
    assert seen.pixels.items() <= every.items()
    assert seen.source.details()["decoding"] == "all: its keyframes are no whole pictures"
    assert len(seen.pixels) + seen.source.skipped_frames >= FRAMES - 2 * GOP  # until the picture is whole again


def test_a_new_connection_begins_awake(clips: dict[str, Path]) -> None:
    of = source(clips["plain"])
    watch(of, stop_after=130)
    assert of.skipped_frames > 0
    assert not of.resting
    again = watch(of)
    assert min(again.resting_s) - min(again.pixels) >= 4 * GOP / FPS - 0.001


def test_what_was_kept_when_the_connection_ends_was_not_decoded(clips: dict[str, Path], tmp_path: Path) -> None:
    path = altered(clips["plain"], tmp_path / "cut.mkv", lambda number, _: number < 150)
    seen = watch(source(path))
    assert seen.resting_s[-1] == max(seen.pixels)
    assert not seen.source.resting
    assert len(seen.pixels) + seen.source.skipped_frames == 150


def test_more_than_may_be_kept_is_decoded(clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_live_kept, "MOST_PACKETS", 8)
    seen = watch(source(clips["b-frames"]))
    assert seen.resting_s
    assert len(seen.pixels) + seen.source.skipped_frames == FRAMES
    assert seen.pixels.items() <= everything(clips["b-frames"]).items()
    assert 4 / FPS < max(later - earlier for earlier, later in pairwise(seen.pixels)) < 13 / FPS < GOP / FPS


@pytest.mark.parametrize("hit", [140, 145], ids=["a keyframe", "what is kept"])
def test_a_damaged_packet_is_skipped_or_fails_and_no_broken_picture_goes_unmarked(
    clips: dict[str, Path], tmp_path: Path, hit: int
) -> None:
    def spoil(number: int, data: bytearray) -> bool:
        if number == hit:
            data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        return True

    path = altered(clips["plain"], tmp_path / "damaged.mkv", spoil)
    seen = watch(source(path))
    good = everything(clips["plain"])
    wrong = [at_s for at_s, crc in seen.pixels.items() if good[at_s] != crc]
    assert len(wrong) <= seen.corrupt + GOP  # behind a damaged keyframe it is the decoder that does not tell
    assert all(hit / FPS - 0.001 <= at_s < 160 / FPS for at_s in wrong)
    assert len(seen.pixels) + seen.source.skipped_frames + seen.failed == FRAMES


def test_it_does_not_rest_where_nobody_asked(clips: dict[str, Path]) -> None:
    seen = watch(source(clips["plain"], keepalive_s=None))
    assert (seen.resting_s, seen.source.skipped_frames) == ([], 0)
    assert set(seen.decoding) == {"all"}


class HeldUp(SystemClock):
    """After some more looks at it, it leaps ahead, and again after as many more."""

    looks = 4  # behind the next frame, or four that are kept
    is_on, looked = False, 0

    def __init__(self, *leaps_s: float) -> None:
        self.leaps_s = leaps_s

    def monotonic(self) -> float:
        self.looked += self.is_on
        return super().monotonic() + sum(self.leaps_s[: self.looked // (self.looks + 1)])


@pytest.mark.parametrize(
    ("resting", "leaps_s", "stalls"),
    [(False, [5.5], True), (True, [5.5], True), (True, [4.0, 4.0], True), (True, [3.5, 3.5], False)],
    ids=str,
)
def test_what_rests_may_be_held_up_as_long_as_all_else_and_what_was_kept_is_no_data_that_cannot_be_decoded(
    clips: dict[str, Path], resting: bool, leaps_s: list[float], stalls: bool
) -> None:
    """5 s is the limit, and half as much is what rests without a picture."""
    clock, gate = HeldUp(*leaps_s), MotionGate(MotionConfig(keepalive_s=3.0))
    of = LiveSource(replace(plan(clips["plain"]), rest_keepalive_s=3.0), PluginContext(clock=clock))

    def read() -> None:
        for item in of.frames(threading.Event()):
            assert isinstance(item, Frame)
            gate.passes(item)
            of.rest(gate.still_s)
            clock.is_on = clock.is_on or of.resting is resting

    with pytest.raises(TransientError) as caught:
        read()
    assert clock.looked > clock.looks * len(leaps_s)
    assert (caught.value.code is SourceErrorCode.STALLED) is stalls
    assert ("no picture for 5 s" in str(caught.value)) is stalls


def altered(original: Path, path: Path, change: Callable[[int, bytearray], bool]) -> Path:
    """A copy whose packets are changed one by one, or left out."""
    with av.open(str(original)) as there, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(there.streams.video[0])
        for number, packet in enumerate(there.demux(there.streams.video[0])):
            data = bytearray(bytes(packet))
            if packet.dts is None or not change(number, data):
                continue
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
            copy.time_base, copy.is_keyframe, copy.stream = packet.time_base, packet.is_keyframe, stream
            output.mux(copy)
    return path
