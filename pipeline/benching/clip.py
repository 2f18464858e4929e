"""A clip that stands in for a camera which cannot be read faster than it sends, or is not there."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from pipeline.contracts.frame import Size

if TYPE_CHECKING:
    import av

SECONDS = 4.0
KEYFRAME_EVERY_S = 2.0
_BIT_RATE = 2.0
"""Bits a pixel and second, as cameras are set: 4 Mbit/s for 1080p."""

_MAX_PIXELS = 3840 * 2160


def make_clip(path: Path, size: Size, fps: float, codec: str = "h264") -> None:
    """Write moving shapes with a sensor's noise: H.264, or H.265 where the camera sends that; no B-frames.

    Raises:
        OSError: the encoder or the disk does not take it.
    """
    import av

    width, height = (max(16, side - side % 2) for side in size)
    if width * height > _MAX_PIXELS:
        width, height = 3840, 2160
    encoder = "libx265" if codec.casefold() in {"hevc", "h265"} else "libx264"
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:height, 0:width]
    ground = (96 + 64 * np.sin(columns / 97) * np.cos(rows / 71)).astype(np.int16)
    noise = rng.integers(-6, 7, (height + 64, width + 64), np.int8)
    with av.open(str(path), "w") as container:
        stream = cast("av.VideoStream", container.add_stream(encoder, rate=max(1, round(fps))))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = round(width * height * _BIT_RATE)
        stream.gop_size = max(1, round(fps * KEYFRAME_EVERY_S))
        stream.max_b_frames = 0
        stream.options = {"preset": "ultrafast", "x265-params": "log-level=none"}
        for index in range(round(SECONDS * fps)):
            y, x = rng.integers(0, 64, 2)
            luma = ground + noise[y : y + height, x : x + width]
            at = (index * 7) % max(1, width - width // 8)
            luma[height // 3 : height // 2, at : at + width // 8] = 220
            frame = av.VideoFrame(width, height, "yuv420p")
            for plane, values in zip(frame.planes, (np.clip(luma, 0, 255), 120, 136), strict=True):
                whole = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
                whole[:, : plane.width] = values
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
