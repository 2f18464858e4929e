"""`Cores`: so many are inside at once, and no more."""

import threading
from pathlib import Path

import pytest
from fake_hardware import installed
from media import file_source, moving, read, video

from sources import _decoder
from sources._cores import Cores


class _Counted(Cores):
    """Two cores that count who came."""

    def __init__(self) -> None:
        super().__init__(2)
        self.entered = 0

    def __enter__(self) -> None:
        super().__enter__()
        self.entered += 1


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


def test_the_cpu_decodes_within_the_cores_and_a_device_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = video(tmp_path / "clip.mp4", [moving(number, 64, 48) for number in range(9)])
    cores = _Counted()
    monkeypatch.setattr(_decoder, "cores", cores)
    with installed(devices=0):
        assert len(read(file_source(clip))[0]) == 9
    assert cores.entered >= 9
    cores.entered = 0
    with installed():
        assert len(read(file_source(clip))[0]) == 9
    assert cores.entered == 0
