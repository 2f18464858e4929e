"""A camera's noisy still scene into which a square comes, as several encoders send it; told numbers alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from media import Rgb, video

FPS = 25
GOP = 20
WIDTH, HEIGHT = 160, 120
_X264 = {"preset": "veryfast", "g": str(GOP), "keyint_min": str(GOP), "sc_threshold": "0"}
_X265 = f"log-level=none:keyint={GOP}:min-keyint={GOP}:scenecut=0"
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "plain": ("libx264", {**_X264, "crf": "23", "bf": "0"}),
    "b-frames": ("libx264", {**_X264, "crf": "23", "bf": "3"}),
    "open": ("libx264", {**_X264, "crf": "23", "bf": "3", "x264-params": "open-gop=1"}),
    "constant": (
        "libx264",
        {**_X264, "bf": "0", "b": "300k", "minrate": "300k", "maxrate": "300k", "bufsize": "60k"},
    ),
    "refresh": ("libx264", {"preset": "veryfast", "crf": "23", "x264-params": f"intra-refresh=1:keyint={GOP}"}),
    "h265": ("libx265", {"preset": "ultrafast", "x265-params": f"{_X265}:bframes=0:repeat-headers=1"}),
    "h265-open": ("libx265", {"preset": "ultrafast", "x265-params": f"{_X265}:bframes=3:open-gop=1"}),
    "mpeg4": ("mpeg4", {"g": str(GOP), "bf": "2", "q": "5", "sc_threshold": "1000000000"}),
}
_SCENE = np.kron(np.random.default_rng(1).integers(60, 180, (6, 8)), np.ones((20, 20), np.int64))


def still_picture(number: int, square_at: int | None = None) -> Rgb:
    """The scene with its noise; `square_at`: how far, in pixels, the square has come."""
    grey = _SCENE + np.rint(np.random.default_rng(number).normal(0, 3, (HEIGHT, WIDTH))).astype(np.int64)
    if square_at is not None:
        left = square_at % (WIDTH - 32)  # of noise, so that it costs bits as more does in a picture of usual size
        cells = np.random.default_rng(1000 + number).integers(16, 236, (16, 16))
        grey[40:72, left : left + 32] = np.kron(cells, np.ones((2, 2), np.int64))
    return np.repeat(np.clip(grey, 16, 235).astype(np.uint8)[..., None], 3, axis=2)


def scene(frames: int, square: range) -> Sequence[Rgb]:
    """The pictures of a clip in which the square moves in these frames."""
    return [still_picture(n, (n - square.start) * 2 if n in square else None) for n in range(frames)]


def encoded(path: Path, pictures: Sequence[Rgb], encoder: str, **options: str) -> Path:
    """The clip as this one of `ENCODERS` makes it; further options go before its own."""
    codec, own = ENCODERS[encoder]
    return video(path, pictures, codec=codec, fps=FPS, options={**own, **options})
