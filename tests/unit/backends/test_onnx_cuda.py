"""The way into a model through a device's memory, with a driver that is none and sessions on the CPU."""

import contextlib
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from av.video.reformatter import Colorspace
from device_feed import StandIn, frame_of, on_device
from fake_cuda import FakeDriver, fake_gpu, fake_gpus, hw_frame
from media import as_format, bars
from model_files import cells, detector, echo
from onnx import TensorProto, helper

from pipeline.backends._onnx.cuda import DeviceFeed, Ways
from pipeline.backends._onnx.feed import HostFeed, Placed
from pipeline.backends._onnx.graph import Plain, graph_of
from pipeline.backends._onnx.session import DeviceLostError, OutOfMemoryError, Runtime, Session
from pipeline.contracts.errors import TransientError
from pipeline.contracts.frame import Frame, NoPicture, Size, Wishes
from pipeline.contracts.result import Detections
from pipeline.devices.gpu import Gpu
from pipeline.models.device_picture import DevicePicture
from pipeline.models.picture import VideoPicture, from_rgb
from pipeline.testing import PluginContext


@pytest.fixture
def device() -> Iterator[tuple[Gpu, FakeDriver]]:
    """A device that must be empty again at the end."""
    gpu, driver = fake_gpu()
    yield gpu, driver
    gc.collect()
    assert driver.alive_bytes == 0, "device memory left behind"
    assert driver.pinned == 0, "pages left locked"


def fed(feed: DeviceFeed | HostFeed, stand_in: StandIn, *frames: Frame) -> npt.NDArray[np.float32]:
    """What the model was given, one row for each frame."""
    reader = stand_in.reader
    places = [Placed(Size(64, 64), reader.place(frame.picture.size, Size(64, 64))) for frame in frames]
    outputs = np.array(feed.run(frames, places).outputs[0], np.float32)
    return outputs.reshape(-1, 3, 64, 64)[: len(frames)]


