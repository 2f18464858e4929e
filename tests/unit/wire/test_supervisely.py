"""Supervisely's annotations, there and back, and what hostile ones come to."""

import base64
import contextlib
import io
import json
import math
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.contracts.backend import ModelInfo, Task
from pipeline.contracts.frame import Size
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask, Text
from pipeline.wire.supervisely_annotation import encode_annotation
from pipeline.wire.supervisely_bitmap import decode_mask, encode_mask
from pipeline.wire.supervisely_meta import Meta, ObjectClass, decode_meta, encode_meta
from pipeline.wire.supervisely_objects import decode_annotation

SIZE = Size(64, 48)
LABELS = ("person", "traffic light", "dog")
POINTS = ("nose", "left eye", "right eye", "tail")

_TASKS: dict[str, Task] = {
    "": "object-detection",
    "masks": "instance-segmentation",
    "keypoints": "keypoint-detection",
    "both": "keypoint-detection",
}


@st.composite
def found(draw: st.DrawFn) -> tuple[Detections, Task]:
    """Random detections, with masks, keypoints, both or none of it, with and without tracker ids; also none at all."""
    count = draw(st.integers(0, 6))
    kind = draw(st.sampled_from(("", "masks", "keypoints", "both")))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    low = random.uniform(0, (SIZE.width - 1, SIZE.height - 1), (count, 2))
    high = low + 1 + random.uniform(0, 1, (count, 2)) * (np.array(SIZE) - 1 - low)
    masks = points = None
    if kind in ("masks", "both"):
        masks = np.zeros((count, SIZE.height, SIZE.width), np.bool_)
        for mask, (x1, y1), (x2, y2) in zip(masks, low.astype(int), np.ceil(high).astype(int), strict=True):
            mask[y1:y2, x1:x2] = random.random((y2 - y1, x2 - x1)) < random.random()
    if kind in ("keypoints", "both"):
        places = random.uniform(0, (SIZE.width - 1, SIZE.height - 1), (count, len(POINTS), 2))
        scores = random.random((count, len(POINTS), 1)).round(4) * (random.random((count, len(POINTS), 1)) < 0.8)
        points = np.concatenate([places * (scores > 0), scores], axis=2).astype(np.float32)
    names = LABELS[: draw(st.integers(2, 3))]
    detections = Detections(
        xyxy=np.hstack([low, high]).astype(np.float32),
        confidence=np.sort(random.random(count).round(4))[::-1].astype(np.float32),
        class_id=random.integers(0, len(names), count).astype(np.int32),
        names=names,
        masks=masks,
        keypoints=points,
        tracker_id=random.integers(0, 1000, count).astype(np.int32) if count and draw(st.booleans()) else None,
        keypoint_names=POINTS if points is not None else (),
    )
    return detections, _TASKS[kind]


def there_and_back(prediction: Prediction, info: ModelInfo) -> Prediction:
    """Through JSON, as the other end sees it."""
    annotation = json.loads(json.dumps(encode_annotation(prediction, SIZE), allow_nan=False))
    meta = decode_meta(json.loads(json.dumps(encode_meta(info))))
    return decode_annotation(annotation, meta, SIZE, info.task)


@settings(max_examples=150, deadline=None)
@given(found())
def test_detections_come_back_with_boxes_within_half_a_pixel(example: tuple[Detections, Task]) -> None:
    detections, task = example
    back = there_and_back(detections, ModelInfo(task, detections.names, keypoints=detections.keypoint_names))
    assert isinstance(back, Detections)
    order = np.argsort(-back.confidence, kind="stable")
    assert order.tolist() == list(range(len(detections)))
    np.testing.assert_allclose(back.confidence, detections.confidence, atol=1e-6)
    np.testing.assert_allclose(back.xyxy, detections.xyxy, atol=0.5001)
    assert back.class_id.tolist() == detections.class_id.tolist()
    assert back.names == detections.names
    if detections.masks is None or (task != "instance-segmentation" and not detections.masks.any()):
        assert back.masks is None or not back.masks.any()
    else:
        assert back.masks is not None
        np.testing.assert_array_equal(back.masks, detections.masks)
    if detections.keypoints is None:
        assert back.keypoints is None
    else:
        assert back.keypoints is not None
        np.testing.assert_allclose(back.keypoints, detections.keypoints, atol=0.5001)
        np.testing.assert_allclose(back.keypoints[..., 2], detections.keypoints[..., 2], atol=1e-4)
        assert back.keypoint_names == POINTS
    if detections.tracker_id is None:
        assert back.tracker_id is None
    else:
        assert back.tracker_id is not None
        assert back.tracker_id.tolist() == detections.tracker_id.tolist()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
