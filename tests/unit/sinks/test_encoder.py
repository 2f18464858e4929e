"""Encoders: which one is taken, what hardware has to prove, how much of a video one holds back."""

from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import pytest

from pipeline.contracts.errors import ConfigError
from pipeline.testing import PluginContext, detections, frame, result
from sinks import _encoder
from sinks._encoder import (
    TIME_BASE,
    Codec,
    Device,
    Encoder,
    Encoding,
    Preset,
    choose,
    hardware,
    options,
    proof,
    set_up,
    software,
)
from sinks.video import VideoSinkConfig

CODECS: tuple[Codec, ...] = get_args(Codec)
PRESETS: tuple[Preset, ...] = get_args(Preset)
DEVICES: tuple[Device, ...] = get_args(Device)


def encoding(codec: Codec = "h264", preset: Preset = "ultrafast", **more: Any) -> Encoding:
    return Encoding(codec, preset, 23, 0, 25.0, **more)


@pytest.mark.parametrize("codec", CODECS)
def test_software_proves_itself(codec: Codec) -> None:
    assert proof(software(codec), encoding(codec)) is None


def test_what_comes_back_must_be_what_went_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def came_back(greys: list[float]) -> str | None:
        monkeypatch.setattr(_encoder, "_encoded_and_decoded", lambda *_: greys)
        return proof(software("h264"), encoding())

    sent = [40.0 + 32 * index for index in range(6)]
    assert came_back(sent) is None
    assert came_back(sent[:5]) == "of 6 frames 5 came back"
    assert came_back([0.0] * 6) == "the pictures that came back are others (by 200 of 255)"
    assert came_back(sent[1:] + sent[:1]) is not None


def absent() -> Device:
    """A device that this machine has not got."""
    return next(device for device in DEVICES if proof(hardware("h264", device), encoding()) is not None)


def test_hardware_that_is_asked_for_by_name_must_work(ctx: PluginContext, tmp_path: Path) -> None:
    device = absent()
    with pytest.raises(ConfigError, match=f"{device} cannot encode h264 here: ") as caught:
        choose(device, encoding(), ctx)
    assert caught.value.key == "encoder"
    sink = VideoSinkConfig.model_validate({"path": str(tmp_path / "a.mp4"), "encoder": device}).build(ctx)
    with pytest.raises(ConfigError):
        sink.open()
    sink.close()


def test_hardware_that_fails_is_told_once_and_software_is_used(
    ctx: PluginContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = absent()
    monkeypatch.setattr(_encoder, "present", lambda: [device])
    assert choose("auto", encoding(), ctx) == software("h264")
    ((wanted, got, reason),) = ctx.fallbacks
    assert (wanted, got) == (device, "software")
    assert "it cannot encode h264 here: " in reason


def test_without_hardware_there_is_nothing_to_tell(ctx: PluginContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_encoder, "present", list)
    assert choose("auto", encoding(), ctx) == software("h264")
    assert ctx.warnings == []
    assert ctx.fallbacks == []


def test_hardware_that_proves_itself_is_used_also_where_it_wants_another_format(
    tmp_path: Path, ctx: PluginContext, clips: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = Encoder("libx264", "qsv", "nv12")
    monkeypatch.setattr(_encoder, "present", lambda: ["qsv"])
    monkeypatch.setattr(_encoder, "hardware", lambda *_: stand_in)
    monkeypatch.setattr(_encoder, "options", lambda *_: {"preset": "ultrafast", "crf": "10"})
    assert choose("auto", encoding(), ctx) == stand_in
    path = clips.make("in.mp4", times_s=[0.0, 0.04, 0.1, 0.5])
    sink = VideoSinkConfig.model_validate({"path": str(tmp_path / "a.mp4"), "content": "clean"}).build(ctx)
    sink.open()
    for one in clips.frames(path):
        sink.write([result(one, detections())])
    sink.close()
    assert clips.times(tmp_path / "a.mp4") == pytest.approx([0.0, 0.04, 0.1, 0.5], abs=1e-4)
    for before, after in zip(clips.planes(path), clips.planes(tmp_path / "a.mp4"), strict=True):
        assert np.abs(before.astype(int) - after).mean() < 3


def test_hardware_that_fails_later_is_replaced_where_that_was_left_open(
    tmp_path: Path, ctx: PluginContext, clips: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a card encodes so many videos at once, and one more is asked of it."""
    device = absent()
    monkeypatch.setattr(_encoder, "present", lambda: [device])
    monkeypatch.setattr(_encoder, "proof", lambda *_: None)
    sink = VideoSinkConfig.model_validate({"path": str(tmp_path / "a.mp4")}).build(ctx)
    sink.open()
    sink.write([result(frame(seq, width=320, height=240), detections()) for seq in range(3)])
    sink.close()
    assert len(clips.times(tmp_path / "a.mp4")) == 3
    ((wanted, got, reason),) = ctx.fallbacks
    assert (wanted, got) == (device, "software")
    assert "in the middle of a video" in reason


@pytest.mark.parametrize("rate", [1.0, 5.0, 12.5, 25.0, 60.0])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("ahead", ["little", "none"])
def test_little_is_held_back(codec: Codec, rate: float, ahead: Any) -> None:
    for preset in ("ultrafast", "medium") if codec == "h264" else ("ultrafast",):
        context: Any = av.CodecContext.create(software(codec).name, "w")
        context.width, context.height = 64, 64
        set_up(context, software(codec), encoding(codec, preset, ahead=ahead), rate)
        held = came = 0
        for index in range(50):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64), index * 3, np.uint8), format="gray8")
            picture = picture.reformat(format="yuv420p")
            picture.pts, picture.time_base = round(index / rate / TIME_BASE), TIME_BASE
            came += len(context.encode(picture))
            held = max(held, index + 1 - came)
        # x265 holds twice what it looks ahead.
        assert held <= (0.45 * rate if ahead == "little" else 0)


def test_every_encoder_has_options_for_every_preset() -> None:
    for codec in CODECS:
        for preset in PRESETS:
            every = [options(software(codec), encoding(codec, preset), 25.0)]
            every += [options(hardware(codec, device), encoding(codec, preset), 25.0) for device in DEVICES]
            assert all(isinstance(value, str) for one in every for value in one.values())
