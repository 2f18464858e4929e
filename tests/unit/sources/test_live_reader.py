import threading
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from live_plan import plan
from media import moving, video

from pipeline.contracts.clock import SystemClock
from pipeline.contracts.errors import SourceErrorCode, TransientError
from pipeline.contracts.packets import PacketRing
from sources._decoding import Decoding
from sources._live import Plan
from sources._live_frames import LiveFrame
from sources._live_reader import Connection

FAST = {"preset": "ultrafast"}
CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    "keyframes": ("libx264", "yuv420p", {**FAST, "g": "5", "bf": "0"}),
    "key_and_b_frames": (
        "libx264",
        "yuv420p",
        {**FAST, "g": "5", "bf": "2", "x264-params": "b-adapt=0"},
    ),
    "b_frames": ("libx264", "yuv420p", {**FAST, "g": "100", "bf": "2", "x264-params": "b-adapt=0:b-pyramid=0"}),
    "h265": ("libx265", "yuv420p", {**FAST, "x265-params": "log-level=none:keyint=5:bframes=2"}),
    "mjpeg": ("mjpeg", "yuvj420p", {}),
}


def frames(plan: Plan) -> list[LiveFrame]:
    found: list[LiveFrame] = []

    def read(connection: Connection) -> None:
        for item in connection.items(threading.Event()):
            assert isinstance(item, LiveFrame)
            found.append(item)

    with closing(Connection(plan, SystemClock(), PacketRing())) as connection:
        with pytest.raises(TransientError) as caught:
            read(connection)
        assert caught.value.code is SourceErrorCode.CONNECTION_FAILED
    return found


@pytest.mark.parametrize("kind", CODECS)
def test_few_frames_are_decoded_where_few_are_wanted_and_each_is_whole(tmp_path: Path, kind: str) -> None:
    codec, pix_fmt, options = CODECS[kind]
    pictures = [moving(number, 64, 48) for number in range(200)]
    path = video(tmp_path / "clip.mkv", pictures, codec=codec, pix_fmt=pix_fmt, options=options)
    every, few = frames(plan(path)), frames(plan(path, max_fps=5))
    assert len(every) == 200
    assert len(few) < 130  # the first 48 or so show the rhythm
    stamps_s = [frame.raw_s for frame in few if frame.raw_s is not None]
    assert len(stamps_s) == len(few)
    assert stamps_s[-1] > 7.5  # to the end
    assert max(later - earlier for earlier, later in pairwise(stamps_s)) <= 0.202
    assert not any(frame.corrupt for frame in few)
    same = {frame.raw_s: frame for frame in every}
    for frame in few[-10:]:
        whole, picture = same[frame.raw_s].take_picture().rgb(), frame.take_picture().rgb()
        assert (whole == picture).all()


def test_frames_come_without_a_delay_by_the_decoder(tmp_path: Path) -> None:
    _, _, options = CODECS["keyframes"]
    path = video(tmp_path / "clip.mkv", [moving(number, 64, 48) for number in range(10)], options=options)
    with closing(Connection(plan(path), SystemClock(), PacketRing())) as connection:
        packets = iter(connection._packets(threading.Event()))
        for number in range(10):
            (frame,) = connection._decoding.decode(next(packets))
            assert isinstance(frame, LiveFrame)
            assert frame.raw_s == pytest.approx(number / 25, abs=0.001)


def test_a_picture_can_be_taken_once(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mkv", [moving(0, 64, 48)])
    (frame,) = frames(plan(path))
    frame.take_picture()
    with pytest.raises(RuntimeError, match="before"):
        frame.take_picture()


def test_a_picture_that_is_too_large_is_refused_by_the_decoder(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mkv", [moving(0, 320, 240)])
    assert len(frames(plan(path))) == 1
    assert frames(replace(plan(path), decoding=Decoding("cpu", 1, 1000, low_delay=True))) == []
