import base64
import contextlib
import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.wire.masks import (
    decode_base64,
    decode_png,
    decode_rle,
    encode_png,
    encode_rle,
    resized,
    run_lengths,
)

MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@settings(deadline=None)
@given(MASKS)
def test_run_lengths_come_back_as_the_mask(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_rle(encode_rle(mask), *mask.shape), mask)
    np.testing.assert_array_equal(decode_rle(run_lengths(mask), *mask.shape), mask)


@settings(deadline=None)
@given(MASKS)
def test_run_lengths_of_pycocotools_are_read(mask: np.ndarray) -> None:
    from pycocotools import mask as coco

    counts = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    np.testing.assert_array_equal(decode_rle(counts, *mask.shape), mask)


def test_long_runs_of_a_large_mask_come_back() -> None:
    mask = np.zeros((1080, 1920), bool)
    mask[100:900, 300:1700] = True
    mask[500, 500] = False
    np.testing.assert_array_equal(decode_rle(encode_rle(mask), 1080, 1920), mask)


@pytest.mark.parametrize(
    "counts",
    [
        "",
        "0",
        "P",  # goes on and does not
        "\x00",
        "é",
        "~~~~",
        "ooooooooooooooooooo0",
        "d0L",  # 20 and -4: the sum is right
        [4, 4],
        [17],
        [-1, 17],
        [2**70],
        [2**63 - 1, 2**63 - 1, 18],  # sums up to 16, if it may overflow
        [8.0, 8.0],
        [True] * 16,
        ["16"],
        [None],
    ],
)
def test_what_are_no_run_lengths_of_this_mask_is_refused(counts: str | list[object]) -> None:
    with pytest.raises(ValueError, match=r"mask"):
        decode_rle(counts, 4, 4)


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=120)) | st.lists(st.integers() | st.floats()))
def test_any_run_lengths_are_a_mask_or_a_value_error(counts: str | list[object]) -> None:
    with contextlib.suppress(ValueError):
        assert decode_rle(counts, 3, 5).shape == (3, 5)


def test_a_mask_larger_than_any_picture_is_not_even_begun() -> None:
    with pytest.raises(ValueError, match="is not read"):
        decode_rle([10**12], 10**6, 10**6)


@pytest.mark.parametrize("top", [1, 255, 65535])
def test_a_class_map_comes_back_out_of_its_png(top: int) -> None:
    values = np.array([[0, 1, top], [top, 0, 1]], np.int32)
    np.testing.assert_array_equal(decode_png(encode_png(values)), values)


def test_a_png_of_palette_numbers_gives_the_numbers() -> None:
    from PIL import Image

    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 8, 8, 8])
    palette.putpixel((1, 0), 1)
    buffer = io.BytesIO()
    palette.save(buffer, format="PNG")
    assert decode_png(buffer.getvalue()).tolist() == [[0, 1]]


def test_a_coloured_png_is_no_mask() -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, format="PNG")
    with pytest.raises(ValueError, match="mode RGB"):
        decode_png(buffer.getvalue())


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 60))
def test_any_bytes_are_a_png_or_a_value_error(junk: bytes, cut: int) -> None:
    good = encode_png(np.zeros((3, 3), np.int32))
    for data in (junk, good[:cut] + junk, good[:cut] + junk + good[cut:]):
        with contextlib.suppress(ValueError):
            decode_png(data)


def test_a_png_that_says_it_is_huge_is_not_unpacked() -> None:
    data = bytearray(encode_png(np.zeros((2, 2), np.int32)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    with pytest.raises(ValueError, match="PNG"):
        decode_png(bytes(data))


def test_base64_may_have_a_prefix_and_line_breaks_and_nothing_else() -> None:
    text = base64.b64encode(b"penstock").decode()
    assert decode_base64(f"data:image/png;base64,{text[:4]}\n{text[4:]}", "it") == b"penstock"
    for bad in ("====", "a", "é", None, 5, "ab$c"):
        with pytest.raises(ValueError, match="it is no base64"):
            decode_base64(bad, "it")


def test_a_smaller_mask_is_stretched_over_the_picture() -> None:
    small = np.array([[True, False], [False, True]])
    assert resized(small, 4, 4).astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert resized(small, 2, 2) is small
    with pytest.raises(ValueError, match="cannot be made"):
        resized(np.zeros((0, 2), bool), 2, 2)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40))
def test_stretching_keeps_the_middle_where_it_is(height: int, width: int) -> None:
    mask = np.zeros((10, 10), bool)
    mask[:5] = True
    upper = resized(mask, height * 2, width)
    assert upper[:height].all()
    assert not upper[height:].any()
