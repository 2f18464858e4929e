"""What is told of a source that falls silent."""

import pytest
from moving import result

from pipeline.contracts.errors import SourceErrorCode
from pipeline.runtime.condition import Condition
from pipeline.runtime.context import Surroundings
from pipeline.runtime.ledger import FrameOutcome, Page
from pipeline.runtime.route import Route
from pipeline.telemetry.events import Events
from pipeline.telemetry.metrics import Metrics
from pipeline.telemetry.readings import SourceState
from pipeline.testing import MovableClock


@pytest.mark.parametrize(("resting", "last_good_s"), [(False, 4.4), (True, 6.4)], ids=str)
def test_from_what_rests_a_frame_may_be_away_for_half_the_limit_longer(resting: bool, last_good_s: float) -> None:
    clock, metrics = MovableClock(), Metrics("test")
    condition = Condition(
        "cam",
        Route("cam", Page("cam", FrameOutcome), metrics),
        Surroundings(Events(clock), metrics, clock, lambda: None),
        silence_s=4.0,
    )
    condition.note(result([], seq=0, at_s=0.0).frame, None)
    states = []
    for step_s in (last_good_s, 0.2):
        clock.advance(step_s)
        condition.check_silence(resting=resting)
        states.append(condition.state)
    assert states == [SourceState.RUNNING, SourceState.RECONNECTING]
    assert condition.error is not None
    assert condition.error.source_code is SourceErrorCode.STALLED
