"""Decoding in hardware: where it is taken, what is said where it cannot be had, and that no frame is lost over it."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import pytest
from av.codec.context import CodecContext
from fake_hardware import FakeHardware, installed
from live_plan import plan
from media import file_source, moving, read, turned, video
from pydantic import ValidationError

from pipeline.contracts.clock import SystemClock
from pipeline.contracts.errors import TransientError
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.contracts.packets import PacketRing
from pipeline.models.device_picture import DevicePicture
from pipeline.models.picture import VideoPicture
from pipeline.testing import PluginContext
from sources._decoding import Decoding
from sources._hardware import NoHardwareError, _set_up
from sources._live import Plan
from sources._live_frames import LiveFrame
from sources._live_reader import Connection
from sources.device import DeviceSourceConfig
from sources.file import FileSourceConfig
from sources.rtsp import RtspSourceConfig
from sources.stream import StreamSourceConfig

FRAMES = 40


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = [moving(number, 64, 48) for number in range(FRAMES)]
    options = {"preset": "medium", "g": "10", "bf": "2"}
    return video(tmp_path_factory.mktemp("clips") / "clip.mp4", pictures, options=options)


@pytest.fixture
def rig() -> Iterator[FakeHardware]:
    with installed() as hardware:
        yield hardware


def lumas(frames: list[Frame]) -> list[bytes]:
    """The brightness of each frame's pixels."""
    return [frame.picture.yuv420p().y.tobytes() for frame in frames]


def by_cpu(path: Path) -> list[bytes]:
    frames, failures = read(file_source(path, decode="cpu"))
    assert not failures
    return lumas(frames)


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ("cuda", "there is no GPU"),
        ("cuda:3", "there is no cuda:3: there is no GPU"),
        ("vaapi", "this build of PyAV has no VAAPI"),
        ("v4l2m2m", "no V4L2 M2M decoder takes the stream"),
    ],
)
def test_a_device_that_is_not_there_is_replaced_by_the_cpu_aloud(clip: Path, wish: str, why: str) -> None:
    context = PluginContext()
    with installed(devices=0):
        source = file_source(clip, context, decode=wish, start_s=0.3)
        frames, failures = read(source)
    assert (len(frames), failures) == (FRAMES - 8, [])
    assert source.details()["decoder"] == "cpu"
    assert [(wanted, got) for wanted, got, _ in context.fallbacks] == [(wish, "cpu")]
    assert context.fallbacks[0][2].startswith(why)


def test_a_decoder_of_its_own_knows_what_the_container_says_of_colours_and_order(clip: Path, tmp_path: Path) -> None:
    # MPEG-4 says nothing of colours itself.
    tagged = video(tmp_path / "a.mkv", [moving(n, 64, 48) for n in range(3)], codec="mpeg4", tags=(1, 2))
    for path in (tagged, clip):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            own = stream.codec_context
            other: Any = CodecContext.create(own.codec.name, "r")
            _set_up(other, stream, Decoding("cuda", threads=1, max_pixels=10_000_000), {})
            assert other.reorder_depth == own.reorder_depth == (2 if path == clip else 0)
            for packet in container.demux(stream):
                for found, expected in zip(other.decode(packet), own.decode(packet), strict=True):
                    assert (found.colorspace, found.color_range) == (expected.colorspace, expected.color_range)
                    assert path == clip or found.colorspace == 1


def test_without_a_gpu_auto_says_nothing(clip: Path) -> None:
    context = PluginContext()
    with installed(devices=0):
        source = file_source(clip, context)
        frames, _ = read(source)
    assert (len(frames), context.fallbacks, source.details()["decoder"]) == (FRAMES, [], "cpu")


def test_with_a_gpu_auto_decodes_there_and_the_pictures_stay_there(clip: Path, rig: FakeHardware) -> None:
    context = PluginContext()
    source = file_source(clip, context)
    frames, failures = read(source)
    assert {type(frame.picture) for frame in frames} == {DevicePicture}
    assert (len(frames), failures, context.fallbacks) == (FRAMES, [], [])
    assert source.details()["decoder"] == "cuda:0"
    assert lumas(frames) == by_cpu(clip)
    assert rig.decoders.open_sessions() == {0: 0}
    frames.clear()
    assert rig.driver.alive_bytes == 0


def test_sources_are_spread_over_gpus_and_what_is_too_much_goes_to_the_cpu(clip: Path, rig: FakeHardware) -> None:
    contexts = [PluginContext() for _ in range(5)]
    with _all_open([file_source(clip, context) for context in contexts]) as sources:
        assert [source.details()["decoder"] for source in sources] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cpu"]
    assert [context.fallbacks for context in contexts[:4]] == [[]] * 4
    assert contexts[4].fallbacks == [("cuda", "cpu", "cuda:0 decodes 2 streams already")]
    assert rig.decoders.open_sessions() == {0: 0, 1: 0}


