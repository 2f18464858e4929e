import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import Rgb, bars, corners, read
from PIL import ExifTags, Image
from pydantic import ValidationError

from pipeline.contracts.errors import ConfigError, FatalError, SourceErrorCode
from pipeline.contracts.frame import Size
from pipeline.testing import MovableClock, PluginContext
from sources.directory import DirectorySource, DirectorySourceConfig


def source(path: Path, context: PluginContext | None = None, **keys: object) -> DirectorySource:
    config = DirectorySourceConfig.model_validate({"type": "directory", "path": str(path), **keys})
    return config.build(context or PluginContext())


def picture(path: Path, grey: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (grey,) * 3).save(path)


def names(folder: Path, **keys: object) -> list[str]:
    frames, _ = read(source(folder, None, **keys))
    return [str(Path(frame.path or "").relative_to(folder)) for frame in frames]


@pytest.mark.parametrize("extension", ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff"])
@pytest.mark.parametrize("size", [(64, 48), (65, 49)])
def test_every_kind_of_file_keeps_its_size_and_colours(tmp_path: Path, extension: str, size: tuple[int, int]) -> None:
    Image.fromarray(bars(*size)).save(tmp_path / f"a.{extension}", quality=95)
    (frame,), failures = read(source(tmp_path))
    assert failures == []
    assert frame.picture.size == Size(*size)
    assert frame.picture.rgb().shape == (size[1], size[0], 3)
    assert np.abs(np.subtract(corners(frame.picture.rgb()), corners(bars()))).max() <= 6
    assert frame.path == str(tmp_path / f"a.{extension}")


@pytest.mark.parametrize("option", ["subsampling", "progressive", "keep_rgb", "optimize"])
def test_every_kind_of_jpeg_is_what_pillow_says_it_is(tmp_path: Path, option: str) -> None:
    options: dict[str, Any] = {option: 0 if option == "subsampling" else True}
    Image.fromarray(bars(97, 65)).save(tmp_path / "a.jpg", quality=95, **options)
    (frame,), _ = read(source(tmp_path))
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.abs(np.subtract(corners(frame.picture.rgb()), corners(expected))).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif"])
def test_pictures_are_upright_and_unmirrored_by_their_exif_orientation(
    tmp_path: Path, extension: str, orientation: int
) -> None:
    a = bars()
    turned: dict[int, Rgb] = {
        1: a,
        2: a[:, ::-1],
        3: np.rot90(a, 2),
        4: a[::-1],
        5: a.transpose(1, 0, 2),
        6: np.rot90(a, -1),
        7: np.rot90(a, 2).transpose(1, 0, 2),
        8: np.rot90(a, 1),
    }
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(bars()).save(tmp_path / f"a.{extension}", exif=exif, quality=95)
    (frame,), _ = read(source(tmp_path))
    expected = turned[orientation]
    assert frame.picture.rgb().shape == expected.shape
    assert np.abs(np.subtract(corners(frame.picture.rgb()), corners(expected))).max() <= 6


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, extension: str) -> None:
    values = np.array([[0, 128, 257 * 50, 257 * 128, 65_535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{extension}")
    (frame,), _ = read(source(tmp_path))
    assert frame.picture.rgb()[0, :, 0].tolist() == [0, 0, 50, 128, 255]


def test_16_bit_colours_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    rows = b"\0" + struct.pack(">6H", 257 * 200, 257 * 30, 65_535, 0, 257 * 128, 257 * 7)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks:
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    (tmp_path / "a.png").write_bytes(data)
    (frame,), _ = read(source(tmp_path))
    assert frame.picture.rgb().tolist() == [[[200, 30, 255], [0, 128, 7]]]


def test_float_pictures_count_from_0_to_1_and_32_bit_integers_have_no_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-1.0, 0.0, 0.5, 1.0, 7.0, np.nan]], np.float32)).save(tmp_path / "a.tif")
    Image.fromarray(np.array([[5]], np.int32)).save(tmp_path / "b.tif")
    (frame,), (failure,) = read(source(tmp_path))
    assert frame.picture.rgb()[0, :, 0].tolist() == [0, 0, 128, 255, 255, 0]
    assert "b.tif: pixels of 32-bit integers" in failure.detail


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 90, (90, 90, 90)),
        ("1", 1, (255, 255, 255)),
        ("LA", (90, 255), (90, 90, 90)),
        ("LA", (90, 0), (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
    ],
)
def test_grey_alpha_and_cmyk_become_rgb(
    tmp_path: Path, mode: str, value: int | tuple[int, ...], expected: tuple[int, int, int]
) -> None:
    Image.new(mode, (9, 7), value).save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    (frame,), _ = read(source(tmp_path))
    assert frame.picture.rgb()[3, 4].tolist() == pytest.approx(expected, abs=1)


