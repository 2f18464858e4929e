"""A model with parts put into its graph: what it says stays what it says."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import model_files
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.contracts.frame import Size, Wishes
from pipeline.contracts.result import Detections
from pipeline.models.description import ModelDescription, ModelOptions, describe
from pipeline.models.graph import Parts, compose
from pipeline.models.graph_bytes import PIXELS
from pipeline.models.graph_nodes import PREFIX, CannotComposeError
from pipeline.models.graph_picks import MOST_PICKED, PICKED, choice_of_picks, enough, why_not
from pipeline.models.graph_planes import PlanesIn, SlotOut
from pipeline.models.onnx_file import read_onnx
from pipeline.models.preprocess import Preprocess
from pipeline.models.reader import Reader
from pipeline.models.rules import ReadSettings

Array = npt.NDArray[Any]

CLASSES = 12
SIDE = 320
CELLS = model_files.cells(SIDE, SIDE)
PICKS = Parts(picks=True)


def described(path: Path, **options: Any) -> ModelDescription:
    return describe(read_onnx(path), ModelOptions(**options))


def session_of(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def columns(rng: np.random.Generator, extras: int = 0) -> Array:
    """YOLOv8's output: boxes that overlap, most of them unlikely, and some scores that are the same."""
    found = rng.uniform(10, 300, (4 + CLASSES + extras, CELLS)).astype(np.float32)
    scores = np.power(rng.uniform(0, 1, (CLASSES, CELLS)), 60).round(2)
    found[4 : 4 + CLASSES] = scores
    found[:, 100:140] = found[:, 60:100]  # the same boxes once more: which one stays is told by their place
    return found


def rows(rng: np.random.Generator, number: int, *, raw: bool = False, extras: int = 0) -> Array:
    """YOLOv5's and YOLOX's output."""
    found = rng.uniform(10, 300, (number, 5 + CLASSES + extras)).astype(np.float32)
    if raw:
        found[:, :4] = rng.uniform(-1, 3, (number, 4))
    found[:, 4] = np.power(rng.uniform(0, 1, number), 20)
    found[:, 5 : 5 + CLASSES] = rng.uniform(0, 1, (number, CLASSES))
    return found


def answers(data: bytes, model: ModelDescription, names: Sequence[str], batch: int = 1) -> list[Array]:
    width, height = model.input_size
    tensor = np.zeros((batch, 3, height, width), model.image.dtype)
    return [np.asarray(found) for found in session_of(data).run(list(names), model.feeds(tensor, model.input_size))]


def assert_same(one: Any, other: Any) -> None:
    assert isinstance(one, Detections)
    assert isinstance(other, Detections)
    assert np.array_equal(one.xyxy, other.xyxy)
    assert np.array_equal(one.confidence, other.confidence)
    assert np.array_equal(one.class_id, other.class_id)
    for a, b in ((one.masks, other.masks), (one.keypoints, other.keypoints)):
        assert (a is None) == (b is None)
        assert a is None or b is None or np.array_equal(a, b, equal_nan=True)


def model_for(path: Path, family: str, half: bool) -> ModelDescription:
    """A model of this family, whose output is always the same."""
    rng = np.random.default_rng(7)
    dtype = np.float16 if half else np.float32
    image = (1, 3, SIDE, SIDE)
    masks = family == "masks"
    if family in {"yolov8", "masks", "points"}:
        extras = {"yolov8": 0, "masks": 8, "points": 6}[family]
        outputs = {"output0": columns(rng, extras)}
        if masks:
            outputs["output1"] = rng.uniform(-1, 1, (8, 20, 20)).astype(np.float32)
        metadata = {"kpt_shape": "[2, 3]", "task": "pose"} if family == "points" else {}
        metadata |= {"task": "segment"} if masks else {}
        metadata["names"] = str({i: f"class {i}" for i in range(CLASSES)})
        return described(model_files.detector(path, outputs, image=image, dtype=dtype, metadata=metadata))
    if family == "rows":  # YOLOv8, transposed
        names = str({i: f"class {i}" for i in range(CLASSES)})
        output = np.ascontiguousarray(columns(rng).T)
        return described(model_files.detector(path, {"o": output}, image=image, dtype=dtype, metadata={"names": names}))
    if family == "yolov5":
        output = rows(rng, 3 * CELLS)
        return described(model_files.detector(path, {"o": output}, image=image, dtype=dtype), family="yolov5")
    raw = family == "yolox"
    output = rows(rng, CELLS, raw=raw)
    operators = () if raw else ("Exp",)
    labels = tuple(f"class {i}" for i in range(CLASSES))
    detector = model_files.detector(path, {"o": output}, image=image, dtype=dtype, operators=operators)
    return described(detector, family="yolox", labels=labels)


