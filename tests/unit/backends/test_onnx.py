"""The ONNX backend on small models made for the purpose: real sessions, known boxes."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_files import Array, cells, detector, objects_output, yolov8_output
from pydantic import ValidationError

from pipeline.backends._onnx.device import usable_cores
from pipeline.backends._onnx.feed import HostFeed
from pipeline.backends._onnx.session import DeviceLostError, OutOfMemoryError, decide_run_error
from pipeline.backends.onnx import OnnxBackend, OnnxBackendConfig
from pipeline.contracts.backend import ModelInfo, Servable
from pipeline.contracts.errors import ConfigError, FatalError, PenstockError, TransientError
from pipeline.contracts.frame import Frame, NoPicture, Size, Wishes
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask
from pipeline.testing import PluginContext, frame

CARS = "{0: 'car', 1: 'bus'}"
DYNAMIC = ("batch", 3, "height", "width")


class Unbound:
    """What a stand-in for a session needs to be one, and is not asked for."""

    def io_binding(self) -> Any:
        raise NotImplementedError

    def run_with_iobinding(self, iobinding: Any) -> None:
        raise NotImplementedError


def host_feed(backend: OnnxBackend) -> HostFeed:
    assert backend._loaded is not None
    assert isinstance(backend._loaded._feed, HostFeed)
    return backend._loaded._feed


def opened(path: Path, ctx: PluginContext | None = None, **keys: Any) -> OnnxBackend:
    backend = OnnxBackendConfig(model=path, **{"device": "cpu", **keys}).build(ctx or PluginContext())
    backend.open()
    return backend


def answers_of(path: Path, *frames: Frame, **keys: Any) -> list[Prediction]:
    backend = opened(path, **keys)
    try:
        return list(backend.infer(frames or [frame(width=128, height=64)]))
    finally:
        backend.close()


def found(path: Path, *frames: Frame, **keys: Any) -> list[Detections]:
    return [boxes(answer) for answer in answers_of(path, *frames, **keys)]


def boxes(answer: Prediction) -> Detections:
    assert isinstance(answer, Detections)
    return answer


def rows(answer: Prediction) -> list[tuple[str, float, list[float]]]:
    detections = boxes(answer)
    scores = [round(float(s), 4) for s in detections.confidence]
    return [(detections.label(i), scores[i], detections.xyxy[i].tolist()) for i in range(len(detections))]


@pytest.fixture
def yolov8(tmp_path: Path) -> Path:
    output = yolov8_output(
        (32, 32, 16, 8, 0, 0.9), (33, 32, 16, 8, 0, 0.6), (33, 32, 16, 8, 1, 0.5), (8, 30, 8, 8, 1, 0.3)
    )
    return detector(tmp_path / "cars.onnx", {"output0": output}, metadata={"names": CARS})


CAR, CAR_2, BUS, SMALL = (
    ("car", 0.9, [48, 24, 80, 40]),
    ("car", 0.6, [50, 24, 82, 40]),
    ("bus", 0.5, [50, 24, 82, 40]),
    ("bus", 0.3, [8, 20, 24, 36]),
)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, [CAR, BUS, SMALL]),
        ({"confidence": 0.4}, [CAR, BUS]),
        ({"iou_threshold": 0.95}, [CAR, CAR_2, BUS, SMALL]),
        ({"class_agnostic_nms": True}, [CAR, SMALL]),
        ({"max_detections": 1}, [CAR]),
        ({"classes": ("Bus",)}, [BUS, SMALL]),
        ({"classes": (0,)}, [CAR]),
        ({"labels": ("van", "tram"), "max_detections": 1}, [("van", 0.9, CAR[2])]),
    ],
)
def test_boxes_come_in_pixels_of_the_frame_with_the_configs_rules(
    yolov8: Path, keys: dict[str, Any], expected: list[Any]
) -> None:
    # 128 x 64 in a 64 x 64 input: half as large, 16 rows down.
    assert [rows(d) for d in found(yolov8, **keys)] == [expected]


def _yolov5(boxes: int) -> Array:
    return objects_output((32, 32, 16, 8, 0, 1.0, 0.9), rows=boxes)


@pytest.mark.parametrize(
    ("output", "keys", "box"),
    [
        (yolov8_output((32, 32, 16, 8, 0, 0.9)), {}, [48, 24, 80, 40]),
        (yolov8_output((32, 32, 16, 8, 0, 0.9)).T, {}, [48, 24, 80, 40]),
        (_yolov5(3 * cells(64, 64)), {}, [48, 24, 80, 40]),
        (_yolov5(cells(64, 64)), {"operators": ("Exp",)}, [48, 56, 80, 64]),
        (np.array([[24, 28, 40, 36, 0.9, 0], [0, 0, 0, 0, 0, 0]], np.float32), {}, [48, 24, 80, 40]),
    ],
    ids=["yolov8", "yolov8-rows", "yolov5", "yolox", "end2end"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_every_family_works_with_every_input_type(
    tmp_path: Path, output: Array, keys: dict[str, Any], box: list[float], dtype: type[np.generic]
) -> None:
    path = detector(tmp_path / "m.onnx", {"out": output}, metadata={"names": CARS}, dtype=dtype, **keys)
    (answer,) = found(path)
    assert answer.xyxy.tolist() == [box]
    assert answer.confidence.tolist() == [pytest.approx(0.9, abs=1e-3)]
    assert answer.label(0) == "car"


def test_shapes_that_the_graph_leaves_open_are_found_by_a_trial_run(tmp_path: Path) -> None:
    path = detector(
        tmp_path / "m.onnx", {"out": _yolov5(3 * cells(64, 64))}, image=DYNAMIC, shapes={"out": ("b", "n", "m")}
    )
    config = OnnxBackendConfig(model=path, input_size=64, device="cpu", classes=(0,))
    config.check()
    assert config.describe().choice is None
    assert any("yolov5" in line.casefold() for line in config.inspect())
    assert found(path, input_size=64)[0].xyxy.tolist() == [[48, 24, 80, 40]]


def test_an_unknown_family_behind_open_shapes_is_refused_at_the_start(tmp_path: Path) -> None:
    odd = np.zeros((7, 9), np.float32)
    path = detector(tmp_path / "m.onnx", {"out": odd}, image=DYNAMIC, shapes={"out": ("b", "n", "m")})
    with pytest.raises(ConfigError, match=r"family of the model is not known: found outputs out float32 \[1, 7, 9\]"):
        opened(path, input_size=64)


def test_a_batch_gives_each_frame_its_own_boxes_in_order(tmp_path: Path) -> None:
    output = yolov8_output((32, 32, 16, 8, 0, 0.9))
    path = detector(tmp_path / "m.onnx", {"out": output}, image=("batch", 3, 64, 64), metadata={"names": CARS})
    frames = [frame(width=128, height=64), frame(width=64, height=64), frame(width=64, height=128)]
    backend = opened(path, max_batch=4)
    assert backend.max_batch == 4
    answers = backend.infer(frames)
    assert [boxes(a).xyxy.tolist() for a in answers] == [[[48, 24, 80, 40]], [[24, 28, 40, 36]], [[16, 56, 48, 72]]]
    assert all(a.timings.infer_s > 0 and a.timings.preprocess_s > 0 and a.timings.postprocess_s > 0 for a in answers)
    backend.close()


def test_a_fixed_batch_is_fed_whole_and_nothing_else_is_promised(tmp_path: Path) -> None:
    path = detector(tmp_path / "m.onnx", {"out": yolov8_output((32, 32, 16, 8, 0, 0.9))}, image=(3, 3, 64, 64))
    backend = opened(path)
    assert backend.max_batch == 3
    assert len(backend.infer([frame(), frame(1)])) == 2
    backend.close()
    with pytest.raises(ConfigError, match="takes 3 frames in a run, not 4") as caught:
        OnnxBackendConfig(model=path, max_batch=4).check()
    assert caught.value.key == "max_batch"


def test_a_fitted_input_wastes_no_padding_and_frames_of_any_shape_share_a_batch(tmp_path: Path) -> None:
    # The output has as many rows as a full input, so its boxes mean the same in every input.
    path = detector(
        tmp_path / "m.onnx",
        {"out": yolov8_output((16, 16, 8, 8, 0, 0.9))},
        image=DYNAMIC,
        shapes={"out": ("b", 6, "n")},
    )
    backend = opened(path, input_size=64, input_shape="fit", max_batch=3)
    seen: list[tuple[int, ...]] = []
    feed = host_feed(backend)
    session = feed._session

    class Spy(Unbound):
        def run(self, names: Sequence[str] | None, fed: dict[str, Array]) -> Sequence[Array]:
            seen.append(next(iter(fed.values())).shape)
            return session.run(names, fed)

        def get_providers(self) -> Sequence[str]:
            return session.get_providers()

    feed._session = Spy()
    wide, tall = frame(width=128, height=64), frame(width=64, height=128)
    answers = backend.infer([wide, tall, wide])
    assert seen == [(2, 3, 32, 64), (1, 3, 64, 32)]
    assert [boxes(a).xyxy.tolist() for a in answers] == [[[24, 24, 40, 40]]] * 3
    backend.close()
    with pytest.raises(ConfigError, match="needs a dynamic input"):
        opened(detector(tmp_path / "fixed.onnx", {"out": yolov8_output()}), input_shape="fit")


def resizing(path: Path, *, takes: str = "anything") -> Path:
    """A YOLOv8 of two classes whose output has a column for each cell of the input, whatever its shape; all zeros.

    With `takes="square"` it fails on any input that has not the cells of 64 x 64, as exports do that are dynamic by
    name only.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, names = [], []
    for stride in (8, 16, 32):
        side = [stride, stride]
        nodes += [
            helper.make_node("AveragePool", ["images"], [f"pool{stride}"], kernel_shape=side, strides=side),
            helper.make_node("ReduceMean", [f"pool{stride}"], [f"mean{stride}"], axes=[1], keepdims=1),
            helper.make_node("Reshape", [f"mean{stride}", "flat"], [f"row{stride}"]),
        ]
        names.append(f"row{stride}")
    nodes.append(helper.make_node("Concat", names, ["row"], axis=2))
    weights = [numpy_helper.from_array(np.array([0, 1, -1], np.int64), "flat")]
    weights.append(
        numpy_helper.from_array(np.zeros((1, 6, cells(64, 64) if takes == "square" else 1), np.float32), "z")
    )
    nodes.append(helper.make_node("Mul", ["row", "z"], ["out"]))
    graph = helper.make_graph(
        nodes,
        "resizing",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, DYNAMIC)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ("b", 6, "n"))],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"names": CARS})
    onnx.save(model, path)
    return path


