"""What tests of sinks need: a context, small videos with known pixels, time stamps and sound, and their packets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.contracts.frame import Frame
from pipeline.models.picture import VideoPicture
from pipeline.testing import PluginContext

TIME_BASE = Fraction(1, 90_000)
TEN_S = [index / 25 for index in range(10)]


@pytest.fixture
def ctx(tmp_path: Path) -> PluginContext:
    return PluginContext("out", tmp_path / "data")


@dataclass(frozen=True)
class Clips:
    """Makes and reads small videos in one folder."""

    folder: Path

    def make(
        self,
        name: str,
        *,
        times_s: Sequence[float] = TEN_S,
        size: tuple[int, int] = (64, 48),
        audio: str | None = None,
        audio_s: float = 1.0,
        colorspace: int = 2,
    ) -> str:
        """A video of grey ramps that move from picture to picture, H.264 with B-frames, and its path."""
        path = str(self.folder / name)
        with av.open(path, "w") as output:
            video = output.add_stream("libx264", rate=25, options={"preset": "veryfast"})
            assert isinstance(video, av.VideoStream)
            video.width, video.height = size
            video.pix_fmt = "yuv420p"
            video.codec_context.time_base = TIME_BASE
            video.codec_context.colorspace = colorspace
            sound = None if audio is None else output.add_stream(audio, rate=48_000)
            for index, time_s in enumerate(times_s):
                ramp = (np.arange(size[0] * size[1]).reshape(size[1], size[0]) + 4 * index) % 200 + 20
                picture = av.VideoFrame.from_ndarray(ramp.astype(np.uint8), format="gray").reformat(format="yuv420p")
                picture.pts, picture.time_base = round(time_s / TIME_BASE), TIME_BASE
                output.mux(video.encode(picture))
            output.mux(video.encode(None))
            if isinstance(sound, av.AudioStream):
                for start in range(0, int(48_000 * audio_s), 1024):
                    wave = (np.sin(np.arange(start, start + 1024) / 20) * 9000).astype(np.int16)
                    samples = av.AudioFrame.from_ndarray(wave.reshape(1, -1), format="s16", layout="mono")
                    samples.sample_rate, samples.pts, samples.time_base = 48_000, start, Fraction(1, 48_000)
                    output.mux(sound.encode(samples))
                output.mux(sound.encode(None))
        return path

    def frames(self, path: str, *, source: str = "gate", begin_s: float = 0.0, start_s: float = 0.0) -> Iterator[Frame]:
        """The frames of a file as the source `file` makes them, `begin_s` into the source's timeline."""
        with av.open(path) as container:
            stream = container.streams.video[0]
            base = Fraction(stream.time_base or 1)
            for seq, picture in enumerate(container.decode(stream)):
                position_s = float(((picture.pts or 0) - (stream.start_time or 0)) * base)
                if position_s < start_s:
                    continue
                yield Frame(
                    source=source,
                    seq=seq,
                    pts_s=begin_s + position_s,
                    captured_at=1_700_000_000 + position_s,
                    time_source="pts",
                    picture=VideoPicture(picture),
                    decoded_at=1000.0,
                    path=path,
                    duration_s=float(picture.duration * base) if picture.duration else None,
                    file_pts_s=position_s,
                )

    def packets(self, path: str) -> list[tuple[bytes, float]]:
        """The sound of a file: each packet's bytes and when it begins, in seconds."""
        with av.open(path) as container:
            return [
                (bytes(packet), round(float(packet.pts * packet.time_base), 4))
                for packet in container.demux(audio=0)
                if packet.pts is not None
            ]

    def times(self, path: str | Path) -> list[float]:
        """When each picture of a file is shown, in seconds."""
        with av.open(str(path)) as container:
            return [round(picture.time, 5) for picture in container.decode(video=0)]

    def planes(self, path: str | Path) -> list[np.ndarray]:
        """Each picture's luma, uint8 (H, W)."""
        with av.open(str(path)) as container:
            pictures = [picture.reformat(format="yuv420p") for picture in container.decode(video=0)]
        return [np.frombuffer(memoryview(p.planes[0]), np.uint8).reshape(p.height, -1)[:, : p.width] for p in pictures]


@pytest.fixture
def clips(tmp_path: Path) -> Clips:
    folder = tmp_path / "in"
    folder.mkdir()
    return Clips(folder)
