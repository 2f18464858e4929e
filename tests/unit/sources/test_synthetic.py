import threading
import time
from collections.abc import Iterator
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.contracts.errors import SourceErrorCode, TransientError
from pipeline.contracts.frame import FailedFrame, Frame, Size
from pipeline.models.picture import from_rgb
from pipeline.testing import MovableClock, PluginContext, block_at, read_block, read_frame_number
from sources.synthetic import SyntheticSource, SyntheticSourceConfig


def source(context: PluginContext | None = None, **keys: object) -> SyntheticSource:
    config = SyntheticSourceConfig.model_validate({"type": "synthetic", "fps": 0, **keys})
    return config.build(context or PluginContext("cam"))


def some(of: SyntheticSource, count: int) -> list[Frame]:
    frames = of.frames(threading.Event())
    taken = [frame for frame in islice(frames, count) if isinstance(frame, Frame)]
    frames.close()  # type: ignore[attr-defined]
    return taken


@given(
    number=st.integers(0, 65_535),
    half_width=st.integers(8, 400),
    half_height=st.integers(8, 240),
)
@settings(max_examples=25, deadline=None)
def test_every_picture_tells_its_number_and_where_its_block_is(number: int, half_width: int, half_height: int) -> None:
    from sources._pattern import Painter

    width, height = half_width * 2, half_height * 2
    rgb = Painter("bars", width, height).paint(number).rgb()
    assert rgb.shape == (height, width, 3)
    assert read_frame_number(rgb) == number
    found = read_block(rgb)
    if width >= 48 and height >= 48:
        assert found is not None
        assert np.abs(np.subtract(found, block_at(number, width, height))).max() <= 1


@pytest.mark.parametrize("pattern", ["bars", "noise"])
def test_the_number_survives_a_change_of_size_and_a_lossy_codec(pattern: str) -> None:
    from fractions import Fraction

    import av
    from av.video.codeccontext import VideoCodecContext

    from pipeline.models.picture import VideoPicture

    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 320, 180, "yuv420p", Fraction(1, 25)
    encoder.options = {"crf": "35", "tune": "zerolatency"}
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, VideoCodecContext)
    seen = []
    for frame in some(source(width=320, height=180, pattern=pattern), 40):
        assert isinstance(frame.picture, VideoPicture)
        frame.picture.frame.pts = frame.seq
        for packet in encoder.encode(frame.picture.frame):
            seen += [VideoPicture(decoded).rgb(200, 120) for decoded in decoder.decode(packet)]
    seen += [VideoPicture(decoded).rgb(200, 120) for decoded in decoder.decode(None)]
    assert [read_frame_number(rgb) for rgb in seen] == list(range(40))


def test_frames_are_numbered_on_through_attempts_and_beyond_16_bits() -> None:
    of = source(frames=3, width=64, height=48)
    first, second = some(of, 9), some(of, 9)
    assert [frame.seq for frame in first + second] == [0, 1, 2, 3, 4, 5]
    assert [read_frame_number(frame.picture.rgb()) for frame in second] == [3, 4, 5]
    of._seq = 65_536 + 7
    assert read_frame_number(some(of, 1)[0].picture.rgb()) == 7


def test_static_is_the_same_to_the_last_bit_and_black_is_black() -> None:
    first, second = (frame.picture.yuv420p() for frame in some(source(pattern="static"), 2))
    assert np.array_equal(first.y, second.y)
    assert np.array_equal(first.u, second.u)
    (black,) = some(source(pattern="black"), 1)
    assert black.picture.rgb().max() == 0
    assert black.picture.size == Size(640, 360)
    one, other = some(source(pattern="noise"), 2)
    assert not np.array_equal(one.picture.yuv420p().y[100:], other.picture.yuv420p().y[100:])


class Paced(threading.Event):
    """A stop that nobody sets, whose waiting moves the clock on instead."""

    def __init__(self, clock: MovableClock) -> None:
        super().__init__()
        self.clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        self.clock.advance(timeout or 0.0)
        return False


def test_frames_come_at_their_rate_and_say_when() -> None:
    clock = MovableClock()
    frames = list(islice(source(PluginContext("cam", clock=clock), fps=50).frames(Paced(clock)), 101))
    given_at = [frame.decoded_at for frame in frames if isinstance(frame, Frame)]
    assert given_at[-1] - given_at[0] == pytest.approx(2.0)
    last = frames[-1]
    assert isinstance(last, Frame)
    assert (last.pts_s, last.duration_s, last.time_source) == (2.0, 0.02, "arrival")
    assert last.captured_at == pytest.approx(1_700_000_002.0)


