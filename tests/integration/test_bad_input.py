"""A user's mistake is one clear line that names the place, exit code 78, no traceback, and nothing is written."""

import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from workplace import Workplace

Edit = Callable[[str, str], str]


def _one_line(answer: tuple[int, str, str], *expected: str) -> str:
    code, out, err = answer
    assert code == 78, err
    assert out == ""
    assert err.count("\n") == 1, err
    for text in expected:
        assert text in err, err
    return err


@pytest.mark.parametrize("command", ["run", "check"])
def test_there_is_no_such_config(workplace: Workplace, command: str) -> None:
    _one_line(workplace.penstock(command, "pipelin.toml"), "pipelin.toml")


def test_invalid_toml_names_line_and_column(workplace: Workplace, edited: Edit) -> None:
    workplace.write(edited('type = "onnx"', 'type = "onnx'))
    _one_line(workplace.penstock("check"), "pipeline.toml:7:13: ")


def test_an_unknown_key_names_line_and_nearest_key(workplace: Workplace, edited: Edit) -> None:
    workplace.write(edited('path = "clip.mp4"', 'path = "clip.mp4"\n    max_fsp = 5'))
    _one_line(workplace.penstock("run"), "pipeline.toml:5: sources.cam.max_fsp", "max_fps")


def test_a_wrong_type_names_line_and_what_would_be_right(workplace: Workplace, edited: Edit) -> None:
    workplace.write(edited('path = "clip.mp4"', 'path = "clip.mp4"\n    stride = "fast"'))
    _one_line(workplace.penstock("run"), "pipeline.toml:5: sources.cam.stride", "fast")


def test_all_mistakes_are_told_at_once(workplace: Workplace, edited: Edit) -> None:
    text = edited('path = "clip.mp4"', 'path = "clip.mp4"\n    strid = 2').replace('type = "onnx"', 'type = "onx"')
    workplace.write(text.replace('model = "model.onnx"', ""))
    code, _, err = workplace.penstock("run")
    assert code == 78
    assert [line.split(":")[1] for line in err.splitlines()] == ["5", "8"]


BOTH = pytest.mark.parametrize("command", ["run", "check"])


@BOTH
def test_a_variable_is_missing_and_its_message_is_told(workplace: Workplace, edited: Edit, command: str) -> None:
    workplace.write(edited('"clip.mp4"', '"${CLIP:?the name of the clip}"'))
    _one_line(
        workplace.penstock(command), "pipeline.toml:4: sources.cam.path: ", "variable CLIP", "the name of the clip"
    )


@BOTH
def test_a_plugin_is_unknown_and_the_nearest_is_named(workplace: Workplace, edited: Edit, command: str) -> None:
    workplace.write(edited('type = "file"', 'type = "fiel"'))
    _one_line(workplace.penstock(command), "pipeline.toml:3: sources.cam.type: ", "fiel", "did you mean file?")


@BOTH
def test_two_sinks_write_to_one_file(workplace: Workplace, edited: Edit, command: str) -> None:
    second = '[sinks.again]\n    type = "jsonl"\n    path = "./out/../out/cam.jsonl"\n\n    [server]'
    workplace.write(edited("[server]", second))
    _one_line(workplace.penstock(command), "pipeline.toml:16: sinks.again.path: ", "sink lines", "cam.jsonl")


@BOTH
def test_a_sink_names_a_source_that_does_not_exist(workplace: Workplace, edited: Edit, command: str) -> None:
    workplace.write(edited('type = "jsonl"', 'type = "jsonl"\n    sources = ["cma"]'))
    _one_line(workplace.penstock(command), "pipeline.toml:12: sinks.lines.sources: ", "cma", "did you mean cam?")


