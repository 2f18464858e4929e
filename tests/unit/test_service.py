"""What systemd is told, over a real datagram socket."""

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from service_manager import ServiceManager

from pipeline.contracts.clock import SystemClock
from pipeline.service import Notifier, StatusLine, keep
from pipeline.telemetry.readings import SourceReading, SourceState
from pipeline.testing import MovableClock


@pytest.mark.parametrize("abstract", [False, True])
def test_the_life_of_a_service_is_told_in_order(tmp_path: Path, abstract: bool) -> None:
    with ServiceManager(tmp_path, abstract=abstract) as manager:
        notifier = Notifier.from_environment(manager.environment(watchdog_s=3))
        assert notifier.watchdog_s == 3.0
        notifier.ready("2 of 2 sources up")
        notifier.watchdog()
        notifier.reloading()
        notifier.ready()
        notifier.stopping("draining")
        notifier.close()
        told = [message.fields for message in manager.drain()]
    assert told[0] == {"READY": "1", "STATUS": "2 of 2 sources up"}
    assert told[1] == {"WATCHDOG": "1"}
    assert told[2]["RELOADING"] == "1"
    assert int(told[2]["MONOTONIC_USEC"]) > 0
    assert told[3:] == [{"READY": "1"}, {"STOPPING": "1", "STATUS": "draining"}]


def test_without_a_service_manager_nothing_happens() -> None:
    notifier = Notifier.from_environment({"WATCHDOG_USEC": "3000000"})
    assert not notifier.active
    assert notifier.watchdog_s is None
    notifier.ready()
    notifier.watchdog()
    asyncio.run(keep(notifier, stuck=lambda _: [], status=lambda _: "", clock=SystemClock()))  # returns


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "77"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_that_of_this_process_only(environment: dict[str, str], watchdog_s: float | None) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": "/nowhere", **environment}, pid=77)
    assert notifier.watchdog_s == watchdog_s


def test_a_service_manager_that_is_gone_or_misnamed_is_no_error(tmp_path: Path) -> None:
    for path in (str(tmp_path / "gone"), "/" + "x" * 200, "@" + "x" * 200):
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": path})
        notifier.ready("up")
        notifier.close()
    notifier.status("after the end")


def test_ready_arrives_even_if_the_service_manager_was_too_busy_for_it(tmp_path: Path) -> None:
    with ServiceManager(tmp_path) as manager:
        notifier = Notifier.from_environment(manager.environment(watchdog_s=1))
        _fill(manager)
        notifier.reloading()
        notifier.ready()
        assert all("READY" not in message.fields for message in manager.drain())
        notifier.watchdog()
        assert [next(iter(message.fields)) for message in manager.drain()] == ["RELOADING", "READY", "WATCHDOG"]
        notifier.close()


def _fill(manager: ServiceManager) -> None:
    """Nobody reads: its queue fills up."""
    with (
        contextlib.suppress(BlockingIOError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other,
    ):
        for _ in range(10_000):
            other.sendto(b"X=1", manager.address)


def test_a_status_is_one_line_and_said_once(tmp_path: Path) -> None:
    with ServiceManager(tmp_path) as manager:
        notifier = Notifier.from_environment(manager.environment())
        notifier.status("a camera\nREADY=1")
        notifier.status("a camera READY=1")
        notifier.watchdog()  # nobody watches
        assert [message.fields for message in manager.drain()] == [{"STATUS": "a camera READY=1"}]
        notifier.close()


def _reading(name: str, state: SourceState, inferred: int) -> SourceReading:
    return SourceReading(name, state, inferred, {"inferred": inferred}, 0, 0, 2, None)


def test_the_status_line_tells_cameras_up_and_the_rate_since_the_last() -> None:
    clock = MovableClock()
    line = StatusLine(clock)
    clock.advance(2.0)
    gate = _reading("gate", SourceState.RUNNING, 30)
    assert line.text([gate, _reading("yard", SourceState.RECONNECTING, 0)]) == (
        "1 of 2 sources up, 15.0 frames/s; down: yard"
    )
    clock.advance(4.0)
    assert line.text([_reading("gate", SourceState.RUNNING, 40)], ["backend local"]) == (
        "1 of 1 sources up, 2.5 frames/s; STUCK: backend local"
    )
    clock.advance(1.0)
    assert line.text([_reading("gate", SourceState.RUNNING, 3)]).endswith(" 0.0 frames/s")  # made anew by a reload
    down = [_reading(f"cam{index}", SourceState.FAILED, 0) for index in range(5)]
    assert line.text(down).endswith("down: cam0, cam1, cam2 and 2 more")


def test_several_slow_stages_are_not_taken_for_a_stuck_one(tmp_path: Path) -> None:
    """Each of them stands still for two seconds at a time, and at every moment one of them does."""

    async def main(manager: ServiceManager) -> None:
        def stuck_for(seconds: float) -> Sequence[str]:
            return ["backend one", "backend two"] if seconds <= 2.0 else []

        notifier = Notifier.from_environment(manager.environment(watchdog_s=6))
        notifier.ready()
        task = asyncio.create_task(keep(notifier, stuck=stuck_for, status=str, clock=SystemClock()))
        for _ in range(3):
            await asyncio.to_thread(manager.wait_for, "WATCHDOG", "1", 3.0)
        task.cancel()
        notifier.close()

    with ServiceManager(tmp_path) as manager:
        asyncio.run(main(manager))


def test_the_watchdog_is_fed_while_nothing_is_stuck_and_starves_when_something_is(tmp_path: Path) -> None:
    stuck: list[str] = []
    stuck_s = 1e9

    async def main(manager: ServiceManager) -> None:
        def status(names: Sequence[str]) -> str:
            return f"stuck: {list(names)}"

        def stuck_for(seconds: float) -> Sequence[str]:
            return stuck if seconds <= stuck_s else []

        notifier = Notifier.from_environment(manager.environment(watchdog_s=0.2))
        task = asyncio.create_task(keep(notifier, stuck=stuck_for, status=status, clock=SystemClock()))
        await asyncio.to_thread(manager.wait_for, "STATUS", "[]")
        for _ in range(3):
            await asyncio.to_thread(manager.wait_for, "WATCHDOG", "1", 2.0)
        stuck.append("backend local")
        await asyncio.to_thread(manager.wait_for, "STATUS", "backend local")  # named at once, not five seconds later
        manager.drain()
        for _ in range(3):  # it goes on trying to start, but there is no sign of life
            fields = (await asyncio.to_thread(manager.next)).fields
            assert fields in ({"EXTEND_TIMEOUT_USEC": "60000000"}, {"WATCHDOG": "trigger"})
        stuck.clear()
        notifier.ready()
        await asyncio.to_thread(manager.wait_for, "WATCHDOG", "1", 2.0)
        manager.drain()
        assert "WATCHDOG" in (await asyncio.to_thread(manager.next)).fields  # and asks for no more time
        task.cancel()
        notifier.close()

    with ServiceManager(tmp_path) as manager:
        asyncio.run(main(manager))
