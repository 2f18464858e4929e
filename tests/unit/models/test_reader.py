"""`Reader`: outputs made by hand, and what each picture's own wishes make of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from model_files import cells, yolov8_output

from pipeline.contracts.backend import ModelInfo
from pipeline.contracts.frame import Size, Wishes
from pipeline.contracts.result import Classification, Detections, Prediction, SemanticMask
from pipeline.models.description import ModelOptions, describe
from pipeline.models.heads_many import YUNET_OUTPUTS
from pipeline.models.labels import COCO_KEYPOINTS
from pipeline.models.onnx_file import OnnxFile, TensorInfo
from pipeline.models.picture import from_rgb
from pipeline.models.reader import Reader
from pipeline.models.rules import MAX_RULES, ReadSettings

Dims = tuple[int | str, ...]
WIDE = Size(128, 64)  # half as large in the input, 16 rows down
CARS = {"names": "{0: 'car', 1: 'bus'}"}
BOXES = ((32, 32, 16, 8, 0, 0.9), (33, 32, 16, 8, 0, 0.6), (33, 32, 16, 8, 1, 0.5), (8, 30, 8, 8, 1, 0.05))


def reader(
    *outputs: Dims,
    meta: dict[str, str] | None = None,
    image: Dims = ("b", 3, 64, 64),
    inputs: tuple[TensorInfo, ...] = (),
    names: tuple[str, ...] = (),
    options: ModelOptions | None = None,
    **settings: Any,
) -> Reader:
    called = names or tuple(f"output{i}" for i in range(len(outputs)))
    found = tuple(TensorInfo(name, "float32", shape) for name, shape in zip(called, outputs, strict=True))
    file = OnnxFile(Path("m.onnx"), (TensorInfo("images", "float32", image), *inputs), found, meta or {})
    return Reader(describe(file, options or ModelOptions()), ReadSettings(**settings))


def cars(**settings: Any) -> Reader:
    return reader((1, 6, cells(64, 64)), meta=CARS, **settings)


def read(by: Reader, *outputs: npt.NDArray[Any], frame: Size = WIDE, **wishes: Any) -> Any:
    return by.read(outputs, by.place(frame), frame, Wishes(**wishes) if wishes else None)


def rows(found: Prediction) -> list[tuple[str, float, float]]:
    """Label, score and left edge of each box."""
    assert isinstance(found, Detections)
    scores, lefts = found.confidence.tolist(), found.xyxy[:, 0].tolist()
    return [(found.label(i), round(score, 3), left) for i, (score, left) in enumerate(zip(scores, lefts, strict=True))]


CAR, CAR_2, BUS, FAINT = ("car", 0.9, 48.0), ("car", 0.6, 50.0), ("bus", 0.5, 50.0), ("bus", 0.05, 8.0)


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({}, [CAR, BUS]),
        ({"confidence": 0.01}, [CAR, BUS, FAINT]),
        ({"confidence": 0.55}, [CAR]),
        ({"iou_threshold": 0.95}, [CAR, CAR_2, BUS]),
        ({"class_agnostic_nms": True}, [CAR]),
        ({"max_detections": 1}, [CAR]),
        ({"max_detections": 0}, []),
        ({"max_detections": -3}, []),
        ({"classes": ("bus",)}, [BUS]),
        ({"classes": ("BUS ", "tram")}, [BUS]),
        ({"classes": ("tram",)}, []),
        ({"classes": ()}, []),
        ({"classes": ("car", "bus"), "confidence": 0.01, "max_detections": 2}, [CAR, BUS]),
    ],
)
def test_a_pictures_wishes_go_before_the_settings(wishes: dict[str, Any], expected: list[Any]) -> None:
    by, output = cars(), yolov8_output(*BOXES)
    assert rows(read(by, output, **wishes)) == expected
    assert rows(read(by, output)) == [CAR, BUS], "and change nothing for the next one"


def test_a_wish_for_a_class_goes_before_the_configured_ones() -> None:
    by = cars(class_ids=(0,))
    assert rows(read(by, yolov8_output(*BOXES))) == [CAR]
    assert rows(read(by, yolov8_output(*BOXES), classes=("bus",))) == [BUS]


def test_no_wish_gets_more_boxes_than_there_may_be() -> None:
    many = yolov8_output(*((float(i % 60), float(i // 60), 0.5, 0.5, 0, 0.5) for i in range(3000)), rows=3000)
    by = reader((1, 6, 3000), meta=CARS, options=ModelOptions(family="yolov8"))
    assert len(read(by, many, frame=Size(64, 64), max_detections=10**9, iou_threshold=1.0)) == 1000


def test_remembered_wishes_do_not_pile_up() -> None:
    by = cars()
    for number in range(2 * MAX_RULES):
        read(by, yolov8_output(*BOXES), confidence=number / 10_000, texts=(str(number),))
    assert len(by._wished) <= MAX_RULES


def test_masks_belong_to_the_boxes_that_stay() -> None:
    by = reader((1, 8, cells(64, 64)), (1, 2, 16, 16), meta=CARS | {"task": "segment"})
    output = np.zeros((8, cells(64, 64)), np.float32)
    output[:6] = yolov8_output(*BOXES)
    output[6:, :4] = [[-1, 1, 1, 1], [1, 1, -1, 1]]  # of the first box, the second, the third
    prototypes = np.full((2, 16, 16), 2, np.float32)
    prototypes[1, :, :8], prototypes[1, :, 8:] = 1, 3  # right of the middle the second one decides
    found = read(by, output, prototypes)
    assert rows(found) == [CAR, BUS]
    assert found.masks.shape == (2, 64, 128)
    car, bus = found.masks
    assert car[24:40, 66:80].all()
    assert not car[:, :62].any(), "there the first prototype outweighs it"
    assert not car[:, 80:].any()
    assert bus[24:40, 50:62].all()
    assert not bus[:, 66:].any()
    nothing = read(by, output, prototypes, confidence=1.0)
    assert nothing.masks.shape == (0, 64, 128)


def test_more_masks_than_fit_into_memory_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.models.reader.MAX_MASK_BYTES", 64 * 128)
    by = reader((1, 8, cells(64, 64)), (1, 2, 16, 16), meta=CARS | {"task": "segment"})
    output = np.concatenate((yolov8_output(*BOXES), np.ones((2, cells(64, 64)), np.float32)))
    found = read(by, output, np.ones((2, 16, 16), np.float32))
    assert rows(found) == [CAR]
    assert len(found.masks) == 1


def pose(values: int = 3) -> tuple[Reader, npt.NDArray[np.float32]]:
    """Two keypoints, at the box's corners; the second one not sure."""
    by = reader((1, 5 + 2 * values, cells(64, 64)), meta={"task": "pose", "kpt_shape": f"[2, {values}]"})
    output = np.zeros((5 + 2 * values, cells(64, 64)), np.float32)
    points = ((24, 28), (40, 36)) if values == 2 else ((24, 28, 0.875), (40, 36, 0.25))
    output[:, 0] = (32, 32, 16, 8, 0.5, *(value for point in points for value in point))
    return by, output


