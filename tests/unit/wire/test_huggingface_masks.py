import base64
import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pipeline.contracts.frame import Size
from pipeline.contracts.result import Detections, SemanticMask
from pipeline.wire.huggingface_answers import LabelTable
from pipeline.wire.huggingface_masks import decode_mask, decode_segmentation, encode_mask, encode_segmentation

SIZE = Size(24, 16)
NAMES = ("cat", "dog")


@st.composite
def segmented(draw: st.DrawFn) -> Detections:
    count = draw(st.integers(0, 4))
    masks = draw(arrays(np.bool_, (count, SIZE.height, SIZE.width)))
    masks[:, draw(st.integers(0, 15)), draw(st.integers(0, 23))] = True  # an object has at least a pixel
    scores = np.sort(np.array(draw(st.lists(st.floats(0, 1, width=16), min_size=count, max_size=count)), np.float32))
    ids = np.array(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)), np.int32)
    return Detections(np.zeros((count, 4), np.float32), scores[::-1].copy(), ids, NAMES, masks)


@settings(deadline=None)
@given(segmented())
def test_masks_survive_the_wire(found: Detections) -> None:
    document = json.loads(json.dumps(encode_segmentation(found)))
    read = decode_segmentation(document, SIZE, LabelTable(NAMES))
    assert isinstance(read, Detections)
    assert read.masks is not None
    assert found.masks is not None
    assert np.array_equal(read.masks, found.masks)
    assert np.array_equal(read.class_id, found.class_id)
    assert np.allclose(read.confidence, found.confidence, atol=1e-6)


@settings(deadline=None)
@given(arrays(np.int32, (SIZE.height, SIZE.width), elements=st.integers(0, 2)))
def test_a_class_map_survives_the_wire(class_map: np.ndarray[Any, np.dtype[np.int32]]) -> None:
    names = ("background", "road", "sky")
    document = json.loads(json.dumps(encode_segmentation(SemanticMask(class_map, names))))
    read = decode_segmentation(document, SIZE, LabelTable(names))
    assert isinstance(read, SemanticMask)
    assert np.array_equal(read.class_map, class_map)
    assert read.names == names


def png(pixels: Any, mode: str | None = None) -> str:
    picture = Image.fromarray(np.asarray(pixels, np.uint8))
    buffer = io.BytesIO()
    (picture if mode is None else picture.convert(mode)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def square(left: int, top: int, right: int, bottom: int) -> Any:
    pixels = np.zeros((SIZE.height, SIZE.width), np.uint8)
    pixels[top:bottom, left:right] = 255
    return pixels


def test_the_box_is_drawn_around_the_mask() -> None:
    document = [{"score": 0.5, "label": "cat", "mask": png(square(3, 4, 10, 9))}]
    read = decode_segmentation(document, SIZE, LabelTable())
    assert isinstance(read, Detections)
    assert read.xyxy.tolist() == [[3, 4, 10, 9]]


def test_a_mask_without_a_pixel_is_no_object() -> None:
    document = [
        {"score": 0.9, "label": "cat", "mask": png(square(0, 0, 0, 0))},
        {"score": 0.5, "label": "dog", "mask": png(square(0, 0, 2, 2))},
    ]
    read = decode_segmentation(document, SIZE, LabelTable())
    assert isinstance(read, Detections)
    assert [read.label(index) for index in range(len(read))] == ["dog"]


def test_masks_without_scores_are_a_class_for_each_pixel_and_the_rest_is_background() -> None:
    document = [
        {"score": None, "label": "road", "mask": png(square(0, 8, 24, 16))},
        {"label": "car", "mask": png(square(4, 10, 8, 14))},
    ]
    read = decode_segmentation(document, SIZE, LabelTable())
    assert isinstance(read, SemanticMask)
    assert read.names == ("background", "road", "car")
    assert [read.class_map[y, x] for y, x in ((0, 0), (9, 0), (12, 5))] == [0, 1, 2]


def test_what_a_segmentation_must_be_is_not_up_to_the_answer() -> None:
    mask = png(square(0, 0, 2, 2))
    with pytest.raises(ValueError, match="'score'"):
        decode_segmentation([{"label": "a", "mask": mask}], SIZE, LabelTable(), "objects")
    scored = [{"label": "a", "mask": mask, "score": 1.0}]
    assert isinstance(decode_segmentation(scored, SIZE, LabelTable(), "semantic"), SemanticMask)
    assert isinstance(decode_segmentation([], SIZE, LabelTable(), "semantic"), SemanticMask)
    assert isinstance(decode_segmentation([], SIZE, LabelTable()), Detections)
    with pytest.raises(ValueError, match="'score'"):  # some have one, some do not
        decode_segmentation([*scored, {"label": "b", "mask": mask}], SIZE, LabelTable())


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_a_mask_is_read_in_every_mode_of_png(mode: str) -> None:
    assert np.array_equal(decode_mask(png(square(3, 4, 10, 9), mode), SIZE), square(3, 4, 10, 9) > 0)


def test_a_mask_is_a_grey_png_of_the_whole_picture() -> None:
    with Image.open(io.BytesIO(base64.b64decode(encode_mask(square(3, 4, 10, 9) > 0)))) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "L", SIZE)
        assert np.array_equal(np.asarray(picture), square(3, 4, 10, 9))


def bomb(width: int, height: int) -> str:
    """A PNG that says it is huge, and would be."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    content = zlib.compress(bytes(1000))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", content) + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


GOOD = png(square(3, 4, 10, 9))


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (None, "base64"),
        (5, "base64"),
        ("!", "base64"),
        ("\u00e9", "base64"),
        ("", "no PNG"),
        (base64.b64encode(b"\xff\xd8\xff" + bytes(100)).decode(), "no PNG"),
        (png(np.zeros((16, 25))), "25x16, and the picture 24x16"),
        (bomb(50_000, 50_000), "50000x50000"),
        (bomb(2**31 - 1, 2**31 - 1), "2147483647x"),
        (bomb(24, 16), ""),  # it is as large as it should be after all
        (base64.b64encode(base64.b64decode(GOOD)[:40]).decode(), "broken"),
        (base64.b64encode(base64.b64decode(GOOD)[:33] + bytes(200)).decode(), "broken"),
    ],
)
def test_a_mask_that_makes_no_sense_is_an_error(mask: object, said: str) -> None:
    if not said:  # what is there fits
        assert decode_mask(mask, SIZE).shape == (16, 24)
        return
    with pytest.raises(ValueError, match=said):
        decode_mask(mask, SIZE)


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_no_mask_does_more_than_make_no_sense(tail: bytes) -> None:
    data = base64.b64decode(GOOD)[:33] + tail
    try:
        decode_mask(base64.b64encode(data).decode(), SIZE)
    except ValueError as error:
        said = str(error)
        assert said == "a mask is a broken PNG"


def test_more_masks_than_fit_into_memory_are_refused_before_any_is_unpacked() -> None:
    document = [{"score": 0.5, "label": "cat", "mask": "never read"}] * 200
    with pytest.raises(ValueError, match="200 masks of 3840x2160"):
        decode_segmentation(document, Size(3840, 2160), LabelTable())


def test_objects_without_masks_are_no_segmentation() -> None:
    found = Detections(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int32), NAMES)
    with pytest.raises(ValueError, match="no masks"):
        encode_segmentation(found)
    empty = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), NAMES)
    assert encode_segmentation(empty) == []
