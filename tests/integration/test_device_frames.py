"""Frames that lie in a device's memory, through a whole pipeline: each answer is that of its own picture."""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any, Literal

import av
import numpy as np
import pytest
from device_feed import StandIn
from fake_cuda import FakeDriver, fake_gpu, hw_frame
from harness import run
from media import video
from model_files import echo

from pipeline.backends._onnx.cuda import DeviceFeed, Ways
from pipeline.backends._onnx.feed import Placed
from pipeline.contracts.backend import BackendConfig, ModelInfo
from pipeline.contracts.component import Context
from pipeline.contracts.frame import FailedFrame, Frame, Size
from pipeline.contracts.result import Embedding, Result
from pipeline.contracts.sink import SinkConfig
from pipeline.contracts.source import Source, SourceConfig
from pipeline.contracts.surface import OnDevice
from pipeline.devices.gpu import Gpu
from pipeline.models.device_picture import DevicePicture
from pipeline.models.pattern import draw_number, read_frame_number
from pipeline.models.picture import VideoPicture
from sources.file import FileSourceConfig

FRAMES = 60
SIZE = Size(192, 96)
INPUT = Size(96, 96)


def clip(path: Path, first: int) -> Path:
    """A video whose every frame has its number painted in, from `first`."""
    frames = []
    for number in range(first, first + FRAMES):
        frame = av.VideoFrame(*SIZE, "yuv420p")
        luma = np.full((SIZE.height, SIZE.width), 90, np.uint8)
        draw_number(luma, number)
        for plane, values in zip(frame.planes, (luma, np.full((48, 96), 128), np.full((48, 96), 128)), strict=True):
            rows = np.full((plane.height, plane.line_size), 128, np.uint8)
            rows[:, : plane.width] = values
            plane.update(rows.tobytes())
        frames.append(frame)
    return video(path, frames, options={"crf": "18"})


class Numbers:
    """A backend whose model gives back what it was fed: the number is read there."""

    model = "numbers"
    concurrency = 2
    max_batch = 4

    def __init__(self, path: Path, gpu: Gpu) -> None:
        self._stand_in = StandIn(path, gpu)
        self._size = INPUT
        self.feed: DeviceFeed | None = None
        self.ways = Ways()

    def info(self) -> ModelInfo:
        return ModelInfo("embedding", (), self._size)

    def open(self) -> None:
        self.feed = self._stand_in.feed()

    def infer(self, batch: Sequence[Frame]) -> Sequence[Embedding]:
        assert self.feed is not None
        places = [Placed(INPUT, self._stand_in.reader.place(frame.picture.size, INPUT)) for frame in batch]
        inputs = np.asarray(self.feed.run(batch, places).outputs[0]).reshape(-1, 3, *INPUT)
        answers = []
        for row, place in zip(inputs, places, strict=True):
            picture = row[:, place.placement.top : place.placement.bottom].transpose(1, 2, 0)
            number = read_frame_number((picture * 255).astype(np.uint8))
            answers.append(Embedding(np.array([number], np.float32)))
        return answers

    def describe(self) -> str:
        return "gives back what it is fed"

    def close(self) -> None:
        assert self.feed is not None
        self.ways = self.feed.ways
        self.feed.close()


class Decoded:
    """A source that decodes "on the device": every frame, or every second one."""

    live = False
    expected_frames = FRAMES

    def __init__(self, inner: Source, gpu: Gpu, driver: FakeDriver, *, half: bool) -> None:
        self._inner, self._gpu, self._driver, self._half = inner, gpu, driver, half

    def frames(self, stop: Event) -> Iterator[Frame | FailedFrame]:
        for item in self._inner.frames(stop):
            if isinstance(item, FailedFrame) or (self._half and item.seq % 2):
                yield item
                continue
            assert isinstance(item.picture, VideoPicture)
            yield replace(item, picture=DevicePicture(hw_frame(self._driver, item.picture.frame), self._gpu))