@BOTH
@pytest.mark.parametrize("kind", ["rtsp", "stream"])
def test_a_url_has_a_space(workplace: Workplace, edited: Edit, command: str, kind: str) -> None:
    scheme = "rtsp" if kind == "rtsp" else "http"
    camera = f'type = "{kind}"\n    url = "{scheme}://127.0.0.1/my camera"'
    workplace.write(edited('type = "file"\n    path = "clip.mp4"', camera))
    _one_line(workplace.penstock(command), "pipeline.toml:4: sources.cam.url: ", "%20")


@pytest.mark.parametrize("command", ["run", "check"])
def test_every_kind_of_mistake_is_told_at_once_in_the_order_of_the_file(workplace: Workplace, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        workplace.write(
            f"""\
            [sources.cam]
            type = "rtsp"
            url = "rtsp://127.0.0.1/my camera"

            [sources.gate]
            type = "rtps"
            url = "rtsp://127.0.0.1/x"

            [sources.yard]
            type = "rtsp"
            url = "${{YARD:?where is it}}"
            max_fsp = 5
            stride = "fast"

            [backends.local]
            type = "onnx"
            model = "modl.onnx"

            [sinks.lines]
            type = "jsonl"
            path = "out/all.jsonl"
            sources = ["cma"]

            [sinks.again]
            type = "jsonl"
            path = "out/all.jsonl"

            [sinks.nowhere]
            type = "jsonl"
            path = "/proc/sys/nowhere/x.jsonl"

            [server]
            listen = "127.0.0.1:{port}"
            """
        )
        code, out, err = workplace.penstock(command)
    assert (code, out) == (78, "")
    told = [line.split(": ")[:2] for line in err.splitlines()]
    assert told == [
        ["pipeline.toml:3", "sources.cam.url"],
        ["pipeline.toml:6", "sources.gate.type"],
        ["pipeline.toml:11", "sources.yard.url"],
        ["pipeline.toml:12", "sources.yard.max_fsp"],
        ["pipeline.toml:13", "sources.yard.stride"],
        ["pipeline.toml:17", "backends.local.model"],
        ["pipeline.toml:22", "sinks.lines.sources"],
        ["pipeline.toml:26", "sinks.again.path"],
        ["pipeline.toml:30", "sinks.nowhere.path"],
        ["pipeline.toml:33", "server.listen"],
    ], err
    assert not (workplace.folder / "out").exists()
    assert not (workplace.folder / "data").exists()


@BOTH
def test_the_model_is_missing(workplace: Workplace, edited: Edit, command: str) -> None:
    workplace.write(edited("model.onnx", "modl.onnx"))
    _one_line(workplace.penstock(command), "pipeline.toml:8: backends.local.model", "modl.onnx")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"these are no weights\n" * 50, "not ONNX"),
        (pickle.dumps({"weights": [1.0] * 1000}), "pickle"),
        (b"PK\x03\x04" + b"\0" * 500, "zip"),
    ],
)
def test_the_model_is_no_onnx(workplace: Workplace, content: bytes, what: str) -> None:
    (workplace.folder / "model.onnx").write_bytes(content)
    _one_line(workplace.penstock("run"), "pipeline.toml:8: backends.local.model", "model.onnx")


def test_the_model_is_truncated(workplace: Workplace) -> None:
    path = workplace.folder / "model.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _one_line(workplace.penstock("run"), "backends.local.model", "model.onnx")


def test_the_model_keeps_weights_outside_of_its_folder(workplace: Workplace) -> None:
    path = workplace.folder / "model.onnx"
    (workplace.folder.parent / "secret.bin").write_bytes(b"S" * 4096)
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret.bin"
    path.write_bytes(model.SerializeToString())
    _one_line(workplace.penstock("run"), "backends.local.model", "../secret.bin")


def test_the_family_is_unknown_and_the_known_ones_are_named(workplace: Workplace) -> None:
    shape = [1, 3, 64, 64]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["images"], ["depth"])],
        "depth",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("depth", TensorProto.FLOAT, shape)],
    )
    onnx.save(helper.make_model(graph), workplace.folder / "model.onnx")
    _one_line(workplace.penstock("run"), "depth", "1, 3, 64, 64", "yolov5", "yolov8", "yolox", "end2end")


