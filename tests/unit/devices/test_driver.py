"""The real driver's calls by ctypes, against a library with the types of cuda.h."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.devices.driver import BLOCKING_SYNC, CudaDriver, DeviceError, Span
from pipeline.devices.gpu import Copied, Gpu, Rows

SOURCE = Path(__file__).parents[2] / "support" / "fake_libcuda.c"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> CudaDriver:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: the stand-in for libcuda cannot be built")
    library = tmp_path_factory.mktemp("cuda") / "libfakecuda.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, SOURCE], check=True)
    return CudaDriver(str(library))


def test_what_the_driver_says_is_understood(driver: CudaDriver) -> None:
    assert (driver.count(), driver.name(0), driver.total_bytes(0)) == (1, "Stub", 6 << 30)
    with pytest.raises(DeviceError, match=r"CUDA: cuDeviceGet failed: unknown \(CUDA_ERROR_INVALID_DEVICE\)"):
        driver.name(1)


def test_a_device_works_through_all_of_it(driver: CudaDriver) -> None:
    gpu = Gpu(driver, 0)
    assert gpu.free_bytes() == 5 << 30
    there = np.arange(60, dtype=np.uint8).reshape(6, 10)
    back = np.zeros((6, 12), np.uint8)
    pinned = gpu.pinned(back.ctypes.data, back.nbytes)
    with gpu.allocate(6 * 16) as memory:
        device = Span(memory.address, 16, on_device=True)
        gpu.copy([Rows(Span(there.ctypes.data, 10, on_device=False), device, 10, 6)])
        stream = gpu.stream()
        stream.put([Rows(device, Span(back.ctypes.data, 12, on_device=False), 10, 6)])
        stream.synchronize()
        stream.close()
    pinned.close()
    assert (back[:, :10] == there).all()
    assert not back[:, 10:].any()
    assert gpu.copied == Copied(60, 60)


def test_errors_are_told_by_their_name_and_in_words(driver: CudaDriver) -> None:
    gpu = Gpu(driver, 0)
    with pytest.raises(DeviceError, match=r"cuMemAlloc_v2 failed: out of memory \(CUDA_ERROR_OUT_OF_MEMORY\)"):
        gpu.allocate(1 << 40)
    with pytest.raises(DeviceError, match=r"cuMemGetInfo_v2 failed: unknown \(201\)"):
        driver.free_bytes()  # no context of ours is left behind on this thread
    assert driver.retain(0, BLOCKING_SYNC) == 0x7F00AABBCC00
    driver.release(0)
