"""The test pattern of the source `synthetic`: what is drawn where, and how it is read back from any picture of it.

From top to bottom: a strip of 16 cells that tell the frame's number, the highest bit at the left, white for 1 and
black for 0; under it eight colour bars, with a white block that goes one step further with each frame. All of it is
large and sharp enough to be found again after lossy compression and after a change of size.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

NUMBER_BITS = 16
NUMBER_LIMIT = 1 << NUMBER_BITS
"""Frame numbers are told up to here, less one; then they begin again at 0."""

SMALLEST_SIDE_PX = 16
BLACK, WHITE = 16, 235  # luma of limited range

# ITU-R BT.601, limited range: 75 % bars, whose grey is dark enough not to be taken for the block.
BARS_YUV = (
    *((180, 128, 128), (162, 44, 142), (131, 156, 44), (112, 72, 58)),
    *((84, 184, 198), (65, 100, 212), (35, 212, 114), (16, 128, 128)),
)

_STEPS = 64  # positions of the block in one row, before it comes back at the left
_BLOCK_THRESHOLD = 215  # in RGB: the block has 255, the grey bar 191

Luma = npt.NDArray[np.uint8]


class Box(NamedTuple):
    """A rectangle in pixels; `right` and `bottom` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


def strip_px(height: int) -> int:
    """How high the strip with the number is: an even number, a twelfth of the picture."""
    return max(2, height // 24 * 2)


def block_at(number: int, width: int, height: int) -> Box:
    """Where the white block is in the frame of that number."""
    side_x, side_y = max(2, width // 8), max(2, height // 6)
    left = number % _STEPS * (width - side_x) // (_STEPS - 1)
    top = strip_px(height) + (height - strip_px(height) - side_y) // 2
    return Box(left, top, left + side_x, top + side_y)


def draw_number(luma: Luma, number: int) -> None:
    """Write the strip into `luma`, uint8 (H, W)."""
    height, width = luma.shape
    bits = np.arange(NUMBER_BITS - 1, -1, -1)
    cells = np.where(number % NUMBER_LIMIT >> bits & 1, WHITE, BLACK).astype(np.uint8)
    luma[: strip_px(height)] = cells[(2 * np.arange(width) + 1) * NUMBER_BITS // (2 * width)]


def read_frame_number(rgb: npt.NDArray[np.uint8]) -> int:
    """The number of the frame that a picture, uint8 (H, W, 3), RGB, shows; modulo `NUMBER_LIMIT`.

    Only the middle of each cell is looked at, so that the blur of a codec or a change of size does no harm.
    """
    height, width = rgb.shape[:2]
    strip = rgb[strip_px(height) // 4 : max(1, strip_px(height) * 3 // 4)].mean(axis=(0, 2))
    number, reach = 0, width // (5 * NUMBER_BITS)
    for cell in range(NUMBER_BITS):
        middle = (2 * cell + 1) * width // (2 * NUMBER_BITS)
        number = number << 1 | int(strip[middle - reach : middle + reach + 1].mean() > 127)
    return number


def read_block(rgb: npt.NDArray[np.uint8]) -> Box | None:
    """Where the white block is in a picture, uint8 (H, W, 3), RGB; None where there is none."""
    top = strip_px(rgb.shape[0]) + 2  # the strip's lower edge may be blurred
    y, x = np.nonzero((rgb[top:] > _BLOCK_THRESHOLD).all(axis=2))
    if not len(y):
        return None
    return Box(int(x.min()), top + int(y.min()), int(x.max()) + 1, top + int(y.max()) + 1)
