"""Which family a model is of, told from the outside: shapes, metadata, operators."""

from pathlib import Path

import pytest

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.frame import Size
from pipeline.models.description import ModelDescription, ModelOptions, describe
from pipeline.models.families import FAMILIES
from pipeline.models.labels import COCO_80
from pipeline.models.onnx_file import OnnxFile, TensorInfo
from pipeline.models.preprocess import PreprocessConfig

Dims = tuple[int | str, ...]
DYNAMIC: Dims = ("batch", 3, "height", "width")
FIXED_640: Dims = (1, 3, 640, 640)
THREE = "{0: 'a', 1: 'b', 2: 'c'}"
ULTRALYTICS = {"author": "Ultralytics", "task": "detect", "stride": "32", "imgsz": "[640, 640]"}


def file(
    *outputs: Dims, image: Dims = FIXED_640, ops: str = "Conv", meta: dict[str, str] | None = None, names: str = ""
) -> OnnxFile:
    named = tuple(TensorInfo(f"output{i}", "float32", shape) for i, shape in enumerate(outputs))
    operators = frozenset(ops.split())
    metadata = (meta or {}) | ({"names": names} if names else {})
    return OnnxFile(Path("m.onnx"), (TensorInfo("images", "float32", image),), named, metadata, operators)


def found(model: OnnxFile, **options: object) -> ModelDescription:
    return describe(model, ModelOptions(**options))  # type: ignore[arg-type]


def family(model: OnnxFile, **options: object) -> str | None:
    choice = found(model, **options).choice
    return None if choice is None else f"{choice.family.name} {choice.layout} {choice.classes}"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (file((1, 84, 8400)), "yolov8 columns 80"),
        (file((1, 5, 8400)), "yolov8 columns 1"),
        (file(("batch", 84, "anchors"), image=DYNAMIC), "yolov8 columns 80"),
        (file((1, 84, 33600)), "yolov8 columns 80"),
        (file((1, 7, 8400), names=THREE), "yolov8 columns 3"),
        (file((1, 8400, 84)), "yolov8 rows 80"),
        (file((1, 8400, 7), names=THREE), "yolov8 rows 3"),
        (file((1, 8400, 5), ops="Conv Softmax"), "yolov8 rows 1"),
        (file((1, 84, 84), image=(1, 3, 64, 64), meta=ULTRALYTICS), "yolov8 columns 80"),
        (file((1, 25200, 85)), "yolov5 rows 80"),
        (file((1, 25200, 6)), "yolov5 rows 1"),
        (file((1, 25200, 85), (1, 3, 80, 80, 85), (1, 3, 40, 40, 85), (1, 3, 20, 20, 85)), "yolov5 rows 80"),
        (file((1, 3, 80, 80, 85), (1, 25200, 85)), "yolov5 rows 80"),
        (file((1, 15120, 85), image=(1, 3, 384, 640)), "yolov5 rows 80"),
        (file((1, 3549, 85), image=(1, 3, 416, 416)), "yolox rows 80"),
        (file((1, 8400, 8), names=THREE), "yolox rows 3"),
        (file((1, 8400, 6)), "yolox rows 1"),
        (file((1, 300, 6)), "end2end rows None"),
        (file(("batch", "boxes", 6), image=DYNAMIC, meta=ULTRALYTICS | {"end2end": "True"}), "end2end rows None"),
        (file((1, 300, 6), meta=ULTRALYTICS | {"args": "{'nms': True}"}), "end2end rows None"),
        (file((1, 25200, 6), meta=ULTRALYTICS | {"args": "{'nms': True}"}), "end2end rows None"),
        (file((1, 25200, 6), meta={"end2end": "True"}), "end2end rows None"),
        (file((1, 8400, 6), meta=ULTRALYTICS | {"args": "{'nms': True}"}), "end2end rows None"),
        (file(("batch", "n", 85), image=DYNAMIC), None),
        (file(("batch", "n", "m"), image=DYNAMIC), None),
        (file(("batch", "n", 6), image=DYNAMIC), None),
    ],
)
def test_the_family_is_told_from_the_outside(model: OnnxFile, expected: str | None) -> None:
    assert family(model) == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 25200, 85), "yolov5 rows 80"),
        ((1, 8400, 85), "yolox rows 80"),
        ((1, 84, 8400), "yolov8 columns 80"),
        ((1, 300, 6), "end2end rows None"),
        ((1, 0, 6), "end2end rows None"),
    ],
)
def test_a_trial_run_tells_what_dynamic_shapes_hide(shape: tuple[int, ...], expected: str) -> None:
    model = file(("batch", "n", "m"), image=DYNAMIC)
    assert found(model).why == "the output's shape is dynamic: a trial run will tell"
    choice = describe(model, ModelOptions(), {"output0": shape}).choice
    assert choice is not None
    assert f"{choice.family.name} {choice.layout} {choice.classes}" == expected


@pytest.mark.parametrize(
    "model",
    [
        file((1, 512)),
        file((1, 300, 84)),
        file((1, 300, 4), (1, 300)),
        file((1, 100, 7)),
        file((1, 8400, 4), (1, 8400, 80)),
        file((1, 3, 80, 80, 85)),
        file((1, 8400, 9), names=THREE),
    ],
)
def test_an_unknown_family_says_what_was_found_and_what_there_is(model: OnnxFile) -> None:
    with pytest.raises(ConfigError) as caught:
        found(model)
    assert caught.value.key == "family"
    text = str(caught.value)
    assert all(str(output) in text for output in model.outputs)
    assert all(row.name in text for row in FAMILIES)
    assert "\n" not in text


