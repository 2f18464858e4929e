from itertools import pairwise

import pytest

from pipeline.contracts.frame import Frame, NoPicture, Size
from pipeline.runtime.sampling import Sampler
from sources._live_skip import Decode, Skipping


def sampled(stamps_s: list[float], max_fps: float) -> int:
    sampler = Sampler(max_fps=max_fps)
    frames = [Frame("cam", n, pts_s, 0.0, "pts", NoPicture(Size(2, 2)), pts_s) for n, pts_s in enumerate(stamps_s)]
    return sum(sampler.takes(frame) for frame in frames)


def decoded(
    skipping: Skipping, *, fps: int, gop: int, seconds: int, b_frames: int = 0, start_s: float = 0
) -> list[float]:
    """Play a camera: which time stamps are decoded. Of `b_frames + 1` frames one is no B-frame."""
    stamps_s = []
    for number in range(fps * seconds):
        at_s = start_s + number / fps
        is_key = number % gop == 0
        is_b = not is_key and number % gop % (b_frames + 1) != 0
        if skipping.wants(at_s, is_key) and not (is_b and skipping.mode is Decode.REFERENCES):
            skipping.decoded(at_s, is_b)
            stamps_s.append(at_s)
    return stamps_s


@pytest.mark.parametrize(
    ("fps", "gop", "b_frames", "max_fps", "mode"),
    [
        (25, 25, 0, 1.0, Decode.KEYFRAMES),
        (25, 25, 0, 0.5, Decode.KEYFRAMES),
        (25, 1, 0, 5.0, Decode.KEYFRAMES),  # MJPEG
        (30, 30, 0, 2.0, Decode.ALL),  # keyframes are too rare
        (25, 50, 0, 1.0, Decode.ALL),
        (30, 60, 2, 10.0, Decode.REFERENCES),
        (30, 60, 2, 5.0, Decode.REFERENCES),
        (30, 60, 2, 15.0, Decode.ALL),  # P-frames alone are 10 a second
        (10, 10, 0, 15.0, Decode.ALL),  # slower than what is wanted
    ],
)
def test_as_little_is_decoded_as_gives_the_wanted_rate(
    fps: int, gop: int, b_frames: int, max_fps: float, mode: Decode
) -> None:
    skipping = Skipping(max_fps, longest_gap_s=10.0)
    kept_s = decoded(skipping, fps=fps, gop=gop, seconds=60, b_frames=b_frames)
    assert skipping.mode is mode
    every_s = [number / fps for number in range(fps * 60)]
    assert sampled(kept_s, max_fps) == pytest.approx(sampled(every_s, max_fps), abs=1)
    assert max(later - earlier for earlier, later in pairwise(kept_s)) <= max(1 / max_fps, 1 / fps) + 0.002
    if mode is not Decode.ALL:
        assert len(kept_s) < len(every_s) / 2


def test_all_is_decoded_where_all_is_wanted() -> None:
    skipping = Skipping(None, longest_gap_s=2.0)
    assert len(decoded(skipping, fps=25, gop=25, seconds=20)) == 500


def test_a_picture_comes_within_the_stall_limit_however_few_are_wanted() -> None:
    skipping = Skipping(0.01, longest_gap_s=0.5)
    kept_s = decoded(skipping, fps=25, gop=10, seconds=60)
    assert skipping.mode is Decode.KEYFRAMES
    assert max(later - earlier for earlier, later in pairwise(kept_s)) <= 0.502


def test_keyframes_that_become_rare_bring_everything_back_from_the_next_one_on() -> None:
    skipping = Skipping(1.0, longest_gap_s=10.0)
    decoded(skipping, fps=25, gop=25, seconds=20)
    assert skipping.mode.value == "keyframes"
    after_s = decoded(skipping, fps=25, gop=250, seconds=40, start_s=20.0)
    assert skipping.mode.value == "all"
    assert after_s[0] == 20.0
    assert after_s[1] == 30.0  # what hangs on pictures that were left out cannot be decoded
    assert len(after_s) == 1 + 30 * 25


def test_reference_frames_that_were_none_are_never_relied_on_again() -> None:
    skipping = Skipping(10.0, longest_gap_s=10.0)
    decoded(skipping, fps=30, gop=60, seconds=4, b_frames=2)
    assert skipping.mode.value == "references"
    skipping.decoded(4.5, False)
    skipping.decoded(5.5, False)
    assert skipping.mode.value == "all"
    decoded(skipping, fps=30, gop=60, seconds=10, b_frames=2, start_s=10)
    assert skipping.mode.value == "all"


def test_packets_without_a_time_stamp_are_decoded() -> None:
    skipping = Skipping(1.0, longest_gap_s=10.0)
    assert skipping.wants(None, False)
    decoded(skipping, fps=25, gop=25, seconds=20)
    assert not skipping.wants(None, False)
    assert skipping.wants(None, True)
