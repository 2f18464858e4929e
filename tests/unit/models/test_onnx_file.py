"""What is refused before a runtime touches it: files that are no models, halves of models, and hidden weights."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_files import detector, external, yolov8_output
from onnx import ModelProto, SparseTensorProto, TensorProto, helper

from pipeline.contracts.errors import ConfigError
from pipeline.models.onnx_file import read_onnx

NAMES = "{0: 'car', 1: 'bus'}"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"A" * 64)
    (tmp_path / "secret.txt").write_bytes(b"TOPSECRET-" * 10)
    return detector(folder / "m.onnx", {"output0": yolov8_output()}, metadata={"names": NAMES, "task": "detect"})


def refusal(path: Path, **limits: int) -> str:
    with pytest.raises(ConfigError) as caught:
        read_onnx(path, **limits)
    assert caught.value.key == "model"
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


def test_the_outside_of_a_model_is_read_without_running_it(model: Path) -> None:
    file = read_onnx(model)
    assert [str(t) for t in file.inputs] == ["images float32 [1, 3, 64, 64]"]
    assert [str(t) for t in file.outputs] == ["output0 float32 [1, 6, 84]"]
    assert file.metadata == {"names": NAMES, "task": "detect"}
    assert (file.opset, "Reshape" in file.operators, file.size_bytes) == (17, True, model.stat().st_size)


def test_initializers_that_old_exporters_list_are_no_inputs(model: Path) -> None:
    proto = onnx.load(model)
    proto.graph.input.append(helper.make_tensor_value_info("zero", TensorProto.FLOAT, [1]))
    onnx.save(proto, model)
    assert [t.name for t in read_onnx(model).inputs] == ["images"]


def test_symbols_unknown_ranks_and_strange_types_are_shown_as_they_are(tmp_path: Path) -> None:
    path = detector(tmp_path / "m.onnx", {"out": np.zeros((2, 3), np.float32)}, image=("batch", 3, "height", "width"))
    proto = onnx.load(path)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    proto.graph.input[0].type.tensor_type.elem_type = 99
    onnx.save(proto, path)
    file = read_onnx(path)
    assert str(file.inputs[0]) == "images type 99 [batch, 3, height, width]"
    assert str(file.outputs[0]) == "out float32 [?]"


def test_names_that_would_disturb_a_terminal_are_shown_harmless(tmp_path: Path) -> None:
    path = detector(tmp_path / "m.onnx", {"out\n\x1b[2J" + "x" * 500: yolov8_output()})
    (output,) = read_onnx(path).outputs
    assert str(output) == "out??[2J" + "x" * 92 + " float32 [1, 6, 84]"


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    assert "no such model file" in refusal(tmp_path / "nothing.onnx")


def test_a_folder_and_a_pipe_are_no_models(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "not a regular file" in refusal(tmp_path / "pipe.onnx")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"just some text\n" * 100, "text"),
        ("<!DOCTYPE html><p>Größe</p>".encode(), "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"PK\x03\x04" + b"\0" * 100, "zip"),
        (pickle.dumps({"a": 1}, protocol=4), "pickle"),
        (pickle.dumps({"a": 1}, protocol=2), "pickle"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 100, "TensorFlow Lite"),
        (b"GGUF" + b"\0" * 100, "GGUF"),
        (b"\0" * 1000, "not an ONNX model"),
        (b"\x08\x09", "no graph"),
        (np.random.default_rng(0).bytes(5000), "not an ONNX model"),
    ],
)
def test_other_files_are_refused_and_named(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert what in refusal(path)


def test_a_model_over_the_size_limit_is_not_read(model: Path) -> None:
    assert "more than the 100 that are read" in refusal(model, max_bytes=100)


def test_a_truncated_model_is_noticed_wherever_it_was_cut(model: Path) -> None:
    data = model.read_bytes()
    proto = onnx.load(model)
    proto.ClearField("metadata_props")  # what stands behind it may be missing: the model is whole without
    whole = len(proto.SerializeToString())
    cut = model.with_name("cut.onnx")
    for length in range(1, whole, 7):
        cut.write_bytes(data[:length])
        refusal(cut)
    graph_only = ModelProto(ir_version=9, graph=proto.graph)
    cut.write_bytes(graph_only.SerializeToString())
    assert "operator set versions are missing" in refusal(cut)
    cut.write_bytes(data + b"\0" * 4096)  # allocated, never filled
    refusal(cut)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_no_content_of_a_file_gives_anything_but_a_refusal(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x09\x3a" + content)
    refusal(path)


Hide = Callable[[ModelProto, TensorProto], None]


def _initializer(model: ModelProto, tensor: TensorProto) -> None:
    model.graph.initializer.append(tensor)


def _sparse(model: ModelProto, tensor: TensorProto) -> None:
    model.graph.sparse_initializer.append(SparseTensorProto(values=tensor, dims=[16]))


def _attribute(model: ModelProto, tensor: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def _sparse_attribute(model: ModelProto, tensor: TensorProto) -> None:
    node = model.graph.node.add(op_type="Constant", output=["c"])
    attribute = node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.indices.CopyFrom(tensor)


def _branch(model: ModelProto, tensor: TensorProto) -> None:
    inner = helper.make_graph([], "inner", [], [], [tensor])
    middle = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=inner)], "middle", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], else_branch=middle))


def _function(model: ModelProto, tensor: TensorProto) -> None:
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    model.functions.append(helper.make_function("local", "F", [], ["c"], [node], [helper.make_opsetid("", 17)]))


def _function_default(model: ModelProto, tensor: TensorProto) -> None:
    model.functions.add(name="F", domain="local").attribute_proto.append(helper.make_attribute("a", tensor))


def _training(model: ModelProto, tensor: TensorProto) -> None:
    model.training_info.add().initialization.initializer.append(tensor)


PLACES = [_initializer, _sparse, _attribute, _sparse_attribute, _branch, _function, _function_default, _training]


@pytest.mark.parametrize("hide", PLACES)
def test_external_data_is_found_wherever_it_hides(model: Path, hide: Hide) -> None:
    proto = onnx.load(model)
    hide(proto, external("weights.bin"))
    onnx.save(proto, model)
    assert read_onnx(model).external_files == (model.parent / "weights.bin",)
    proto = onnx.load(model, load_external_data=False)
    hide(proto, external("../secret.txt"))
    model.write_bytes(proto.SerializeToString())
    assert "outside the model's folder" in refusal(model)


@pytest.mark.parametrize(
    ("location", "what"),
    [
        ("../secret.txt", "outside"),
        ("a/../../secret.txt", "outside"),
        ("..\\secret.txt", "outside"),
        ("/etc/passwd", "outside"),
        ("C:\\secret.txt", "outside"),
        ("/dev/zero", "outside"),
        ("link.bin", "symbolic link"),
        ("folder_link/secret.txt", "symbolic link"),
        ("hard.bin", "hard link"),
        ("pipe.bin", "not a regular file"),
        ("folder", "not a regular file"),
        ("nothing.bin", "No such file"),
        ("weights.bin/x", "Not a directory"),
        ("short.bin", "truncated"),
        ("", "without exactly one location"),
        ("*/_ORT_MEM_ADDR_/*", "not a file"),
    ],
)
def test_external_data_outside_the_folder_is_refused(model: Path, location: str, what: str) -> None:
    folder = model.parent
    (folder / "link.bin").symlink_to("../secret.txt")
    (folder / "folder_link").symlink_to("..")
    (folder / "hard.bin").hardlink_to(folder.parent / "secret.txt")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe.bin")
    (folder / "short.bin").write_bytes(b"A" * 63)
    proto = onnx.load(model)
    proto.graph.initializer.append(external(location))
    model.write_bytes(proto.SerializeToString())
    assert what in refusal(model)


@pytest.mark.parametrize(("key", "value"), [("offset", "-1"), ("length", "many"), ("offset", "9" * 30)])
def test_external_data_with_odd_numbers_is_refused(model: Path, key: str, value: str) -> None:
    tensor = external("weights.bin")
    next(e for e in tensor.external_data if e.key == key).value = value
    proto = onnx.load(model)
    proto.graph.initializer.append(tensor)
    model.write_bytes(proto.SerializeToString())
    assert "no number" in refusal(model)


def test_a_second_location_does_not_hide_behind_the_first(model: Path) -> None:
    tensor = external("weights.bin")
    tensor.external_data.add(key="location", value="../secret.txt")
    proto = onnx.load(model)
    proto.graph.initializer.append(tensor)
    model.write_bytes(proto.SerializeToString())
    assert "exactly one location" in refusal(model)


def test_a_model_compiled_for_one_device_is_refused(model: Path) -> None:
    proto = onnx.load(model)
    proto.graph.node.append(helper.make_node("EPContext", ["images"], ["x"], domain="com.microsoft"))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(proto, model)
    assert "compiled for one device" in refusal(model)