def soft(width: int, height: int) -> np.ndarray:
    """A picture without edges, for which all ways to shrink agree."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x / width, y / height, (x / width + y / height) / 2], axis=-1)
    return (40 + 170 * rgb).astype(np.uint8)


def pictures(gpu: Gpu, driver: FakeDriver, size: tuple[int, int] = (160, 90)) -> tuple[Frame, Frame]:
    """The same picture on the device and on the host."""
    here = VideoPicture(as_format(soft(*size), "nv12", Colorspace.ITU709))
    return frame_of(on_device(here, gpu, driver)), frame_of(here)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_a_picture_on_the_device_is_fed_as_the_same_one_on_the_host(
    tmp_path: Path, device: tuple[Gpu, FakeDriver], dtype: type[np.generic], channels_last: bool
) -> None:
    gpu, driver = device
    stand_in = StandIn(echo(tmp_path / "echo.onnx", dtype=dtype, channels_last=channels_last), gpu)
    there, here = pictures(gpu, driver)
    feed = stand_in.feed()
    expected = fed(stand_in.host_feed(), stand_in, here).astype(float)
    found = fed(feed, stand_in, there).astype(float)
    step = 1.0 if dtype is np.uint8 else 1 / 255
    assert np.abs(found - expected).max() <= 1.5 * step
    assert feed.ways == Ways(surfaces=1)
    assert gpu.copied == (0, 0)
    feed.close()


def test_pictures_that_lie_elsewhere_share_a_batch_with_those_on_the_device(
    tmp_path: Path, device: tuple[Gpu, FakeDriver]
) -> None:
    gpu, driver = device
    other_gpus, other_driver = fake_gpus(2)
    stand_in = StandIn(echo(tmp_path / "echo.onnx"), gpu)
    rgb = soft(96, 72)
    yuv, nv12 = (VideoPicture(as_format(rgb, name, Colorspace.ITU709)) for name in ("yuv420p", "nv12"))
    elsewhere = DevicePicture(hw_frame(other_driver, nv12.frame), other_gpus.gpu(1))
    there = on_device(nv12, gpu, driver)
    frames = [frame_of(picture) for picture in (from_rgb(rgb), there, yuv, elsewhere, there, nv12)]
    feed = stand_in.feed()
    found = fed(feed, stand_in, *frames)
    assert feed.ways == Ways(surfaces=2, planes=1, rows=3)
    assert gpu.copied.to_device == 96 * 72 * 3 // 2 + 3 * 64 * 64 * 3 * 4
    assert gpu.copied.to_host == 0
    assert other_gpus.gpu(1).copied.to_host == 96 * 72 * 3 // 2
    expected = fed(stand_in.host_feed(), stand_in, *frames)
    assert np.abs(found - expected).max() <= 2 / 255
    feed.close()


def test_pictures_larger_than_the_models_input_are_shrunk_before_they_are_copied(
    tmp_path: Path, device: tuple[Gpu, FakeDriver]
) -> None:
    gpu, _ = device
    stand_in = StandIn(echo(tmp_path / "echo.onnx"), gpu)
    feed = stand_in.feed()
    fed(feed, stand_in, frame_of(VideoPicture(as_format(soft(640, 480), "yuv420p", Colorspace.ITU709))))
    assert feed.ways == Ways(rows=1)
    assert gpu.copied.to_device == 64 * 64 * 3 * 4
    feed.close()


@pytest.mark.parametrize("rotation_deg", [0, 90, 180, 270])
def test_pictures_on_the_device_are_fed_upright(
    tmp_path: Path, device: tuple[Gpu, FakeDriver], rotation_deg: Any
) -> None:
    gpu, driver = device
    stand_in = StandIn(echo(tmp_path / "echo.onnx"), gpu)
    here = VideoPicture(as_format(soft(120, 64), "nv12", Colorspace.ITU709), rotation_deg)
    feed = stand_in.feed()
    found = fed(feed, stand_in, frame_of(on_device(here, gpu, driver, rotation_deg)))
    assert np.abs(found - fed(stand_in.host_feed(), stand_in, frame_of(here))).max() <= 1.5 / 255
    feed.close()


def test_a_fixed_batch_is_run_whole_and_answers_for_the_frames_that_there_are(
    tmp_path: Path, device: tuple[Gpu, FakeDriver]
) -> None:
    gpu, driver = device
    stand_in = StandIn(echo(tmp_path / "echo.onnx", batch=4), gpu)
    there, here = pictures(gpu, driver)
    feed = stand_in.feed()
    expected = fed(stand_in.host_feed(), stand_in, here)
    for _ in range(2):
        assert np.abs(fed(feed, stand_in, there, here, there) - expected).max() <= 1.5 / 255
    feed.close()


def test_a_real_model_finds_the_same_from_the_decoders_planes(
    shared_data: Path, device: tuple[Gpu, FakeDriver]
) -> None:
    gpu, driver = device
    stand_in = StandIn(shared_data / "models" / "yolox_nano_416.onnx", gpu)
    feed = stand_in.feed()
    there, here = stand_in.loaded(feed), stand_in.loaded(stand_in.host_feed())
    with av.open(str(shared_data / "videos" / "bikes.mp4")) as container:
        decoded = [VideoPicture(frame) for _, frame in zip(range(4), container.decode(video=0), strict=False)]
    found = [there.infer([frame_of(on_device(picture, gpu, driver))])[0] for picture in decoded]
    expected = [here.infer([frame_of(picture)])[0] for picture in decoded]
    assert feed.ways == Ways(surfaces=4)
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Detections)
        assert isinstance(other, Detections)
        assert len(other) > 0
        sure = other.confidence > 0.4
        for box, class_id in zip(other.xyxy[sure], other.class_id[sure], strict=True):
            same = one.xyxy[one.class_id == class_id]
            assert np.abs(same - box).max(axis=1).min() < 3.0, "a box is missing or lies elsewhere"
    feed.close()


def test_every_picture_is_its_own_while_many_threads_run_and_the_decoder_writes_over_what_was_let_go(
    tmp_path: Path, device: tuple[Gpu, FakeDriver]
) -> None:
    gpu, driver = device
    stand_in = StandIn(echo(tmp_path / "echo.onnx"), gpu)
    feed = stand_in.feed()

    def grey(level: int) -> Frame:
        rgb = np.full((48, 64, 3), level, np.uint8)
        picture = VideoPicture(as_format(rgb, "nv12" if level % 3 else "yuv420p", Colorspace.ITU709, full_range=True))
        return frame_of(on_device(picture, gpu, driver) if level % 2 else picture)

    def work(first: int) -> list[float]:
        levels = [20 + (first * 7 + number * 3) % 200 for number in range(5)]
        found = fed(feed, stand_in, *map(grey, levels))
        return [abs(float(row[:, 16:48, 8:56].mean()) * 255 - level) for row, level in zip(found, levels, strict=True)]

    with ThreadPoolExecutor(4) as threads:
        wrong = [each for errors in threads.map(work, range(60)) for each in errors]
    assert max(wrong) < 2, "a picture was torn, or another one's"
    assert len(feed._lanes) <= 4
    feed.close()


def test_sizes_that_change_all_the_time_have_no_sessions_made_for_them(
    tmp_path: Path, device: tuple[Gpu, FakeDriver]
) -> None:
    gpu, driver = device
    stand_in = StandIn(echo(tmp_path / "echo.onnx"), gpu)
    now = [0.0]
    feed = stand_in.feed(now_s=lambda: now[0])
    sizes = [(64 + 2 * number, 48) for number in range(40)]

    def run(size: tuple[int, int]) -> None:
        there, here = pictures(gpu, driver, size)
        expected = fed(stand_in.host_feed(), stand_in, here)
        assert np.abs(fed(feed, stand_in, there) - expected).max() <= 2 / 255

    for size in sizes:
        run(size)
    # The first sixteen and, in the same moment, one more in the place of the oldest.
    assert stand_in.graphs == 17
    assert feed.ways == Ways(surfaces=17, rows=23)
    run(sizes[15])
    assert feed.ways.surfaces == 18
    now[0] += 10
    run(sizes[39])
    assert stand_in.graphs == 18
    assert feed.ways == Ways(surfaces=19, rows=23)
    feed.close()


def test_a_graph_that_the_device_cannot_run_is_told_once_and_pictures_take_the_way_through_the_host(
    tmp_path: Path, device: tuple[Gpu, FakeDriver]
) -> None:
    gpu, driver = device
    stand_in = StandIn(echo(tmp_path / "echo.onnx"), gpu)
    feed = stand_in.feed(make_prep=lambda _graph, _stream: None)
    there, here = pictures(gpu, driver)
    for _ in range(3):
        found = fed(feed, stand_in, there, there)
        assert np.abs(found - fed(stand_in.host_feed(), stand_in, here)).max() <= 1e-6
    assert feed.ways == Ways(rows=6)
    assert stand_in.refused == ["onnxruntime could not start it there"]
    feed.close()


def test_a_graph_that_did_not_start_gets_another_chance_but_not_with_every_frame(
    tmp_path: Path, device: tuple[Gpu, FakeDriver]
) -> None:
    gpu, driver = device
    stand_in = StandIn(echo(tmp_path / "echo.onnx"), gpu)
    now, tries, refuses = [0.0], [0], [True]

    def make_prep(graph: bytes, stream: int) -> Session | None:
        tries[0] += 1
        return None if refuses[0] else stand_in.make_prep(graph, stream)

    feed = stand_in.feed(make_prep=make_prep, now_s=lambda: now[0])
    there, _ = pictures(gpu, driver)
    for _ in range(3):
        fed(feed, stand_in, there)
    refuses[0] = False  # there is memory again
    fed(feed, stand_in, there)
    assert tries == [1]
    now[0] += 61
    fed(feed, stand_in, there)
    assert (tries, feed.ways) == ([2], Ways(surfaces=1, rows=4))
    feed.close()


def test_memory_that_is_short_ends_the_run_and_the_next_one_may_do(tmp_path: Path) -> None:
    gpus, driver = fake_gpus(total_bytes=3 * 64 * 64 * 4 * 4)
    gpu = gpus.gpu(0)
    stand_in = StandIn(echo(tmp_path / "echo.onnx"), gpu)
    feed = stand_in.feed()
    rows = [frame_of(VideoPicture(as_format(bars(), "nv12"))) for _ in range(6)]
    with pytest.raises(OutOfMemoryError, match="out of memory"):
        fed(feed, stand_in, *rows)
    assert len(fed(feed, stand_in, *rows[:3])) == 3
    feed.close()
    assert driver.alive_bytes == 0


def test_a_batch_that_memory_was_short_for_leaves_no_memory_that_was_given_back(tmp_path: Path) -> None:
    gpus, driver = fake_gpus(total_bytes=4 * 64 * 64 * 3 * 4)
    stand_in = StandIn(echo(tmp_path / "echo.onnx"), gpus.gpu(0))
    feed = stand_in.feed()
    rows = [frame_of(VideoPicture(as_format(bars(), "nv12"))) for _ in range(6)]
    expected = fed(feed, stand_in, *rows[:3])
    with pytest.raises(OutOfMemoryError, match="out of memory"):
        fed(feed, stand_in, *rows)
    assert (fed(feed, stand_in, *rows[:3]) == expected).all()  # no more than there was before
    feed.close()
    assert driver.alive_bytes == 0


def test_a_device_that_fails_is_lost_and_can_still_be_closed(tmp_path: Path) -> None:
    gpu, driver = fake_gpu()
    stand_in = StandIn(echo(tmp_path / "echo.onnx"), gpu)
    feed = stand_in.feed()
    frame = frame_of(VideoPicture(as_format(bars(), "nv12")))
    fed(feed, stand_in, frame)
    for call in ("copy", "synchronize", "free", "unpin", "destroy_stream"):
        driver.refuse[call] = "CUDA_ERROR_ILLEGAL_ADDRESS"
    with pytest.raises(DeviceLostError, match="ILLEGAL_ADDRESS"):
        fed(feed, stand_in, frame)
    feed.close()


def test_a_picture_that_cannot_be_converted_costs_its_batch_and_no_more(
    tmp_path: Path, device: tuple[Gpu, FakeDriver]
) -> None:
    gpu, driver = device

    class Broken(NoPicture):
        def gbr_planes(self, width: int, height: int) -> Any:
            raise ValueError(f"no {width}x{height} of it")

    stand_in = StandIn(echo(tmp_path / "echo.onnx"), gpu)
    feed = stand_in.feed()
    there, here = pictures(gpu, driver)
    with pytest.raises(TransientError, match="cannot be converted"):
        fed(feed, stand_in, there, frame_of(Broken(Size(64, 48))))
    assert np.abs(fed(feed, stand_in, there) - fed(stand_in.host_feed(), stand_in, here)).max() <= 1.5 / 255
    feed.close()


def test_answers_stay_good_while_other_runs_go_on(tmp_path: Path, device: tuple[Gpu, FakeDriver]) -> None:
    gpu, driver = device
    stand_in = StandIn(echo(tmp_path / "echo.onnx"), gpu)
    feed = stand_in.feed()
    there, _ = pictures(gpu, driver)
    white = frame_of(VideoPicture(as_format(np.full((48, 64, 3), 250, np.uint8), "nv12")))
    places = [Placed(Size(64, 64), stand_in.reader.place(there.picture.size, Size(64, 64)))]
    first = feed.run([there], places).outputs[0]
    kept = first.copy()
    for _ in range(3):
        fed(feed, stand_in, white)
    assert (first == kept).all()
    feed.close()


def test_a_second_input_for_the_size_is_fed_from_the_host(tmp_path: Path, device: tuple[Gpu, FakeDriver]) -> None:
    gpu, driver = device
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Cast", ["orig_target_sizes"], ["sizes"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["sizes", "sizes"], ["pair"], axis=1),
        helper.make_node("Unsqueeze", ["pair", "one"], ["boxes"]),
        helper.make_node("Unsqueeze", ["means", "one"], ["scores"]),
        helper.make_node("Cast", ["scores"], ["labels"], to=TensorProto.INT64),
    ]
    values = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "detr",
        [
            values("images", TensorProto.FLOAT, ("b", 3, 64, 64)),
            values("orig_target_sizes", TensorProto.INT64, ("b", 2)),
        ],
        [
            values("labels", TensorProto.INT64, ("b", 1)),
            values("boxes", TensorProto.FLOAT, ("b", 1, 4)),
            values("scores", TensorProto.FLOAT, ("b", 1)),
        ],
        [helper.make_tensor("one", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "detr.onnx")
    stand_in = StandIn(tmp_path / "detr.onnx", gpu)
    feed = stand_in.feed()
    there, _ = pictures(gpu, driver)
    places = [Placed(Size(64, 64), stand_in.reader.place(there.picture.size, Size(64, 64)))] * 3
    ran = feed.run([there] * 3, places)
    found = dict(zip(stand_in.reader.outputs, ran.outputs, strict=True))
    assert found["boxes"].tolist() == [[[64.0] * 4]] * 3
    feed.close()


def test_rectangles_of_several_shapes_use_the_same_memory(tmp_path: Path, device: tuple[Gpu, FakeDriver]) -> None:
    gpu, driver = device
    output = np.zeros((6, cells(64, 64)), np.float32)
    shape = ("batch", 3, "height", "width")
    path = detector(tmp_path / "any.onnx", {"output0": output}, image=shape)
    stand_in = StandIn(path, gpu, family="yolov8", labels=("car", "bus"), input_size=Size(128, 128))
    feed = stand_in.feed()
    model = stand_in.loaded(feed, fit=True)
    for size in ((160, 90), (90, 160), (64, 64), (160, 90)):
        there, _ = pictures(gpu, driver, size)
        model.infer([there, there])
    assert len(feed._lanes) == 1
    memory = feed._lanes[0]._batch
    assert memory is not None
    assert memory.nbytes == 2 * 128 * 128 * 3 * 4
    feed.close()


def test_only_the_rows_that_were_picked_come_home_unless_more_are_asked_for(
    tmp_path: Path, shared_data: Path, device: tuple[Gpu, FakeDriver]
) -> None:
    gpu, driver = device
    stand_in = StandIn(shared_data / "models" / "yolox_nano_416.onnx", gpu)
    plain = Plain(stand_in.session, stand_in.reader, "cuda:0", "test", stand_in.runtime.errors, stand_in.load)
    composed = graph_of("output", plain, PluginContext(data_dir=tmp_path))
    assert composed is not None
    assert composed.answers is not None
    feed = stand_in.feed(composed.session, composed.answers)
    with av.open(str(shared_data / "videos" / "bikes.mp4")) as container:
        picture = VideoPicture(next(container.decode(video=0)))
    place = Placed(Size(416, 416), stand_in.reader.place(picture.size, Size(416, 416)))
    there = frame_of(on_device(picture, gpu, driver))
    ran = feed.run([there], [place])
    assert ran.reader is composed.answers.reader
    assert sum(output.nbytes for output in ran.outputs) < 60_000
    everything = frame_of(there.picture, wishes=Wishes(confidence=0.0))
    rare = feed.run([everything], [place])
    assert rare.reader is None
    assert [output.shape for output in rare.outputs] == [(1, 3549, 85)]
    other = stand_in.feed()
    expected = stand_in.loaded(other).infer([there])[0]
    other.close()
    found = stand_in.loaded(feed).infer([there])[0]
    assert isinstance(expected, Detections)
    assert isinstance(found, Detections)
    assert len(found) == len(expected) > 0
    assert np.abs(found.xyxy - expected.xyxy).max() < 0.01
    feed.close()


def test_threads_that_start_sessions_at_once_load_the_libraries_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime, together = Runtime(), threading.Barrier(2, timeout=0.2)

    def preload() -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait()  # both are in here, or there is no other one

    monkeypatch.setattr(runtime, "_module", SimpleNamespace(preload_dlls=preload))
    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(runtime._preload_cuda) for _ in range(2)]:
            done.result()
