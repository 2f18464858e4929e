"""Annotated video as a user gets it: time stamps, sound and pixels of the file against those of its source."""

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt
import pytest
from workplace import Workplace

from sinks._colors import class_color, to_ycbcr

WIDTH, HEIGHT = 640, 480
BOX = (240, 160, 400, 320)  # where the model of the workplace sees a thing in a picture of this size
LINE_PX = 2
TIME_BASE = Fraction(1, 90_000)
# 12.5, 25, 50 a second, a pause, and intervals of no rate at all.
VFR_S = [0.0, 0.08, 0.16, 0.2, 0.24, 0.26, 0.28, 0.3, 1.3, 1.34, 1.351, 1.3971, 1.45, 1.5, 1.7, 1.9]

PIPELINE = """
    [sources.cam]
    type = "file"
    path = "{clip}"

    [backends.local]
    type = "onnx"
    model = "model.onnx"
    confidence = 0.05

    [sinks.film]
    type = "video"
    path = "{out}"
    crf = 12
    {more}

    [sinks.lines]
    type = "jsonl"
    path = "lines.jsonl"

    [server]
    listen = "off"
"""


class Film(NamedTuple):
    """What is in a file: times in seconds, planes as stored, packets of its sound with their times."""

    times_s: list[float]
    duration_s: float
    luma: list[npt.NDArray[np.uint8]]
    chroma: list[npt.NDArray[np.uint8]]
    sound: list[tuple[bytes, float]]


