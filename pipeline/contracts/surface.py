"""`Surface`: a decoded picture that lies in a GPU's memory, and `OnDevice`, a picture that has one."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from pipeline.contracts.frame import ColorMatrix, Size

SurfaceFormat = Literal["nv12", "p010"]
"""How the planes lie: luma, then U and V interleaved at half the size; 8 bits a value, or the upper 10 of 16."""


class DevicePlane(NamedTuple):
    """One plane in a device's memory.

    Attributes:
        address: of its first byte, a device pointer.
        pitch_bytes: from one row to the next.
        rows: of the plane.
    """

    address: int
    pitch_bytes: int
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """The planes of one decoded picture on a CUDA device, as the decoder gave them, not turned upright.

    Attributes:
        device: the CUDA device's number.
        format: how the planes lie.
        size: of the picture, pixels; the planes' pitch is larger.
        luma: the first plane.
        chroma: the second plane: U and V in turns, (ceil(H / 2), ceil(W / 2), 2).
        matrix: which YCbCr matrix the values are in.
        full_range: True for 0..255 ("PC", JPEG), False for 16..235 ("TV").
        rotation_deg: by how much it must be turned clockwise to be upright.
        holder: what keeps the memory: as long as it lives, the decoder writes nothing else there. Whoever reads the
            planes holds on to it until the device has finished reading.
    """

    device: int
    format: SurfaceFormat
    size: Size
    luma: DevicePlane
    chroma: DevicePlane
    matrix: ColorMatrix
    full_range: bool
    rotation_deg: Literal[0, 90, 180, 270]
    holder: object


@runtime_checkable
class OnDevice(Protocol):
    """A `Picture` whose pixels lie in a GPU's memory: a model on the same device reads them there. What the other
    methods of `Picture` give is copied to the host first, once, at the size that was asked for."""

    @property
    def surface(self) -> Surface:
        """The planes; valid as long as the surface's `holder` lives."""
        ...