def test_a_mask_comes_back_as_it_was(seed: int, width: int, height: int, filled: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < filled
    np.testing.assert_array_equal(decode_mask(encode_mask(mask), Size(40, 40)), mask)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8), st.booleans())
def test_a_classification_comes_back_as_tags(scores: list[float], multi_label: bool) -> None:
    names = tuple(f"kind {index}" for index in range(len(scores)))
    task: Task = "multi-label-classification" if multi_label else "classification"
    back = there_and_back(Classification(np.array(scores, np.float32), names, multi_label), ModelInfo(task, names))
    assert isinstance(back, Classification)
    assert (back.names, back.multi_label) == (names, multi_label)
    np.testing.assert_allclose(back.scores, scores, atol=1e-4)


def test_only_the_likeliest_classes_are_written() -> None:
    scores = np.linspace(0, 1, 50).astype(np.float32)
    tags = encode_annotation(Classification(scores, tuple(map(str, range(50)))), SIZE, most_tags=3)["tags"]
    assert [tag["name"] for tag in tags] == ["49", "48", "47"]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_a_semantic_mask_comes_back_as_it_was(seed: int) -> None:
    class_map = np.random.default_rng(seed).integers(0, 3, (SIZE.height, SIZE.width)).astype(np.int32)
    back = there_and_back(SemanticMask(class_map, LABELS), ModelInfo("semantic-segmentation", LABELS))
    assert isinstance(back, SemanticMask)
    assert back.names == LABELS
    np.testing.assert_array_equal(back.class_map, class_map)


def test_what_no_object_covers_is_background() -> None:
    annotation = of(bitmap(np.ones((2, 3), np.bool_), [4, 5]))
    back = decode_annotation(annotation, META, SIZE, "semantic-segmentation")
    assert isinstance(back, SemanticMask)
    assert back.names == (*LABELS, "background")
    assert (back.class_map == 0).sum() == 6
    assert (back.class_map == 3).sum() == SIZE.width * SIZE.height - 6


def test_a_text_comes_back() -> None:
    back = there_and_back(Text("a cat, and «a dog»"), ModelInfo("text"))
    assert isinstance(back, Text)
    assert back.text == "a cat, and «a dog»"


def test_an_embedding_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="embedding"):
        encode_annotation(Embedding(np.zeros(4, np.float32)), SIZE)


def test_a_box_that_is_no_number_is_left_out() -> None:
    boxes = np.array([[1, 2, 3, 4], [math.nan, 2, 3, 4], [1, 2, math.inf, 4]], np.float32)
    detections = Detections(boxes, np.full(3, 0.5, np.float32), np.zeros(3, np.int32), LABELS)
    assert len(encode_annotation(detections, SIZE)["objects"]) == 1


def test_a_box_at_the_edge_stays_in_the_picture() -> None:
    boxes = np.array([[-5, -5, 200, 200], [63.8, 47.9, 64, 48]], np.float32)
    detections = Detections(boxes, np.full(2, 0.5, np.float32), np.zeros(2, np.int32), LABELS)
    corners = [item["points"]["exterior"] for item in encode_annotation(detections, SIZE)["objects"]]
    assert corners == [[[0, 0], [63, 47]], [[63, 47], [63, 47]]]


# What others write.

META = Meta(tuple(ObjectClass(title, "any") for title in LABELS))