@pytest.mark.parametrize(("wish", "said"), [("auto", 0), ("cuda", 1), ("cuda:1", 1)])
def test_a_codec_that_the_device_does_not_know_is_told_where_it_was_asked_for(
    clip: Path, rig: FakeHardware, wish: str, said: int
) -> None:
    rig.refuses = NoHardwareError("there is no NVDEC decoder for h264", unsuited=True)
    context = PluginContext()
    frames, _ = read(file_source(clip, context, decode=wish))
    assert (len(frames), len(context.fallbacks)) == (FRAMES, said)
    assert all(count == 0 for count in rig.decoders.open_sessions().values())


def test_a_session_that_cannot_be_had_is_told_by_the_frames(clip: Path, rig: FakeHardware) -> None:
    """FFmpeg goes on by itself, on the CPU."""
    rig.planes = None
    context = PluginContext()
    source = file_source(clip, context)
    frames, failures = read(source)
    assert {type(frame.picture) for frame in frames} == {VideoPicture}
    assert (lumas(frames), failures) == (by_cpu(clip), [])
    assert [(wanted, got) for wanted, got, _ in context.fallbacks] == [("cuda:0", "cpu")]
    assert source.details()["decoder"] == "cpu"
    assert rig.decoders.open_sessions() == {0: 0}


@pytest.mark.parametrize("at", [0, 1, 17, 38])
def test_a_device_that_fails_in_the_middle_of_a_file_loses_no_frame(clip: Path, rig: FakeHardware, at: int) -> None:
    rig.fault = lambda number: av.ExternalError(1, "the GPU has fallen off the bus") if number == at else None
    context = PluginContext()
    source = file_source(clip, context)
    frames, failures = read(source)
    assert ([frame.seq for frame in frames], failures) == (list(range(FRAMES)), [])
    assert lumas(frames) == by_cpu(clip)
    assert context.fallbacks == [("cuda:0", "cpu", "the GPU has fallen off the bus")]
    assert source.details()["decoder"] == "cpu"
    assert rig.decoders.open_sessions() == {0: 0}


def test_pictures_that_no_model_reads_on_the_device_are_decoded_by_the_cpu(clip: Path, rig: FakeHardware) -> None:
    rig.planes = "yuv444p"
    context = PluginContext()
    frames, failures = read(file_source(clip, context))
    assert (lumas(frames), failures) == (by_cpu(clip), [])
    assert context.fallbacks == [("cuda:0", "cpu", "its pictures are not 4:2:0")]


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_a_film_held_sideways_is_upright_from_a_device_too(tmp_path: Path, rig: FakeHardware, angle: int) -> None:
    path = video(tmp_path / "phone.mp4", [moving(number, 64, 48) for number in range(6)])
    turned(path, angle)
    assert len(rig.contexts) == 0
    frames, _ = read(file_source(path))
    assert {frame.picture.rotation_deg for frame in frames if isinstance(frame.picture, DevicePicture)} == {angle}
    assert lumas(frames) == by_cpu(path)


def test_what_nobody_wants_is_not_decoded_by_a_device_either(clip: Path, rig: FakeHardware) -> None:
    frames, _ = read(file_source(clip, stride=9))
    assert {0, 9, 18, 27, 36} <= {frame.seq for frame in frames}
    assert len(frames) < FRAMES * 2 // 3
    assert "NONREF" in rig.contexts[0].asked


def watched(plan: Plan, context: PluginContext) -> tuple[list[LiveFrame | FailedFrame], list[Any]]:
    """All that a connection gives, and what it says decodes after each of it."""
    items: list[LiveFrame | FailedFrame] = []
    decoders = []
    with closing(Connection(plan, SystemClock(), PacketRing(), context.fell_back)) as connection:
        try:
            for item in connection.items(threading.Event()):
                items.append(item)
                decoders.append(connection.details["decoder"])
        except TransientError:  # the end of the clip
            pass
    return items, decoders


def test_a_camera_is_decoded_on_the_device_and_its_session_ends_with_the_connection(
    clip: Path, rig: FakeHardware
) -> None:
    context = PluginContext()
    items, decoders = watched(plan(clip, decode="auto"), context)
    assert {type(item.take_picture()) for item in items if isinstance(item, LiveFrame)} == {DevicePicture}
    assert (len(items), set(decoders), context.fallbacks) == (FRAMES, {"cuda:0"}, [])
    assert rig.decoders.open_sessions() == {0: 0}


