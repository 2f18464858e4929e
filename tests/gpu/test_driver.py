"""The CUDA driver through ctypes, on a real device."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gpu_rig import Rig, frames_of
from model_files import echo

from pipeline.contracts.surface import OnDevice
from pipeline.devices.driver import BLOCKING_SYNC, CudaDriver, DeviceError, Span
from pipeline.devices.gpu import Gpu, Rows
from pipeline.devices.gpus import gpus


def test_the_device_says_what_it_is(gpu: Gpu) -> None:
    assert gpu.name
    assert 0 < gpu.free_bytes() <= gpu.total_bytes
    assert gpus().gpu(0) is gpu
    with pytest.raises(DeviceError, match="there are"):
        gpus().gpu(99)


def test_rows_come_back_as_they_went(gpu: Gpu) -> None:
    before = gpu.copied
    there = np.random.default_rng(1).integers(0, 255, (1080, 1920), np.uint8)
    back = np.zeros_like(there)
    with gpu.allocate(2048 * 1080) as memory:
        device = Span(memory.address, 2048, on_device=True)
        gpu.copy([Rows(Span(there.ctypes.data, 1920, on_device=False), device, 1920, 1080)])
        gpu.copy([Rows(device, Span(back.ctypes.data, 1920, on_device=False), 1920, 1080)])
    assert (there == back).all()
    assert gpu.copied.to_device - before.to_device == gpu.copied.to_host - before.to_host == 1920 * 1080


def test_many_threads_copy_at_once_through_locked_and_ordinary_memory(gpu: Gpu) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        there = np.random.default_rng(seed).integers(0, 255, (200, 1000), np.uint8)
        back, stream = np.zeros_like(there), gpu.stream()
        pinned = gpu.pinned(back.ctypes.data, back.nbytes) if seed % 2 else None
        with gpu.allocate(there.nbytes) as memory:
            device = Span(memory.address, 1000, on_device=True)
            for _ in range(50):
                back[:] = 0
                stream.put([Rows(Span(there.ctypes.data, 1000, on_device=False), device, 1000, 200)])
                stream.put([Rows(device, Span(back.ctypes.data, 1000, on_device=False), 1000, 200)])
                stream.synchronize()
                if (there != back).any():
                    wrong.append(seed)
        if pinned is not None:
            pinned.close()
        stream.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_memory_that_is_not_there_is_told_in_words(gpu: Gpu) -> None:
    with pytest.raises(DeviceError, match="out of memory"):
        gpu.allocate(gpu.total_bytes * 2)


def test_the_decoder_opens_after_a_session_and_shares_the_context(
    rig: Rig, clips: Callable[..., Path], tmp_path: Path
) -> None:
    session = rig.load(echo(tmp_path / "echo.onnx"))
    assert session.get_providers()[0] == "CUDAExecutionProvider"
    driver = CudaDriver()
    assert driver.retain(rig.gpu.number, BLOCKING_SYNC)  # the flags are still ours: the same again is no error
    driver.release(rig.gpu.number)
    frame = next(frames_of(clips(), "cuda"))
    assert isinstance(frame.picture, OnDevice), "decoded on the CPU: the context has other flags than FFmpeg wants"
