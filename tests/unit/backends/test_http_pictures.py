"""Pictures on their way out and boxes on their way back: right in size, colour and place."""

import io
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.backends._http_pictures import encode, nearest, scaled_back, sent_size
from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.result import Classification, Detections, Embedding, SemanticMask, Text
from pipeline.models.picture import VideoPicture, from_rgb
from pipeline.testing import frame

sizes = st.builds(Size, st.integers(1, 5000), st.integers(1, 5000))


def picture_frame(picture: VideoPicture) -> Frame:
    return Frame("cam", 0, 0.0, 0.0, "pts", picture, 0.0)


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_what_is_sent_is_a_jpeg_or_a_png_of_the_right_size() -> None:
    jpeg = encode(frame(width=1280, height=720), 640, "jpeg", 85)
    assert (jpeg.size, jpeg.media_type) == (Size(640, 360), "image/jpeg")
    opened = Image.open(io.BytesIO(jpeg.data))
    assert (opened.format, opened.size) == ("JPEG", (640, 360))
    png = encode(frame(width=128, height=72), 640, "png", 85)
    opened = Image.open(io.BytesIO(png.data))
    assert (opened.format, opened.size, png.media_type) == ("PNG", (128, 72), "image/png")


def test_quality_costs_bytes() -> None:
    noise = picture_frame(from_rgb(np.random.default_rng(1).integers(0, 255, (200, 300, 3), np.uint8)))
    small, middle, large = (len(encode(noise, None, "jpeg", quality).data) for quality in (20, 85, 98))
    assert small < middle < large


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("file_format", ["jpeg", "png"])
@pytest.mark.parametrize(
    ("matrix", "colour_range"),
    [(Colorspace.ITU709, ColorRange.MPEG), (Colorspace.ITU601, ColorRange.MPEG), (Colorspace.ITU709, ColorRange.JPEG)],
)
def test_colours_survive_whatever_the_camera_means_by_yuv(
    matrix: Colorspace, colour_range: ColorRange, file_format: str, rotation: int
) -> None:
    """A JPEG's YCbCr is BT.601 of full range (JFIF 1.02); cameras send BT.709 of limited range."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (120, 60, 200)]
    rgb = np.repeat(np.repeat(np.array([colours], np.uint8), 64, axis=0), 32, axis=1)
    yuv = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
        format="yuv420p",
        dst_colorspace=matrix,
        dst_color_range=colour_range,
        src_color_range=ColorRange.JPEG,
    )
    yuv.colorspace, yuv.color_range = matrix, colour_range
    yuv.time_base = Fraction(1, 25)
    sent = encode(picture_frame(VideoPicture(yuv, rotation)), 96, file_format, 95)  # type: ignore[arg-type]
    found = np.rot90(decoded(sent.data), rotation // 90)
    assert found.shape[:2] == (32, 96)
    for index, colour in enumerate(colours):
        seen = found[8:24, 16 * index + 6 : 16 * index + 10].mean(axis=(0, 1))
        assert seen == pytest.approx(colour, abs=9), (index, seen)


@given(sizes, st.integers(16, 4000))
def test_the_longest_side_is_kept_to_and_nothing_is_enlarged(size: Size, longest: int) -> None:
    sent = sent_size(size, longest)
    assert max(sent) <= max(longest, 1)
    assert min(sent) >= 1
    assert sent.width <= size.width
    assert sent.height <= size.height
    if max(size) > longest:
        assert max(sent) == longest
    assert sent_size(size, None) == size


@given(
    sizes,
    st.integers(16, 2000),
    st.lists(
        st.tuples(*[st.floats(0, 1)] * 4, st.floats(0, 1), st.integers(0, 90)).filter(
            lambda row: abs(row[0] - row[2]) > 0.01 and abs(row[1] - row[3]) > 0.01
        ),
        max_size=8,
    ),
)
def test_a_box_of_a_smaller_picture_is_scaled_back(
    size: Size, longest: int, rows: list[tuple[float, float, float, float, float, int]]
) -> None:
    sent = sent_size(size, longest)
    ratios = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d, _, _ in rows]).reshape(-1, 4)
    confidence = np.array([row[4] for row in rows], np.float32)
    found = Detections(
        xyxy=(ratios * (*sent, *sent)).astype(np.float32),
        confidence=confidence,
        class_id=np.array([row[5] for row in rows], np.int32),
    )
    back = scaled_back(found, sent, size)
    assert isinstance(back, Detections)
    order = np.argsort(-confidence, kind="stable")
    assert back.xyxy == pytest.approx((ratios * (*size, *size))[order], abs=max(size) * 1e-5)
    assert (back.class_id == found.class_id[order]).all()
    assert (back.xyxy <= np.array([*size, *size], np.float32)).all()
    assert [str(a.dtype) for a in (back.xyxy, back.confidence, back.class_id)] == ["float32", "float32", "int32"]


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(16, 60), st.integers(40, 200), st.integers(40, 200), st.integers(0, 1 << 30))
def test_masks_keypoints_and_class_maps_follow_the_boxes(
    count: int, longest: int, width: int, height: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    size = Size(width, height)
    sent = sent_size(size, longest)
    left, top = rng.uniform(0, sent.width / 2, count), rng.uniform(0, sent.height / 2, count)
    boxes = np.stack([left, top, left + sent.width / 3, top + sent.height / 3], axis=1).astype(np.float32)
    columns, rows = np.arange(sent.width) + 0.5, np.arange(sent.height) + 0.5
    masks = np.array(
        [((rows > t) & (rows < b))[:, None] & ((columns > x) & (columns < r))[None] for x, t, r, b in boxes]
    )
    confidence = rng.uniform(0, 1, count).astype(np.float32)
    points = np.stack([boxes[:, :2], boxes[:, 2:]], axis=1)
    keypoints = np.concatenate([points, np.ones((count, 2, 1))], axis=2).astype(np.float32)
    found = Detections(boxes, confidence, np.zeros(count, np.int32), masks=masks, keypoints=keypoints)
    back = scaled_back(found, sent, size)
    assert isinstance(back, Detections)
    assert back.masks is not None
    assert back.keypoints is not None
    assert back.masks.shape == (count, height, width)
    assert back.keypoints[:, 0, :2] == pytest.approx(back.xyxy[:, :2], abs=0.01)
    assert back.keypoints[:, 1, :2] == pytest.approx(back.xyxy[:, 2:], abs=0.01)
    step = max(width / sent.width, height / sent.height)
    for mask, box in zip(back.masks, back.xyxy, strict=True):
        where = np.argwhere(mask)
        edges = [*where.min(axis=0)[::-1], *(where.max(axis=0)[::-1] + 1)]
        assert edges == pytest.approx(box, abs=step + 1)
    class_map = rng.integers(0, 5, (sent.height, sent.width)).astype(np.int32)
    semantic = scaled_back(SemanticMask(class_map, confidence=class_map.astype(np.uint8)), sent, size)
    assert isinstance(semantic, SemanticMask)
    assert semantic.confidence is not None
    assert (nearest(semantic.class_map, sent) == class_map).all()
    assert (semantic.class_map == semantic.confidence).all()


def boxes_of(*rows: tuple[float, ...], confidence: float = 0.5, class_id: int = 0) -> Detections:
    return Detections(
        np.array(rows, np.float32).reshape(-1, 4),
        np.full(len(rows), confidence, np.float32),
        np.full(len(rows), class_id, np.int32),
    )


SENT = Size(100, 80)


@pytest.mark.parametrize(
    "wrong",
    [
        boxes_of((1, 2, float("nan"), 4)),
        boxes_of((1, 2, float("inf"), 4)),
        boxes_of((5, 2, 3, 4)),
        boxes_of((1, 9, 3, 4)),
        boxes_of((102, 2, 110, 4)),
        boxes_of((1, -20, 3, -4)),
        boxes_of((1, 2, 3, 4), confidence=1.5),
        boxes_of((1, 2, 3, 4), confidence=float("nan")),
        boxes_of((1, 2, 3, 4), class_id=-1),
        boxes_of((1, 2, 3, 4), class_id=1 << 30),
        Detections(np.zeros((2, 4), np.float32), np.zeros(1, np.float32), np.zeros(1, np.int32)),
        Detections(
            np.ones((1, 4), np.float32), np.zeros(1, np.float32), np.zeros(1, np.int32), masks=np.ones((1, 9, 9), bool)
        ),
        Detections(
            np.ones((1, 4), np.float32),
            np.zeros(1, np.float32),
            np.zeros(1, np.int32),
            keypoints=np.array([[[1, np.nan, 0.5]]], np.float32),
        ),
        Classification(np.array([np.nan], np.float32)),
        Classification(np.array([0.5, 0.5], np.float32), ("one",)),
        Classification(np.array([9.0], np.float32)),
        SemanticMask(np.zeros((9, 9), np.int32)),
        SemanticMask(np.full((80, 100), -1, np.int32)),
        SemanticMask(np.zeros((80, 100), np.int32), confidence=np.zeros((9, 9), np.uint8)),
        Embedding(np.array([np.inf], np.float32)),
        Embedding(np.zeros((2, 2), np.float32)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_makes_no_sense_is_an_error_and_no_result(
    wrong: Detections | Classification | SemanticMask | Embedding,
) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        scaled_back(wrong, SENT, Size(200, 160))


def test_a_keypoint_that_was_not_found_keeps_its_place_in_the_skeleton() -> None:
    points = np.array([[[np.nan, np.nan, np.nan], [10, 20, 0.5]]], np.float32)
    found = scaled_back(replace(boxes_of((1, 2, 30, 40)), keypoints=points), SENT, Size(200, 160))
    assert isinstance(found, Detections)
    assert found.keypoints is not None
    assert np.isnan(found.keypoints[0, 0]).all()
    assert found.keypoints[0, 1].tolist() == [20, 40, 0.5]


def test_boxes_over_the_edge_are_clipped_and_empty_ones_left_out() -> None:
    found = scaled_back(boxes_of((-5, 10, 120, 90), (100.5, 2, 101, 4), (7, 7, 7, 9)), SENT, Size(200, 160))
    assert isinstance(found, Detections)
    assert found.xyxy.tolist() == [[0, 20, 200, 160]]


def test_a_million_masks_are_refused_before_they_take_the_memory() -> None:
    count = 400
    found = Detections(
        np.tile(np.array([1, 1, 2, 2], np.float32), (count, 1)),
        np.full(count, 0.5, np.float32),
        np.zeros(count, np.int32),
        masks=np.zeros((count, 8, 10), bool),
    )
    with pytest.raises(ValueError, match="too many"):
        scaled_back(found, Size(10, 8), Size(3840, 2160))


def test_texts_and_good_vectors_stay_as_they_are() -> None:
    vector = np.array([0.5, -2.0], np.float32)
    found = scaled_back(Embedding(vector), SENT, SENT)
    assert isinstance(found, Embedding)
    assert (found.vector == vector).all()
    text = scaled_back(Text("a cat"), SENT, SENT)
    assert isinstance(text, Text)
    assert text.text == "a cat"