def test_a_dynamic_input_has_the_shape_of_the_frame_without_being_asked_to(tmp_path: Path) -> None:
    ctx = PluginContext()
    backend = opened(resizing(tmp_path / "m.onnx"), ctx, input_size=64, max_batch=4)
    wide, tall, square = frame(width=128, height=64), frame(width=50, height=100), frame(width=64, height=64)
    kinds = [backend.kind_of(one) for one in (wide, tall, square)]
    assert kinds == [(Size(64, 32), None), (Size(32, 64), None), (Size(64, 64), None)]
    assert backend.kind_of(frame(width=1280, height=640)) == kinds[0]
    assert len(backend.infer([wide, tall, square, wide])) == 4
    assert ctx.warnings == []
    backend.close()
    assert backend.kind_of(wide) is None
    whole = opened(resizing(tmp_path / "m.onnx"), input_size=64, max_batch=4, input_shape="square")
    assert whole.kind_of(wide) == whole.kind_of(tall) == (Size(64, 64), None)
    whole.close()


def test_frames_of_one_run_each_need_no_kinds(tmp_path: Path) -> None:
    backend = opened(resizing(tmp_path / "m.onnx"), input_size=64)
    assert backend.kind_of(frame(width=128, height=64)) is None
    backend.close()


def test_a_model_that_is_dynamic_by_name_only_is_fed_its_whole_input_and_that_is_said(tmp_path: Path) -> None:
    constant = detector(
        tmp_path / "constant.onnx",
        {"out": yolov8_output((32, 32, 16, 8, 0, 0.9))},
        image=DYNAMIC,
        shapes={"out": ("b", 6, "n")},
        metadata={"names": CARS},
    )
    for path, why in ((resizing(tmp_path / "m.onnx", takes="square"), "the model failed"), (constant, "as many")):
        ctx = PluginContext()
        backend = opened(path, ctx, input_size=64, max_batch=4)
        assert backend.kind_of(frame(width=128, height=64)) == (Size(64, 64), None)
        (said,) = ctx.warnings
        assert said.startswith("the input is dynamic by name only and is always fed 64x64: ")
        assert why in said
        backend.close()


