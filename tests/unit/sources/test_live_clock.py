from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources._live_clock import Stamp, StreamClock

NOON = 1_700_000_000.0


class Line:
    """A clock with a wall and a monotonic clock that go together, and a camera 25 times a second."""

    def __init__(self) -> None:
        self.clock = StreamClock()
        self.now_s = 1000.0
        self.wall_minus_now_s = NOON - 1000.0

    def connect(self, after_s: float = 0.0) -> None:
        self.now_s += after_s
        self.clock.begin_connection(0.04)

    def frame(self, raw_s: float | None, camera_s: float | None = None, after_s: float = 0.04) -> Stamp:
        self.now_s += after_s
        wall_s = self.now_s + self.wall_minus_now_s
        return self.clock.stamp(raw_s=raw_s, camera_s=camera_s, at_s=self.now_s, wall_s=wall_s)


@pytest.fixture
def line() -> Line:
    line = Line()
    line.connect()
    return line


def test_the_time_line_begins_at_zero_and_follows_the_time_stamps_however_they_arrive(line: Line) -> None:
    arrivals = [0.0, 0.0, 0.3, 0.001, 0.04]
    stamps = [line.frame(70 + number * 0.04, after_s=after_s) for number, after_s in enumerate(arrivals)]
    assert [stamp.pts_s for stamp in stamps] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    assert {stamp.time_source for stamp in stamps} == {"pts"}
    assert not any(stamp.time_jump for stamp in stamps)


def test_a_first_frame_without_a_time_stamp_is_one_interval_before_the_next(line: Line) -> None:
    first, second, third = line.frame(None), line.frame(5.0, after_s=0.0), line.frame(5.04, after_s=0.0)
    assert [first.pts_s, second.pts_s, third.pts_s] == pytest.approx([0, 0.04, 0.08])
    assert first.time_source == "arrival"


def test_without_time_stamps_the_time_of_arrival_counts(line: Line) -> None:
    line.clock.begin_connection(0.0)
    stamps = [line.frame(None, after_s=after_s) for after_s in (0.0, 0.5, 0.1)]
    assert [stamp.pts_s for stamp in stamps] == pytest.approx([0, 0.5, 0.6])
    assert [stamp.captured_at - stamps[0].captured_at for stamp in stamps] == pytest.approx([0, 0.5, 0.6])
    assert {stamp.time_source for stamp in stamps} == {"arrival"}


def test_over_a_reconnect_the_line_goes_on_by_the_time_that_went_by(line: Line) -> None:
    line.frame(500.0)
    before = line.frame(500.04)
    line.connect(after_s=30.0)
    after = line.frame(2.0)
    assert after.pts_s - before.pts_s == pytest.approx(30.04)
    second = line.frame(2.04)
    assert second.pts_s - after.pts_s == pytest.approx(0.04)
    assert not after.time_jump
    assert not second.time_jump


@pytest.mark.parametrize("to_s", [9000.0, -3.0, -(2**33) / 90_000, 2**32 / 90_000])
def test_a_jump_and_a_wrap_are_told_and_bridged_by_the_time_that_went_by(line: Line, to_s: float) -> None:
    before = line.frame(100.0)
    jumped = line.frame(100.04 + to_s)
    after = line.frame(100.08 + to_s)
    assert jumped.time_jump
    assert not after.time_jump
    assert [jumped.pts_s - before.pts_s, after.pts_s - jumped.pts_s] == pytest.approx([0.04, 0.04])


def test_a_gap_in_which_nothing_came_is_no_jump(line: Line) -> None:
    line.frame(10.0)
    after = line.frame(13.0, after_s=3.0)
    assert not after.time_jump
    assert after.pts_s == pytest.approx(3.0)


def test_a_frame_a_little_out_of_order_is_moved_up_and_no_jump(line: Line) -> None:
    first, late, next_one = line.frame(10.0), line.frame(9.96), line.frame(10.08)
    assert first.pts_s < late.pts_s < next_one.pts_s
    assert not late.time_jump
    assert next_one.pts_s == pytest.approx(0.08)


