"""For tests on a GPU: onnxruntime there, videos of numbered frames, and how a source gives them."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
from media import video

from pipeline.backends._onnx.device import CUDA, DeviceChoice
from pipeline.backends._onnx.session import Runtime, Session
from pipeline.contracts.frame import Frame
from pipeline.devices.gpu import Gpu
from pipeline.models.pattern import draw_number
from pipeline.testing import PluginContext
from sources.file import FileSourceConfig


class Rig(NamedTuple):
    """onnxruntime on the device."""

    gpu: Gpu
    runtime: Runtime

    def load(self, model: Path | bytes) -> Session:
        """A session with CUDA; the test is skipped where that does not start."""
        choice = DeviceChoice(((CUDA, {"device_id": self.gpu.number}),), self.gpu.device, CUDA)
        session = self.runtime.session(model, choice)
        if session is None:
            pytest.skip("onnxruntime cannot start CUDA: its CUDA 13 or cuDNN 9 libraries are missing")
        return session


def frames_of(path: Path, decode: str, context: PluginContext | None = None) -> Iterator[Frame]:
    """A file's frames, as the source gives them; a fallback of the decoder's is in `context.fallbacks`."""
    config = FileSourceConfig.model_validate({"type": "file", "path": str(path), "decode": decode})
    for item in config.build(context or PluginContext()).frames(threading.Event()):
        assert isinstance(item, Frame), item
        yield item


def numbered_clip(path: Path, size: tuple[int, int], frames: int, first: int = 0, codec: str = "libx264") -> Path:
    """A video whose every frame has its number painted in; moving noise below, so that no two frames are alike."""
    width, height = size
    deep = codec == "libx265"
    noise = np.random.default_rng(first).integers(60, 180, (height, width), np.uint8)
    pictures = []
    for number in range(first, first + frames):
        luma = np.roll(noise, 7 * number, axis=1)
        draw_number(luma, number)
        frame = av.VideoFrame(width, height, "yuv420p")
        for number_of_plane, plane in enumerate(frame.planes):
            rows = np.full((plane.height, plane.line_size), 128, np.uint8)
            if number_of_plane == 0:
                rows[:, : plane.width] = luma
            plane.update(rows.tobytes())
        pictures.append(frame.reformat(format="yuv420p10le") if deep else frame)
    options = {"crf": "20", "preset": "ultrafast"}
    return video(
        path, pictures, codec=codec, pix_fmt="yuv420p10le" if deep else "yuv420p", options=options, tags=(1, 1)
    )
