"""`Lane`: the memory of one run on a device: the batch, what comes into it from the host, and the answers' way back."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.backends._onnx.cuda_prep import Where
from pipeline.backends._onnx.feed import put
from pipeline.backends._onnx.session import Session
from pipeline.contracts.frame import Frame, Size, YuvPlanes
from pipeline.devices.driver import DeviceError, Span
from pipeline.devices.gpu import DeviceMemory, Gpu, Pinned, Rows
from pipeline.models.graph_planes import PlanesIn
from pipeline.models.letterbox import Placement
from pipeline.models.preprocess import InputBuffer
from pipeline.models.reader import Reader


class Lane:
    """Made by `DeviceFeed`, one for each run that is under way at the same time; used by one thread at a time.

    Args:
        gpu: the device.
        where: the device as onnxruntime names it.
        session: the model on it.
        reader: how it is fed.
    """

    def __init__(self, gpu: Gpu, where: Where, session: Session, reader: Reader) -> None:
        self._gpu = gpu
        self._where = where
        self._session = session
        self._reader = reader
        self._binding = session.io_binding()
        self._dtype: np.dtype[Any] = np.dtype(reader.model.image.dtype)
        self._stream = gpu.stream()
        self._batch: DeviceMemory | None = None
        self._planes: DeviceMemory | None = None
        self._host: InputBuffer | None = None
        self._pinned: Pinned | None = None
        self._input_size = Size(0, 0)
        self._rows = 0
        self._fetched = 0
        self.row_bytes = 0
        """Of one picture in the batch."""

    def begin(self, input_size: Size, rows: int) -> None:
        """There is memory for so many pictures of this size.

        Raises:
            DeviceError: the device has no more.
        """
        self.row_bytes = input_size.width * input_size.height * 3 * self._dtype.itemsize
        if input_size != self._input_size or rows > self._rows:
            self._let_go_of_rows()
        self._input_size, self._rows = input_size, max(rows, self._rows)
        self._batch = self._grown(self._batch, rows * self.row_bytes)

    def address(self, row: int) -> int:
        """Where a row of the batch is."""
        return (self._batch.address if self._batch else 0) + row * self.row_bytes

    def put(self, row: int, frame: Frame, placement: Placement) -> None:
        """Shrink a picture on the host, and put its way to the device into the stream.

        Raises:
            TransientError: the picture cannot be converted.
            DeviceError: the device failed.
        """
        host = self._host_rows()
        put(host, row, frame, placement)
        source = Span(host.tensor[row].ctypes.data, self.row_bytes, on_device=False)
        target = Span(self.address(row), self.row_bytes, on_device=True)
        self._stream.put([Rows(source, target, self.row_bytes, 1)])

    def put_planes(self, yuv: YuvPlanes) -> tuple[PlanesIn, list[int]]:
        """Copy a picture's planes to the device as they are; done when it returns, good until the next one's.

        Args:
            yuv: the picture; no larger than `row_bytes` in all.

        Raises:
            DeviceError: the device failed, or has no memory.
        """
        self._planes = self._grown(self._planes, self.row_bytes)
        copies, address = [], self._planes.address
        for plane in (yuv.y, yuv.u, yuv.v):
            height, width = plane.shape
            source = Span(plane.ctypes.data, plane.strides[0], on_device=False)
            copies.append(Rows(source, Span(address, width, on_device=True), width, height))
            address += width * height
        try:
            self._stream.put(copies)
        finally:
            self._stream.synchronize()  # the copies read from the picture's memory
        height, width = yuv.y.shape
        found = PlanesIn("i420", Size(width, height), width, yuv.u.shape[1], yuv.matrix, yuv.full_range)
        return found, [copy.target.address for copy in copies]

    def wait(self) -> None:
        """Until all that was put is on the device."""
        self._stream.synchronize()

    def run(self, rows: int, fetch: Sequence[str], leave: Sequence[str] = ()) -> list[npt.NDArray[Any]]:
        """Run the model on the first rows of the batch.

        Args:
            rows: how many.
            fetch: outputs to bring to the host, in this order.
            leave: outputs that stay on the device, for `left`.

        Raises:
            Exception: what onnxruntime raises.
        """
        model, bound = self._reader.model, self._binding
        width, height = self._input_size
        shape = [rows, height, width, 3] if model.channels_last else [rows, 3, height, width]
        bound.bind_input(model.image.name, *self._where, self._dtype.type, shape, self.address(0))
        # All but the pictures themselves, which are bound: an array without values stands for them.
        for name, values in self._reader.feeds(np.empty((rows, 0)), self._input_size).items():
            if name != model.image.name:
                bound.bind_cpu_input(name, values)
        # Bound anew for each run: so it makes new arrays, and does not write into those that it gave before.
        for name in fetch:
            bound.bind_output(name, "cpu")
        for name in leave:
            bound.bind_output(name, *self._where)
        self._session.run_with_iobinding(bound)
        self._fetched = len(fetch)
        return self._taken(0, self._fetched)

    def left(self) -> list[npt.NDArray[Any]]:
        """The outputs that the last run left on the device, copied to the host now."""
        return self._taken(self._fetched, None)

    def close(self) -> None:
        """Let go of all memory; no run is under way."""
        self._binding.clear_binding_outputs()
        for piece in (self._stream, self._batch, self._planes):
            if piece is not None:
                with contextlib.suppress(DeviceError):  # a device that is gone took its memory along
                    piece.close()
        self._let_go_of_rows()

    def _taken(self, first: int, last: int | None) -> list[npt.NDArray[Any]]:
        found = [value.numpy() for value in self._binding.get_outputs()[first:last]]
        if self._where.kind != "cpu":
            self._gpu.count("to_host", sum(values.nbytes for values in found))
        return found

    def _grown(self, memory: DeviceMemory | None, nbytes: int) -> DeviceMemory:
        if memory is not None:
            if memory.nbytes >= nbytes:
                return memory
            memory.close()
        return self._gpu.allocate(nbytes)

    def _host_rows(self) -> InputBuffer:
        if self._host is None:
            self._host = self._reader.buffer(self._input_size, self._rows)
            tensor = self._host.tensor
            with contextlib.suppress(DeviceError):  # not every system lets us lock so much: then it is slower
                self._pinned = self._gpu.pinned(tensor.ctypes.data, tensor.nbytes)
        return self._host

    def _let_go_of_rows(self) -> None:
        if self._pinned is not None:
            with contextlib.suppress(DeviceError):
                self._pinned.close()
        self._host = self._pinned = None