def test_the_cameras_own_time_is_used_and_its_offset_told(line: Line) -> None:
    stamp = line.frame(1.0, camera_s=line.now_s + line.wall_minus_now_s - 0.2)
    assert stamp.time_source == "rtcp"
    assert stamp.clock_offset_s == pytest.approx(0.24)
    assert stamp.captured_at == pytest.approx(line.now_s + line.wall_minus_now_s - 0.24, abs=0.001)


@pytest.mark.parametrize("wrong_s", [3600.0, -3600.0, -30.0, 1.7e9])
def test_a_camera_whose_clock_is_off_is_not_believed_but_told(line: Line, wrong_s: float) -> None:
    wall_s = line.now_s + line.wall_minus_now_s + 0.04
    stamp = line.frame(1.0, camera_s=wall_s - wrong_s)
    assert stamp.time_source == "pts"
    assert stamp.captured_at == pytest.approx(wall_s, abs=0.001)
    assert stamp.clock_offset_s == pytest.approx(wrong_s)


def test_a_clock_at_the_edge_of_belief_does_not_flap(line: Line) -> None:
    def source(offset_s: float) -> str:
        number = line.now_s
        return line.frame(number, camera_s=line.now_s + line.wall_minus_now_s + 0.04 - offset_s).time_source

    assert [source(offset_s) for offset_s in (9.9, 10.1, 9.9, 6.0, 4.0, 9.9)] == [
        *("rtcp", "pts", "pts", "pts", "rtcp", "rtcp")
    ]


def test_captured_at_never_runs_backwards_when_the_camera_begins_to_tell_its_time(line: Line) -> None:
    anchored = line.frame(1.0)
    told = line.frame(1.04, camera_s=anchored.captured_at - 0.5)
    assert told.time_source == "rtcp"
    assert told.captured_at == anchored.captured_at


def test_the_shortest_delay_is_the_anchor_so_that_a_late_frame_keeps_its_time(line: Line) -> None:
    first = line.frame(0.0)
    late = line.frame(0.04, after_s=1.0)
    assert late.captured_at - first.captured_at == pytest.approx(0.04, abs=0.001)


def test_no_frame_is_from_the_future_when_the_first_one_was_late(line: Line) -> None:
    line.frame(0.0)
    for number in range(1, 20):  # what lay in a buffer while it was opened
        last = line.frame(number * 0.04, after_s=0.001)
    assert last.captured_at == pytest.approx(line.now_s + line.wall_minus_now_s, abs=0.001)


def test_a_camera_whose_clock_runs_slow_is_followed(line: Line) -> None:
    for number in range(10_000):
        last = line.frame(number * 0.04, after_s=0.04 * 1.0002)
    assert line.now_s + line.wall_minus_now_s - last.captured_at < 0.01


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_a_wall_clock_that_is_set_is_followed_and_the_time_line_does_not_notice(line: Line, step_s: float) -> None:
    before = line.frame(1.0)
    line.wall_minus_now_s += step_s
    after = line.frame(1.04)
    assert after.pts_s - before.pts_s == pytest.approx(0.04)
    assert after.captured_at - before.captured_at == pytest.approx(0.04 + step_s)
    assert after.time_jump is (step_s < 0)


def test_a_wall_clock_that_is_set_back_a_little_holds_captured_at(line: Line) -> None:
    before = line.frame(1.0)
    line.wall_minus_now_s -= 5.0
    assert line.frame(1.04).captured_at == before.captured_at


finite = st.floats(-1e6, 1e6)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), finite),  # time stamp
            st.one_of(st.none(), st.floats(-4000, 4000)),  # the camera's clock against ours
            st.floats(0, 40),  # seconds until it arrives
            st.booleans(),  # on a new connection
        ),
        max_size=40,
    )
)
def test_whatever_a_camera_sends_times_never_run_backwards(
    sent: list[tuple[float | None, float | None, float, bool]],
) -> None:
    line = Line()
    line.connect()
    stamps = []
    for raw_s, offset_s, after_s, anew in sent:
        if anew:
            line.connect()
        camera_s = None if offset_s is None else line.now_s + line.wall_minus_now_s - offset_s
        stamps.append(line.frame(raw_s, camera_s, after_s))
    for earlier, later in pairwise(stamps):
        assert later.pts_s > earlier.pts_s
        assert later.captured_at >= earlier.captured_at
