"""Colours: one for each class that stays the same, and any colour in a picture's own matrix and range."""

import colorsys
from typing import NamedTuple

from pipeline.contracts.frame import ColorMatrix

Rgb = tuple[float, float, float]
"""Red, green and blue, 0..1."""

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


class YCbCr(NamedTuple):
    """One colour in the picture's own matrix and range, 0..255 each."""

    y: int
    cb: int
    cr: int


def class_color(class_id: int) -> Rgb:
    """The colour of a class, RGB, 0..1: the same in every picture of every run, neighbours far apart."""
    hue = (_FIRST_HUE + class_id * _GOLDEN_RATIO) % 1.0
    rgb = colorsys.hsv_to_rgb(hue, _SATURATION[class_id % len(_SATURATION)], _VALUE[class_id % len(_VALUE)])
    white = max(0.0, (_DARKEST - luma(rgb)) / (1 - luma(rgb)))  # pure blue is next to invisible in the dark
    return (rgb[0] + white * (1 - rgb[0]), rgb[1] + white * (1 - rgb[1]), rgb[2] + white * (1 - rgb[2]))


def hex_color(text: str) -> Rgb:
    """The colour of "#rrggbb"."""
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return (red / 255, green / 255, blue / 255)


def luma(rgb: Rgb) -> float:
    """How bright it looks, 0..1."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def to_ycbcr(rgb: Rgb, matrix: ColorMatrix, *, full_range: bool) -> YCbCr:
    """RGB, 0..1, as the picture's YCbCr. Formula: ITU-R BT.601, BT.709, BT.2020 (non-constant luminance)."""
    red, green, blue = rgb
    kr, kb = _KR_KB[matrix]
    bright = kr * red + (1 - kr - kb) * green + kb * blue
    cb = (blue - bright) / (2 * (1 - kb))
    cr = (red - bright) / (2 * (1 - kr))
    if full_range:
        return YCbCr(round(255 * bright), min(255, round(128 + 255 * cb)), min(255, round(128 + 255 * cr)))
    return YCbCr(round(16 + 219 * bright), round(128 + 224 * cb), round(128 + 224 * cr))
