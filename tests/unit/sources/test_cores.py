"""`Cores`: so many are inside at once, and no more."""

import threading

import pytest

from sources._cores import Cores


def test_so_many_are_inside_at_once_and_the_next_one_waits() -> None:
    cores, inside, go = Cores(2), threading.Semaphore(0), threading.Event()

    def work() -> None:
        with cores:
            inside.release()
            go.wait(10)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert inside.acquire(timeout=10)
    assert inside.acquire(timeout=10)
    assert not inside.acquire(timeout=0.2)
    go.set()
    assert inside.acquire(timeout=10)
    for thread in threads:
        thread.join(10)


def test_who_fails_inside_leaves_its_place_to_the_next_one() -> None:
    cores = Cores(1)
    with pytest.raises(ValueError, match="broken"), cores:
        raise ValueError("broken")
    entered = threading.Event()

    def work() -> None:
        with cores:
            entered.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert entered.wait(10)
    thread.join(10)