def of(*objects: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An annotation with these objects of class person."""
    labels = [{"classTitle": "person", "description": "", "tags": []} | item for item in objects]
    size = {"height": SIZE.height, "width": SIZE.width}
    return {"description": "", "size": size, "tags": [], "objects": labels, "customBigData": {}} | more


def one(label: dict[str, Any], meta: Meta = META, **more: Any) -> Detections:
    """What is read of an annotation with one object."""
    back = decode_annotation(of(label, **more), meta, SIZE)
    assert isinstance(back, Detections)
    return back


def packed(image: Image.Image, *, squeeze: bool = True, **options: Any) -> str:
    """A picture as a bitmap's data."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    return base64.b64encode(zlib.compress(buffer.getvalue()) if squeeze else buffer.getvalue()).decode()


def bitmap(mask: npt.NDArray[np.bool_], origin: list[int]) -> dict[str, Any]:
    """An object that is a bitmap."""
    return {"geometryType": "bitmap", "bitmap": {"origin": origin, "data": encode_mask(mask)}}


def points(*exterior: list[Any], **more: Any) -> dict[str, Any]:
    """Coordinates as an object has them."""
    return {"points": {"exterior": list(exterior), "interior": []}} | more


def test_right_and_bottom_of_a_rectangle_belong_to_it() -> None:
    back = one(points([10, 20], [30, 25], geometryType="rectangle"))
    assert back.xyxy.tolist() == [[10, 20, 31, 26]]
    assert back.confidence.tolist() == [1.0]


def test_corners_of_a_rectangle_may_come_in_any_order() -> None:
    assert one(points([30, 20], [10, 25], geometryType="rectangle")).xyxy.tolist() == [[10, 20, 31, 26]]


@pytest.mark.parametrize("name", ["confidence", "conf", "score"])
def test_the_confidence_is_a_tag_of_several_names(name: str) -> None:
    tags = [{"name": "colour", "value": "red"}, "new", {"name": name, "value": 0.25}]
    assert one(points([1, 1], [2, 2], geometryType="rectangle", tags=tags)).confidence.tolist() == [0.25]


def test_a_class_that_the_meta_does_not_know_comes_after_those_that_it_does() -> None:
    back = one(points([1, 1], [2, 2], geometryType="rectangle", classTitle="ghost"))
    assert (back.names, back.class_id.tolist()) == ((*LABELS, "ghost"), [3])


def test_objects_are_put_in_the_order_of_confidence_with_their_tracks() -> None:
    labels = [
        points([x, 1], [x, 1], geometryType="rectangle", tags=[{"name": "conf", "value": x / 10}]) for x in (1, 3, 2)
    ]
    back = decode_annotation(of(*labels, customBigData=[11, 13, 12]), META, SIZE)
    assert isinstance(back, Detections)
    assert back.tracker_id is not None
    assert back.tracker_id.tolist() == [13, 12, 11]
    assert back.xyxy[:, 0].tolist() == [3, 2, 1]


def test_a_polygon_has_a_mask_with_holes() -> None:
    ring, hole = [[2, 2], [20, 2], [20, 20], [2, 20]], [[6, 6], [16, 6], [16, 16], [6, 16]]
    back = one({"geometryType": "polygon", "points": {"exterior": ring, "interior": [hole]}})
    assert back.masks is not None
    assert back.xyxy.tolist() == [[2, 2, 21, 21]]
    assert back.masks[0].sum() == 19 * 19 - 9 * 9
    assert not back.masks[0, 7:16, 7:16].any()


def test_a_line_and_a_point_have_a_box() -> None:
    assert one(points([5, 9], [3, 12], [4, 4], geometryType="line")).xyxy.tolist() == [[3, 4, 6, 13]]
    assert one(points([5, 9], geometryType="point")).xyxy.tolist() == [[5, 9, 6, 10]]


@pytest.mark.parametrize("listed", [True, False])
def test_an_oriented_box_is_surrounded(listed: bool) -> None:
    corners = [[10, 20], [29, 23]]
    label = {
        "geometryType": "oriented_bbox",
        "angle": math.pi / 2,
        "points": corners if listed else {"exterior": corners},
    }
    np.testing.assert_allclose(one(label).xyxy, [[18, 12, 22, 32]], atol=1e-5)


def test_an_alpha_mask_is_cut_at_half() -> None:
    alpha = Image.fromarray(np.array([[0, 100, 127, 128, 255]], np.uint8))
    back = one({"geometryType": "alpha_mask", "bitmap": {"origin": [1, 1], "data": packed(alpha)}})
    assert back.masks is not None
    assert back.masks[0, 1, :7].tolist() == [False, False, False, False, True, True, False]


def test_a_graph_is_read_by_its_template() -> None:
    meta = Meta((ObjectClass("person", "graph", (("a1", "nose"), ("b2", "left eye"), ("c3", "tail"))),))
    nodes = {"b2": {"loc": [5, 6]}, "a1": {"loc": [7, 9]}, "c3": {"loc": [0, 0], "disabled": True}}
    back = one({"geometryType": "graph", "nodes": nodes}, meta)
    assert back.keypoint_names == ("nose", "left eye", "tail")
    assert back.keypoints is not None
    assert back.keypoints.tolist() == [[[7, 9, 1], [5, 6, 1], [0, 0, 0]]]
    assert back.xyxy.tolist() == [[5, 6, 8, 10]]


MASK = np.array([[1, 0, 1], [0, 1, 1]], np.uint8)


@pytest.mark.parametrize("squeeze", [True, False])
@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(MASK),
        Image.fromarray(MASK * 255),
        Image.fromarray(MASK.astype(bool)),
        Image.merge("LA", [Image.new("L", (3, 2), 255), Image.fromarray(MASK * 255)]),
        Image.merge("RGBA", [Image.new("L", (3, 2), 255)] * 3 + [Image.fromarray(MASK)]),
    ],
    ids=["grey 0 and 1", "grey 0 and 255", "1 bit", "grey and alpha", "colours and alpha"],
)
def test_every_kind_of_png_that_their_decoder_takes_is_read(image: Image.Image, squeeze: bool) -> None:
    np.testing.assert_array_equal(decode_mask(packed(image, squeeze=squeeze), SIZE), MASK.astype(bool))


