"""From the decoder's surface into the model without the host: the same pixels, and no pixel on the bus."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from device_feed import StandIn
from gpu_rig import Rig, frames_of
from model_files import echo

from pipeline.backends._onnx.cuda import DeviceFeed, Ways, cuda_feed
from pipeline.backends._onnx.feed import HostFeed, Placed
from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.surface import OnDevice
from pipeline.devices.gpu import Gpu
from pipeline.models.device_picture import DevicePicture
from pipeline.models.picture import VideoPicture, from_rgb
from pipeline.testing import PluginContext


def fed(feed: DeviceFeed | HostFeed, stand_in: StandIn, size: Size, *frames: Frame) -> npt.NDArray[np.float32]:
    """What the model was given, one row for each frame."""
    places = [Placed(size, stand_in.reader.place(frame.picture.size, size)) for frame in frames]
    return np.array(feed.run(frames, places).outputs[0], np.float32).reshape(len(frames), 3, size.height, size.width)


def rows_of(frame: av.VideoFrame) -> list[npt.NDArray[Any]]:
    """The planes of NV12 or P010, without what fills up their rows."""
    dtype = np.uint8 if frame.format.name == "nv12" else np.uint16
    planes = [np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1) for plane in frame.planes]
    return [plane[:, : -(-frame.width // 2) * 2] for plane in planes]


def on_the_device(frame: Frame) -> Frame:
    assert isinstance(frame.picture, OnDevice), "decoded on the CPU"
    return frame


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("size", [(1920, 1080), (640, 360), (1366, 768)])
def test_the_decoders_planes_are_those_of_the_cpu(
    gpu: Gpu, clips: Callable[..., Path], size: tuple[int, int], codec: str
) -> None:
    path = clips(size, 12, 0, codec)
    for there, here in zip(frames_of(path, "cuda"), frames_of(path, "cpu"), strict=True):
        on_device, on_host = on_the_device(there).picture, here.picture
        assert isinstance(on_device, DevicePicture)
        assert isinstance(on_host, VideoPicture)
        ours = on_device.frame
        # U and V in turns, no bit lost; planes of 8 bits would be made of 10 with another dither for each layout.
        theirs = on_host.frame.reformat(format=ours.format.name)
        assert ours.format.name == ("p010le" if codec == "libx265" else "nv12")
        assert all((one == other).all() for one, other in zip(rows_of(ours), rows_of(theirs), strict=True))
        assert (ours.colorspace, ours.color_range) == (on_host.frame.colorspace, on_host.frame.color_range)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("size", [(1920, 1080), (1366, 768), (360, 640)])
def test_the_model_is_fed_the_same_as_on_the_host(
    rig: Rig,
    clips: Callable[..., Path],
    tmp_path: Path,
    size: tuple[int, int],
    codec: str,
) -> None:
    input_size = Size(320, 320)
    path = echo(tmp_path / "echo.onnx", input_size)
    stand_in, ctx = StandIn(path, rig.gpu), PluginContext()
    feed = cuda_feed(rig.gpu, rig.runtime, rig.load(path), stand_in.reader, ctx)
    frames = list(frames_of(clips(size, 12, 0, codec), "cuda"))[:8]
    before = rig.gpu.copied
    found = fed(feed, stand_in, input_size, *map(on_the_device, frames))
    after = rig.gpu.copied
    assert feed.ways == Ways(surfaces=8), ctx.warnings
    assert after.to_device == before.to_device
    assert after.to_host - before.to_host == found.nbytes, "more than the answers came home"
    expected = fed(stand_in.host_feed(), stand_in, input_size, *frames)
    difference = np.abs(found - expected)
    # Noise makes the two ways to shrink differ at single pixels; a shift, other colours or a torn picture in many.
    assert np.median(difference) <= 1 / 255
    assert np.percentile(difference, 95) <= 4 / 255
    feed.close()


def test_a_smooth_picture_is_the_same_to_the_last_step(rig: Rig, tmp_path: Path) -> None:
    from media import as_format, video

    y, x = np.mgrid[0:720, 0:1280]
    rgb = np.stack([40 + 170 * x / 1280, 40 + 170 * y / 720, 125 + 0 * x], axis=-1).astype(np.uint8)
    clip = video(tmp_path / "soft.mp4", [as_format(rgb, "yuv420p")] * 4, options={"crf": "4"})
    path = echo(tmp_path / "echo.onnx", (640, 640))
    stand_in = StandIn(path, rig.gpu)
    feed = cuda_feed(rig.gpu, rig.runtime, rig.load(path), stand_in.reader, PluginContext())
    frames = list(frames_of(clip, "cuda"))
    found = fed(feed, stand_in, Size(640, 640), *map(on_the_device, frames))
    expected = fed(stand_in.host_feed(), stand_in, Size(640, 640), *frames)
    assert np.abs(found - expected)[..., 144:496, 4:-4].max() <= 1 / 255
    feed.close()


def test_pictures_of_the_host_and_of_the_device_share_a_batch(
    rig: Rig, clips: Callable[..., Path], tmp_path: Path
) -> None:
    size = Size(640, 640)
    path = echo(tmp_path / "echo.onnx", size)
    stand_in = StandIn(path, rig.gpu)
    feed = cuda_feed(rig.gpu, rig.runtime, rig.load(path), stand_in.reader, PluginContext())
    there, here = (next(frames_of(clips(), decode)) for decode in ("cuda", "cpu"))
    as_rgb = replace(here, picture=from_rgb(here.picture.rgb()))
    found = fed(feed, stand_in, size, there, here, as_rgb)
    assert feed.ways == Ways(surfaces=1, planes=1, rows=1)
    for row in found[1:]:
        assert np.median(np.abs(row - found[0])) <= 1.5 / 255
    feed.close()


@pytest.mark.parametrize("name", ["yolox_nano_416.onnx", "yolo11n-seg_640.onnx", "yolov5n_fp16_640.onnx"])
def test_real_models_find_the_same(rig: Rig, shared_data: Path, name: str) -> None:
    path = shared_data / "models" / name
    stand_in = StandIn(path, rig.gpu)
    feed = cuda_feed(rig.gpu, rig.runtime, rig.load(path), stand_in.reader, PluginContext())
    there, here = stand_in.loaded(feed), stand_in.loaded(stand_in.host_feed())
    clip, same, all_of = shared_data / "videos" / "bikes.mp4", 0, 0
    for one, other in zip(list(frames_of(clip, "cuda"))[:8], frames_of(clip, "cpu"), strict=False):
        found: Any = there.infer([on_the_device(one)])[0]
        expected: Any = here.infer([other])[0]
        sure = expected.confidence > 0.4
        for box, class_id in zip(expected.xyxy[sure], expected.class_id[sure], strict=True):
            nearest = np.abs(found.xyxy[found.class_id == class_id] - box)
            same += bool(len(nearest)) and float(nearest.max(axis=1).min()) < 4.0
            all_of += 1
    assert all_of > 0
    assert same >= 0.97 * all_of
    feed.close()
