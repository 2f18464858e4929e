"""The window of requests: it gives way to an overload, comes back, and does not throttle a server that is well."""

import asyncio

import pytest

from pipeline.backends._http_window import Window
from pipeline.testing import MovableClock


def round_of(window: Window, clock: MovableClock, latency_s: float, outcome: str = "well", requests: int = 8) -> None:
    """So many requests, as many at once as the window allows; each takes `latency_s`."""

    async def work() -> None:
        left = requests
        while left:
            group = [await window.enter() for _ in range(min(left, int(window.limit)))]
            clock.advance(latency_s)
            for since in group:
                window.leave(since, outcome, 1)  # type: ignore[arg-type]
            left -= len(group)

    asyncio.run(work())


def make(maximum: int = 8, *, adaptive: bool = True) -> tuple[Window, MovableClock]:
    clock = MovableClock()
    return Window(maximum, adaptive=adaptive, now_s=clock.monotonic), clock


def test_it_begins_at_the_maximum_and_stays_there_while_all_is_well() -> None:
    window, clock = make()
    for latency_s in (0.05, 0.06, 0.04, 0.055) * 50:
        round_of(window, clock, latency_s)
    assert window.limit == 8
    assert window.in_flight == 0


def test_an_overload_halves_it_once_for_each_round() -> None:
    window, clock = make()

    async def work() -> None:
        group = [await window.enter() for _ in range(8)]
        clock.advance(0.05)
        for since in group:
            window.leave(since, "overloaded", 1)

    asyncio.run(work())
    assert window.limit == 4
    round_of(window, clock, 0.05, "overloaded", requests=1)
    assert window.limit == 2
    for _ in range(5):
        round_of(window, clock, 0.05, "overloaded", requests=1)
    assert window.limit == 1, "one is always asked"


def test_it_grows_by_one_a_round_and_only_while_it_is_used_up() -> None:
    window, clock = make()
    for _ in range(5):
        round_of(window, clock, 0.05, "overloaded", requests=1)
    round_of(window, clock, 0.05, requests=1)
    assert window.limit == 2
    round_of(window, clock, 0.05, requests=1)
    assert window.limit == 2, "one of two places was used: that says nothing about three"
    for _ in range(40):
        round_of(window, clock, 0.05)
    assert window.limit == 8


def test_a_server_that_only_queues_gets_less_at_once_but_never_less_than_a_quarter() -> None:
    """One picture at a time, 50 ms each: with eight at once the last waits 400 ms, and nothing is gained."""
    window, clock = make()
    round_of(window, clock, 0.05, requests=1)
    for _ in range(60):
        round_of(window, clock, 0.05 * int(window.limit))
    assert 2 <= window.limit < 4
    for _ in range(60):
        round_of(window, clock, 2.0)
        if clock.monotonic() > 1025:
            break
    assert window.limit >= 2


def test_a_server_that_has_become_slow_for_good_is_taken_as_it_is_after_a_minute() -> None:
    window, clock = make()
    for _ in range(20):
        round_of(window, clock, 0.05)
    for _ in range(400):
        round_of(window, clock, 0.2)
    assert window.limit == 8


def test_single_slow_answers_do_not_matter() -> None:
    window, clock = make()
    for number in range(100):
        round_of(window, clock, 0.5 if number % 25 == 24 else 0.05, requests=1)
    assert window.limit == 8


def test_it_can_be_switched_off() -> None:
    window, clock = make(adaptive=False)
    round_of(window, clock, 5.0, "overloaded")
    assert window.limit == 8


def test_who_waits_is_let_in_in_turn_and_who_gives_up_takes_no_place() -> None:
    async def work() -> None:
        window = Window(1, adaptive=True, now_s=MovableClock().monotonic)
        since = await window.enter()
        order: list[int] = []

        async def enter(number: int) -> None:
            mine = await window.enter()
            order.append(number)
            await asyncio.sleep(0)
            window.leave(mine, "well")

        tasks = [asyncio.create_task(enter(number)) for number in range(4)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
        window.leave(since, "well")
        tasks[0].cancel()  # it was given a place just now, and passes it on
        await asyncio.wait(tasks)
        assert order == [2, 3]
        assert window.in_flight == 0
        async with asyncio.timeout(1):
            window.leave(await window.enter(), "well")

    asyncio.run(work())


@pytest.mark.parametrize("kinds", [1, 100])
def test_what_it_remembers_is_bounded(kinds: int) -> None:
    window, clock = make()

    async def work() -> None:
        for kind in range(kinds):
            since = await window.enter()
            clock.advance(0.01)
            window.leave(since, "well", kind)

    asyncio.run(work())
    assert len(window._latencies) <= 32
