"""One picture file: its size is known before it is decoded, and all kinds of pixels come out right."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO

import av
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.models.picture import RotationDeg, VideoPicture, from_rgb

_HEADER_BYTES = 32

# By content, not by name. The classes themselves, since `Image.open` brings a size limit of its own that warns and is
# one for the whole process, and formats that nobody asked for.
_READERS: tuple[tuple[bytes, Callable[[IO[bytes]], ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"RIFF", WebPImageFile),
    (b"BM", BmpImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),
    (b"MM\0+", TiffImageFile),
)

_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"
_MAX_JPEG_SCANS = 100
"""A progressive JPEG has about ten; each costs a pass over all pixels, and a few bytes are enough for one."""

_WHITE = (255, 255, 255)

# EXIF orientations without a mirror, as degrees clockwise.
_ROTATION_OF: dict[object, RotationDeg] = {None: 0, 1: 0, 3: 180, 6: 90, 8: 270}

OnSize = Callable[[int, int], None]
"""Told width and height once they are known and before anything is decoded; what it raises goes up as it is."""


class BrokenPictureError(Exception):
    """A file that gives no picture; the message is one line without the path."""


class TooLargeError(BrokenPictureError):
    """It has more pixels than it may have."""


def read_picture(path: str, max_pixels: int) -> VideoPicture:
    """The picture in a file; as `decode_picture`.

    Args:
        path: the file.
        max_pixels: a picture with more is refused before anything is decoded.

    Raises:
        BrokenPictureError: there is no such picture in the file, or only part of one.
    """
    try:
        with Path(path).open("rb") as file:
            return _read(file, max_pixels, None)
    except OSError as error:
        raise BrokenPictureError(error.strerror or _one_line(error)) from error


def decode_picture(data: bytes, max_pixels: int, on_size: OnSize | None = None) -> VideoPicture:
    """The picture in the bytes of a JPEG, PNG, WebP, BMP or TIFF file, upright by its EXIF orientation.

    16-bit values are scaled down to 8 bits, float ones (0..1) up; transparent pixels are laid over white; of several
    pages or animation frames the first one is read.

    Args:
        data: the whole file.
        max_pixels: a picture with more is refused before anything is decoded.
        on_size: told the size; may refuse by an exception of its own.

    Raises:
        TooLargeError: it has more than `max_pixels`.
        BrokenPictureError: there is no such picture in it, or only part of one.
    """
    return _read(io.BytesIO(data), max_pixels, on_size)


def _read(file: IO[bytes], max_pixels: int, on_size: OnSize | None) -> VideoPicture:
    try:
        image = _open(file, max_pixels)
    except BrokenPictureError:
        raise
    except Exception as error:
        raise _broken(error) from error
    if on_size is not None:
        on_size(*image.size)
    try:
        with image:
            picture = _jpeg(file, image, max_pixels) if isinstance(image, JpegImageFile) else None
            return picture or from_rgb(_upright_rgb(image))
    except BrokenPictureError:
        raise
    except Exception as error:
        raise _broken(error) from error


def _broken(error: Exception) -> BrokenPictureError:
    """The readers raise whatever comes up on damaged files: it is the picture that is broken."""
    strerror = error.strerror if isinstance(error, OSError) else None
    return BrokenPictureError(strerror or _one_line(error))


def _open(file: IO[bytes], max_pixels: int) -> ImageFile:
    header = file.read(_HEADER_BYTES)
    file.seek(0)
    if not header:
        raise BrokenPictureError("the file is empty")
    reader = next((reader for magic, reader in _READERS if header.startswith(magic)), None)
    if reader is None or (reader is WebPImageFile and header[8:12] != b"WEBP"):
        raise BrokenPictureError("this is not a JPEG, PNG, WebP, BMP or TIFF picture")
    if reader is WebPImageFile:  # whose reader asks for the memory as soon as it is made
        _refuse_if_larger(_webp_size(header), max_pixels)
    image = reader(file)
    _refuse_if_larger(image.size, max_pixels)
    return image


def _refuse_if_larger(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooLargeError(f"{width} x {height} pixels are more than max_pixels = {max_pixels}")


def _webp_size(header: bytes) -> tuple[int, int]:
    """Width and height from the first chunk (RFC 9649, sections 2.5 to 2.7)."""
    match header[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(header[24:27], "little"), 1 + int.from_bytes(header[27:30], "little")
        case b"VP8L":
            bits = int.from_bytes(header[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            width, height = struct.unpack("<HH", header[26:30])
            return width & 0x3FFF, height & 0x3FFF
        case _:
            raise BrokenPictureError("the WebP header is damaged")


def _jpeg(file: IO[bytes], image: JpegImageFile, max_pixels: int) -> VideoPicture | None:
    """An ordinary JPEG as the YCbCr planes that are in it, by FFmpeg's decoder: in a third of Pillow's time (1080p:
    13 against 44 ms), and half of its memory. None where Pillow must do it, or must say what is wrong.
    """
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    at = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(at)  # Pillow goes on from where it was
    if data.count(_JPEG_SCAN) > _MAX_JPEG_SCANS:
        raise BrokenPictureError(f"the JPEG has more than {_MAX_JPEG_SCANS} scans")
    if image.mode not in {"RGB", "L"} or orientation not in _ROTATION_OF:
        return None
    if data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN):  # the decoder would make up the missing end
        return None
    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.options = {"err_detect": "explode", "max_pixels": str(max_pixels)}  # no patching up of damaged pictures
    try:
        frames = decoder.decode(av.Packet(data)) or decoder.decode(None)
    except av.FFmpegError:
        return None
    if len(frames) != 1 or (frames[0].width, frames[0].height) != image.size:
        return None
    return VideoPicture(frames[0], _ROTATION_OF[orientation])


def _upright_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    image.load()
    image = ImageOps.exif_transpose(image)
    mode = image.mode
    if mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return _repeated((grey * 255 + 32_767) // 65_535)
    if mode == "F":
        return _repeated(np.nan_to_num(np.asarray(image)).clip(0.0, 1.0) * 255 + 0.5)
    if mode == "I":
        raise BrokenPictureError("pixels of 32-bit integers have no agreed range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGB", image.size, _WHITE)
        image.paste(layer, mask=layer.getchannel("A"))
    return np.asarray(image.convert("RGB"))


def _repeated(grey: npt.NDArray[np.uint32] | npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.repeat(grey.astype(np.uint8)[:, :, np.newaxis], 3, axis=2)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