FAMILIES = ["yolov8", "rows", "masks", "points", "yolov5", "yolox", "yolox decoded"]


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_picked_rows_give_the_boxes_of_the_whole_output(tmp_path: Path, family: str, half: bool) -> None:
    model = model_for(tmp_path / "model.onnx", family, half)
    assert why_not(model) is None
    plain = Reader(model, ReadSettings(confidence=0.3))
    picks = plain.reading(choice_of_picks(model))
    data = compose(model.file.path.read_bytes(), model, PICKS)
    raw = answers(data, model, plain.outputs)
    picked = answers(data, model, picks.outputs)
    assert picked[0].shape == (1, MOST_PICKED, 7 + plain.choice.extras)
    wishes = [
        None,
        Wishes(confidence=0.6),
        Wishes(classes=("class 3", "class 5")),
        Wishes(max_detections=3, class_agnostic_nms=True),
        Wishes(iou_threshold=0.9),
    ]
    counts = []
    frame = Size(640, 480)
    for wish in wishes:
        assert enough(picked[0][0], plain.confidence(wish))
        one, other = (
            reader.read([array[0] for array in arrays], reader.place(frame), frame, wish)
            for reader, arrays in ((plain, raw), (picks, picked))
        )
        assert_same(one, other)
        assert isinstance(one, Detections)
        counts.append(len(one))
    assert counts[0] >= 10
    assert len(set(counts)) >= 3, "wishes that change nothing prove nothing"


