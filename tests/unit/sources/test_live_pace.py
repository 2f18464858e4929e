from sources._live_pace import Rate


def test_the_rate_is_measured_every_two_seconds_and_keyframes_when_they_come() -> None:
    rate = Rate()
    told = [rate.passed(100 + number / 25, keyframe=number % 50 == 0) for number in range(200)]
    assert rate.details == {"fps": 25.0, "keyframe_interval_s": 2.0}
    assert sum(told) == 3


def test_nothing_is_said_before_it_is_known() -> None:
    rate = Rate()
    assert not rate.passed(1.0, keyframe=True)
    assert rate.details == {}