def test_keypoints_come_in_pixels_of_the_frame() -> None:
    by, output = pose()
    found = read(by, output)
    assert found.keypoints.tolist() == [[[48, 24, 0.875], [80, 40, 0.25]]]
    assert found.keypoints.dtype == np.float32
    assert read(by, output, confidence=0.9).keypoints.shape == (0, 2, 3)


def test_a_keypoint_that_the_model_is_not_sure_of_was_not_found() -> None:
    by, output = pose()
    points = read(by, output, keypoint_confidence=0.5).keypoints[0]
    assert points[0].tolist() == [48, 24, 0.875]
    assert np.isnan(points[1]).all()
    output[6, 0] = np.inf
    assert np.isnan(read(by, output).keypoints[0, 0]).all()


def test_keypoints_without_scores_are_as_sure_as_the_object() -> None:
    by, output = pose(values=2)
    assert read(by, output).keypoints.tolist() == [[[48, 24, 0.5], [80, 40, 0.5]]]


def test_the_keypoints_of_persons_have_their_names() -> None:
    by = reader((1, 56, cells(64, 64)), meta={"task": "pose", "kpt_shape": "[17, 3]", "names": "{0: 'person'}"})
    found = read(by, np.zeros((56, cells(64, 64)), np.float32))
    assert found.keypoint_names == COCO_KEYPOINTS
    assert by.info == ModelInfo("keypoint-detection", ("person",), Size(64, 64), COCO_KEYPOINTS)


