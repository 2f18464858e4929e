import threading

from pipeline.runtime.orders import Orders


def test_each_attempt_has_an_event_of_its_own_and_an_order_interrupts_only_the_present_one() -> None:
    orders = Orders()
    first = orders.next_attempt()
    assert first is not None
    orders.interrupt()
    assert first.is_set()
    second = orders.next_attempt()
    assert second is not None
    assert not second.is_set()


def test_a_pause_holds_the_next_attempt_until_it_is_over() -> None:
    orders = Orders()
    orders.pause(interrupt=False)
    got: list[threading.Event | None] = []
    waiting = threading.Thread(target=lambda: got.append(orders.next_attempt()))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    orders.resume()
    waiting.join(10)
    assert len(got) == 1
    assert got[0] is not None


def test_a_stop_ends_a_pause_for_good() -> None:
    orders = Orders()
    orders.pause(interrupt=True)
    waiting = threading.Thread(target=orders.wait_while_paused)
    waiting.start()
    orders.stop()
    waiting.join(10)
    assert not waiting.is_alive()
    assert orders.next_attempt() is None
    orders.resume()
    assert orders.next_attempt() is None
