"""Made-up scenes for what looks at pictures over time: still, lit, noisy, with somebody in them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Frame
from pipeline.models.picture import VideoPicture

Grey = npt.NDArray[np.float64]

HEIGHT, WIDTH = 180, 320


def scenery(seed: int = 0) -> Grey:
    """A picture with structure of many sizes, (HEIGHT, WIDTH), about 40..200."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((HEIGHT, WIDTH))
    for cells in (3, 6, 12, 24):
        coarse = rng.normal(0, 1, (cells, cells * 2))
        rows, columns = np.arange(HEIGHT) * cells // HEIGHT, np.arange(WIDTH) * cells * 2 // WIDTH
        picture += coarse[rows[:, None], columns[None, :]]
    picture -= picture.min()
    scaled: Grey = 40 + picture * (160 / picture.max())
    return scaled


def grey_frame(picture: Grey, at_s: float, *, noise: float = 0.0, seq: int = 0, pts: bool = True) -> Frame:
    """The picture as a camera with some noise would give it at that moment."""
    if noise:
        picture = picture + np.random.default_rng(seq + 1).normal(0, noise, picture.shape)
    luma = np.ascontiguousarray(picture.clip(0, 255).round().astype(np.uint8))
    return Frame(
        source="cam",
        seq=seq,
        pts_s=at_s if pts else None,
        captured_at=1_700_000_000.0 + at_s,
        time_source="pts",
        picture=VideoPicture(av.VideoFrame.from_ndarray(luma, "gray")),
        decoded_at=1000.0 + at_s,
    )


def with_block(picture: Grey, left: int, top: int, side: int = 40, level: float = 250.0) -> Grey:
    """The picture with somebody in it."""
    picture = picture.copy()
    picture[top : top + side, left : left + side] = level
    return picture


def clip_frames(path: Path, rounds: int = 1) -> Iterator[Frame]:
    """A real clip, several times, on one timeline."""
    number = 0
    for _ in range(rounds):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            fps = float(stream.average_rate or 25)
            for decoded in container.decode(stream):
                yield replace(grey_frame(np.zeros((2, 2)), number / fps, seq=number), picture=VideoPicture(decoded))
                number += 1