def test_a_camera_goes_on_by_the_cpu_with_the_next_keyframe_when_the_device_fails(
    clip: Path, rig: FakeHardware
) -> None:
    rig.fault = lambda number: av.ExternalError(1, "gone") if number == 14 else None
    context = PluginContext()
    items, decoders = watched(plan(clip, decode="auto"), context)
    failed = [index for index, item in enumerate(items) if isinstance(item, FailedFrame)]
    assert len(failed) == 1
    assert context.fallbacks == [("cuda:0", "cpu", "gone")]
    assert (set(decoders[: failed[0]]), set(decoders[failed[0] :])) == ({"cuda:0"}, {"cpu"})
    after = [item for item in items[failed[0] + 1 :] if isinstance(item, LiveFrame)]
    assert len(after) >= FRAMES - 20  # from the keyframe at 20 on
    assert {type(item.take_picture()) for item in after} == {VideoPicture}
    assert not any(item.corrupt for item in after)


def test_a_damaged_packet_is_not_the_devices_fault_but_two_keyframes_are(clip: Path, rig: FakeHardware) -> None:
    rig.fault = lambda number: av.InvalidDataError(1, "damaged") if number in {13, 14} else None
    context = PluginContext()
    _, decoders = watched(plan(clip, decode="auto"), context)
    assert (set(decoders), context.fallbacks) == ({"cuda:0"}, [])
    rig.fault = lambda number: av.InvalidDataError(1, "damaged") if number >= 13 else None
    _, decoders = watched(plan(clip, decode="auto"), context)
    assert decoders[-1] == "cpu"
    assert context.fallbacks == [("cuda:0", "cpu", "damaged")]


@pytest.mark.parametrize("wish", ["gpu", "cuda:", "cuda:x", "CPU", "", "cuda:0 "])
def test_a_word_that_is_none_gets_one_line(wish: str) -> None:
    with pytest.raises(ValidationError, match='use "auto", "cpu", "cuda"') as caught:
        FileSourceConfig.model_validate({"type": "file", "path": "a.mp4", "decode": wish})
    assert caught.value.errors()[0]["loc"] == ("decode",)


@pytest.mark.parametrize("wish", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "vaapi", "v4l2m2m"])
def test_every_source_that_decodes_knows_the_key(wish: str) -> None:
    keys = {"decode": wish, "loop_filter": "none"}
    rtsp = RtspSourceConfig.model_validate({"type": "rtsp", "url": "rtsp://cam.lan/1", **keys})
    stream = StreamSourceConfig.model_validate({"type": "stream", "url": "http://cam.lan/1", **keys})
    device = DeviceSourceConfig.model_validate({"type": "device", **keys})
    assert {config.plan().decoding.wish for config in (rtsp, stream, device)} == {wish}
    assert {config.plan().decoding.loop_filter for config in (rtsp, stream, device)} == {"none"}


def test_frames_that_others_build_on_are_smoothed_and_others_need_not_be(tmp_path: Path) -> None:
    path = video(
        tmp_path / "clip.mp4",
        [moving(number, 64, 48) for number in range(20)],
        options={"preset": "medium", "bf": "2", "crf": "40", "x264-params": "b-pyramid=0:b-adapt=0"},
    )
    whole, some, none = (
        lumas(read(file_source(path, decode="cpu", loop_filter=how))[0]) for how in ("all", "references", "none")
    )
    assert 0 < sum(one != other for one, other in zip(whole, some, strict=True)) < 16
    assert sum(one != other for one, other in zip(whole, none, strict=True)) > 16


def test_the_more_files_are_played_the_fewer_threads_each_gets(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(16))
    threads: list[int] = []
    monkeypatch.setattr("sources._decode.Decoder", lambda stream, decoding, *_, **__: threads.append(decoding.threads))
    for files in (1, 3, 40):
        sources = [file_source(clip) for _ in range(files)]
        with pytest.raises(AttributeError):  # no decoder was made
            next(iter(sources[-1].frames(threading.Event())))
    assert threads == [4, 2, 1]


class _all_open:  # noqa: N801  (used like a function)
    """Sources that have each given a frame, and are closed in the end."""

    def __init__(self, sources: list[Any]) -> None:
        self._sources = sources
        self._frames = [source.frames(threading.Event()) for source in sources]

    def __enter__(self) -> list[Any]:
        for frames in self._frames:
            next(frames)
        return self._sources

    def __exit__(self, *_: object) -> None:
        for frames in self._frames:
            frames.close()
