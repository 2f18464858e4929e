"""`Gpu`: one CUDA device: its context, streams, memory and copies, and how many bytes were copied."""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Self

from pipeline.devices.driver import BLOCKING_SYNC, Driver, Span

Direction = Literal["to_device", "to_host"]

_SPARE_STREAMS = 8  # kept for the next who copies; more at once make their own


class Rows(NamedTuple):
    """One copy: so many rows from here to there.

    Attributes:
        source: where they are.
        target: where they go.
        width_bytes: of each row.
        rows: how many.
    """

    source: Span
    target: Span
    width_bytes: int
    rows: int


class Copied(NamedTuple):
    """Bytes that were copied between the host and one device since the process began."""

    to_device: int
    to_host: int


class Gpu:
    """One CUDA device. Made once per process, by `gpus`, before anything else touches the device; any thread.

    Making it takes the device's primary context, with the flags that FFmpeg's decoder insists on, and keeps it: the
    decoder, onnxruntime and we share it.

    Args:
        driver: the CUDA driver.
        number: which device.

    Raises:
        DeviceError: there is no such device, or it cannot be used.
    """

    def __init__(self, driver: Driver, number: int) -> None:
        self._driver = driver
        self.number = number
        self.name = driver.name(number)
        self.total_bytes = driver.total_bytes(number)
        self._context = driver.retain(number, BLOCKING_SYNC)
        self._streams: deque[int] = deque()
        self._lock = threading.Lock()
        self._copied = {"to_device": 0, "to_host": 0}

    @property
    def device(self) -> str:
        """ "cuda:N"."""
        return f"cuda:{self.number}"

    @property
    def copied(self) -> Copied:
        """Bytes copied each way."""
        with self._lock:
            return Copied(self._copied["to_device"], self._copied["to_host"])

    def free_bytes(self) -> int:
        """Memory that is free now.

        Raises:
            DeviceError: the device is gone.
        """
        with self.current():
            return self._driver.free_bytes()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Within, the device's context is this thread's."""
        self._driver.push(self._context)
        try:
            yield
        finally:
            self._driver.pop()

    def stream(self) -> "Stream":
        """A stream of one's own; close it."""
        with self.current():
            return Stream(self, self._driver, self._driver.stream())

    def allocate(self, nbytes: int) -> "DeviceMemory":
        """Memory on the device; close it.

        Raises:
            DeviceError: there is not so much left.
        """
        with self.current():
            return DeviceMemory(self, self._driver, self._driver.allocate(nbytes), nbytes)

    def pinned(self, address: int, nbytes: int) -> "Pinned":
        """Lock pages of the host's memory until it is closed; whoever calls keeps the memory for as long."""
        with self.current():
            self._driver.pin(address, nbytes)
        return Pinned(self, self._driver, address)

    def copy(self, copies: Sequence[Rows]) -> None:
        """Copy, and wait until it is done: after all that the decoder put into the default stream before.

        Raises:
            DeviceError: a copy failed.
        """
        with self.current():
            stream = self._take()
            try:
                for each in copies:
                    self.put(each, stream)
            finally:
                # Also where a copy failed: those before it must not write into memory that was let go.
                self._driver.synchronize(stream)
                self._give(stream)

    def put(self, copy: Rows, stream: int) -> None:
        """Put a copy into a stream and do not wait; the context is this thread's."""
        self._driver.copy(copy.source, copy.target, copy.width_bytes, copy.rows, stream)
        if copy.source.on_device != copy.target.on_device:
            direction = "to_device" if copy.target.on_device else "to_host"
            with self._lock:
                self._copied[direction] += copy.width_bytes * copy.rows

    def count(self, direction: Direction, nbytes: int) -> None:
        """Bytes that somebody else copied: a session its answers, a decoder its frames."""
        with self._lock:
            self._copied[direction] += nbytes

    def _take(self) -> int:
        with self._lock:
            if self._streams:
                return self._streams.pop()
        return self._driver.stream()

    def _give(self, stream: int) -> None:
        with self._lock:
            if len(self._streams) < _SPARE_STREAMS:
                self._streams.append(stream)
                return
        self._driver.destroy_stream(stream)


class Stream:
    """A blocking CUDA stream: what is put into it runs in order. Made by `Gpu.stream`; used by one thread at a time."""

    def __init__(self, gpu: Gpu, driver: Driver, handle: int) -> None:
        self._gpu = gpu
        self._driver = driver
        self.handle = handle
        """What onnxruntime takes for `user_compute_stream`."""

    def put(self, copies: Sequence[Rows]) -> None:
        """Put copies into it; they may not be done yet when this returns."""
        with self._gpu.current():
            for each in copies:
                self._gpu.put(each, self.handle)

    def synchronize(self) -> None:
        """Wait until all that was put into it is done."""
        with self._gpu.current():
            self._driver.synchronize(self.handle)

    def close(self) -> None:
        """Wait, and let it go; again is no harm."""
        if self.handle:
            handle, self.handle = self.handle, 0
            with self._gpu.current():
                self._driver.synchronize(handle)
                self._driver.destroy_stream(handle)


class DeviceMemory:
    """A piece of the device's memory, of no bytes once it is closed. Made by `Gpu.allocate`; whoever has it closes it
    when no work uses it."""

    def __init__(self, gpu: Gpu, driver: Driver, address: int, nbytes: int) -> None:
        self._gpu = gpu
        self._driver = driver
        self.address = address
        self.nbytes = nbytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give it back; again is no harm."""
        if self.address:
            address, self.address, self.nbytes = self.address, 0, 0
            with self._gpu.current():
                self._driver.free(address)


class Pinned:
    """Locked pages of the host's memory. Made by `Gpu.pinned`."""

    def __init__(self, gpu: Gpu, driver: Driver, address: int) -> None:
        self._gpu = gpu
        self._driver = driver
        self._address = address

    def close(self) -> None:
        """Unlock them; again is no harm."""
        if self._address:
            address, self._address = self._address, 0
            with self._gpu.current():
                self._driver.unpin(address)