def test_who_comes_late_does_not_get_everything_that_was_missed() -> None:
    clock = MovableClock()
    frames = source(PluginContext("cam", clock=clock), fps=10).frames(Paced(clock))
    next(frames)
    clock.advance(60.0)
    late_at = clock.monotonic()
    at_once = sum(1 for _ in islice(frames, 20) if clock.monotonic() == late_at)
    assert 1 <= at_once <= 7  # half a second of frames


def test_a_stop_ends_the_waiting_at_once() -> None:
    stop = threading.Event()
    frames = source(fps=0.01).frames(stop)
    next(frames)
    threading.Timer(0.1, stop.set).start()
    started_at = time.monotonic()
    assert list(frames) == []
    assert time.monotonic() - started_at < 5


def faulty(clock: MovableClock, **keys: object) -> tuple[SyntheticSource, Iterator[Frame | FailedFrame]]:
    of = source(PluginContext("cam", clock=clock), fps=10, width=64, height=48, **keys)
    return of, of.frames(Paced(clock))


@pytest.mark.parametrize(
    ("kind", "code"), [("disconnect", SourceErrorCode.CONNECTION_FAILED), ("freeze", SourceErrorCode.STALLED)]
)
def test_a_broken_connection_and_a_freeze_are_told_with_their_codes(kind: str, code: SourceErrorCode) -> None:
    clock = MovableClock()
    of, frames = faulty(clock, faults={"mean_s": 20, "kinds": [kind]}, stall_timeout_s=4)
    last_at = 0.0
    with pytest.raises(TransientError) as caught:  # noqa: PT012
        for _ in frames:
            last_at = clock.monotonic()
    assert caught.value.code is code
    assert clock.monotonic() - last_at == pytest.approx(4.1 if kind == "freeze" else 0.1)
    assert isinstance(next(of.frames(Paced(clock))), Frame)  # it comes back


def test_a_stop_ends_a_freeze_at_once_and_without_an_error() -> None:
    stop = threading.Event()
    frames = source(faults={"mean_s": 0.001, "kinds": ["freeze"]}, stall_timeout_s=3600).frames(stop)
    threading.Timer(0.2, stop.set).start()
    assert all(isinstance(frame, Frame) for frame in frames)


def test_the_faults_of_a_seed_are_always_the_same() -> None:
    def times(seed: int) -> list[float]:
        clock, found = MovableClock(), []
        of, frames = faulty(clock, faults={"mean_s": 10, "kinds": ["disconnect"], "seed": seed})
        for _ in range(20):
            try:
                list(frames)
            except TransientError:
                found.append(clock.monotonic())
            frames = of.frames(Paced(clock))
        return found

    assert times(1) == times(1)
    assert times(1) != times(2)
    assert 60 < times(1)[-1] - 1000 < 600


def test_damage_is_flagged_or_skipped_as_configured() -> None:
    faults = {"mean_s": 1, "kinds": ["corrupt"]}
    _, frames = faulty(MovableClock(), faults=faults)
    flagged = [frame.corrupt for frame in islice(frames, 300) if isinstance(frame, Frame)]
    assert 5 < flagged.count(True) < 100
    assert len(flagged) == 300
    _, frames = faulty(MovableClock(), faults=faults, on_corrupt="skip")
    items = list(islice(frames, 300))
    skipped = [item for item in items if isinstance(item, FailedFrame)]
    assert len(skipped) == flagged.count(True)
    assert all(item.corrupt for item in skipped)
    assert [item.seq for item in items if isinstance(item, Frame)] == list(range(300 - len(skipped)))


def test_the_picture_stands_still_or_goes_black_for_a_minute() -> None:
    for kind in ("still", "black"):
        _, frames = faulty(MovableClock(), faults={"mean_s": 1000, "kinds": [kind], "seed": 3})
        pictures = [frame.picture.luma(64, 48) for frame in islice(frames, 20_000) if isinstance(frame, Frame)]
        same = [np.array_equal(a, b) for a, b in pairwise(pictures)]
        assert same.count(True) >= 599
        assert not same[0]
        assert not same[-1] or same.count(True) < 10_000


def test_a_pattern_that_cannot_be_is_refused() -> None:
    for keys in ({"width": 63}, {"height": 8}, {"fps": -1}, {"pattern": "cat"}, {"faults": {"mean_s": 0}}):
        with pytest.raises(ValidationError):
            source(**keys)


def test_a_picture_without_a_block_has_none() -> None:
    assert read_block(from_rgb(np.zeros((48, 64, 3), np.uint8)).rgb()) is None
