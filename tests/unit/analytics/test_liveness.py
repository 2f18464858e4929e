from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scenes import HEIGHT, WIDTH, Grey, clip_frames, grey_frame, scenery, with_block

from pipeline.analytics.liveness import ADAPTED_AFTER_S, MOVED_AFTER_S, ContentWatch
from pipeline.contracts.frame import Frame
from pipeline.contracts.scene import ContentState, LivenessConfig

OK, FROZEN, BLACK, MOVED = ContentState.OK, ContentState.FROZEN, ContentState.BLACK, ContentState.MOVED


def watch(**keys: object) -> ContentWatch:
    return ContentWatch(LivenessConfig.model_validate(keys))


def states(
    of: ContentWatch, picture_at: Callable[[int], Grey], seconds: range, noise: float = 2.0
) -> list[ContentState]:
    return [of.look(grey_frame(picture_at(s), s, noise=noise, seq=s)) for s in seconds]


def changes(found: Iterable[ContentState]) -> list[tuple[int, ContentState]]:
    last, seen = OK, []
    for number, state in enumerate(found):
        if state is not last:
            seen.append((number, state))
        last = state
    return seen


def test_a_live_scene_is_ok() -> None:
    assert set(states(watch(), lambda _: scenery(), range(120))) == {OK}


def test_a_picture_without_any_change_is_frozen_after_its_limit_and_ok_at_the_next_change() -> None:
    of = watch(frozen_after_s=10)
    assert changes(states(of, lambda _: scenery(), range(30), noise=0)) == [(10, FROZEN)]
    assert states(of, lambda _: scenery(), range(30, 33), noise=2) == [OK] * 3


def test_one_pixel_that_changes_is_life() -> None:
    def ticking(second: int) -> Grey:
        picture = scenery()
        picture[11, 22] = 100.0 + second % 2  # by one grey level, between the samples of its spot
        return picture

    assert set(states(watch(frozen_after_s=5), ticking, range(60), noise=0)) == {OK}


def test_a_camera_that_was_away_was_not_frozen() -> None:
    of = watch(frozen_after_s=10)
    states(of, lambda _: scenery(), range(5), noise=0)
    assert changes(states(of, lambda _: scenery(), range(65, 85), noise=0)) == [(10, FROZEN)]


def test_a_black_picture_is_black_and_not_frozen() -> None:
    of = watch(frozen_after_s=10)
    states(of, lambda _: scenery(), range(10))
    found = states(of, lambda _: np.full((HEIGHT, WIDTH), 16.0), range(10, 40), noise=0)
    assert changes(found) == [(3, BLACK)]
    assert changes([BLACK, *states(of, lambda _: scenery(), range(40, 70))])[1:] == [(4, OK)]


def test_black_with_the_cameras_clock_in_it_is_black() -> None:
    clock = with_block(np.full((HEIGHT, WIDTH), 12.0), 10, 10, side=20)
    assert changes(states(watch(), lambda _: clock, range(10))) == [(3, BLACK)]


def test_a_dark_scene_with_lamps_is_not_black_and_a_flash_of_black_neither() -> None:
    night = np.full((HEIGHT, WIDTH), 12.0)
    night[::3] = 60.0
    assert set(states(watch(), lambda _: night, range(20))) == {OK}
    assert set(states(watch(), lambda s: scenery() * (s % 20 > 1), range(100))) == {OK}


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_camera_that_was_turned_is_moved_until_it_has_adapted(seed: int) -> None:
    of = watch()
    states(of, lambda _: scenery(0), range(60))
    found = changes(states(of, lambda _: scenery(seed), range(60, 300)))
    assert found == [(MOVED_AFTER_S, MOVED), (MOVED_AFTER_S + ADAPTED_AFTER_S, OK)]