def test_scores_and_pixels_are_read_whatever_is_wished() -> None:
    scores = read(reader((1, 2), meta=CARS | {"task": "classify"}), np.array([0.25, 0.75], np.float32), confidence=0.5)
    assert isinstance(scores, Classification)
    assert (scores.scores.tolist(), scores.names) == ([0.25, 0.75], ("car", "bus"))
    by = reader((1, 2, 16, 16), meta=CARS, options=ModelOptions(task="semantic-segmentation"))
    pixels = read(by, np.zeros((2, 16, 16), np.float32), confidence=0.5)
    assert isinstance(pixels, SemanticMask)
    assert (pixels.class_map.shape, pixels.names) == ((64, 128), ("car", "bus"))


def test_what_a_model_is_fed_is_made_of_pictures() -> None:
    pictures = [from_rgb(np.full((*size, 3), grey, np.uint8)) for size, grey in (((64, 64), 255), ((32, 64), 0))]
    feeds = cars().prepare(pictures)
    assert list(feeds) == ["images"]
    assert feeds["images"].shape == (2, 3, 64, 64)
    assert feeds["images"][0].min() == pytest.approx(1, abs=0.01)
    assert feeds["images"][1, 0, 32, 32] == pytest.approx(0, abs=0.01)
    assert feeds["images"][1, 0, 0, 0] == pytest.approx(114 / 255, abs=0.01)


def test_a_transformer_is_told_its_inputs_own_size() -> None:
    sizes = TensorInfo("orig_target_sizes", "int64", ("n", 2))
    by = reader(
        *(("n", 9), ("n", 9, 4), ("n", 9)),
        names=("labels", "boxes", "scores"),
        inputs=(sizes,),
        image=("n", 3, 32, 64),
    )
    feeds = by.prepare([from_rgb(np.zeros((8, 8, 3), np.uint8))] * 2)
    assert feeds["orig_target_sizes"].tolist() == [[64, 32]] * 2
    assert feeds["orig_target_sizes"].dtype == np.int64
    boxes = np.array([[0, 0, 32, 16]], np.float32)
    found = read(by, np.array([3]), boxes, np.array([0.5], np.float32), frame=Size(200, 400))
    assert found.xyxy.tolist() == [[0, 0, 100, 200]], "each axis by its own scale"


def test_a_batch_from_elsewhere_is_read_row_by_row() -> None:
    by = cars()
    outputs: dict[str, Any] = {
        "output0": np.stack([yolov8_output(*BOXES), yolov8_output(BOXES[2])]),
        "other": np.zeros(3),
    }
    first, second = by.read_batch(outputs, [WIDE, Size(64, 64)], [None, Wishes(confidence=0.5)])
    assert rows(first) == [CAR, BUS]
    assert rows(second) == [("bus", 0.5, 25.0)]


GOOD = yolov8_output(*BOXES)[None]


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"output0": GOOD[0]},
        {"output0": GOOD[:, :5]},
        {"output0": GOOD[:, :, :9]},
        {"output0": np.concatenate([GOOD, GOOD])},
        {"output0": GOOD[:0]},
        {"output0": np.full(GOOD.shape, "x")},
        {"output0": np.full(GOOD.shape, None)},
        {"output0": np.float32(1)},
    ],
)
def test_an_answer_that_is_not_the_models_is_an_error_of_one_line(outputs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="output0") as caught:
        cars().read_batch(outputs, [WIDE], [None])
    assert "\n" not in str(caught.value)


