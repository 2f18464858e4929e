"""A model fed as on a GPU, without one: device memory is the host's, and both are what onnxruntime calls "cpu"."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fake_cuda import FakeDriver, hw_frame

from pipeline.backends._onnx.cuda import DeviceFeed
from pipeline.backends._onnx.cuda_prep import Where
from pipeline.backends._onnx.device import CPU, DeviceChoice
from pipeline.backends._onnx.feed import HostFeed
from pipeline.backends._onnx.graph import Answers
from pipeline.backends._onnx.model import LoadedModel
from pipeline.backends._onnx.session import Runtime, Session
from pipeline.contracts.frame import Frame, Picture, Wishes
from pipeline.devices.gpu import Gpu
from pipeline.models.description import ModelOptions, describe
from pipeline.models.device_picture import DevicePicture
from pipeline.models.onnx_file import read_onnx
from pipeline.models.picture import RotationDeg, VideoPicture
from pipeline.models.reader import Reader

ON_CPU = DeviceChoice(((CPU, {}),), "cpu", CPU)


class StandIn:
    """A model and its ways in. Made by tests.

    Args:
        model: the file.
        gpu: where pictures may lie.
        options: as in a config.
    """

    def __init__(self, model: Path, gpu: Gpu, **options: Any) -> None:
        self.gpu = gpu
        self.runtime = Runtime()
        self.reader = Reader(describe(read_onnx(model), ModelOptions(**options)))
        self.session = self.load(model)
        self.refused: list[str] = []
        self.graphs = 0

    def feed(
        self,
        session: Session | None = None,
        answers: Answers | None = None,
        make_prep: Callable[[bytes, int], Session | None] | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> DeviceFeed:
        """The way through the device's memory."""
        return DeviceFeed(
            gpu=self.gpu,
            where=Where("cpu", 0),
            session=session or self.session,
            make_prep=make_prep or self.make_prep,
            reader=self.reader,
            errors=self.runtime.errors,
            now_s=now_s,
            refused=self.refused.append,
            answers=answers,
        )

    def host_feed(self) -> HostFeed:
        """The way through the host."""
        return HostFeed(
            session=self.session,
            reader=self.reader,
            max_batch=self.reader.model.fixed_batch or 8,
            spare=2,
            errors=self.runtime.errors,
            now_s=time.monotonic,
        )

    def loaded(self, feed: DeviceFeed | HostFeed, *, fit: bool = False) -> LoadedModel:
        """The model behind a feed."""
        return LoadedModel(feed=feed, reader=self.reader, fit=fit, now_s=time.monotonic)

    def make_prep(self, graph: bytes, stream: int) -> Session:
        """A small graph in its session; counted."""
        assert stream
        self.graphs += 1
        return self.load(graph)

    def load(self, model: Path | bytes) -> Session:
        """A session on the CPU."""
        session = self.runtime.session(model, ON_CPU)
        assert session is not None
        return session


def frame_of(picture: Picture, seq: int = 0, wishes: Wishes | None = None) -> Frame:
    """A frame with that picture."""
    return Frame("cam", seq, seq / 25, 0.0, "pts", picture, 0.0, wishes=wishes)


def on_device(picture: VideoPicture, gpu: Gpu, driver: FakeDriver, rotation_deg: RotationDeg = 0) -> DevicePicture:
    """The same pixels, in the device's memory."""
    return DevicePicture(hw_frame(driver, picture.frame), gpu, rotation_deg)