def test_an_input_as_small_as_the_stride_has_no_other_shape(tmp_path: Path) -> None:
    ctx = PluginContext()
    backend = opened(resizing(tmp_path / "m.onnx"), ctx, input_size=32, max_batch=2)
    assert backend.kind_of(frame(width=128, height=64)) == (Size(32, 32), None)
    assert ctx.warnings == []
    backend.close()


def test_threads_share_the_session_but_never_a_buffer(yolov8: Path) -> None:
    backend = opened(yolov8, workers=4)
    assert backend.concurrency == 4
    feed = host_feed(backend)
    session = feed._session
    together = threading.Barrier(4)
    buffers: list[int] = []

    class Spy(Unbound):
        """Lets four runs begin before one goes on."""

        def run(self, names: Sequence[str] | None, fed: dict[str, Array]) -> Sequence[Array]:
            buffers.append(next(iter(fed.values())).ctypes.data)
            together.wait(10)
            return session.run(names, fed)

        def get_providers(self) -> Sequence[str]:
            return session.get_providers()

    feed._session = Spy()

    def work(seq: int) -> list[Any]:
        return [rows(backend.infer([frame(seq, width=128, height=64)])[0]) for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        answers = [answer for some in pool.map(work, range(4)) for answer in some]
    assert answers == [[CAR, BUS, SMALL]] * 20
    assert all(len(set(buffers[at : at + 4])) == 4 for at in range(0, 20, 4))
    assert len(set(buffers)) == 4, "buffers are used again"
    backend.close()


@pytest.mark.parametrize(
    ("keys", "threads", "spins"), [({}, 1, "0"), ({"intra_op_threads": 2, "allow_spinning": True}, 2, "1")]
)
def test_threads_inside_a_run_sleep_while_they_wait_unless_told_to_spin(
    yolov8: Path, keys: dict[str, Any], threads: int, spins: str
) -> None:
    backend = opened(yolov8, workers=usable_cores(), **keys)
    options: Any = host_feed(backend)._session.get_session_options()  # type: ignore[attr-defined]
    assert options.intra_op_num_threads == threads
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == spins
    backend.close()


def test_the_session_never_changes_to_another_device_by_itself(yolov8: Path) -> None:
    backend = opened(yolov8)
    assert host_feed(backend)._session._enable_fallback is False  # type: ignore[attr-defined]
    backend.close()


def test_the_cpu_is_chosen_and_said_where_there_is_no_cuda(yolov8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.backends._onnx.open.cuda_devices", lambda: 0)
    ctx = PluginContext()
    backend = opened(yolov8, ctx, device="auto")
    assert (backend.device, backend.model, ctx.warnings) == ("cpu", "cars", [])
    backend.close()
    with pytest.raises(ConfigError, match=r'device = "cuda", but .*use device = "cpu" or "auto"') as caught:
        opened(yolov8, device="cuda")
    assert caught.value.key == "device"
    backend = opened(yolov8, ctx, device="cuda", on_fallback="warn")
    assert backend.device == "cpu"
    assert [(wanted, got) for wanted, got, _ in ctx.fallbacks] == [("cuda:0", "cpu")]
    backend.close()


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is an NVIDIA driver here")
def test_cuda_libraries_that_are_missing_are_an_error_and_onnxruntime_stays_quiet(yolov8: Path) -> None:
    # A driver that claims a GPU, but no CUDA libraries: in a process of its own, whose terminal is looked at.
    code = (
        "import sys, pipeline.backends.onnx as m, pipeline.backends._onnx.open as o\n"
        "import pipeline.backends._onnx.graph_store as g\n"
        "from pathlib import Path\n"
        "from pipeline.contracts.errors import ConfigError\n"
        "from pipeline.testing import PluginContext\n"
        "o.cuda_devices = lambda: 1\n"
        "gpu = type('Gpu', (), {'name': 'none'})\n"
        "o.gpus = g.gpus = lambda: type('Gpus', (), {'gpu': lambda self, number: gpu})()\n"
        "for keys in ({'device': 'cuda'}, {'device': 'cuda', 'on_fallback': 'warn'}, {}):\n"
        "    ctx = PluginContext()\n"
        "    backend = m.OnnxBackendConfig(model=Path(sys.argv[1]), **keys).build(ctx)\n"
        "    try:\n"
        "        backend.open()\n"
        "        print(backend.device, *ctx.fallbacks)\n"
        "    except ConfigError as error:\n"
        "        print(error.key, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(yolov8)],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
    )
    assert done.stderr == ""
    failed, warned, auto = done.stdout.splitlines()
    assert failed.startswith('device device = "cuda", but onnxruntime could not start CUDA')
    assert warned.startswith("cpu ('cuda:0', 'cpu', 'onnxruntime could not start CUDA")
    assert auto.startswith("cpu ('cuda:0', 'cpu', 'onnxruntime could not start CUDA"), "there is a GPU: this is said"


@pytest.mark.parametrize(
    ("keys", "key", "what"),
    [
        ({"classes": ("caar",)}, "classes", "did you mean 'car'"),
        ({"classes": (2,)}, "classes", "no class 2: they are 0 to 1"),
        ({"labels": ("a",)}, "labels", "2 classes, but there are 1 labels"),
        ({"input_size": 96}, "input_size", "fixed at 64"),
        ({"family": "yolov5"}, "family", "does not fit"),
    ],
)
def test_check_finds_what_does_not_fit_without_loading_the_runtime(
    yolov8: Path, keys: dict[str, Any], key: str, what: str
) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        OnnxBackendConfig(model=yolov8, **keys).check()
    assert caught.value.key == key


def test_check_and_the_config_load_nothing_heavy(yolov8: Path) -> None:
    code = (
        "import sys\n"
        "from pipeline.backends.onnx import OnnxBackendConfig\n"
        "from pathlib import Path\n"
        "early = sys.modules.keys() & {'onnx', 'onnxruntime', 'av', 'PIL', 'supervision'}\n"
        "OnnxBackendConfig(model=Path(sys.argv[1])).check()\n"
        "late = sys.modules.keys() & {'onnxruntime', 'av', 'PIL', 'supervision'}\n"
        "sys.exit(', '.join(early | late) or 0)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(yolov8)], capture_output=True, text=True, timeout=50, check=False, env=env
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "keys",
    [
        {"device": "gpu"},
        {"device": "cuda:x"},
        {"confidence": 2},
        {"family": "yolo"},
        {"input_size": 0},
        {"clases": ["a"]},
    ],
)
def test_values_that_make_no_sense_are_refused(yolov8: Path, keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OnnxBackendConfig(model=yolov8, **keys)


def test_memory_of_a_gpu_is_told_as_all_other_memory(yolov8: Path) -> None:
    keys = {"type": "onnx", "model": str(yolov8)}
    context = {"base_dir": yolov8.parent}
    assert OnnxBackendConfig.model_validate({**keys, "max_gpu_bytes": "2GiB"}, context=context).max_gpu_bytes == 2 << 30
    with pytest.raises(ValidationError):
        OnnxBackendConfig.model_validate({**keys, "max_gpu_bytes": "2MiB"}, context=context)


def test_a_picture_that_cannot_be_converted_costs_that_batch_only(yolov8: Path) -> None:
    class Broken(NoPicture):
        def gbr_planes(self, width: int, height: int) -> Any:
            raise ValueError("unknown pixel format")

    backend = opened(yolov8)
    good = frame(width=128, height=64)
    bad = Frame("cam", 7, None, 0.0, "pts", Broken(Size(128, 64)), 0.0)
    with pytest.raises(TransientError, match="frame 7 of cam cannot be converted: unknown pixel format"):
        backend.infer([bad])
    assert rows(backend.infer([good])[0]) == [CAR, BUS, SMALL]
    backend.close()


class InvalidArgument(Exception):  # noqa: N818  (named as onnxruntime names it)
    """Stands for onnxruntime's."""


@pytest.mark.parametrize(
    ("error", "decision"),
    [
        (MemoryError(), OutOfMemoryError),
        (RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 1"), OutOfMemoryError),
        (RuntimeError("CUDA failure 2: out of memory"), OutOfMemoryError),
        (RuntimeError("CUDA failure 700: an illegal memory access was encountered"), DeviceLostError),
        (InvalidArgument("Got invalid dimensions for input"), FatalError),
        (RuntimeError("something else"), TransientError),
    ],
)
def test_an_error_of_the_run_says_whether_the_next_may_do(error: Exception, decision: type[PenstockError]) -> None:
    answer = decide_run_error(error)
    assert type(answer) is decision
    assert str(answer).startswith("the model failed: ")


def test_a_model_that_the_runtime_cannot_load_is_the_configs_fault(tmp_path: Path, yolov8: Path) -> None:
    import onnx

    proto = onnx.load(yolov8)
    proto.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(proto, tmp_path / "odd.onnx")
    with pytest.raises(ConfigError, match="onnxruntime cannot load the model") as caught:
        opened(tmp_path / "odd.onnx")
    assert caught.value.key == "model"
    assert "\n" not in str(caught.value)


def test_a_closed_backend_answers_no_more(yolov8: Path) -> None:
    backend = opened(yolov8)
    backend.close()
    with pytest.raises(FatalError, match="not open"):
        backend.infer([frame()])


def test_every_frame_of_a_batch_is_read_by_its_own_wishes(tmp_path: Path) -> None:
    output = yolov8_output((32, 32, 16, 8, 0, 0.9), (33, 32, 16, 8, 1, 0.5), (8, 30, 8, 8, 1, 0.05))
    path = detector(tmp_path / "m.onnx", {"out": output}, image=("batch", 3, 64, 64), metadata={"names": CARS})
    backend = opened(path, max_batch=4)
    wished = [None, Wishes(confidence=0.01), Wishes(classes=("bus",)), Wishes(max_detections=1)]
    answers = backend.infer([replace(frame(i, width=128, height=64), wishes=w) for i, w in enumerate(wished)])
    assert [[label for label, *_ in rows(a)] for a in answers] == [
        ["car", "bus"],
        ["car", "bus", "bus"],
        ["bus"],
        ["car"],
    ]
    backend.close()


def test_an_open_model_can_be_offered_to_clients(yolov8: Path) -> None:
    backend = opened(yolov8)
    assert isinstance(backend, Servable)
    assert backend.info() == ModelInfo("object-detection", ("car", "bus"), Size(64, 64))
    backend.close()
    with pytest.raises(FatalError, match="not open"):
        OnnxBackendConfig(model=yolov8).build(PluginContext()).info()


def test_masks_come_at_the_size_of_the_frame(tmp_path: Path) -> None:
    output = np.concatenate((yolov8_output((32, 32, 16, 8, 0, 0.9)), np.ones((32, cells(64, 64)), np.float32)))
    prototypes = np.ones((32, 16, 16), np.float32)
    metadata = {"names": CARS, "task": "segment", "author": "Ultralytics"}
    path = detector(tmp_path / "m.onnx", {"output0": output, "output1": prototypes}, metadata=metadata)
    config = OnnxBackendConfig(model=path, device="cpu")
    config.check()
    assert any("instance-segmentation" in line for line in config.inspect())
    (answer,) = found(path)
    assert answer.masks is not None
    (mask,) = answer.masks
    assert mask.shape == (64, 128)
    assert mask[24:40, 48:80].all()
    assert mask.sum() == 16 * 32, "the box, and nothing else"


def test_keypoints_come_in_pixels_of_the_frame(tmp_path: Path) -> None:
    output = np.zeros((56, cells(64, 64)), np.float32)
    output[:5, 0] = (32, 32, 16, 8, 0.9)
    output[5:, 0] = np.tile((24, 28, 0.5), 17)
    metadata = {"names": "{0: 'person'}", "task": "pose", "kpt_shape": "[17, 3]", "author": "Ultralytics"}
    path = detector(tmp_path / "m.onnx", {"output0": output}, metadata=metadata)
    assert any("17: nose, left_eye" in line for line in OnnxBackendConfig(model=path, device="cpu").inspect())
    (answer,) = found(path)
    assert answer.keypoints is not None
    np.testing.assert_allclose(answer.keypoints[0], np.tile((48, 24, 0.5), (17, 1)))
    assert answer.keypoint_names[0] == "nose"


def test_a_classifier_gives_a_score_for_each_class(tmp_path: Path) -> None:
    path = detector(tmp_path / "m.onnx", {"out": np.log(np.array([3, 1], np.float32))}, metadata={"names": CARS})
    backend = opened(path)
    assert backend.info().task == "classification"
    (answer,) = backend.infer([frame()])
    assert isinstance(answer, Classification)
    assert answer.names == ("car", "bus")
    np.testing.assert_allclose(answer.scores, [0.75, 0.25], atol=1e-5)
    assert answer.timings.infer_s > 0
    backend.close()


def test_a_semantic_model_gives_a_class_for_each_pixel(tmp_path: Path) -> None:
    logits = np.zeros((2, 16, 16), np.float32)
    logits[1, :, 8:] = 5
    path = detector(tmp_path / "m.onnx", {"out": logits}, metadata={"names": CARS})
    with pytest.raises(ConfigError, match="or set `task`"):
        OnnxBackendConfig(model=path).check()
    (answer,) = answers_of(path, task="semantic-segmentation")
    assert isinstance(answer, SemanticMask)
    assert answer.class_map.shape == (64, 128)
    assert (answer.class_map[:, :60] == 0).all()
    assert (answer.class_map[:, 68:] == 1).all()


def test_an_embedding_is_asked_for_by_its_task(tmp_path: Path) -> None:
    path = detector(tmp_path / "m.onnx", {"out": np.array([3, 4, 0], np.float32)})
    (answer,) = answers_of(path, task="embedding")
    assert isinstance(answer, Embedding)
    np.testing.assert_allclose(answer.vector, [0.6, 0.8, 0])


def test_a_fitted_input_is_for_letterboxed_pictures_only(tmp_path: Path) -> None:
    path = detector(
        tmp_path / "m.onnx",
        {"out": np.zeros(2, np.float32)},
        image=DYNAMIC,
        metadata={"names": CARS, "task": "classify"},
    )
    with pytest.raises(ConfigError, match="needs letterboxed pictures") as caught:
        OnnxBackendConfig(model=path, input_shape="fit").check()
    assert caught.value.key == "input_shape"
