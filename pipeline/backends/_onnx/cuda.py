"""`DeviceFeed`: pictures come into a model on a CUDA device from the device's own memory, where they lie there."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.backends._onnx.cuda_lane import Lane
from pipeline.backends._onnx.cuda_prep import Preps, Where
from pipeline.backends._onnx.device import CUDA, DeviceChoice
from pipeline.backends._onnx.feed import Placed, Ran
from pipeline.backends._onnx.graph import Answers
from pipeline.backends._onnx.session import Array, Runtime, Session, raise_run_error
from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.frame import Frame, Picture, YuvPlanes
from pipeline.contracts.surface import OnDevice, Surface
from pipeline.devices.driver import DeviceError
from pipeline.devices.gpu import Gpu
from pipeline.models.graph_planes import PlanesIn, SlotOut
from pipeline.models.letterbox import Placement
from pipeline.models.picture import VideoPicture
from pipeline.models.reader import Reader

# Memory in pieces of the size that is asked for: the default doubles each time.
_PREP_OPTIONS = {"arena_extend_strategy": "kSameAsRequested"}


class Ways(NamedTuple):
    """How many pictures took which way into the model.

    Attributes:
        surfaces: from where the decoder left them on the device; no pixel was copied to or from the host.
        planes: as bytes from the host, shrunk and converted on the device.
        rows: shrunk and converted on the host.
    """

    surfaces: int = 0
    planes: int = 0
    rows: int = 0


class DeviceFeed:
    """A `Feed` for one device. Made when a backend opens; each thread that runs has a `Lane`, so that the pictures of
    one batch are made ready while the model works on another.

    Nothing here waits for the decoder or lets it wait: pictures are read in a stream that begins after the decoder's
    own copies, and are done with before the model runs. Whoever calls `run` holds on to the frames until it returns.

    Args:
        gpu: the device.
        where: the same as onnxruntime names it.
        session: the model on it, with CUDA or TensorRT.
        make_prep: loads a small graph on the device, in the stream given: (graph, stream's handle); None where it
            does not run there.
        reader: how the model is fed and read.
        errors: what sessions raise.
        now_s: a monotonic clock.
        refused: told once for each reason why pictures on the device are taken through the host.
        answers: how the model answers where its post-processing is inside: then little comes back.
    """

    def __init__(
        self,
        *,
        gpu: Gpu,
        where: Where,
        session: Session,
        make_prep: Callable[[bytes, int], Session | None],
        reader: Reader,
        errors: tuple[type[Exception], ...],
        now_s: Callable[[], float],
        refused: Callable[[str], None],
        answers: Answers | None = None,
    ) -> None:
        self._answers = answers
        self._gpu = gpu
        self._where = where
        self._session = session
        self._reader = reader
        self._errors: tuple[type[Exception], ...] = (*errors, DeviceError)
        self._now_s = now_s
        self._stream = gpu.stream()
        self._preps = Preps(lambda graph: make_prep(graph, self._stream.handle), where, now_s, refused)
        self._lanes: list[Lane] = []
        self._spare: deque[Lane] = deque()
        self._ways = Ways()
        self._lock = threading.Lock()

    @property
    def ways(self) -> Ways:
        """How many pictures took which way until now."""
        with self._lock:
            return self._ways

    def run(self, batch: Sequence[Frame], places: Sequence[Placed]) -> Ran:
        """See `Feed`."""
        started = self._now_s()
        rows = self._reader.model.fixed_batch or len(batch)
        try:
            lane = self._take()
            try:
                lane.begin(places[0].input_size, rows)
                self._fill(lane, batch, places)
                fed = self._now_s()
                outputs, reader = self._ask(lane, rows, batch)
                return Ran(outputs, fed - started, self._now_s() - fed, reader)
            finally:
                with self._lock:
                    self._spare.append(lane)
        except self._errors as error:
            raise_run_error(error)

    def close(self) -> None:
        """See `Feed`."""
        for lane in self._lanes:
            lane.close()
        self._lanes.clear()
        self._spare.clear()
        self._preps.close()
        with contextlib.suppress(DeviceError):  # a device that is gone took its streams along
            self._stream.close()

    def _fill(self, lane: Lane, batch: Sequence[Frame], places: Sequence[Placed]) -> None:
        """All pictures are in the batch when it returns, and nothing reads them any more."""
        ways = {"surfaces": 0, "planes": 0, "rows": 0}
        through_host = []
        for row, (frame, place) in enumerate(zip(batch, places, strict=True)):
            if (surface := _surface(frame.picture, self._gpu.number)) is not None:
                way, ready = "surfaces", self._prepare(lane, row, place.placement, *_planes_in(surface))
            elif (yuv := _planes_of(frame.picture, lane.row_bytes)) is not None:
                way, ready = "planes", self._prepare(lane, row, place.placement, *lane.put_planes(yuv))
            else:
                way, ready = "rows", False
            ways[way if ready else "rows"] += 1
            if not ready:
                through_host.append(row)
        if through_host:
            try:
                for row in through_host:
                    lane.put(row, batch[row], places[row].placement)
            finally:
                lane.wait()  # they may not be let go of, nor their room used again, while they are copied
        with self._lock:
            self._ways = Ways(*(getattr(self._ways, name) + ways[name] for name in Ways._fields))

    def _prepare(self, lane: Lane, row: int, placement: Placement, planes: PlanesIn, addresses: Sequence[int]) -> bool:
        model = self._reader.model
        slot = SlotOut(model.preprocess, placement, model.image.dtype, model.channels_last)
        return self._preps.put(planes, addresses, slot, lane.address(row))

    def _ask(self, lane: Lane, rows: int, batch: Sequence[Frame]) -> tuple[Sequence[Array], Reader | None]:
        """Outputs on the host, and how they are read; None: as the model's own."""
        answers = self._answers
        if answers is None:
            return lane.run(rows, self._reader.outputs), None
        fetched = lane.run(rows, answers.fetch, answers.spare)
        if answers.enough(fetched, batch):
            return fetched, answers.reader
        found = dict(zip((*answers.fetch, *answers.spare), (*fetched, *lane.left()), strict=True))
        return [found[name] for name in self._reader.outputs], None

    def _take(self) -> Lane:
        with self._lock:
            if self._spare:
                return self._spare.popleft()
        lane = Lane(self._gpu, self._where, self._session, self._reader)
        with self._lock:
            self._lanes.append(lane)
        return lane


def cuda_feed(
    gpu: Gpu, runtime: Runtime, session: Session, reader: Reader, ctx: Context, *, answers: Answers | None = None
) -> DeviceFeed:
    """The way into a model on a CUDA device.

    Args:
        gpu: the device.
        runtime: what the model is loaded with.
        session: the model on the device.
        reader: how it is fed and read.
        ctx: of the backend: told where pictures on the device cannot be read there.
        answers: how it answers, where its post-processing is inside.

    Raises:
        DeviceError: the device failed.
    """

    def make_prep(graph: bytes, stream: int) -> Session | None:
        options = {"device_id": str(gpu.number), "user_compute_stream": str(stream), **_PREP_OPTIONS}
        # No other provider beside it: a node that ran on the CPU would take the picture there and back.
        choice = DeviceChoice(((CUDA, options),), gpu.device, CUDA)
        try:
            return runtime.session(graph, choice, gpu_only=True)
        except ConfigError:
            return None

    return DeviceFeed(
        gpu=gpu,
        where=Where("cuda", gpu.number),
        session=session,
        make_prep=make_prep,
        reader=reader,
        errors=runtime.errors,
        now_s=ctx.clock.monotonic,
        refused=lambda reason: ctx.fell_back(gpu.device, "cpu", f"pictures are made ready on the CPU: {reason}"),
        answers=answers,
    )


def _surface(picture: Picture, device: int) -> Surface | None:
    """Where the picture lies on this device; None: not there."""
    surface = picture.surface if isinstance(picture, OnDevice) else None
    return surface if surface is not None and surface.device == device else None


def _planes_in(surface: Surface) -> tuple[PlanesIn, list[int]]:
    planes = PlanesIn(
        surface.format,
        surface.size,
        surface.luma.pitch_bytes,
        surface.chroma.pitch_bytes,
        surface.matrix,
        surface.full_range,
        surface.rotation_deg,
    )
    return planes, [surface.luma.address, surface.chroma.address]


def _planes_of(picture: Picture, row_bytes: int) -> YuvPlanes | None:
    """A picture on the host whose planes are as they should be and fewer bytes than a row of the model's input: then
    they are copied as they are, and the host has nothing to compute."""
    if not isinstance(picture, VideoPicture) or picture.rotation_deg or picture.nbytes > row_bytes:
        return None
    if picture.frame.format.name not in {"yuv420p", "yuvj420p"}:
        return None
    planes = picture.yuv420p()
    return planes if min(plane.strides[0] for plane in (planes.y, planes.u, planes.v)) > 0 else None
