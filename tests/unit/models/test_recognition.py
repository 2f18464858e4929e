"""What a model does, told from the outside: masks, keypoints, classes, pixels, vectors."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.frame import Size
from pipeline.models.choice import Points
from pipeline.models.description import ModelDescription, ModelOptions, describe
from pipeline.models.heads_many import YUNET_OUTPUTS
from pipeline.models.labels import COCO_KEYPOINTS, FACE_POINTS
from pipeline.models.onnx_ends import OutputEnd
from pipeline.models.onnx_file import OnnxFile, TensorInfo

Dims = tuple[int | str, ...]
ULTRALYTICS = {"author": "Ultralytics", "stride": "32", "imgsz": "[640, 640]"}
THREE = {"names": "{0: 'a', 1: 'b', 2: 'c'}"}
PERSON = {"names": "{0: 'person'}"}
POSE = ULTRALYTICS | {"task": "pose", "kpt_shape": "[17, 3]"} | PERSON
PROTOTYPES: Dims = (1, 32, 160, 160)
SIZES = TensorInfo("orig_target_sizes", "int64", ("n", 2))


def file(
    *outputs: Dims,
    image: Dims = (1, 3, 640, 640),
    meta: dict[str, str] | None = None,
    dtype: str = "float32",
    end: OutputEnd | None = None,
    names: tuple[str, ...] = (),
    ops: str = "Conv",
    inputs: tuple[TensorInfo, ...] = (),
) -> OnnxFile:
    called = names or tuple(f"output{i}" for i in range(len(outputs)))
    found = tuple(TensorInfo(name, dtype, shape) for name, shape in zip(called, outputs, strict=True))
    ends = {called[0]: end} if end is not None else {}
    taken = (TensorInfo("images", "float32", image), *inputs)
    return OnnxFile(Path("m.onnx"), taken, found, meta or {}, frozenset(ops.split()), ends=ends)


def found(model: OnnxFile, **options: Any) -> ModelDescription:
    return describe(model, ModelOptions(**options))


def kind(model: OnnxFile, **options: Any) -> str:
    description = found(model, **options)
    assert description.choice is not None
    assert description.task == description.choice.task
    return f"{description.choice.family.name} {description.task} {description.classes}"


SOFTMAX, SIGMOID, GEMM = OutputEnd("Softmax"), OutputEnd("Sigmoid"), OutputEnd("Gemm")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (file((1, 116, 8400), PROTOTYPES), "yolov8 instance-segmentation 80"),
        (file((1, 39, 8400), PROTOTYPES, meta=THREE), "yolov8 instance-segmentation 3"),
        (file(PROTOTYPES, (1, 116, 8400)), "yolov8 instance-segmentation 80"),
        (file((1, 116, 8400), PROTOTYPES, meta=ULTRALYTICS | {"task": "segment"}), "yolov8 instance-segmentation 80"),
        (
            file(("b", 116, "n"), ("b", 32, "h", "w"), image=("b", 3, "h", "w"), meta={"task": "segment"}),
            "yolov8 instance-segmentation 80",
        ),
        (file((1, 25200, 117), PROTOTYPES), "yolov5 instance-segmentation 80"),
        (file((1, 300, 38), PROTOTYPES, meta=ULTRALYTICS | {"task": "segment"}), "end2end instance-segmentation None"),
        (file((1, 56, 8400), meta=POSE), "yolov8 keypoint-detection 1"),
        (file((1, 300, 57), meta=POSE | {"end2end": "True"}), "end2end keypoint-detection 1"),
        (file((1, 11, 8400), meta={"task": "pose", "kpt_shape": "[3, 2]"}), "yolov8 keypoint-detection 1"),
        (file((1, 1000), end=SOFTMAX), "classifier classification 1000"),
        (file((1, 1000)), "classifier classification 1000"),
        (file((1, 1000, 1, 1)), "classifier classification 1000"),
        (file((1, 3), meta=THREE), "classifier classification 3"),
        (file((1, 3), meta=THREE, end=SIGMOID), "classifier multi-label-classification 3"),
        (file((1, 7), end=SOFTMAX), "classifier classification 7"),
        (file((1, 3), meta=ULTRALYTICS | THREE | {"task": "classify"}), "classifier classification 3"),
    ],
)
def test_what_a_model_does_is_told_from_the_outside(model: OnnxFile, expected: str) -> None:
    assert kind(model) == expected


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        (file((1, 7)), {"task": "classification"}, "classifier classification 7"),
        (file((1, 7)), {"family": "classifier"}, "classifier classification 7"),
        (file((1, 7)), {"task": "multi-label-classification"}, "classifier multi-label-classification 7"),
        (file((1, 7), (1, 512)), {"labels": tuple("abcdefg"), "task": "classification"}, "classifier classification 7"),
        (file((1, 21, 65, 65)), {"task": "semantic-segmentation"}, "semantic semantic-segmentation 21"),
        (file((1, 64, 64), dtype="int64"), {"family": "semantic"}, "semantic semantic-segmentation None"),
        (file((1, 1, 64, 64)), {"task": "semantic-segmentation"}, "semantic semantic-segmentation 2"),
        (file((1, 512)), {"task": "embedding"}, "embedder embedding None"),
        (file((1, 50, 8), (1, 512), names=("last", "image_embeds")), {"task": "embedding"}, "embedder embedding None"),
        (file((1, 11, 8400)), {"task": "keypoint-detection", "keypoints": ("a", "b")}, "yolov8 keypoint-detection 1"),
        (file((1, 84, 8400), meta={"task": "obb"}), {"task": "object-detection"}, "yolov8 object-detection 80"),
    ],
)
def test_the_config_says_what_the_model_does_not(model: OnnxFile, options: dict[str, Any], expected: str) -> None:
    assert kind(model, **options) == expected


@pytest.mark.parametrize(
    ("model", "options", "key", "what"),
    [
        (file((1, 84, 8400)), {"task": "instance-segmentation"}, "task", "mask prototypes is expected"),
        (file((1, 84, 8400), meta={"task": "segment"}), {}, "model", "mask prototypes is expected"),
        (
            file((1, 84, 8400)),
            {"task": "classification"},
            "task",
            r"task = \"classification\" does not fit: one output",
        ),
        (file((1, 84, 8400)), {"family": "classifier"}, "family", r"family = \"classifier\" does not fit"),
        (file((1, 84)), {"task": "semantic-segmentation"}, "task", r"\[B, classes, H, W\]"),
        (file((1, 84, 8400)), {"task": "embedding"}, "task", r"\[B, numbers\]"),
        (file((1, 84, 8400)), {"family": "rtdetr"}, "family", "does not fit"),
        (file((1, 12, 8400), meta={"task": "pose"}), {}, "keypoints", "how many keypoints"),
        (file((1, 56, 8400), meta=POSE), {"keypoints": ("a", "b")}, "family", "family of the model is not known"),
        (file((1, 1000)), {"labels": ("a", "b")}, "labels", "1000 classes, but there are 2 labels"),
        (file((1, 512)), {}, "family", "family of the model is not known"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_the_key(
    model: OnnxFile, options: dict[str, Any], key: str, what: str
) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        found(model, **options)
    assert caught.value.key == key
    assert "\n" not in str(caught.value)


def test_labels_boxes_and_scores_with_a_second_input_are_a_detection_transformer() -> None:
    outputs: tuple[Dims, ...] = (("n", "q"), ("n", "q", 4), ("n", "q"))
    model = file(*outputs, names=("labels", "boxes", "scores"), image=("n", 3, 320, 320), inputs=(SIZES,))
    description = found(model)
    assert kind(model) == "rtdetr object-detection None"
    assert description.sizes == SIZES
    assert str(description.preprocess) == "RGB 0..1, stretched"
    with pytest.raises(ConfigError, match="one input is expected"):
        found(file((1, 84, 8400), inputs=(SIZES,)))


def test_dets_and_labels_are_rf_detr() -> None:
    model = file((1, 300, 91), (1, 300, 4), names=("labels", "dets"), image=(1, 3, 512, 512))
    assert kind(model) == "rfdetr object-detection 91"
    assert str(found(model).preprocess).startswith("RGB 0..1, stretched, mean (0.485, ")
    with pytest.raises(ConfigError, match="family of the model is not known"):
        found(file((1, 300, 91), (1, 300, 5), names=("labels", "dets")))


def test_yunet_is_known_by_its_twelve_maps_and_gives_faces() -> None:
    cells = {8: 1600, 16: 400, 32: 100}
    sizes = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    shapes = [(1, cells[int(name.split("_")[1])], sizes[name.split("_")[0]]) for name in YUNET_OUTPUTS]
    description = found(file(*reversed(shapes), names=tuple(reversed(YUNET_OUTPUTS)), image=(1, 3, 320, 320)))
    assert description.choice is not None
    assert [output.name for output in description.choice.outputs] == list(YUNET_OUTPUTS)
    assert (description.labels, description.keypoints) == (("face",), FACE_POINTS)
    assert str(description.preprocess) == "BGR 0..255, letterbox top_left, padding 0"


def test_keypoints_have_their_own_names_cocos_or_none() -> None:
    names = {"kpt_names": "{0: ['tip', 'root', 'end']}", "kpt_shape": "[3, 3]", "task": "pose"}
    assert found(file((1, 56, 8400), meta=POSE)).keypoints == COCO_KEYPOINTS
    assert found(file((1, 14, 8400), meta=names)).keypoints == ("tip", "root", "end")
    assert found(file((1, 14, 8400), meta=names), keypoints=("x", "y", "z")).keypoints == ("x", "y", "z")
    horse = POSE | {"names": "{0: 'horse'}"}
    assert found(file((1, 56, 8400), meta=horse)).keypoints == (), "17 points of something else are not a person's"
    choice = found(file((1, 56, 8400), meta=POSE)).choice
    assert choice is not None
    assert choice.points == Points(17, 3)


@pytest.mark.parametrize("text", ["[0, 3]", "[99999, 3]", "[17, 4]", "nonsense", "[[[", "[17, 3" * 1000])
def test_a_keypoint_shape_that_makes_no_sense_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="how many keypoints"):
        found(file((1, 14, 8400), meta={"task": "pose", "kpt_shape": text}))


@pytest.mark.parametrize(
    ("end", "dtype", "task", "values"),
    [
        (SOFTMAX, "float32", None, ("probabilities", 1.0, 0)),
        (GEMM, "float32", None, ("logits", 1.0, 0)),
        (OutputEnd("LogSoftmax"), "float32", None, ("logits", 1.0, 0)),
        (None, "float32", None, ("unknown", 1.0, 0)),
        (None, "float32", "multi-label-classification", ("independent-unknown", 1.0, 0)),
        (GEMM, "float32", "multi-label-classification", ("independent-logits", 1.0, 0)),
        (SIGMOID, "float32", "classification", ("probabilities", 1.0, 0)),
        (OutputEnd("Softmax", 0.25, 3), "uint8", None, ("probabilities", 0.25, 3)),
        (OutputEnd("Softmax", 0.25, 3), "float32", None, ("probabilities", 1.0, 0)),
        (SOFTMAX, "uint8", None, ("probabilities", 1 / 256, 0)),
        (SOFTMAX, "int8", None, ("probabilities", 1 / 256, -128)),
    ],
)
def test_what_the_numbers_are_is_told_by_the_graphs_last_operator(
    end: OutputEnd | None, dtype: str, task: Any, values: tuple[str, float, int]
) -> None:
    choice = found(file((1, 1000), end=end, dtype=dtype), task=task).choice
    assert choice is not None
    assert choice.values == values


SMALL = ULTRALYTICS | THREE | {"task": "classify", "imgsz": "[320, 320]"}


@pytest.mark.parametrize(
    ("model", "options", "preprocess", "size"),
    [
        (file((1, 1000), image=(1, 3, 256, 256)), {}, "centre crop, 0.875 of the shorter side, mean", (256, 256)),
        (file((1, 1000), image=("b", 3, "h", "w")), {}, "RGB 0..1, centre crop, 0.875", (224, 224)),
        (file((1, 1000), image=("b", 3, "h", "w")), {"input_size": Size(300, 300)}, "centre crop", (300, 300)),
        (
            file((1, 3), image=("b", 3, "h", "w"), meta=SMALL),
            {},
            "RGB 0..1, centre crop, 1 of the shorter side",
            (320, 320),
        ),
        (file((1, 21, 64, 64)), {"task": "semantic-segmentation"}, "RGB 0..1, stretched, mean", (640, 640)),
        (
            file((1, 512), image=(1, 3, 224, 224)),
            {"task": "embedding"},
            "centre crop, 1 of the shorter side",
            (224, 224),
        ),
    ],
)
def test_each_kind_is_fed_its_usual_way(
    model: OnnxFile, options: dict[str, Any], preprocess: str, size: tuple[int, int]
) -> None:
    description = found(model, **options)
    assert preprocess in str(description.preprocess)
    assert description.input_size == size


def test_a_model_that_takes_bytes_scales_them_itself() -> None:
    model = file((1, 1000))
    image = TensorInfo("images", "uint8", (1, 224, 224, 3))
    description = found(OnnxFile(model.path, (image,), model.outputs))
    assert str(description.preprocess) == "RGB 0..255, centre crop, 0.875 of the shorter side"


def test_a_trial_run_tells_what_dynamic_shapes_hide() -> None:
    model = file(("b", "n", "m"), ("b", "c", "h", "w"), image=("b", 3, "h", "w"), meta={"task": "segment"})
    with pytest.raises(ConfigError, match="mask prototypes"):
        describe(model, ModelOptions(), {"output0": (1, 116, 8400), "output1": (1, 1, 160, 160)})
    assert found(model).choice is None
    half = file((1, 116, 8400), ("b", "c", "h", "w"), meta={"task": "segment"})
    assert found(half).choice is None, "how many of the 116 values are coefficients is not known yet"
    choice = describe(model, ModelOptions(), {"output0": (1, 116, 8400), "output1": PROTOTYPES}).choice  # type: ignore[dict-item]
    assert choice is not None
    assert (choice.task, choice.extras, choice.classes) == ("instance-segmentation", 32, 80)
