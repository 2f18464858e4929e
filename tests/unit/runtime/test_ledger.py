import threading

from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.ledger import FrameOutcome, Ledger, Page, ResultOutcome, telling


def test_a_frame_that_got_lost_shows_after_the_drain() -> None:
    page = Page("cam", FrameOutcome)
    page.enter(2)
    page.settle(FrameOutcome.INFERRED)
    assert page.read().fault(drained=False) is None
    assert page.read().fault(drained=True) == "cam: 1 still open after the drain"


def test_a_frame_that_was_settled_twice_shows_at_once() -> None:
    page = Page("cam", FrameOutcome)
    page.enter()
    page.settle(FrameOutcome.INFERRED)
    page.settle(FrameOutcome.FAILED_BACKEND)
    assert page.read().fault(drained=False) == "cam: 1 settled twice"


def test_what_is_written_off_is_counted_and_late_settlements_change_nothing() -> None:
    page = Page("cam", FrameOutcome)
    page.enter(3)
    page.settle(FrameOutcome.INFERRED)
    page.write_off(FrameOutcome.DROPPED_SHUTDOWN)
    page.settle(FrameOutcome.INFERRED)
    page.enter()
    page.enter_settled(FrameOutcome.SAMPLED_OUT)
    account = page.read()
    assert (account.entered, account.open) == (3, 0)
    assert account.outcomes["inferred"] == 1
    assert account.outcomes["dropped_shutdown"] == 2
    assert account.fault(drained=True) is None


def test_every_outcome_is_there_from_the_start() -> None:
    ledger = Ledger()
    assert set(ledger.source("cam").read().outcomes) == set(FrameOutcome)
    assert set(ledger.sink("lines").read().outcomes) == set(ResultOutcome)
    assert ledger.faults(drained=True) == []


@given(st.lists(st.sampled_from(["enter", "settle", "both"]), max_size=60))
def test_the_equation_holds_at_every_moment(moves: list[str]) -> None:
    page = Page("cam", FrameOutcome)
    for move in moves:
        if move == "enter":
            page.enter()
        elif move == "both":
            page.enter_settled(FrameOutcome.SAMPLED_OUT)
        elif page.read().open:
            page.settle(FrameOutcome.INFERRED)
        account = page.read()
        assert account.entered == sum(account.outcomes.values()) + account.open


def test_the_equation_holds_while_threads_move_frames() -> None:
    page = Page("cam", FrameOutcome)

    def move() -> None:
        for _ in range(2000):
            page.enter()
            page.settle(FrameOutcome.INFERRED)

    threads = [threading.Thread(target=move) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert page.read().fault(drained=False) is None
    assert page.read().outcomes["inferred"] == 6000


def test_a_page_that_is_removed_is_closed_and_its_faults_are_kept() -> None:
    ledger = Ledger()
    page = ledger.source("cam")
    page.enter(2)
    page.settle(FrameOutcome.INFERRED)
    account = ledger.remove_source("cam")
    assert account.outcomes["dropped_shutdown"] == 1
    page.settle(FrameOutcome.INFERRED)  # by a thread that comes late
    assert page.read() == account
    assert ledger.faults(drained=True) == []
    twice = ledger.source("gate")
    twice.settle(FrameOutcome.INFERRED)
    ledger.remove_source("gate")
    assert ledger.sources == {}
    assert ledger.faults(drained=True) == []


def test_whoever_settles_the_last_frame_tells() -> None:
    told: list[int] = []
    page = Page("cam", FrameOutcome)
    page.enter(2)
    page.tell_when_settled(lambda: told.append(page.read().open))
    page.settle(FrameOutcome.INFERRED)
    assert told == []
    page.settle(FrameOutcome.INFERRED)
    assert told == [0]


def test_it_is_told_only_while_somebody_waits_for_it() -> None:
    told: list[str] = []
    pages = [Page("gate", FrameOutcome), Page("yard", FrameOutcome)]

    def one_frame_each() -> None:
        for page in pages:
            page.enter()
            page.settle(FrameOutcome.INFERRED)

    one_frame_each()
    with telling(pages, lambda: told.append("settled")):
        one_frame_each()
    assert told == ["settled", "settled"]
    one_frame_each()
    assert told == ["settled", "settled"]
