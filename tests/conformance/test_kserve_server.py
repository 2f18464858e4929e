"""Our backend, the real Triton (2.51, of the nvidia-pytriton wheel, without a GPU), and a second Penstock."""

import shutil
import subprocess
import sysconfig
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import answering
import numpy as np
import pytest
from asking import NAMES, found
from daemon import JSONL, Daemon, free_port
from looped import LoopedContext
from makers import clip
from model_files import detector, yolov8_output
from observed import until

from pipeline.backends._http_backend import HttpBackend
from pipeline.backends.kserve import KserveBackendConfig
from pipeline.backends.onnx import OnnxBackendConfig
from pipeline.contracts.errors import BackendErrorCode, TransientError
from pipeline.contracts.frame import Wishes
from pipeline.contracts.result import Detections
from pipeline.testing import PluginContext, frame
from tests.conformance.harness import Ours, needs, started

OUTPUT = yolov8_output((32, 32, 16, 24, 1, 0.9), (12, 20, 8, 8, 0, 0.6), (13, 20, 8, 8, 0, 0.5))
CONFIG = """
backend: "python"
max_batch_size: 4
input [ {{ name: "images" data_type: TYPE_{type} dims: [ 3, 64, 64 ] }} ]
output [ {{ name: "output0" data_type: TYPE_FP32 dims: [ {dims} ] }} ]
instance_group [ {{ kind: KIND_CPU }} ]
parameters {{ key: "names" value: {{ string_value: "['thing', 'other']" }} }}
"""
# A YOLO that finds the same in every picture; what is fed decides how sure it is of the first box.
MODEL = """
import json
import numpy as np
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        self.output = np.load(args["model_repository"] + "/output.npy")

    def execute(self, requests):
        answers = []
        for request in requests:
            fed = triton.get_input_tensor_by_name(request, "images").as_numpy().astype(np.float32)
            if 0.99 < fed.max() < 1.01:
                answers.append(triton.InferenceResponse([], triton.TritonError("the picture is too bright")))
                continue
            found = np.repeat(self.output[None], len(fed), 0)
            found[:, 5, 0] = np.clip(fed[:, 0, 32, 32] / (255 if fed.max() > 1 else 1), 0.3, 0.95)
            answers.append(triton.InferenceResponse([triton.Tensor("output0", found)]))
        return answers
"""


def _model(repository: Path, name: str, *, kind: str = "FP32", dims: str = "6, 84") -> None:
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(CONFIG.format(type=kind, dims=dims))
    (folder / "1" / "model.py").write_text(MODEL)
    np.save(folder / "output.npy", OUTPUT)


