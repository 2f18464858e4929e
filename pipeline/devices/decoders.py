"""`Decoders`: which GPU decodes for whom: a bounded number of sessions on each, the least loaded one first."""

import functools
import threading

from pipeline.devices.driver import DeviceError
from pipeline.devices.gpu import Gpu
from pipeline.devices.gpus import Gpus, gpus

MOST_SESSIONS = 64
"""On one GPU. A decoding engine does some thirty 1080p cameras at 30 frames a second, and a GPU has one to eight; what
is more than that would be slower than the CPUs that it spares, and each session holds its pictures in GPU memory."""

LEAST_FREE = 0.1
"""Of the device's memory: less, and the models that run there could fail for want of what a decoder takes."""


class DecoderLease:
    """One decoding session on one GPU. Made by `Decoders.lease`; whoever has it closes it, from any thread."""

    def __init__(self, gpu: Gpu, decoders: "Decoders") -> None:
        self.gpu = gpu
        self._decoders: Decoders | None = decoders

    def close(self) -> None:
        """Give it back; again is no harm."""
        decoders, self._decoders = self._decoders, None
        if decoders is not None:
            decoders.give_back(self.gpu.number)


class Decoders:
    """The decoding sessions of this process. One for the process (`decoders`), others in tests; any thread.

    Args:
        devices: the GPUs.
        most: sessions on each of them.
    """

    def __init__(self, devices: Gpus, most: int = MOST_SESSIONS) -> None:
        self._devices = devices
        self._most = most
        self._lock = threading.Lock()
        self._open: dict[int, int] = {}

    def count(self) -> int:
        """How many GPUs there are."""
        return self._devices.count()

    def lease(self, number: int | None) -> DecoderLease:
        """A session on this GPU; None: on the one that has the fewest.

        Raises:
            DeviceError: there is no such GPU, all its sessions are taken, or it has no memory left.
        """
        with self._lock:
            numbers = range(self._devices.count()) if number is None else [number]
            if not numbers:
                raise DeviceError("there is no GPU")
            best = min(numbers, key=lambda each: self._open.get(each, 0))
            gpu = self._devices.gpu(best)
            if self._open.get(best, 0) >= self._most:
                raise DeviceError(f"{gpu.device} decodes {self._most} streams already")
            free_bytes = gpu.free_bytes()
            if free_bytes < LEAST_FREE * gpu.total_bytes:
                raise DeviceError(f"{gpu.device} has {free_bytes / 2**20:.0f} MiB of memory left")
            self._open[best] = self._open.get(best, 0) + 1
            return DecoderLease(gpu, self)

    def give_back(self, number: int) -> None:
        """One session less; called by the lease."""
        with self._lock:
            self._open[number] -= 1

    def open_sessions(self) -> dict[int, int]:
        """How many sessions each GPU has, where it ever had one."""
        with self._lock:
            return dict(self._open)


@functools.cache
def decoders() -> Decoders:
    """The process's own; it stands at module level for the reason that `gpus` does."""
    return Decoders(gpus())