class Reading:
    """A sink that reads the number from the picture, after the model did."""

    wants_pictures = True

    def __init__(self) -> None:
        self.wrong: list[tuple[int, int]] = []
        self.count = 0

    def open(self) -> None: ...

    def write(self, results: Sequence[Result]) -> None:
        for result in results:
            number = read_frame_number(result.frame.picture.rgb())
            self.count += 1
            if result.frame.seq != number:
                self.wrong.append((result.frame.seq, number))

    def close(self) -> None: ...

    def written(self) -> Sequence[str]:
        return ()


class ReadingConfig(SinkConfig):
    type: Literal["reading"] = "reading"

    def build(self, ctx: Context) -> Any:
        del ctx
        return Reading()


def plugins(gpu: Gpu, driver: FakeDriver, backend: Numbers) -> list[Any]:
    """What `run` wants: all on one device."""

    class OnDeviceConfig(SourceConfig):
        type: Literal["on_device"] = "on_device"
        path: Path
        half: bool = False

        def build(self, ctx: Context) -> Any:
            inner = FileSourceConfig(type="file", path=str(self.path)).build(ctx)
            return Decoded(inner, gpu, driver, half=self.half)

    class NumbersConfig(BackendConfig):
        type: Literal["numbers"] = "numbers"

        def build(self, ctx: Context) -> Any:
            del ctx
            return backend

    return [OnDeviceConfig, NumbersConfig, ReadingConfig]


def number_of(result: Result) -> int:
    assert isinstance(result.prediction, Embedding)
    return int(result.prediction.vector[0])


def test_every_answer_is_that_of_its_own_picture_and_surfaces_stay_few(tmp_path: Path) -> None:
    gpu, driver = fake_gpu()
    backend = Numbers(echo(tmp_path / "echo.onnx", INPUT), gpu)
    paths = {f"cam{n}": clip(tmp_path / f"{n}.mp4", n * 1000) for n in range(3)}
    queue = {"max_frames": 3}
    sources = {name: {"type": "on_device", "path": str(path), "queue": queue} for name, path in paths.items()}
    this = run(
        {"sources": sources, "backends": {"model": {"type": "numbers"}}, "sinks": {"keep": {}}},
        plugins=plugins(gpu, driver, backend),
    )
    results = this.sink().results
    assert len(results) == 3 * FRAMES
    wrong = [
        (result.frame.source, result.frame.seq, number_of(result))
        for result in results
        if number_of(result) != int(result.frame.source[3:]) * 1000 + result.frame.seq
    ]
    assert wrong == []
    assert backend.ways == Ways(surfaces=3 * FRAMES)
    assert gpu.copied == (0, 0), "a picture went over the bus"
    surface_bytes = 256 * (96 + 48)
    # Three queues of three, one frame at each source, two batches of four; and the batches' own memory.
    batches = 2 * 4 * 3 * INPUT.width * INPUT.height * 4
    assert driver.most_bytes <= (3 * 3 + 3 + 8) * surface_bytes + batches
    del this, results
    gc.collect()
    assert driver.alive_bytes == 0


@pytest.mark.parametrize("half", [False, True])
def test_a_sink_that_wants_pictures_gets_each_once_over_the_bus(tmp_path: Path, half: bool) -> None:
    gpu, driver = fake_gpu()
    backend = Numbers(echo(tmp_path / "echo.onnx", INPUT), gpu)
    tree = {
        "sources": {"cam": {"type": "on_device", "path": str(clip(tmp_path / "0.mp4", 0)), "half": half}},
        "backends": {"model": {"type": "numbers"}},
        "sinks": {"keep": {}, "reads": {"type": "reading"}, "again": {"type": "reading"}},
    }
    this = run(tree, plugins=plugins(gpu, driver, backend))
    for name in ("reads", "again"):
        sink: Any = this.supervisor.topology.sinks[name].sink
        assert sink.wrong == []
        assert sink.count == FRAMES
    assert [number_of(r) for r in this.sink().results] == list(range(FRAMES))
    on_device = FRAMES // 2 if half else FRAMES
    assert gpu.copied.to_host == on_device * SIZE.width * SIZE.height * 3 // 2
    assert not isinstance(this.sink().results[0].frame.picture, OnDevice)