def test_a_task_that_cannot_be_read_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"task 'obb', which this version cannot read.*set `task`") as caught:
        found(file((1, 20, 21504), meta=ULTRALYTICS | {"task": "obb"}))
    assert caught.value.key == "model"


def test_two_families_that_fit_are_named_and_the_config_decides() -> None:
    model = file((1, 8400, 85), ops="Conv Softmax")
    with pytest.raises(ConfigError, match=r"more than one family fits \(yolov8: .*; yolox: .*\); set `family`"):
        found(model)
    assert family(model, family="yolox") == "yolox rows 80"
    assert family(model, family="yolov8") == "yolov8 rows 81"


def test_the_config_can_force_a_family_that_the_numbers_allow() -> None:
    assert family(file((1, 777, 85)), family="yolov5") == "yolov5 rows 80"
    with pytest.raises(ConfigError, match=r'family = "end2end" does not fit.*output0 float32'):
        found(file((1, 777, 85)), family="end2end")


def test_yolox_is_raw_unless_the_graph_takes_the_exponent_itself() -> None:
    raw, inside = file((1, 8400, 85)), file((1, 8400, 85), ops="Conv Exp")
    assert (found(raw).raw_grid, found(inside).raw_grid) == (True, False)
    assert "raw grid" in found(raw).why
    assert "decoded inside" in found(inside).why
    with pytest.raises(ConfigError, match="--decode_in_inference"):
        found(file((1, 8500, 85)), family="yolox")


def test_each_family_is_fed_its_own_way_and_the_config_overrides_it() -> None:
    assert str(found(file((1, 84, 8400))).preprocess) == "RGB 0..1, letterbox centre, padding 114"
    assert str(found(file((1, 8400, 85))).preprocess) == "BGR 0..255, letterbox top_left, padding 114"
    changed = found(file((1, 8400, 85)), preprocess=PreprocessConfig(channels="rgb"))
    assert str(changed.preprocess) == "RGB 0..255, letterbox top_left, padding 114"


def test_labels_come_from_the_config_the_metadata_or_coco() -> None:
    named, unnamed = file((1, 7, 8400), names=THREE), file((1, 84, 8400))
    assert (found(named).labels, found(named).labels_from) == (("a", "b", "c"), "metadata")
    assert (found(unnamed).labels, found(unnamed).labels_from) == (COCO_80, "COCO-80")
    assert found(named, labels=("x", "y", "z")).labels == ("x", "y", "z")
    assert (found(file((1, 300, 6))).labels, found(file((1, 300, 6))).classes) == ((), None)


def test_labels_that_do_not_fit_the_model_are_to_blame() -> None:
    with pytest.raises(ConfigError, match=r"80 classes, but there are 2 labels \(config\)") as caught:
        found(file((1, 84, 8400)), labels=("a", "b"))
    assert caught.value.key == "labels"


@pytest.mark.parametrize(
    ("image", "metadata", "wanted", "size"),
    [
        ((1, 3, 384, 640), {}, None, (640, 384)),
        ((1, 384, 640, 3), {}, None, (640, 384)),
        (DYNAMIC, {}, None, (640, 640)),
        (DYNAMIC, {"imgsz": "[320, 416]"}, None, (416, 320)),
        (DYNAMIC, {"imgsz": "320"}, None, (320, 320)),
        (DYNAMIC, {"imgsz": "[99999, 1]"}, None, (640, 640)),
        (DYNAMIC, {}, Size(416, 256), (416, 256)),
        ((1, 3, 0, -1), {}, Size(64, 96), (64, 96)),
    ],
)
def test_the_input_size_is_the_graphs_the_configs_or_the_metadatas(
    image: Dims, metadata: dict[str, str], wanted: Size | None, size: tuple[int, int]
) -> None:
    model = file((1, 84, "n"), image=image, meta=metadata)
    assert found(model, input_size=wanted).input_size == size


@pytest.mark.parametrize(
    ("image", "wanted", "what"),
    [(DYNAMIC, Size(650, 640), "650 is not a multiple of 32.*; 640 is"), (FIXED_640, Size(320, 640), "fixed at 640")],
)
def test_an_input_size_that_cannot_be_is_refused(image: Dims, wanted: Size, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        found(file((1, 84, "n"), image=image), input_size=wanted)
    assert caught.value.key == "input_size"


@pytest.mark.parametrize("image", [(1, 1, 640, 640), (1, 3, 640), (1, 3, 100_000, 100_000), ()])
def test_an_input_that_is_no_picture_is_refused(image: Dims) -> None:
    with pytest.raises(ConfigError) as caught:
        found(file((1, 84, 8400), image=image))
    assert caught.value.key == "model"


def test_a_second_input_is_refused_and_named() -> None:
    model = file((1, 84, 8400))
    inputs = (*model.inputs, TensorInfo("sizes", "int64", (1, 2)))
    with pytest.raises(ConfigError, match=r"sizes int64 \[1, 2\]"):
        found(OnnxFile(model.path, inputs, model.outputs))