def test_a_cmyk_jpeg_is_no_negative(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    (frame,), _ = read(source(tmp_path))
    assert frame.picture.rgb()[8, 8].tolist() == pytest.approx([254, 0, 0], abs=3)


def test_a_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 30, 40, 50])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=1)
    (frame,), _ = read(source(tmp_path))
    assert frame.picture.rgb().tolist() == [[[200, 10, 20], [255, 255, 255]]]


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    frames, failures = read(source(tmp_path))
    assert (len(frames), failures) == (1, [])


def test_natural_order_recursion_extensions_and_hidden_files(tmp_path: Path) -> None:
    for name in ("p10.png", "p9.png", "P1.PNG", "a/p2.png", "a/.p3.png", ".b/p1.png", "c.bmp", "._p1.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    assert names(tmp_path) == ["c.bmp", "P1.PNG", "p9.png", "p10.png"]
    assert names(tmp_path, recursive=True) == ["a/p2.png", "c.bmp", "P1.PNG", "p9.png", "p10.png"]
    assert names(tmp_path, extensions=["PNG"]) == ["P1.PNG", "p9.png", "p10.png"]
    assert names(tmp_path, extensions=[".bmp"]) == ["c.bmp"]


def test_broken_pictures_are_failures_that_name_their_file(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole, "JPEG")
    for name, data in {
        "cut.jpg": whole.getvalue()[:2000],
        "empty.png": b"",
        "text.png": b"hello world" * 10,
        "riff.webp": b"RIFF\0\0\0\0WAVEfmt " + bytes(40),
        "head.png": b"\x89PNG\r\n\x1a\n" + bytes(40),
        "head.bmp": b"BM" + bytes(5),
        "head.tif": b"II*\0" + b"\xff" * 40,
    }.items():
        (tmp_path / name).write_bytes(data)
    picture(tmp_path / "good.png")
    picture(tmp_path / "zgood.jpg")
    plugin = source(tmp_path)
    frames, failures = read(plugin)
    assert [Path(frame.path or "").name for frame in frames] == ["good.png", "zgood.jpg"]
    assert [frame.seq for frame in frames] == [0, 1]
    blamed = [Path(failure.detail.split(": ")[0]).name for failure in failures]
    assert blamed == ["cut.jpg", "empty.png", "head.bmp", "head.png", "head.tif", "riff.webp", "text.png"]
    assert not any("\n" in failure.detail for failure in failures)
    assert plugin.expected_frames == 9


def test_a_truncated_jpeg_is_never_half_a_picture(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    for percent in range(5, 100, 5):
        (tmp_path / f"cut_{percent}.jpg").write_bytes(data[: len(data) * percent // 100])
    (tmp_path / "cut_100.jpg").write_bytes(data[:-1])
    frames, failures = read(source(tmp_path))
    assert [Path(frame.path or "").name for frame in frames] == ["whole.jpg"]
    assert len(failures) == 20


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "bmp", "tif"])
@pytest.mark.parametrize("lossless", [True, False])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, extension: str, lossless: bool
) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / f"large.{extension}", lossless=lossless)
    picture(tmp_path / f"small.{extension}")
    # Only the header is there: whoever decodes first says something else.
    data = (tmp_path / f"large.{extension}").read_bytes()
    if extension != "tif":  # whose header may lie at the end
        header_bytes = data.index(b"\xff\xda") + 14 if extension == "jpg" else 54
        (tmp_path / f"large.{extension}").write_bytes(data[:header_bytes])
    frames, failures = read(source(tmp_path, max_pixels=19_999))
    assert len(frames) == 1
    assert ["200 x 100 pixels are more than max_pixels = 19999" in failure.detail for failure in failures] == [True]