def test_more_rows_over_the_threshold_than_were_picked_are_noticed(tmp_path: Path) -> None:
    model = model_for(tmp_path / "model.onnx", "yolov8", half=False)
    plain = Reader(model)
    data = compose(model.file.path.read_bytes(), model, PICKS)
    ((picked,),) = answers(data, model, [PICKED])
    over = [float(picked[MOST_PICKED - 1, 4]), float(picked[MOST_PICKED // 2, 4])]
    assert over[1] > over[0] > 0
    assert not enough(picked, over[0])
    assert not enough(picked, 0.0)
    assert enough(picked, over[1])
    assert plain.confidence(Wishes(confidence=over[0])) == over[0]
    assert enough(picked[:10], 0.0), "a model with fewer rows than are picked has given all of them"


def test_of_equal_boxes_the_models_first_one_stays_however_the_device_sorts(tmp_path: Path) -> None:
    model = model_for(tmp_path / "model.onnx", "yolov8", half=False)
    plain = Reader(model, ReadSettings(confidence=0.3))
    picks = plain.reading(choice_of_picks(model))
    data = compose(model.file.path.read_bytes(), model, PICKS)
    ((raw,), (picked,)) = answers(data, model, [*plain.outputs, *picks.outputs])
    frame = Size(640, 480)
    place = plain.place(frame)
    wanted = plain.read([raw], place, frame)
    for seed in range(3):
        mixed = np.random.default_rng(seed).permutation(picked)
        mixed = mixed[np.argsort(-mixed[:, 4], kind="stable")]  # best first, and equals in any order
        assert_same(wanted, picks.read([mixed], place, frame))


def test_what_is_no_number_hides_no_object(tmp_path: Path) -> None:
    output = model_files.yolov8_output((50, 60, 20, 20, 1, 0.9), classes=CLASSES, rows=CELLS)
    output[4:, 500:1500] = np.nan
    output[4, 1500:1600] = -np.inf
    output[:4, 1600:1700], output[5, 1600:1700] = np.inf, 0.8
    names = str({i: f"class {i}" for i in range(CLASSES)})
    path = model_files.detector(
        tmp_path / "m.onnx", {"output0": output}, image=(1, 3, SIDE, SIDE), metadata={"names": names}
    )
    model = described(path)
    plain = Reader(model)
    picks = plain.reading(choice_of_picks(model))
    data = compose(path.read_bytes(), model, PICKS)
    raw, picked = answers(data, model, plain.outputs), answers(data, model, picks.outputs)
    frame = Size(SIDE, SIDE)
    one = plain.read([raw[0][0]], plain.place(frame), frame)
    other = picks.read([picked[0][0]], plain.place(frame), frame)
    assert_same(one, other)
    assert isinstance(other, Detections)
    assert other.confidence.tolist() == pytest.approx([0.9])
    assert enough(picked[0][0], 0.25)


def dynamic_model(path: Path) -> Path:
    """A YOLOv8 of any size and batch: each cell of stride 8 has the mean colour of its pixels for classes."""
    nodes = [
        helper.make_node("AveragePool", ["images"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Concat", ["batch", "tail"], ["flat"], axis=0),
        helper.make_node("Reshape", ["cells", "flat"], ["scores"]),
        helper.make_node("Concat", ["scores", "scores", "scores"], ["nine"], axis=1),
        helper.make_node("Mul", ["nine", "factors"], ["output0"]),
    ]
    factors = np.array([50, 60, 20, 30, 1, 1, 1, 0.5, 0.5], np.float32).reshape(1, 9, 1)
    weights = [
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
        numpy_helper.from_array(np.array([3, -1], np.int64), "tail"),
        numpy_helper.from_array(factors, "factors"),
    ]
    graph = helper.make_graph(
        nodes,
        "any size",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["b", 9, "n"])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"names": str(dict.fromkeys(range(5), "x"))})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("size", [Size(640, 640), Size(320, 192), Size(32, 64)])
def test_a_model_of_any_size_gives_as_many_rows_as_it_has(tmp_path: Path, size: Size) -> None:
    path = dynamic_model(tmp_path / "m.onnx")
    model = described(path, family="yolov8", labels=tuple("abcde"))
    assert model.dynamic_size
    model = replace(model, choice=model.choice and model.choice._replace(layout="columns"))
    session = session_of(compose(path.read_bytes(), model, Parts("bytes", picks=True)))
    pixels = np.random.default_rng(1).integers(0, 256, (2, size.height, size.width, 3), np.uint8)
    own, picked = session.run(["output0", PICKED], {PIXELS: pixels})
    wanted = min(MOST_PICKED, size.width * size.height // 64)
    assert own.shape == (2, 9, size.width * size.height // 64)
    assert picked.shape == (2, wanted, 7)
    best = -np.sort(-own[:, 4:].max(axis=1), axis=1)[:, :wanted]
    assert np.allclose(picked[:, :, 4], best)
    rows_of = picked[1, :, 6].astype(int)
    assert np.array_equal(picked[1, :, :4], own[1, :4, rows_of])
    assert np.array_equal(picked[1, :, 5], own[1, 4:, rows_of].argmax(axis=1))


def opset_model(path: Path, opset: int, *, ir_version: int = 7) -> Path:
    """A model whose answer is its picture; as old as wanted."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["images"], ["vector"], axis=1)],
        "all of it",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [1, 3072])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    helper.set_model_props(model, {"author": "somebody", "penstock.quantized": "{}"})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("opset", "ir_version"), [(11, 3), (11, 6), (12, 7), (13, 7), (17, 8), (18, 8), (21, 10)])
def test_bytes_and_planes_go_in_front_of_models_of_any_age(tmp_path: Path, opset: int, ir_version: int) -> None:
    path = opset_model(tmp_path / "m.onnx", opset, ir_version=ir_version)
    mean = Preprocess(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    model = replace(described(path, task="embedding"), preprocess=mean)
    pixels = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), np.uint8)
    (vector,) = session_of(compose(path.read_bytes(), model, Parts("bytes"))).run(None, {PIXELS: pixels})
    gain, offset = np.array(mean.affine).T
    wanted = (pixels * (gain / 255) + offset).transpose(0, 3, 1, 2).reshape(1, -1)
    assert np.allclose(vector, wanted, atol=1e-5)

    planes = PlanesIn("nv12", Size(48, 40), 64, 64)
    slot = SlotOut(mean, mean.place(planes.size, Size(32, 32)))
    session = session_of(compose(path.read_bytes(), model, Parts((planes, slot))))
    assert [i.name for i in session.get_inputs()] == ["y", "uv"]
    grey = {"y": np.full((1, 1, 40, 64), 126, np.uint8), "uv": np.full((1, 20, 32, 2), 128, np.uint8)}
    middle = np.asarray(session.run(None, grey)[0]).reshape(3, 32, 32)[:, 16, 16]
    assert np.allclose(middle, gain * (110 / 219) * 65280 / 65535 + offset, atol=1e-3)


def test_metadata_and_the_models_own_outputs_stay(tmp_path: Path) -> None:
    path = opset_model(tmp_path / "m.onnx", 17)
    composed = onnx.load_from_string(compose(path.read_bytes(), described(path, task="embedding"), Parts("bytes")))
    assert {p.key: p.value for p in composed.metadata_props} == {"author": "somebody", "penstock.quantized": "{}"}
    detector = model_for(tmp_path / "d.onnx", "masks", half=False)
    composed = onnx.load_from_string(compose(detector.file.path.read_bytes(), detector, PICKS))
    assert [output.name for output in composed.graph.output] == ["output0", "output1", PICKED]
    assert [value.name for value in composed.graph.input] == ["images"]


def test_models_that_cannot_be_added_to_say_why(tmp_path: Path) -> None:
    old = opset_model(tmp_path / "old.onnx", 9)
    with pytest.raises(CannotComposeError, match="operator set 9 is older than 11"):
        compose(old.read_bytes(), described(old, task="embedding"), Parts("bytes"))

    path = opset_model(tmp_path / "taken.onnx", 17)
    taken = onnx.load(path)
    taken.graph.node.append(helper.make_node("Neg", ["vector"], [f"{PREFIX}in_Cast_1"]))
    onnx.save(taken, path)
    with pytest.raises(CannotComposeError, match="names that begin with 'penstock/'"):
        compose(path.read_bytes(), described(path, task="embedding"), Parts("bytes"))

    inside = opset_model(tmp_path / "inside.onnx", 17)
    model = described(inside, task="embedding")
    other = SlotOut(model.preprocess, model.preprocess.place(Size(48, 40), Size(32, 32)), "float16")
    with pytest.raises(CannotComposeError, match="slot is not the model's input"):
        compose(inside.read_bytes(), model, Parts((PlanesIn("nv12", Size(48, 40), 64, 64), other)))
    with pytest.raises(CannotComposeError, match="gives no boxes"):
        compose(inside.read_bytes(), model, PICKS)


def test_a_name_taken_in_an_inner_graph_is_seen(tmp_path: Path) -> None:
    path = opset_model(tmp_path / "m.onnx", 17)
    model = onnx.load(path)
    inner = helper.make_graph(
        [helper.make_node("Identity", ["vector"], [f"{PREFIX}picked"])],
        "inner",
        [],
        [helper.make_tensor_value_info(f"{PREFIX}picked", TensorProto.FLOAT, [1, 3072])],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["out"], then_branch=inner, else_branch=inner))
    onnx.save(model, path)
    with pytest.raises(CannotComposeError, match="names that begin with"):
        compose(path.read_bytes(), described(path, task="embedding"), Parts("bytes"))


def test_small_outputs_and_other_families_stay_as_they_are(tmp_path: Path) -> None:
    small = model_files.detector(tmp_path / "small.onnx", {"output0": model_files.yolov8_output()})
    assert why_not(described(small)) == "the output is small"
    boxes = np.zeros((300, 6), np.float32)
    end = described(model_files.detector(tmp_path / "end.onnx", {"o": boxes}), family="end2end")
    assert why_not(end) == "what end2end gives is small, or already picked"
