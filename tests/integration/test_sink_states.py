"""What a sink that fails says of itself, and what it costs the others: nothing."""

import pytest
from harness import Run, run

from pipeline.contracts.clock import SystemClock
from pipeline.runtime.status import Status
from pipeline.telemetry.readings import SinkState


def told(caplog: pytest.LogCaptureFixture, *words: str) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if all(word in line for word in words)]


def test_a_sink_whose_writes_fail_is_degraded_and_says_once_what_it_cost(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    states: list[tuple[SinkState, str]] = []

    async def during(this: Run) -> None:
        bad = this.supervisor.topology.sinks["bad"]
        await this.until(lambda: bad.state is SinkState.DEGRADED)
        ready = Status(this.supervisor, "test", SystemClock()).ready()
        (check,) = (check for check in ready if check.name == "sink bad")
        assert check.ok, "it goes on"
        states.append((bad.state, check.note))
        assert this.scrape()["penstock_sink_state", (("sink", "bad"), ("state", "degraded"))] == 1
        await this.until(lambda: bad.state is SinkState.READY)
        this.supervisor.stop("enough")

    this = run(
        {
            "sources": {"cam": {"endless": True, "fps": 200}},
            "sinks": {
                "bad": {"failure": "transient", "fail_every": 5, "delay_s": 0.02, "wants_pictures": True},
                "keep": {},
            },
        },
        during,
    )
    assert states == [(SinkState.DEGRADED, "degraded: the write failed for now")]
    assert told(caplog, "sink bad", "degraded:")
    (line, *_) = told(caplog, "sink bad", "works again after")
    assert "results lost" in line
    keep = next(account for account in this.report.sinks if account.name == "keep")
    assert keep.outcomes["delivered"] == keep.entered


@pytest.mark.parametrize(
    "keys",
    [
        {"delay_s": 0.2, "queue": {"max_frames": 2, "when_full": "drop_newest"}},
        {"failure": "fatal", "fail_every": 3},
        {"failure": "bug", "fail_every": 2},
        {"failure": "exit", "fail_every": 3},
        {"open_failure": "fatal"},
        {"open_failure": "bug"},
        {"open_delay_s": 0.3, "queue": {"max_frames": 2, "when_full": "drop_oldest"}},
    ],
    ids=["slow", "fatal", "bug", "exit", "does not open", "bug at open", "opens late"],
)
def test_a_sink_that_is_slow_or_broken_loses_only_its_own_results(keys: dict[str, object]) -> None:
    this = run({"sources": {"cam": {"frames": 100}}, "sinks": {"bad": keys, "keep": {}}})
    assert this.seqs() == list(range(100))
    bad = next(account for account in this.report.sinks if account.name == "bad")
    assert sum(bad.outcomes.values()) == bad.entered


def test_every_state_of_a_sink_is_a_series() -> None:
    this = run({})
    samples = this.scrape()
    found = {state: samples["penstock_sink_state", (("sink", "keep"), ("state", state.value))] for state in SinkState}
    assert found == {state: float(state is SinkState.STOPPED) for state in SinkState}