def _libraries(python: Path) -> list[str]:
    """Where libpython may be: the stub of Triton's python backend is linked against it."""
    asked = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    own = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    return [own, str(sysconfig.get_config_var("LIBDIR"))]


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Triton with three models; its URL."""
    python = needs("pytriton")
    packages = next((python.parents[1] / "lib").glob("python3.*/site-packages"))
    server = packages / "pytriton" / "tritonserver"
    folder = tmp_path_factory.mktemp("triton")
    repository, backends = folder / "models", folder / "backends" / "python"
    _model(repository, "yolo")
    _model(repository, "half", kind="FP16")
    _model(repository, "open", dims="-1, -1")
    shutil.copytree(server / "backends" / "python", backends)
    shutil.copy(server / "python_backend_stubs" / "3.11" / "triton_python_backend_stub", backends)
    port = free_port()
    command = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={folder / 'backends'}",
        *("--http-address", "127.0.0.1", "--http-port", str(port)),
        *("--allow-grpc=false", "--allow-metrics=false", "--model-control-mode=explicit", "--load-model=*"),
    ]
    environment = {
        "LD_LIBRARY_PATH": ":".join([str(packages / "nvidia_pytriton.libs"), *_libraries(python)]),
        # The stub takes its Python, with NumPy, from where `python3` is.
        "PATH": f"{python.parent}:/usr/bin:/bin",
    }
    try:
        context = started(command, f"http://127.0.0.1:{port}", "/v2/health/ready", folder, environment=environment)
        url = context.__enter__()
    except AssertionError as error:
        pytest.skip(f"Triton does not start here: {' '.join(str(error).split())[-300:]}")
    try:
        yield url
    finally:
        context.__exit__(None, None, None)


@contextmanager
def remote(tmp_path: Path, url: str, **keys: Any) -> Iterator[HttpBackend]:
    with LoopedContext("cloud", tmp_path) as ctx:
        backend = KserveBackendConfig.model_validate({"url": url, "timeout_s": 20, **keys}).build(ctx)
        try:
            backend.open()
            yield backend
        finally:
            backend.close()


@pytest.mark.parametrize(
    ("name", "keys"),
    [("yolo", {}), ("yolo", {"binary": False}), ("yolo", {"model_version": "1"}), ("half", {}), ("open", {})],
    ids=["binary", "json", "version", "half floats", "open shapes"],
)
def test_triton_is_fed_and_read_like_the_same_model_here(
    tmp_path: Path, triton: str, name: str, keys: dict[str, Any]
) -> None:
    pictures = [frame(width=200, height=100, grey=230), frame(1, grey=200), frame(2, grey=190)]
    local = OnnxBackendConfig(
        model=detector(
            tmp_path / "m.onnx", {"output0": OUTPUT}, image=("n", 3, 64, 64), shapes={"output0": ("n", 6, 84)}
        ),
        device="cpu",
        labels=("thing", "other"),
        max_batch=4,
        workers=1,
    ).build(PluginContext("local", tmp_path))
    local.open()
    expected = local.infer(pictures)
    local.close()
    with remote(tmp_path, triton, model_name=name, max_batch_size=8, **keys) as backend:
        assert backend.max_batch == 4
        assert backend.info().labels == ("thing", "other")
        answers = backend.infer(pictures)
    for mine, its, grey in zip(expected, answers, (230, 200, 190), strict=True):
        assert isinstance(mine, Detections)
        assert isinstance(its, Detections)
        np.testing.assert_allclose(its.xyxy, mine.xyxy, atol=1e-3)
        assert its.class_id.tolist() == mine.class_id.tolist() == [1, 0]
        # What Triton was fed is this picture and no other.
        assert its.confidence[0] == pytest.approx(grey / 255, abs=0.01)


def test_a_batch_of_wishes_is_read_for_each_picture(tmp_path: Path, triton: str) -> None:
    with remote(tmp_path, triton, model_name="yolo", max_batch_size=4) as backend:
        first, second = backend.infer([frame(grey=200), replace(frame(1, grey=200), wishes=Wishes(classes=("thing",)))])
    assert isinstance(first, Detections)
    assert isinstance(second, Detections)
    assert first.class_id.tolist() == [1, 0]
    assert second.class_id.tolist() == [0]


def test_what_triton_refuses_is_a_named_error_for_that_frame(tmp_path: Path, triton: str) -> None:
    with remote(tmp_path, triton, model_name="yolo", retries={"max_attempts": 1}) as backend:
        with pytest.raises(TransientError) as raised:
            backend.infer([frame(grey=255)])
        assert raised.value.code is BackendErrorCode.SERVER_ERROR
        assert len(backend.infer([frame(grey=200)])) == 1


def test_a_model_that_triton_does_not_have_is_not_found(tmp_path: Path, triton: str) -> None:
    with pytest.raises(TransientError) as raised, remote(tmp_path, triton, model_name="nope"):
        pass
    assert raised.value.code is BackendErrorCode.NOT_FOUND


def test_a_pipeline_with_triton_behind_it_has_a_result_for_every_frame(tmp_path: Path, triton: str) -> None:
    clip(tmp_path / "clip.mp4", [60, 120, 180, 220] * 10)
    text = f"""
    [backends.far]
    type = "kserve"
    url = "{triton}"
    model_name = "yolo"
    max_batch_size = 4

    [sources.test]
    type = "file"
    path = "clip.mp4"
    {textwrap.dedent(JSONL)}
    """
    with Daemon(tmp_path, text, server="linger_s = inf") as daemon:
        daemon.ready()

        def results() -> list[dict[str, Any]]:
            return [line for line in daemon.lines("out/test.jsonl") if line["schema"] == "penstock.result/1"]

        until("all frames", lambda: len(results()) >= 40, 30)
        lines = results()
        assert [line["frame_id"] for line in lines] == list(range(40))
        assert {line["backend"] for line in lines} == {"far"}
        assert {one["class"] for line in lines for one in line["predictions"]} == {"thing", "other"}
        daemon.scrape()
        daemon.stop()


def test_another_penstock_is_asked_with_files_and_answers_in_pixels_of_the_frame(tmp_path: Path) -> None:
    answering.install(tmp_path)
    models = '[models.boxes]\ntype = "answering"\naliases = ["det/1"]\nasked = "asked.jsonl"\n'
    with Ours(tmp_path, models) as ours:
        ours.ready()
        keys = {"model_name": "det/1", "max_size": 320, "confidence": 0.2, "max_batch_size": 4}
        with remote(tmp_path, ours.url, **keys) as backend:
            assert backend.info().labels == NAMES
            answers = backend.infer([frame(width=640, height=480), frame(1, width=640, height=480)])
        for answer in answers:
            assert isinstance(answer, Detections)
            # It was sent at half the size.
            np.testing.assert_allclose(answer.xyxy, found().xyxy * 2, atol=1e-3)
            assert [answer.label(index) for index in range(2)] == ["person", "bus"]
        notes = ours.lines("asked.jsonl")
        assert [note["wishes"]["confidence"] for note in notes] == [0.2, 0.2]