@pytest.mark.parametrize("squeeze", [True, False])
def test_a_bitmap_in_rgb_is_refused(squeeze: bool) -> None:
    with pytest.raises(ValueError, match="RGB"):
        decode_mask(packed(Image.new("RGB", (3, 2), "white"), squeeze=squeeze), SIZE)


def test_a_palette_without_transparency_is_refused() -> None:
    image = Image.fromarray(MASK)
    image.putpalette([0, 0, 0, 255, 255, 255])
    with pytest.raises(ValueError, match="palette"):
        decode_mask(packed(image), SIZE)


def test_a_bitmap_over_the_edge_is_cut() -> None:
    back = one(bitmap(np.ones((4, 4), np.bool_), [62, -2]))
    assert back.masks is not None
    assert back.masks[0].sum() == 4
    assert back.masks[0, :2, 62:].all()


def png_of(width: int, height: int) -> bytes:
    """A PNG that says that it is so large, and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("&&&", "no base64"),
        ("é", "no base64"),
        ("", "cut off"),
        (b64(b"no zlib"), "zlib"),
        (b64(zlib.compress(b"no png" * 10)), "no PNG"),
        (b64(zlib.compress(bytes(50_000_000))), "larger than the picture"),
        (b64(zlib.compress(png_of(50_000, 50_000))), "50000 x 50000 is larger than the picture"),
        (b64(zlib.compress(png_of(0, 5))), "larger than the picture"),
        (b64(zlib.compress(png_of(5, 5))), "damaged"),
        (b64(zlib.compress(png_of(5, 5))[:-6]), "cut off"),
        (b64(png_of(5, 5)[:20]), "no PNG"),
        (packed(Image.fromarray(MASK))[:-12] + "AAAAAAAAAAAA", "zlib"),
    ],
)
def test_a_broken_bitmap_is_refused(data: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        decode_mask(data, SIZE)


def test_many_masks_that_are_small_on_the_wire_are_refused_in_time() -> None:
    full = bitmap(np.ones((2000, 3000), np.bool_), [0, 0])
    size = Size(3000, 2000)
    annotation = of(*[full] * 200, size={"width": 3000, "height": 2000})
    with pytest.raises(ValueError, match="too large"):
        decode_annotation(annotation, META, size)
    tiny = bitmap(np.ones((1, 1), np.bool_), [0, 0])
    with pytest.raises(ValueError, match="too many"):
        decode_annotation(of(*[tiny] * 200, size={"width": 3000, "height": 2000}), META, size)


def test_an_annotation_of_another_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="640 x 480, and 64 x 48 was sent"):
        decode_annotation(of(size={"width": 640, "height": 480}), META, SIZE)


_BROKEN: list[Any] = [
    None,
    [],
    "text",
    5,
    {},
    {"size": {"height": 48, "width": 64}},
    of(objects={}),
    of(objects=[None]),
    of(objects=[{}]),
    of({"geometryType": "cuboid"}),
    of({"geometryType": ["rectangle"]}),
    of({"geometryType": "rectangle"}),
    of({"geometryType": "rectangle", "points": []}),
    of(points(geometryType="rectangle")),
    of(points([1, 2], [3], geometryType="rectangle")),
    of(points([1, 2], [3, "4"], geometryType="rectangle")),
    of(points([1, 2], [3, math.nan], geometryType="rectangle")),
    of(points([1, 2], [3, 10**400], geometryType="rectangle")),
    of(points([1, 2], [3, 1e300], geometryType="rectangle")),
    of(points([1, 2], [3, True], geometryType="rectangle")),
    of(points([1, 2], [3, 4], [5, 6], geometryType="rectangle")),
    of(points([1, 2], [3, 4], geometryType="rectangle", classTitle=None)),
    of(points([1, 2], [3, 4], geometryType="rectangle", classTitle="\ud800")),
    of(points([1, 2], [3, 4], geometryType="rectangle", tags=5)),
    of(points([1, 2], [3, 4], geometryType="rectangle", tags=[{"name": "confidence", "value": 1.5}])),
    of(points([1, 2], [3, 4], geometryType="rectangle", tags=[{"name": "confidence", "value": "high"}])),
    of(points([1, 2], [3, 4], geometryType="rectangle", tags=[{"name": {}}])),
    of(points([1, 2], [3, 4], geometryType="rectangle"), customBigData=[1, 2]),
    of(points([1, 2], [3, 4], geometryType="rectangle"), customBigData=["a"]),
    of(points([1, 2], [3, 4], geometryType="rectangle", customData={"penstock": 5})),
    of(points([1, 2], [3, 4], geometryType="rectangle", customData={"penstock": {"box": [5, 5, 1, 1]}})),
    of(points([1, 2], [3, 4], geometryType="oriented_bbox", angle="x")),
    of(points([1, 2], [3, 4], geometryType="polygon")),
    of({"geometryType": "polygon", "points": {"exterior": [[1, 1], [2, 2], [3, 1]], "interior": [[]]}}),
    of({"geometryType": "bitmap", "bitmap": {"origin": [1], "data": ""}}),
    of({"geometryType": "bitmap", "bitmap": {"origin": [1, 2.5], "data": ""}}),
    of({"geometryType": "bitmap"}),
    of(bitmap(np.ones((2, 2), np.bool_), [100, 100])),
    of(bitmap(np.zeros((2, 2), np.bool_), [1, 1])),
    of({"geometryType": "graph", "nodes": {}}),
    of({"geometryType": "graph", "nodes": {"a": {}}}),
    of({"geometryType": "graph", "nodes": {"a": None}}),
    of({"geometryType": "graph", "nodes": []}),
    of(size={"height": -48, "width": 64}),
    of(size=[64, 48]),
]


@pytest.mark.parametrize("document", _BROKEN, ids=range(len(_BROKEN)))
def test_a_malformed_annotation_is_a_value_error(document: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_annotation(document, META, SIZE)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([item for item in _BROKEN if isinstance(item, dict)]), st.data(), _JSON)
def test_whatever_stands_in_an_annotation_only_a_value_error_comes_of_it(
    document: dict[str, Any], data: st.DataObject, value: Any
) -> None:
    copy = json.loads(json.dumps(document))
    inner: Any = copy
    while True:
        keys = sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if not isinstance(inner[key], (dict, list)) or data.draw(st.booleans()):
            inner[key] = value
            break
        inner = inner[key]
    tasks: list[Task | None] = [None, "instance-segmentation", "semantic-segmentation", "classification", "text"]
    for task in tasks:
        with contextlib.suppress(ValueError):
            decode_annotation(copy, META, SIZE, task)


@settings(max_examples=200, deadline=None)
@given(_JSON)
def test_whatever_a_project_meta_is_only_a_value_error_comes_of_it(value: Any) -> None:
    for document in (
        value,
        {"classes": value},
        {"classes": [value]},
        {"classes": [{"title": "a", "geometry_config": value}]},
    ):
        with contextlib.suppress(ValueError):
            decode_meta(document)


def test_a_model_is_known_by_the_shapes_of_its_classes() -> None:
    assert Meta((ObjectClass("a", "rectangle"),)).task() == "object-detection"
    assert Meta((ObjectClass("a", "bitmap"), ObjectClass("b", "polygon"))).task() == "instance-segmentation"
    assert Meta((ObjectClass("a", "bitmap"), ObjectClass("b", "rectangle"))).task() is None
    assert Meta((), ("a", "b")).task() == "classification"
    assert Meta().task() is None


def test_keypoints_without_names_of_their_own_are_numbered() -> None:
    info = ModelInfo("keypoint-detection", ("cat",), keypoints=("paw", "paw", "", "tail"))
    assert decode_meta(encode_meta(info)).keypoints == ("paw", "1", "2", "tail")
