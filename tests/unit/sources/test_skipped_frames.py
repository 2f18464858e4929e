"""Frames that were never decoded are counted: with those that were, they are all that there are."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import pytest
from live_plan import plan
from media import file_source, moving, read, video

from pipeline.contracts.clock import SystemClock
from pipeline.contracts.errors import TransientError
from pipeline.contracts.frame import FailedFrame
from pipeline.contracts.packets import PacketRing
from pipeline.contracts.source import Sparing
from pipeline.testing import PluginContext
from sources._live import LiveSource
from sources._live_reader import Connection
from sources._live_undecoded import Undecoded

FRAMES = 250
CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    "keyframes": ("libx264", "yuv420p", {"preset": "ultrafast", "g": "5", "bf": "0"}),
    "b-frames": ("libx264", "yuv420p", {"preset": "ultrafast", "g": "100", "bf": "2", "x264-params": "b-adapt=0"}),
    "b-pyramid": ("libx264", "yuv420p", {"preset": "medium", "g": "60", "bf": "5"}),
    "key-and-b-frames": (
        "libx264",
        "yuv420p",
        {"preset": "ultrafast", "g": "5", "bf": "2", "x264-params": "b-adapt=0"},
    ),
    "h265": ("libx265", "yuv420p", {"preset": "ultrafast", "x265-params": "log-level=none:keyint=60:bframes=2"}),
    "mpeg4": ("mpeg4", "yuv420p", {"g": "50", "bf": "2"}),
    "mjpeg": ("mjpeg", "yuvj420p", {}),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    pictures = [moving(number, 64, 48) for number in range(FRAMES)]
    return {
        name: video(folder / f"{name}.mkv", pictures, codec=codec, pix_fmt=pix_fmt, options=options)
        for name, (codec, pix_fmt, options) in CODECS.items()
    }


@pytest.mark.parametrize(
    ("keys", "frames"),
    [
        ({"max_fps": 2}, FRAMES),
        ({"stride": 10}, FRAMES),
        ({"stride": 7, "start_frame": 40, "num_frames": 90}, 90),
        ({"max_fps": 1, "loop": 2}, 2 * FRAMES),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", CODECS)
def test_of_a_file_what_was_decoded_and_what_was_skipped_is_all(
    clips: dict[str, Path], name: str, keys: dict[str, Any], frames: int
) -> None:
    source = file_source(clips[name], **keys)
    decoded, failures = read(source)
    assert not failures
    assert isinstance(source, Sparing)
    assert source.skipped_frames > 0
    assert len(decoded) + source.skipped_frames == frames
    gaps = set(range(frames)) - {frame.seq for frame in decoded}
    assert len(gaps) == source.skipped_frames


def test_several_files_are_counted_together(clips: dict[str, Path]) -> None:
    source = file_source([str(clips["mjpeg"]), str(clips["b-pyramid"]), str(clips["keyframes"])], max_fps=1)
    decoded, _ = read(source)
    assert len(decoded) + source.skipped_frames == 3 * FRAMES


def test_of_a_file_that_is_decoded_whole_nothing_is_skipped(clips: dict[str, Path]) -> None:
    source = file_source(clips["mjpeg"])
    read(source)
    assert source.skipped_frames == 0


def decoded_of(source: LiveSource) -> Iterator[bool]:
    """For each item of one connection, to its end, whether it is a frame."""
    try:
        for item in source.frames(threading.Event()):
            yield not isinstance(item, FailedFrame)
    except TransientError:
        return


@pytest.mark.parametrize("max_fps", [0.5, 1, 5, 10])
@pytest.mark.parametrize("name", CODECS)
def test_of_a_live_stream_each_packet_is_decoded_or_skipped_over_reconnects(
    clips: dict[str, Path], name: str, max_fps: float
) -> None:
    source = LiveSource(plan(clips[name], max_fps), PluginContext())
    assert isinstance(source, Sparing)
    decoded = 0
    for connection in (1, 2):
        decoded += sum(decoded_of(source))
        assert decoded + source.skipped_frames == connection * FRAMES
    assert name == "b-pyramid" or max_fps == 10 or source.skipped_frames > 0


def test_what_is_skipped_is_known_while_the_stream_goes_on(clips: dict[str, Path]) -> None:
    """Of frames that the decoder passes over it may be known a little later."""
    source = LiveSource(plan(clips["keyframes"], 1), PluginContext())
    counts = [source.skipped_frames for _ in decoded_of(source)]
    assert counts == sorted(counts)
    assert counts[-1] > 100


def test_of_a_live_stream_that_is_wanted_whole_nothing_is_skipped(clips: dict[str, Path]) -> None:
    source = LiveSource(plan(clips["b-pyramid"], None), PluginContext())
    assert all(decoded_of(source))
    assert source.skipped_frames == 0


def test_a_packet_that_fails_while_others_are_passed_over_is_no_skipped_frame(clips: dict[str, Path]) -> None:
    undecoded = Undecoded()
    decoded = failed = 0
    with closing(
        Connection(plan(clips["b-frames"], 5), SystemClock(), PacketRing(), undecoded=undecoded)
    ) as connection:
        decode, packets = connection._decoder.decode, 0

        def sometimes(packet: Any, *, only_reference: bool = False) -> Any:
            nonlocal packets
            packets += 1
            if only_reference and packets % 60 == 0:
                raise av.InvalidDataError(1, "damaged")
            return decode(packet, only_reference=only_reference)

        connection._decoder.decode = sometimes  # type: ignore[method-assign]
        try:
            for item in connection.items(threading.Event()):
                failed += isinstance(item, FailedFrame)
                decoded += not isinstance(item, FailedFrame)
        except TransientError:
            pass
    assert failed > 0
    assert undecoded.count > 50
    assert decoded + undecoded.count + failed == FRAMES


def test_what_a_decoder_holds_when_it_is_emptied_is_skipped_but_not_what_a_broken_connection_took() -> None:
    undecoded = Undecoded()
    for pts in (0, 3, 1, 2, 6):
        undecoded.give(pts, only_reference=False)
    for pts in (0, 1):
        undecoded.come(pts)
    undecoded.throw_away()  # 2, 3 and 6 were on their way
    assert undecoded.count == 3
    for pts in (10, 12, 11, 14, 13):
        undecoded.give(pts, only_reference=True)
    undecoded.come(10)
    undecoded.come(12)
    undecoded.end()  # 11 would have come before 12; 13 and 14 nobody knows
    assert undecoded.count == 4
    undecoded.begin_connection()
    undecoded.give(1, only_reference=False)  # what does not come though it was asked for is not skipped, but damaged
    for pts in range(2, 50):
        undecoded.give(pts, only_reference=True)
    assert undecoded.count == 4 + 48 - 32  # nothing stays open for ever