def test_a_bomb_is_refused_without_noise(tmp_path: Path) -> None:
    # 20,000 x 20,000 pixels, more than twice the limit at which Pillow itself warns and then raises.
    body = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 4) + b"IDAT" + bytes(8))
    picture(tmp_path / "good.png")
    _, (failure,) = read(source(tmp_path))
    assert failure.detail == f"{tmp_path}/bomb.png: 20000 x 20000 pixels are more than max_pixels = 100000000"


def test_links_out_of_the_folder_are_followed_only_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    picture(tmp_path / "outside" / "a.png")
    picture(folder / "b.png")
    (folder / "link_in.png").symlink_to(folder / "b.png")
    (folder / "link_out.png").symlink_to(tmp_path / "outside" / "a.png")
    (folder / "sub").symlink_to(tmp_path / "outside")
    (folder / "dead.png").symlink_to(tmp_path / "nothing.png")
    frames, failures = read(source(folder, recursive=True))
    assert [Path(frame.path or "").name for frame in frames] == ["b.png", "link_in.png"]
    assert ["link_out.png" in failure.detail for failure in failures] == [True]
    assert names(folder, recursive=True, follow_links=True) == ["b.png", "link_in.png", "link_out.png"]


def test_a_pipe_among_the_pictures_blocks_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    assert names(tmp_path) == ["b.png"]


def test_time_stamps_come_from_fps_or_not_at_all(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    picture(tmp_path / "c.png")
    clock = MovableClock(wall=100.0)
    frames, _ = read(source(tmp_path, PluginContext(clock=clock), fps=2))
    assert [(f.pts_s, f.captured_at, f.duration_s, f.time_source) for f in frames] == [
        (0.0, 100.0, 0.5, "pts"),
        (1.0, 101.0, 0.5, "pts"),
    ]
    frames, _ = read(source(tmp_path, PluginContext(clock=clock)))
    assert [(f.pts_s, f.captured_at, f.duration_s, f.time_source) for f in frames] == [
        (None, 100.0, None, "arrival")
    ] * 2


def test_nothing_to_read_fails_the_source(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="no pictures") as caught:
        read(source(tmp_path))
    assert caught.value.code is SourceErrorCode.NOT_FOUND
    (tmp_path / "a.png").write_bytes(b"junk")
    with pytest.raises(FatalError, match="none of the pictures") as caught:
        read(source(tmp_path))
    assert caught.value.code is SourceErrorCode.CORRUPT
    with pytest.raises(FatalError, match="no such file") as caught:
        read(source(tmp_path / "nowhere"))
    assert caught.value.code is SourceErrorCode.NOT_FOUND


def test_pictures_that_are_named_are_read_in_that_order_and_patterns_in_natural_order(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "b/1.png", "a.png", "c/3.png"):
        picture(tmp_path / name)
    config = DirectorySourceConfig.model_validate(
        {"type": "directory", "path": [str(tmp_path / name) for name in ("c", "b/*.png", "a.png", "gone.png")]}
    )
    frames, failures = read(config.build(PluginContext()))
    names = [str(Path(frame.path or "").relative_to(tmp_path)) for frame in frames]
    assert names == ["c/3.png", "b/1.png", "b/2.png", "b/10.png", "a.png"]
    assert len(failures) == 1
    assert "gone.png" in failures[0].detail


def test_check_wants_what_is_there(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "a.png")

    def config(path: Path) -> DirectorySourceConfig:
        return DirectorySourceConfig(type="directory", path=path)

    config(tmp_path / "photos").check()
    assert config(tmp_path / "photos").reads() == [tmp_path / "photos"]
    with pytest.raises(ConfigError, match="did you mean photos") as caught:
        config(tmp_path / "photo").check()
    assert caught.value.key == "path"
    config(tmp_path / "photos" / "a.png").check()
    with pytest.raises(ValidationError):
        DirectorySourceConfig.model_validate({"type": "directory", "path": str(tmp_path), "extensions": ["*.png"]})


def test_real_pictures(shared_data: Path) -> None:
    frames, failures = read(source(shared_data / "images"))
    assert failures == []
    assert [Path(frame.path or "").name for frame in frames] == [
        "astronaut.png",
        "bus.jpg",
        "chelsea.png",
        "coffee.png",
        "zidane.jpg",
    ]
    assert frames[1].picture.size == Size(810, 1080)
