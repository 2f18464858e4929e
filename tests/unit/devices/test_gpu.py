import gc
import threading
import weakref

import numpy as np
import pytest
from fake_cuda import TORN, FakeDriver, fake_gpu, fake_gpus

from pipeline.devices.driver import BLOCKING_SYNC, CudaDriver, DeviceError, Driver, Span
from pipeline.devices.gpu import Copied, Gpu, Rows
from pipeline.devices.gpus import Gpus


def rows_of(array: np.ndarray, address: int, *, to_device: bool, pitch: int | None = None) -> Rows:
    host = Span(array.ctypes.data, array.strides[0], on_device=False)
    device = Span(address, pitch or array.strides[0], on_device=True)
    return Rows(*((host, device) if to_device else (device, host)), array.shape[1], array.shape[0])


def test_the_context_has_the_flags_of_the_decoder_before_anything_else_is_done() -> None:
    gpus, driver = fake_gpus(2)
    assert gpus.count() == 2
    assert driver.calls == []
    gpus.gpu(1).allocate(16).close()
    assert driver.calls == ["retain 1", "allocate", "free"]
    assert driver.flags == {1: BLOCKING_SYNC}


def test_every_device_is_made_once_whoever_asks() -> None:
    gpus, driver = fake_gpus(1)
    found: list[Gpu] = []
    threads = [threading.Thread(target=lambda: found.append(gpus.gpu(0))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(gpu) for gpu in found}) == 1
    assert driver.calls.count("retain 0") == 1


@pytest.mark.parametrize(("devices", "number", "message"), [(0, 0, "there is no GPU"), (2, 2, "there are 2")])
def test_a_device_that_is_not_there_is_told(devices: int, number: int, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        fake_gpus(devices)[0].gpu(number)


def test_without_a_driver_there_are_no_devices() -> None:
    gpus = Gpus(lambda: CudaDriver("libno-such-driver.so.1"))
    assert gpus.count() == 0
    assert gpus.copied() == {}
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        gpus.gpu(0)


def test_a_context_that_is_in_use_with_other_flags_is_an_error_in_one_line() -> None:
    gpus, driver = fake_gpus(1)
    driver.refuse["retain"] = "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE"
    with pytest.raises(DeviceError, match="PRIMARY_CONTEXT_ACTIVE"):
        gpus.gpu(0)
    driver.refuse.clear()
    assert gpus.gpu(0).device == "cuda:0"


def test_a_copy_is_done_when_it_returns_and_its_bytes_are_counted() -> None:
    gpu, driver = fake_gpu()
    there = np.arange(6 * 10, dtype=np.uint8).reshape(6, 10)
    back = np.zeros_like(there)
    memory = gpu.allocate(6 * 16)
    gpu.copy([rows_of(there, memory.address, to_device=True, pitch=16)])
    gpu.copy([rows_of(back, memory.address, to_device=False, pitch=16)])
    assert (back == there).all()
    assert gpu.copied == Copied(to_device=60, to_host=60)
    gpu.count("to_host", 5)
    assert gpu.copied.to_host == 65
    memory.close()
    memory.close()
    assert driver.alive_bytes == 0


def test_copies_in_a_stream_are_done_when_it_was_waited_for() -> None:
    gpu, driver = fake_gpu()
    there, back = np.full((1, 8), 7, np.uint8), np.zeros((1, 8), np.uint8)
    memory, stream = gpu.allocate(8), gpu.stream()
    stream.put([rows_of(there, memory.address, to_device=True), rows_of(back, memory.address, to_device=False)])
    assert not back.any()
    stream.synchronize()
    assert (back == 7).all()
    stream.close()
    stream.close()
    memory.close()
    assert driver.open_streams == 0


def test_a_copy_that_fails_leaves_none_behind_that_still_writes() -> None:
    gpu, driver = fake_gpu()
    memory, back = gpu.allocate(8), np.zeros((1, 8), np.uint8)
    good = rows_of(back, memory.address, to_device=False)
    with pytest.raises(DeviceError, match="INVALID_VALUE"):
        gpu.copy([good, good._replace(width_bytes=9)])
    assert (back == TORN).all()  # the first was waited for
    gpu.copy([good])
    memory.close()
    assert driver.open_streams == 1  # and the stream is used again


def test_streams_for_copies_are_kept_and_never_many() -> None:
    gpu, driver = fake_gpu()
    memory = gpu.allocate(8)
    barrier = threading.Barrier(12)

    def work() -> None:
        back = np.zeros((1, 8), np.uint8)
        barrier.wait(10)
        for _ in range(20):
            gpu.copy([rows_of(back, memory.address, to_device=False)])

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    memory.close()
    assert 1 <= driver.open_streams <= 8
    assert gpu.copied.to_host == 12 * 20 * 8


def test_locked_pages_are_unlocked_once() -> None:
    gpu, driver = fake_gpu()
    array = np.zeros(64, np.uint8)
    pinned = gpu.pinned(array.ctypes.data, array.nbytes)
    assert driver.pinned == 1
    pinned.close()
    pinned.close()
    assert driver.pinned == 0


def test_memory_that_is_short_is_told() -> None:
    gpus, driver = fake_gpus(total_bytes=100)
    gpu = gpus.gpu(0)
    with gpu.allocate(80) as memory:
        assert gpu.free_bytes() == 20
        assert memory.nbytes == 80
        with pytest.raises(DeviceError, match="OUT_OF_MEMORY"):
            gpu.allocate(30)
    assert driver.alive_bytes == 0


def test_no_call_is_made_without_the_context_and_none_leaves_it_behind() -> None:
    driver = FakeDriver()
    with pytest.raises(DeviceError, match="INVALID_CONTEXT"):
        driver.allocate(8)
    gpu = Gpu(driver, 0)
    gpu.allocate(8).close()
    with pytest.raises(DeviceError, match="INVALID_CONTEXT"):
        driver.allocate(8)


def test_the_fake_and_the_real_driver_have_the_same_calls() -> None:
    names = {name for name in vars(Driver) if not name.startswith("_")}
    assert names <= set(dir(CudaDriver))
    assert names <= set(dir(FakeDriver))


def test_a_device_does_not_keep_what_it_made() -> None:
    gpu, _ = fake_gpu()
    memory = gpu.allocate(8)
    watched = weakref.ref(memory)
    memory.close()
    del memory
    gc.collect()
    assert watched() is None
