"""Text as patches of planes: letters are drawn once and put together, so that new scores and tracks cost little."""

import functools
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sinks._planes import Planes

if TYPE_CHECKING:
    from PIL import ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_MAX_LABEL = 48  # characters
_CACHED_GLYPHS = 512


def one_line(text: str) -> str:
    """The text on one line, printable, at most `_MAX_LABEL` characters: labels come out of models and files."""
    line = text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= _MAX_LABEL else line[: _MAX_LABEL - 1] + "…"


class Glyphs:
    """The letters of one font as masks. Made and used by who draws, in one thread at a time."""

    def __init__(self, font: "Font") -> None:
        _, top, _, bottom = font.getbbox("Adgj")
        self._font = font
        self._pad = max(2, round((bottom - top) / 6))
        self._height = _even(bottom - top + self._pad)
        self._top = round(top) - (self._height - round(bottom - top)) // 2
        self._glyph = functools.lru_cache(maxsize=_CACHED_GLYPHS)(self._render)
        self._word = functools.lru_cache(maxsize=_CACHED_GLYPHS)(self._joined)

    def alpha(self, text: str) -> npt.NDArray[np.uint8]:
        """uint8 (H, W), even sides: how much ink is on each pixel, 0..255, with a margin around the text."""
        margin = np.zeros((self._height, self._pad), np.uint8)
        # A space as wide as the font wants it is lost between a name and its score at these sizes.
        space = np.zeros((self._height, self._pad + 2), np.uint8)
        row = [margin]
        for word in text.split(" "):
            row += [self._word(word), space]
        row[-1] = margin
        if sum(piece.shape[1] for piece in row) % 2:
            row.append(np.zeros((self._height, 1), np.uint8))
        return np.hstack(row)

    def _joined(self, word: str) -> npt.NDArray[np.uint8]:
        return np.hstack([np.zeros((self._height, 0), np.uint8), *(self._glyph(char) for char in word)])

    def _render(self, char: str) -> npt.NDArray[np.uint8]:
        from PIL import Image, ImageDraw

        image = Image.new("L", (max(1, round(self._font.getlength(char))), self._height))
        ImageDraw.Draw(image).text((0, -self._top), char, fill=255, font=self._font)
        return np.asarray(image)


def text_patch(alpha: npt.NDArray[np.uint8], ramps: tuple[bytes, ...]) -> Planes:
    """Text on a filled rectangle, as planes; `alpha` as `Glyphs.alpha` gives it, `ramps` for y, cb and cr."""
    wide = alpha.astype(np.uint16)
    coarse = (wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2]) // 4
    return Planes(
        _looked_up(alpha, ramps[0]),
        _looked_up(coarse.astype(np.uint8), ramps[1]),
        _looked_up(coarse.astype(np.uint8), ramps[2]),
    )


def _looked_up(alpha: npt.NDArray[np.uint8], ramp: bytes) -> npt.NDArray[np.uint8]:
    # `bytes.translate` is ten times as fast as indexing with an array.
    return np.frombuffer(alpha.tobytes().translate(ramp), np.uint8).reshape(alpha.shape)


def ramp(ground: int, ink: int) -> bytes:
    """256 values: the colour for each share of ink."""
    return np.round(np.linspace(ground, ink, 256)).astype(np.uint8).tobytes()


def _even(length: float) -> int:
    return 2 * int(-(-length // 2))