def looked_at(path: Path) -> Film:
    times_s, luma, chroma, last_s = [], [], [], 0.0
    with av.open(str(path)) as container:
        for picture in container.decode(video=0):
            times_s.append(float(picture.time or 0))
            last_s = float((picture.duration or 0) * (picture.time_base or 0))
            y, u, v = (np.frombuffer(memoryview(p), np.uint8).reshape(-1, p.line_size) for p in picture.planes)
            luma.append(y[:HEIGHT, :WIDTH].copy())
            chroma.append(np.stack([u[: HEIGHT // 2, : WIDTH // 2], v[: HEIGHT // 2, : WIDTH // 2]]))
    with av.open(str(path)) as container:
        packets = container.demux(audio=0) if container.streams.audio else ()
        sound = [
            (bytes(packet), round(float(packet.pts * packet.time_base), 3))
            for packet in packets
            if packet.pts is not None and packet.time_base is not None
        ]
    return Film(times_s, times_s[-1] - times_s[0] + last_s, luma, chroma, sound)


def made(path: Path, times_s: list[float], *, sound_s: float = 0.0) -> Path:
    """A clip of a picture that moves, with pictures shown at these times."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "8"})
        assert isinstance(video, av.VideoStream)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.time_base = TIME_BASE
        sound = output.add_stream("aac", rate=48_000, layout="mono") if sound_s else None
        for index, time_s in enumerate(times_s):
            grey = (120 + 60 * np.sin((rows + columns + 8 * index) / 40)).astype(np.uint8)
            picture = av.VideoFrame.from_ndarray(grey, format="gray").reformat(format="yuv420p")
            picture.pts, picture.time_base = round(time_s / TIME_BASE), TIME_BASE
            output.mux(video.encode(picture))
        output.mux(video.encode(None))
        if isinstance(sound, av.AudioStream):
            for start in range(0, int(48_000 * sound_s), 1024):
                wave = (np.sin(np.arange(start, start + 1024) / 20) * 0.3).astype(np.float32)
                samples = av.AudioFrame.from_ndarray(wave.reshape(1, -1), format="fltp", layout="mono")
                samples.sample_rate, samples.pts, samples.time_base = 48_000, start, Fraction(1, 48_000)
                output.mux(sound.encode(samples))
            output.mux(sound.encode(None))
    return path


def annotated(workplace: Workplace, clip: Path, out: str, more: str = "") -> tuple[Film, Film]:
    """Run a pipeline over the clip; the clip and what came of it. Every result is in both sinks."""
    workplace.write(PIPELINE.format(clip=clip.name, out=out, more=more))
    code, _, err = workplace.penstock("run")
    assert code == 0, err
    before, after = looked_at(clip), looked_at(workplace.folder / out)
    lines = workplace.lines("lines.jsonl")
    assert len(lines) == len(after.times_s) == len(before.times_s)
    assert "every frame and every result is accounted for" in err
    centre = lines[0]["predictions"][0]
    assert (centre["x"], centre["y"]) == pytest.approx((WIDTH / 2, HEIGHT / 2), abs=1)
    return before, after


@pytest.mark.parametrize("out", ["out.mp4", "out.mkv", "out.mov", "out.ts"])
def test_a_variable_rate_stays_what_it_was(workplace: Workplace, out: str) -> None:
    before, after = annotated(workplace, made(workplace.folder / "vfr.mp4", VFR_S), out)
    tolerance_s = {".mkv": 0.0006}.get(Path(out).suffix, 0.00002)
    assert after.times_s == pytest.approx(before.times_s, abs=tolerance_s)
    assert after.times_s == pytest.approx(VFR_S, abs=tolerance_s)
    # MPEG-TS does not say how long a picture is shown: of the last one a player makes something up.
    assert after.duration_s == pytest.approx(before.duration_s, abs=0.081 if out.endswith("ts") else 0.04)


@pytest.mark.parametrize("out", ["out.mp4", "out.mkv", "out.ts"])
def test_the_sound_is_there_packet_by_packet(workplace: Workplace, out: str) -> None:
    clip = made(workplace.folder / "sound.mp4", [index / 25 for index in range(50)], sound_s=2.0)
    before, after = annotated(workplace, clip, out)
    assert len(before.sound) > 80
    # AAC begins 21 ms before the pictures. Only MP4 can say so: elsewhere all is moved by that, together.
    moved_s = 0.0 if out.endswith("mp4") else 1024 / 48_000
    if out.endswith(".ts"):  # with a header before each packet (ADTS)
        assert len(after.sound) >= len(before.sound)
        assert all(new.endswith(old) for (old, _), (new, _) in zip(before.sound, after.sound, strict=False))
    else:
        assert [data for data, _ in after.sound] == [data for data, _ in before.sound]
        assert [at for _, at in after.sound] == pytest.approx([at + moved_s for _, at in before.sound], abs=0.002)
    assert after.times_s == pytest.approx([at + moved_s for at in before.times_s], abs=0.0006)
    assert after.duration_s == pytest.approx(before.duration_s, abs=0.04)


def test_boxes_are_where_they_must_be_and_nothing_else_is_touched(workplace: Workplace) -> None:
    clip = made(workplace.folder / "clip.mp4", [index / 25 for index in range(12)])
    before, after = annotated(workplace, clip, "out.mp4", 'annotators = ["box"]')
    left, top, right, bottom = BOX
    color = to_ycbcr(class_color(0), "bt601", full_range=False)
    for old, new, new_chroma in zip(before.luma, after.luma, after.chroma, strict=True):
        edges = [
            new[top : top + LINE_PX, left:right],
            new[bottom - LINE_PX : bottom, left:right],
            new[top:bottom, left : left + LINE_PX],
            new[top:bottom, right - LINE_PX : right],
        ]
        for edge in edges:
            assert abs(float(edge.mean()) - color.y) < 12
        upper = new_chroma[:, top // 2, left // 2 + 2 : right // 2 - 2]
        assert np.abs(upper.mean(axis=1) - (color.cb, color.cr)).max() < 20
        change = np.abs(old.astype(int) - new)
        untouched = np.ones_like(change, bool)
        untouched[top - 8 : bottom + 8, left - 8 : right + 8] = False  # the codec smears a block or so
        assert change[untouched].mean() < 2
        assert change[top + 16 : bottom - 16, left + 16 : right - 16].mean() < 2, "the inside of the box"


def test_labels_stand_over_the_box(workplace: Workplace) -> None:
    clip = made(workplace.folder / "clip.mp4", [index / 25 for index in range(3)])
    before, after = annotated(workplace, clip, "out.mp4", 'annotators = ["box", "label"]')
    left, top, _, _ = BOX
    for old, new in zip(before.luma, after.luma, strict=True):
        change = np.abs(old.astype(int) - new)
        assert change[top - 10 : top - 2, left : left + 40].mean() > 15
        assert change[top - 10 : top - 2, left - 60 : left - 20].mean() < 2


def test_a_clean_video_has_nothing_drawn(workplace: Workplace) -> None:
    clip = made(workplace.folder / "clip.mp4", [index / 25 for index in range(6)])
    before, after = annotated(workplace, clip, "out.mp4", 'content = "clean"')
    assert all(np.abs(old.astype(int) - new).mean() < 2 for old, new in zip(before.luma, after.luma, strict=True))


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_other_codecs_keep_times_and_boxes(workplace: Workplace, codec: str) -> None:
    clip = made(workplace.folder / "vfr.mp4", VFR_S)
    before, after = annotated(workplace, clip, "out.mkv", f'codec = "{codec}"')
    assert after.times_s == pytest.approx(before.times_s, abs=0.0006)
    left, top, right, _ = BOX
    luma = to_ycbcr(class_color(0), "bt601", full_range=False).y
    for new in after.luma:
        assert abs(float(new[top : top + LINE_PX, left:right].mean()) - luma) < 20
