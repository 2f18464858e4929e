"""`Gpus`: the CUDA devices of this machine, each made once; and the process's own."""

import functools
import threading
from collections.abc import Callable, Mapping

from pipeline.devices.driver import CudaDriver, DeviceError, Driver
from pipeline.devices.gpu import Copied, Gpu


class Gpus:
    """The CUDA devices. One for the process (`gpus`), others in tests; any thread.

    Args:
        load: makes the driver, on first use.
    """

    def __init__(self, load: Callable[[], Driver] = CudaDriver) -> None:
        self._load = load
        self._driver: Driver | None = None
        self._made: dict[int, Gpu] = {}
        self._lock = threading.Lock()

    def count(self) -> int:
        """How many there are; 0 without a driver. Makes no context."""
        try:
            with self._lock:
                return self._loaded().count()
        except DeviceError:
            return 0

    def gpu(self, number: int) -> Gpu:
        """One of them. Ask for it before anything else touches the device: a session, a decoder.

        Raises:
            DeviceError: there is no such device, or it cannot be used.
        """
        with self._lock:
            found = self._made.get(number)
            if found is None:
                driver = self._loaded()
                count = driver.count()
                if number >= count:
                    raise DeviceError(f"there is no cuda:{number}: {_so_many(count)}")
                found = self._made[number] = Gpu(driver, number)
            return found

    def copied(self) -> Mapping[str, Copied]:
        """Bytes copied from and to each device that is in use, by "cuda:N"."""
        with self._lock:
            made = list(self._made.values())
        return {gpu.device: gpu.copied for gpu in made}

    def _loaded(self) -> Driver:
        if self._driver is None:
            self._driver = self._load()
        return self._driver


@functools.cache
def gpus() -> Gpus:
    """The process's own.

    It stands at module level because what it is about does: a device has one primary context per process, which
    sources, sinks and backends share without knowing of each other. Its contexts live as long as the process.
    """
    return Gpus()


def cuda_devices() -> int:
    """How many CUDA devices the driver has; 0 without a driver. Asks the driver, makes no context.

    onnxruntime is not asked: it would write its own lines to the terminal when the driver is missing.
    """
    return gpus().count()


def _so_many(count: int) -> str:
    return "there is no GPU" if not count else f"there are {count}, the first is cuda:0"
