"""NVDEC through the sources: every codec, seeks, frames left out, turned films, many streams, and what it cannot do."""

import threading
from pathlib import Path
from typing import Any

import pytest
from media import file_source, moving, read, turned, video

from pipeline.contracts.frame import Frame
from pipeline.contracts.sampling import Sampling
from pipeline.contracts.surface import OnDevice
from pipeline.devices.decoders import decoders
from pipeline.devices.gpu import Gpu
from pipeline.testing import PluginContext

FRAMES = 60
CODECS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "h264": ("libx264", "yuv420p", "mp4", {"preset": "medium", "g": "25"}),
    "h265": ("libx265", "yuv420p", "mp4", {"preset": "fast", "x265-params": "log-level=none:keyint=25"}),
    "h265-10": ("libx265", "yuv420p10le", "mkv", {"preset": "fast", "x265-params": "log-level=none"}),
    "vp9": ("libvpx-vp9", "yuv420p", "webm", {"deadline": "realtime", "cpu-used": "8"}),
    "av1": ("libsvtav1", "yuv420p", "mkv", {"preset": "12"}),
    "mpeg2": ("mpeg2video", "yuv420p", "ts", {"g": "12", "bf": "2"}),
}


def clip(folder: Path, name: str, size: tuple[int, int] = (320, 240)) -> Path:
    codec, pix_fmt, container, options = CODECS[name]
    pictures = [moving(number, *size) for number in range(FRAMES)]
    return video(folder / f"{name}.{container}", pictures, codec=codec, pix_fmt=pix_fmt, options=options)


def lumas(frames: list[Frame]) -> list[bytes]:
    return [frame.picture.yuv420p().y.tobytes() for frame in frames]


def played(path: Path, context: PluginContext | None = None, **keys: Any) -> list[Frame]:
    frames, failures = read(file_source(path, context or PluginContext(), **keys))
    assert failures == []
    return frames


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_gives_the_frames_of_the_cpu_and_they_stay_on_the_gpu(gpu: Gpu, tmp_path: Path, name: str) -> None:
    path, context = clip(tmp_path, name), PluginContext()
    there, here = played(path, context, decode="cuda"), played(path, decode="cpu")
    if context.fallbacks:
        pytest.skip(f"this GPU: {context.fallbacks[0][2]}")
    assert all(isinstance(frame.picture, OnDevice) for frame in there)
    assert [(frame.seq, frame.pts_s, frame.duration_s) for frame in there] == [
        (frame.seq, frame.pts_s, frame.duration_s) for frame in here
    ]
    assert lumas(there) == lumas(here)
    assert decoders().open_sessions()[gpu.number] == 0


def test_odd_sizes_have_their_last_row_and_column(gpu: Gpu, tmp_path: Path) -> None:
    pictures = [moving(number, 321, 241) for number in range(8)]
    path = video(tmp_path / "odd.webm", pictures, codec="libvpx-vp9", options=CODECS["vp9"][3])
    there, here = played(path, decode=gpu.device), played(path, decode="cpu")
    if not isinstance(there[0].picture, OnDevice):
        pytest.skip("this GPU does not decode it")
    assert lumas(there) == lumas(here)
    for one, other in zip(there, here, strict=True):
        ours, theirs = one.picture.yuv420p(), other.picture.yuv420p()
        assert ours.u.shape == ours.v.shape == (121, 161)
        # FFmpeg's copy on the device may leave out the last row of colours: it halves the height and rounds down.
        assert (ours.u[:-1] == theirs.u[:-1]).all()
        assert (ours.v[:-1] == theirs.v[:-1]).all()


@pytest.mark.parametrize("keys", [{"stride": 7}, {"max_fps": 2}, {"max_fps": 3, "start_s": 1.3}], ids=str)
def test_frames_that_are_left_out_change_nothing_about_the_others(
    gpu: Gpu, tmp_path: Path, keys: dict[str, Any]
) -> None:
    path = clip(tmp_path, "h264")
    less = played(path, decode=gpu.device, **keys)
    every = {frame.seq: frame for frame in played(path, decode="cpu", **{k: keys[k] for k in keys if k == "start_s"})}
    assert len(less) < len(every)
    sampling = Sampling(int(keys.get("stride", 1)), keys.get("max_fps"))
    for frame in less:
        assert frame.pts_s is not None
        if sampling.takes(frame.seq, frame.pts_s):
            assert lumas([frame]) == lumas([every[frame.seq]])


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_a_film_held_sideways_is_upright(gpu: Gpu, tmp_path: Path, angle: int) -> None:
    path = clip(tmp_path, "h264")
    turned(path, angle)
    assert lumas(played(path, decode=gpu.device)) == lumas(played(path, decode="cpu"))


@pytest.mark.parametrize(("codec", "pix_fmt", "container"), [("ffv1", "yuv420p", "mkv"), ("libx264", "yuv444p", "mp4")])
def test_what_the_gpu_cannot_decode_the_cpu_does_aloud(
    gpu: Gpu, tmp_path: Path, codec: str, pix_fmt: str, container: str
) -> None:
    pictures = [moving(number, 320, 240) for number in range(12)]
    path = video(tmp_path / f"clip.{container}", pictures, codec=codec, pix_fmt=pix_fmt)
    context = PluginContext()
    frames = played(path, context, decode=gpu.device)
    assert lumas(frames) == lumas(played(path, decode="cpu"))
    assert [got for _, got, _ in context.fallbacks] == ["cpu"]
    assert decoders().open_sessions().get(gpu.number, 0) == 0


def test_forty_streams_at_once_each_give_their_frames(gpu: Gpu, tmp_path: Path) -> None:
    path = clip(tmp_path, "h264", (640, 360))
    expected = lumas(played(path, decode="cpu"))
    found: dict[int, bool] = {}
    contexts = [PluginContext() for _ in range(40)]

    def play(number: int) -> None:
        found[number] = lumas(played(path, contexts[number], decode=gpu.device)) == expected

    threads = [threading.Thread(target=play, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == dict.fromkeys(range(40), True)
    assert decoders().open_sessions()[gpu.number] == 0
