from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import HEIGHT, WIDTH, Grey, clip_frames, grey_frame, scenery, with_block

from pipeline.analytics.motion import MotionGate, brightness_apart
from pipeline.contracts.scene import MotionConfig

FPS = 5


def gate(**keys: object) -> MotionGate:
    return MotionGate(MotionConfig.model_validate({"keepalive_s": 1000, "hold_s": 0, **keys}))


def passed(of: MotionGate, pictures: list[Grey], *, start_s: float = 0.0, noise: float = 0.0) -> list[bool]:
    frames = (grey_frame(each, start_s + n / FPS, noise=noise, seq=n) for n, each in enumerate(pictures))
    return [of.passes(frame) for frame in frames]


def test_the_first_frame_passes_and_a_still_scene_does_not() -> None:
    assert passed(gate(), [scenery()] * 20) == [True] + [False] * 19


def test_the_noise_of_a_sensor_is_no_movement() -> None:
    assert passed(gate(), [scenery()] * 50, noise=10).count(True) == 1


def test_somebody_who_walks_through_passes_in_every_frame_and_nobody_after_it() -> None:
    still, of = scenery(), gate()
    assert passed(of, [still] * 10)[1:] == [False] * 9
    assert all(passed(of, [with_block(still, 10 * n, 60) for n in range(25)], start_s=2))
    after = passed(of, [still] * 50, start_s=7)
    assert not any(after[25:])


def test_the_threshold_is_a_share_of_the_picture() -> None:
    still = np.full((HEIGHT, WIDTH), 100.0)
    small = with_block(still, 100, 60, side=24)  # 1 % of it
    assert passed(gate(threshold=0.007), [still, small]) == [True, True]
    assert passed(gate(threshold=0.02), [still, small]) == [True, False]
    assert passed(gate(threshold=0.0), [still, still, small]) == [True, False, True]


def test_the_sensitivity_is_a_number_of_grey_levels() -> None:
    still = np.full((HEIGHT, WIDTH), 100.0)
    faint = with_block(still, 100, 60, level=115.0)
    assert passed(gate(sensitivity=10), [still, faint]) == [True, True]
    assert passed(gate(sensitivity=20), [still, faint]) == [True, False]


def test_dusk_is_no_movement() -> None:
    still = scenery()
    hour = [still * (1 - 0.85 * n / (600 * FPS)) for n in range(600 * FPS)]  # in ten minutes
    assert passed(gate(), hour[::3]).count(True) == 1


@pytest.mark.parametrize("change", [0.6, 0.8, 1.2, 30.0, -25.0])
def test_a_cloud_or_a_new_exposure_is_no_movement(change: float) -> None:
    still = scenery()
    other = still * change if 0 < change < 2 else still + change
    assert passed(gate(), [still] * 5 + [other] * 5) == [True] + [False] * 9


def test_a_scene_that_stays_changed_becomes_the_background() -> None:
    still, of = scenery(), gate()
    parked = with_block(still, 100, 60)
    passed(of, [still] * 10)
    found = passed(of, [parked] * 90 * FPS, start_s=2)
    assert all(found[: 10 * FPS])
    assert not any(found[-20 * FPS :])


def test_what_is_in_an_ignored_region_does_not_move() -> None:
    still = scenery()
    walking = [with_block(still, 10 * n, 60) for n in range(25)]
    everywhere = gate(ignore=[[0, 0, 1, 1]])
    assert passed(everywhere, walking).count(True) == 1
    band = gate(ignore=[[0, 0.3, 1, 0.6]])
    assert passed(band, walking).count(True) == 1
    assert passed(band, [with_block(still, 10 * n, 120) for n in range(25)], start_s=5).count(True) == 25
    other = gate(ignore=[[0, 0.7, 1, 1]])
    assert passed(other, [still, *walking]).count(True) == 26


def test_one_frame_passes_every_keepalive() -> None:
    found = passed(gate(keepalive_s=2), [scenery()] * 41)
    assert [n for n, passes in enumerate(found) if passes] == [0, 10, 20, 30, 40]


def test_it_goes_on_for_hold_s_after_the_last_movement() -> None:
    still = np.full((HEIGHT, WIDTH), 100.0)
    found = passed(gate(hold_s=1), [still] * 5 + [with_block(still, 100, 60)] + [still] * 20)
    assert [n for n, passes in enumerate(found) if passes] == [0, *range(5, 11)]


def test_it_tells_for_how_long_no_frame_is_needed() -> None:
    still, of = np.full((HEIGHT, WIDTH), 100.0), gate(keepalive_s=4, hold_s=1)
    told = []
    for n, each in enumerate([still] * 5 + [with_block(still, 100, 60)] + [still] * 20):
        of.passes(grey_frame(each, n / FPS, seq=n))
        told.append(round(of.still_s, 3))
    assert told[:6] == [0.0, 3.8, 3.6, 3.4, 3.2, 0.0]  # nothing is known of the first; something moves in the last
    assert told[6:13] == [0.0] * 5 + [3.8, 3.6]  # it is held for a second, and counted from the last that passed
    assert of.passes(grey_frame(still, 6.0))
    assert of.still_s == 4.0  # that was a keepalive: nothing moved


def test_a_frame_that_is_rounded_to_a_little_early_is_in_time() -> None:
    of, still = gate(keepalive_s=2), scenery()
    assert [of.passes(grey_frame(still, at_s)) for at_s in (0.0, 1.9, 1.9985, 3.99)] == [True, False, True, False]


def test_a_new_size_and_a_jump_in_time_begin_anew() -> None:
    still, of = scenery(), gate()
    assert passed(of, [still] * 3) == [True, False, False]
    assert of.passes(grey_frame(still[:90], 1.0))
    assert not of.passes(grey_frame(still[:90], 1.2))
    assert of.passes(replace(grey_frame(still[:90], 900.0), time_jump=True))
    assert of.passes(grey_frame(still[:90], 5.0))
    assert not of.passes(grey_frame(still[:90], 5.2))


def test_without_time_stamps_it_goes_by_the_time_of_decoding() -> None:
    of, still = gate(keepalive_s=2), scenery()
    found = [of.passes(grey_frame(still, n / FPS, pts=False)) for n in range(11)]
    assert found == [True] + [False] * 9 + [True]


def test_pictures_of_a_few_pixels_are_looked_at_too() -> None:
    of = gate()
    assert [of.passes(grey_frame(np.full((2, 3), level), n / FPS)) for n, level in enumerate((9, 9, 9))] == [1, 0, 0]


@given(st.floats(0.5, 1.5), st.floats(-30, 30), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_brightness_alone_sets_no_two_pictures_apart(gain: float, shift: float, seed: int) -> None:
    picture = scenery(seed)[::4, ::4].astype(np.float32)
    assert brightness_apart(picture * np.float32(gain), picture).max() < 4
    assert brightness_apart(picture + np.float32(shift), picture).max() < 0.1


def test_real_pedestrians_pass_and_their_empty_street_does_not(shared_data: Path) -> None:
    frames = list(clip_frames(shared_data / "videos" / "vtest.avi"))[:100]
    of = gate()
    assert [of.passes(frame) for frame in frames].count(True) >= 95
    spots = np.median([frame.picture.luma(320, 180) for frame in frames[::5]], axis=0)
    assert passed(gate(), [spots] * 50, noise=5).count(True) == 1
