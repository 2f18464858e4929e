"""Damage that the decoder conceals, and ends that the demuxer takes for ordinary ones."""

from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from media import file_source, read


def _noisy(path: Path, codec: str, frames: int = 40) -> Path:
    rng = np.random.default_rng(7)
    with av.open(str(path), "w") as container:
        stream = cast("av.VideoStream", container.add_stream(codec, rate=25))
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for _ in range(frames):
            picture = rng.integers(0, 255, (96, 160, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("threads", [1, 2])
def test_frames_that_the_decoder_made_up_are_failures(tmp_path: Path, threads: int) -> None:
    path = _noisy(tmp_path / "a.mp4", "libx264")
    whole, none = read(file_source(path, decode_threads=threads))
    assert (len(whole), none) == (40, [])
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size and packet.pos]
    content = bytearray(path.read_bytes())
    for position, size in packets[10:12]:
        content[position + size // 2 : position + size // 2 + 40] = bytes(40)
    path.write_bytes(content)
    frames, failures = read(file_source(path, decode_threads=threads))
    assert len(failures) >= 1
    assert len(frames) + len(failures) == 40
    assert "damaged at" in failures[0].detail or "cannot be decoded" in failures[0].detail
    assert str(path) in failures[0].detail


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_a_truncated_avi_has_a_counted_end(tmp_path: Path, codec: str) -> None:
    path = _noisy(tmp_path / "a.avi", codec)
    assert read(file_source(path))[1] == []
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, failures = read(file_source(path))
    assert 10 <= len(frames) < 40
    assert "of the 40 in its header" in failures[-1].detail
    assert len(failures) <= 2  # the frame at the cut may be damaged
