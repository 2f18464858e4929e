"""Drawing boxes and labels straight into 8-bit 4:2:0 planes: colours, text patches, and where they go.

Everything is drawn on even coordinates and in even sizes, so that the chroma planes (half the size) fit exactly and no
coloured fringe is left. A label is one opaque rectangle, kept ready to be copied, so that drawing it costs three array
assignments.
"""

import colorsys
import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import ColorMatrix, Size
from pipeline.contracts.result import Classification, Detections, Prediction, Text, label_of
from sinks._planes import Planes

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_GOLDEN_RATIO = 0.618034
_FIRST_HUE = 0.38
_SATURATION = (0.92, 0.70, 0.82)
_VALUE = (0.98, 0.90)

_DARKEST = 0.3  # luma

_KR_KB: dict[ColorMatrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}

_MAX_LABEL = 48  # characters
_CACHED_LABELS = 512


class YCbCr(NamedTuple):
    """One colour in the picture's own matrix and range, 0..255 each."""

    y: int
    cb: int
    cr: int


def class_color(class_id: int) -> tuple[float, float, float]:
    """The colour of a class, RGB, 0..1: the same in every picture of every run, neighbours far apart."""
    hue = (_FIRST_HUE + class_id * _GOLDEN_RATIO) % 1.0
    rgb = colorsys.hsv_to_rgb(hue, _SATURATION[class_id % len(_SATURATION)], _VALUE[class_id % len(_VALUE)])
    white = max(0.0, (_DARKEST - _luma(rgb)) / (1 - _luma(rgb)))  # pure blue is next to invisible in the dark
    return (rgb[0] + white * (1 - rgb[0]), rgb[1] + white * (1 - rgb[1]), rgb[2] + white * (1 - rgb[2]))


def _luma(rgb: tuple[float, float, float]) -> float:
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def to_ycbcr(rgb: tuple[float, float, float], matrix: ColorMatrix, *, full_range: bool) -> YCbCr:
    """RGB, 0..1, as the picture's YCbCr. Formula: ITU-R BT.601, BT.709, BT.2020 (non-constant luminance)."""
    red, green, blue = rgb
    kr, kb = _KR_KB[matrix]
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb = (blue - luma) / (2 * (1 - kb))
    cr = (red - luma) / (2 * (1 - kr))
    if full_range:
        return YCbCr(round(255 * luma), min(255, round(128 + 255 * cb)), min(255, round(128 + 255 * cr)))
    return YCbCr(round(16 + 219 * luma), round(128 + 224 * cb), round(128 + 224 * cr))