def test_open_sides_that_are_not_alike_are_an_error_of_one_line() -> None:
    sizes = TensorInfo("orig_target_sizes", "int64", ("n", 2))
    by = reader(("n", "q"), ("n", "q", 4), ("n", "q"), names=("labels", "boxes", "scores"), inputs=(sizes,))
    outputs: dict[str, Any] = {
        "labels": np.zeros((1, 5), np.float32),
        "boxes": np.zeros((1, 3, 4), np.float32),
        "scores": np.ones((1, 4), np.float32),
    }
    with pytest.raises(ValueError, match=r"do not fit together: \[1, 5\], \[1, 3, 4\], \[1, 4\]|shapes"):
        by.read_batch(outputs, [WIDE], [None])
    by = reader((1, 38, cells(64, 64)), (1, 32, "h", "w"), meta=CARS | {"task": "segment"})
    with pytest.raises(ValueError, match="output1"):
        by.read_batch(
            {"output0": np.ones((1, 38, cells(64, 64)), np.float32), "output1": np.ones((1, 32, 0, 9), np.float32)},
            [WIDE],
            [None],
        )


SIZES = TensorInfo("orig_target_sizes", "int64", ("n", 2))
YUNET = {name: ("b", "n", {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}[name.split("_")[0]]) for name in YUNET_OUTPUTS}


def open_ended(kind: str) -> Reader:
    """A model of each kind, with all sides left open that can be."""
    transformer = {"names": ("labels", "boxes", "scores"), "inputs": (SIZES,)}
    return {
        "yolov8": lambda: reader(("b", 6, "n"), meta=CARS),
        "end2end": lambda: reader(("b", 30, 6)),
        "rtdetr": lambda: reader(("b", "q"), ("b", "q", 4), ("b", "q"), **transformer),  # type: ignore[arg-type]
        "rfdetr": lambda: reader(("b", "q", 4), ("b", "q", "c"), names=("dets", "labels")),
        "yunet": lambda: reader(*YUNET.values(), names=tuple(YUNET)),
        "masks": lambda: reader(("b", 38, "n"), ("b", 32, "h", "w"), meta=CARS | {"task": "segment"}),
        "keypoints": lambda: reader(("b", 11, "n"), meta={"task": "pose", "kpt_shape": "[2, 3]"}),
        "scores": lambda: reader(("b", "c"), options=ModelOptions(task="classification")),
        "vector": lambda: reader(("b", "c"), options=ModelOptions(task="embedding")),
        "pixels": lambda: reader(("b", "c", "h", "w"), options=ModelOptions(task="semantic-segmentation")),
        "ids": lambda: reader(("b", "h", "w"), options=ModelOptions(task="semantic-segmentation")),
    }[kind]()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "kind",
    ["yolov8", "end2end", "rtdetr", "rfdetr", "yunet", "masks", "keypoints", "scores", "vector", "pixels", "ids"],
)
def test_whatever_numbers_come_they_are_read_or_refused_in_one_line(kind: str) -> None:
    by, random = open_ended(kind), np.random.default_rng(7)
    outcomes = set()
    for round_ in range(150):
        alike, outputs = random.random() < 0.7, {}
        sides: dict[str, int] = {}
        for output in by.choice.outputs:
            shape = [2]
            for side in (output.shape or ())[1:]:
                free = int(random.integers(0, 20))
                shape.append(side if isinstance(side, int) else sides.setdefault(side, free) if alike else free)
            values = random.normal(size=shape) * random.choice([1, 1e4, 1e30])
            if round_ % 2 and values.size:
                values.flat[random.integers(values.size)] = random.choice([np.nan, np.inf, -np.inf])
            outputs[output.name] = values.astype(np.float32)
        frames = [Size(*random.integers(1, 80, 2).tolist()) for _ in range(2)]
        wishes = [None, Wishes(confidence=float(random.choice([0, 0.5, 1, -1, np.nan])), keypoint_confidence=0.3)]
        try:
            found = by.read_batch(outputs, frames, wishes)
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017  (most are read)
            outcomes.add("refused")
        else:
            assert len(found) == 2
            outcomes.add("read")
    assert "read" in outcomes


def test_a_model_whose_family_is_not_known_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="not known yet"):
        reader((1, "n", "m"))


def test_a_dynamic_input_has_no_size_to_be_told() -> None:
    by = reader((1, 6, "n"), meta=CARS, image=("b", 3, "h", "w"))
    assert by.info == ModelInfo("object-detection", ("car", "bus"), None)
    assert replace(by.model, dynamic_size=False).input_size == Size(640, 640)