def test_a_camera_that_was_pushed_by_a_fifth_of_the_picture_is_moved() -> None:
    of = watch()
    states(of, lambda _: scenery(), range(60))
    pushed = np.roll(scenery(), (HEIGHT // 5, WIDTH // 5), (0, 1))
    assert changes(states(of, lambda _: pushed, range(60, 90))) == [(MOVED_AFTER_S, MOVED)]


def test_a_covered_camera_is_moved_and_ok_when_it_is_uncovered() -> None:
    of = watch()
    states(of, lambda _: scenery(), range(60))
    assert changes(states(of, lambda _: np.full((HEIGHT, WIDTH), 70.0), range(60, 90))) == [(MOVED_AFTER_S, MOVED)]
    assert states(of, lambda _: scenery(), range(90, 92)) == [OK, OK]


def test_a_lorry_that_passes_is_not_another_scene() -> None:
    def road(second: int) -> Grey:
        picture, left = scenery(), (second % 30) * 60 - 300  # fills all of the picture for some seconds
        picture[10:, max(0, left) : max(0, left + 500)] = 120.0
        return picture

    assert set(states(watch(), road, range(300))) == {OK}


def test_dusk_a_lamp_and_a_cloud_are_not_another_scene() -> None:
    def evening(second: int) -> Grey:
        light = 1 - 0.8 * second / 600
        if 100 < second < 130:
            light *= 0.6
        return scenery() * light + (40 if 200 < second < 300 else 0)

    assert set(states(watch(), evening, range(600), noise=3)) == {OK}


def test_a_scene_that_changes_slowly_is_the_same_scene() -> None:
    def slowly(second: int) -> Grey:
        share = second / 600
        return scenery(0) * (1 - share) + scenery(1) * share

    assert set(states(watch(), slowly, range(600))) == {OK}


def test_a_wall_has_no_structure_that_could_be_another_one() -> None:
    of = watch()
    states(of, lambda _: np.full((HEIGHT, WIDTH), 90.0), range(30))
    assert set(states(of, lambda _: np.full((HEIGHT, WIDTH), 150.0), range(30, 60))) == {OK}


def test_it_looks_once_a_second_and_never_at_a_damaged_frame_or_when_it_is_off() -> None:
    class Counting:
        looks = 0
        size = grey_frame(scenery(), 0).picture.size

        def luma(self, width: int, height: int) -> object:
            Counting.looks += 1
            return grey_frame(scenery(), 0, noise=1, seq=Counting.looks).picture.luma(width, height)

    def frame(at_s: float, corrupt: bool = False) -> Frame:
        return replace(grey_frame(scenery(), at_s), picture=Counting(), corrupt=corrupt)  # type: ignore[arg-type]

    of = watch()
    assert {of.look(frame(n / 25)) for n in range(250)} == {OK}
    assert Counting.looks == 10
    of.look(frame(20, corrupt=True))
    watch(enabled=False).look(frame(30))
    assert Counting.looks == 10


def test_a_new_size_begins_anew() -> None:
    of = watch()
    states(of, lambda _: scenery(), range(60))
    assert set(states(of, lambda _: scenery(3)[:90], range(60, 120))) == {OK}


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (7, 100), (50, 9)])
def test_pictures_of_any_size_can_be_looked_at(size: tuple[int, int]) -> None:
    of = watch()
    assert set(states(of, lambda _: np.full(size, 90.0), range(20), noise=3)) == {OK}


@pytest.mark.parametrize(
    "name", ["vtest.avi", "highway_mpeg4.mp4", "bottle-detection.mp4", "webcam_mpeg2.mpeg", "pancake.mkv"]
)
def test_real_scenes_raise_no_alarm(shared_data: Path, name: str) -> None:
    of = watch()
    frames = (frame for frame in clip_frames(shared_data / "videos" / name, rounds=2) if frame.seq % 8 == 0)
    assert {of.look(frame) for frame in frames} == {OK}


def test_one_real_scene_after_another_is_moved(shared_data: Path) -> None:
    of = watch()
    here = list(clip_frames(shared_data / "videos" / "vtest.avi"))[::10]
    there = list(clip_frames(shared_data / "videos" / "highway_mpeg4.mp4"))[::15]
    assert {of.look(replace(frame, picture=frame.picture)) for frame in here} == {OK}
    resized = [replace(frame, picture=_Resized(frame)) for frame in there]  # type: ignore[arg-type]
    found = [of.look(replace(frame, decoded_at=1080.0 + n)) for n, frame in enumerate(resized)]
    assert found[-1] is MOVED


class _Resized:
    """A picture that says it is of the other clip's size."""

    def __init__(self, frame: Frame) -> None:
        self.luma = frame.picture.luma
        self.size = (768, 576)