class Painter:
    """Draws predictions into pictures of one size and colour; made for each video, used by the sink's thread.

    Args:
        size: of the planes, even.
        matrix: of the planes.
        full_range: of the planes.
        boxes: whether to draw boxes.
        labels: whether to write labels.
    """

    def __init__(self, size: Size, matrix: ColorMatrix, *, full_range: bool, boxes: bool, labels: bool) -> None:
        from PIL import ImageFont

        self._size = size
        self._boxes = boxes
        self._labels = labels
        short = min(size)
        self.thickness_px = max(2, 2 * round(short / 540))
        glyphs = _Glyphs(ImageFont.load_default(size=min(48, max(12, round(short / 50)))))

        def color(class_id: int) -> YCbCr:
            return to_ycbcr(class_color(class_id), matrix, full_range=full_range)

        @functools.lru_cache(maxsize=_CACHED_LABELS)
        def ramps(class_id: int) -> tuple[bytes, ...]:
            ink = (0.05, 0.05, 0.05) if _luma(class_color(class_id)) > 0.5 else (1.0, 1.0, 1.0)
            shades = zip(color(class_id), to_ycbcr(ink, matrix, full_range=full_range), strict=True)
            return tuple(_ramp(ground, over) for ground, over in shades)

        def label(text: str, class_id: int) -> Planes:
            return _text_patch(glyphs.alpha(text), ramps(class_id))

        self._color: Callable[[int], YCbCr] = functools.lru_cache(maxsize=_CACHED_LABELS)(color)
        self._label: Callable[[str, int], Planes] = functools.lru_cache(maxsize=_CACHED_LABELS)(label)

    def paint(self, planes: Planes, prediction: Prediction) -> None:
        """Draw what there is to draw of the prediction; embeddings and class maps have nothing."""
        match prediction:
            case Detections():
                self._paint_detections(planes, prediction)
            case Classification() if self._labels and len(prediction.scores):
                best = int(np.nan_to_num(prediction.scores, nan=-1.0).argmax())
                name = label_of(prediction.names, best)
                self._blit(planes, self._label(_clean(f"{name} {prediction.scores[best]:.2f}"), best), 0, 0)
            case Text() if self._labels and prediction.text:
                self._blit(planes, self._label(_clean(prediction.text), 0), 0, 0)
            case _:
                pass

    def _paint_detections(self, planes: Planes, found: Detections) -> None:
        boxes, indices = self._visible(found.xyxy)
        class_ids = found.class_id.tolist()
        # The most confident come first in `found`: drawn last, they are on top. Labels lie over all boxes.
        rows = list(zip(boxes.tolist(), indices.tolist(), strict=True))[::-1]
        if self._boxes:
            for box, index in rows:
                self._paint_box(planes, box, self._color(class_ids[index]))
        if self._labels:
            scores = found.confidence.tolist()
            tracks = None if found.tracker_id is None else found.tracker_id.tolist()
            for (left, top, _, _), index in rows:
                text = f"{found.label(index)} {scores[index]:.2f}"
                patch = self._label(_clean(text if tracks is None else f"#{tracks[index]} {text}"), class_ids[index])
                height = patch.y.shape[0]
                self._blit(planes, patch, left, top - height if top >= height else top)

    def _visible(self, xyxy: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
        """int64 (V, 4) xyxy, even, inside the picture, at least one line wide; and which boxes they are, int (V,)."""
        width, height = self._size
        with np.errstate(invalid="ignore"):  # NaN is neither smaller nor greater, so that such a box is not seen
            seen = (
                (xyxy[:, 0] < width)
                & (xyxy[:, 1] < height)
                & (xyxy[:, 2] > 0)
                & (xyxy[:, 3] > 0)
                & (xyxy[:, 2] >= xyxy[:, 0])
                & (xyxy[:, 3] >= xyxy[:, 1])
            )
        indices = np.flatnonzero(seen)
        limits = np.array([width, height, width, height])
        inside = np.clip(xyxy[indices], 0, limits)
        even = np.round(inside / 2).astype(np.int64) * 2
        even[:, :2] = np.minimum(even[:, :2], limits[:2] - 2)
        even[:, 2:] = np.minimum(np.maximum(even[:, 2:], even[:, :2] + self.thickness_px), limits[2:])
        return even, indices

    def _paint_box(self, planes: Planes, box: list[int], color: YCbCr) -> None:
        left, top, right, bottom = box
        line = self.thickness_px
        for x1, y1, x2, y2 in (
            (left, top, right, min(top + line, bottom)),
            (left, max(bottom - line, top), right, bottom),
            (left, top, min(left + line, right), bottom),
            (max(right - line, left), top, right, bottom),
        ):
            planes.y[y1:y2, x1:x2] = color.y
            half = np.s_[y1 // 2 : y2 // 2, x1 // 2 : x2 // 2]
            planes.u[half] = color.cb
            planes.v[half] = color.cr

    def _blit(self, planes: Planes, patch: Planes, x: int, y: int) -> None:
        """Copy the patch to even (x, y), moved left or up where it would stick out, cut where it is too large."""
        width, height = self._size
        patch_height, patch_width = patch.y.shape
        x = max(0, min(x, width - patch_width))
        y = max(0, min(y, height - patch_height))
        columns, rows = min(patch_width, width), min(patch_height, height)
        planes.y[y : y + rows, x : x + columns] = patch.y[:rows, :columns]
        half = np.s_[y // 2 : (y + rows) // 2, x // 2 : (x + columns) // 2]
        planes.u[half] = patch.u[: rows // 2, : columns // 2]
        planes.v[half] = patch.v[: rows // 2, : columns // 2]


def _clean(text: str) -> str:
    """The text on one line, printable, at most `_MAX_LABEL` characters: labels come out of models and files."""
    line = text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= _MAX_LABEL else line[: _MAX_LABEL - 1] + "…"


class _Glyphs:
    """The letters of one font as masks; a text is put together from them, so that new scores and tracks cost little."""

    def __init__(self, font: "Font") -> None:
        _, top, _, bottom = font.getbbox("Adgj")
        self._font = font
        self._pad = max(2, round((bottom - top) / 6))
        self._height = _even(bottom - top + self._pad)
        self._top = round(top) - (self._height - round(bottom - top)) // 2
        self._glyph = functools.lru_cache(maxsize=_CACHED_LABELS)(self._render)
        self._word = functools.lru_cache(maxsize=_CACHED_LABELS)(self._joined)

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


def _text_patch(alpha: npt.NDArray[np.uint8], ramps: tuple[bytes, ...]) -> Planes:
    """Text on a filled rectangle, as planes; `alpha` as `_Glyphs.alpha` gives it, `ramps` for y, cb and cr."""
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


def _ramp(ground: int, ink: int) -> bytes:
    """256 values: the colour for each share of ink."""
    return np.round(np.linspace(ground, ink, 256)).astype(np.uint8).tobytes()


def _even(length: float) -> int:
    return 2 * int(-(-length // 2))