def test_a_video_that_is_a_text_file_is_an_error_of_that_source_only(workplace: Workplace) -> None:
    (workplace.folder / "clip.mp4").write_text("no video\n" * 1000)
    code, _, err = workplace.penstock("run", "--quiet")
    assert code == 1
    assert err.count("\n") == 1, err
    assert "clip.mp4" in err


def test_a_missing_video_names_the_nearest(workplace: Workplace, edited: Edit) -> None:
    workplace.write(edited("clip.mp4", "clp.mp4"))
    _one_line(workplace.penstock("run"), "pipeline.toml:4: sources.cam.path", "clp.mp4", "clip.mp4")


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/sys").is_dir(), reason="nothing is unwritable here")
def test_the_output_cannot_be_written(workplace: Workplace, edited: Edit) -> None:
    workplace.write(edited("out/{source}.jsonl", "/proc/sys/nowhere/x.jsonl"))
    _one_line(workplace.penstock("run"), "pipeline.toml:12: sinks.lines.path", "/proc/sys")


def test_the_output_is_the_input(workplace: Workplace, edited: Edit) -> None:
    text = edited('type = "jsonl"', 'type = "video"').replace("out/{source}.jsonl", "./clip.mp4")
    workplace.write(text)
    before = (workplace.folder / "clip.mp4").read_bytes()
    _one_line(workplace.penstock("run"), "pipeline.toml:12: sinks.lines.path", "clip.mp4")
    assert (workplace.folder / "clip.mp4").read_bytes() == before


@pytest.mark.parametrize("command", ["run", "check"])
def test_the_port_is_in_use(workplace: Workplace, edited: Edit, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        workplace.write(edited('listen = "off"', f'listen = "127.0.0.1:{port}"'))
        _one_line(workplace.penstock(command), "pipeline.toml:15: server.listen", str(port))


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_class_is_not_in_the_model(workplace: Workplace, edited: Edit, command: str) -> None:
    workplace.write(edited('model = "model.onnx"', 'model = "model.onnx"\n    classes = ["thin"]'))
    _one_line(workplace.penstock(command), "pipeline.toml:9: backends.local.classes", "thin", "thing")


def test_cuda_is_asked_for_and_absent(workplace: Workplace, edited: Edit) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA device")
    workplace.write(edited('model = "model.onnx"', 'model = "model.onnx"\n    device = "cuda"'))
    _one_line(workplace.penstock("run"), "pipeline.toml:9: backends.local.device", "NVIDIA")
    assert not (workplace.folder / "out/cam.jsonl").exists()


def test_cuda_is_absent_and_a_warning_was_asked_for(workplace: Workplace, edited: Edit) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA device")
    keys = 'model = "model.onnx"\n    device = "cuda"\n    on_fallback = "warn"'
    workplace.write(edited('model = "model.onnx"', keys))
    code, _, err = workplace.penstock("run", "--quiet")
    assert code == 0, err
    assert err.count("\n") == 1, err
    assert "backend local: cpu in place of cuda:0: " in err


def test_a_mistake_on_the_command_line(workplace: Workplace) -> None:
    _one_line(workplace.penstock("run", "--quite"), "--quite")
    _one_line(workplace.penstock("rum"), "rum")


def test_a_bad_config_leaves_an_old_result_alone(workplace: Workplace, edited: Edit) -> None:
    (workplace.folder / "out").mkdir()
    old = workplace.folder / "out/cam.jsonl"
    old.write_text('{"old": true}\n')
    for good, bad in (
        ("model.onnx", "none.onnx"),
        ('model = "model.onnx"', 'model = "model.onnx"\n    device = "cuda:9"'),
    ):
        workplace.write(edited(good, bad))
        assert workplace.penstock("run")[0] == 78
    assert old.read_text() == '{"old": true}\n'
