"""Which way pictures take into a model, on a machine that claims to have GPUs: the sessions run on the CPU."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from model_files import cells, detector, yolov8_output

from pipeline.backends._onnx import cuda, ways
from pipeline.backends._onnx import open as opening
from pipeline.backends._onnx.device import CPU_CHOICE, CUDA, TENSORRT, DeviceChoice
from pipeline.backends._onnx.feed import HostFeed
from pipeline.backends._onnx.gpu import GpuPlan, gpu_feed
from pipeline.backends._onnx.graph_feed import GraphFeed
from pipeline.backends._onnx.session import Runtime, Session
from pipeline.backends.onnx import OnnxBackend, OnnxBackendConfig
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.result import Detections
from pipeline.devices.driver import DeviceError
from pipeline.testing import PluginContext, frame

CARS = "{0: 'car', 1: 'bus'}"


class Machine:
    """Its GPUs, what was loaded onto them, and how the ways into them were made."""

    def __init__(self, gpus: int) -> None:
        self.gpus = gpus
        self.loaded: list[tuple[Path | bytes, str]] = []
        self.ways: list[tuple[str, Any]] = []
        self.broken = False

    def gpu(self, number: int) -> Any:
        if number >= self.gpus:
            raise DeviceError("no such GPU")
        return SimpleNamespace(number=number, name="rig", device=f"cuda:{number}")

    def cuda_feed(self, gpu: Any, runtime: Runtime, session: Session, reader: Any, ctx: Any, *, answers: Any) -> Any:
        if self.broken:
            raise DeviceError("no stream")
        self.ways.append((gpu.device, answers))
        return HostFeed(
            session=session, reader=reader, max_batch=32, spare=2, errors=runtime.errors, now_s=ctx.clock.monotonic
        )


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(1)

    class Elsewhere(Runtime):
        """Loads onto the CPU what shall go to a GPU."""

        @property
        def available(self) -> tuple[str, ...]:
            return (CUDA, *super().available)

        def session(self, model: Path | bytes, choice: DeviceChoice, *rest: Any, **keys: Any) -> Session | None:
            machine.loaded.append((model, choice.device))
            return super().session(model, CPU_CHOICE, *rest, **keys)

    monkeypatch.setattr(opening, "Runtime", Elsewhere)
    for module in (opening, ways):
        monkeypatch.setattr(module, "cuda_devices", lambda: machine.gpus)
    for name in ("open", "ways", "gpu", "graph_store"):
        monkeypatch.setattr(f"pipeline.backends._onnx.{name}.gpus", lambda: machine)
    monkeypatch.setattr(cuda, "cuda_feed", machine.cuda_feed)
    return machine


@pytest.fixture
def model(tmp_path: Path) -> Path:
    output = yolov8_output((32, 32, 16, 8, 0, 0.9))
    return detector(tmp_path / "m.onnx", {"out": output}, image=("batch", 3, 64, 64), metadata={"names": CARS})


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A model whose output is large enough to be worth picking from."""
    output = yolov8_output((320, 320, 160, 80, 0, 0.9), rows=cells(640, 640))
    return detector(tmp_path / "large.onnx", {"out": output}, image=("batch", 3, 640, 640), metadata={"names": CARS})


def opened(model: Path, ctx: PluginContext | None = None, **keys: Any) -> OnnxBackend:
    context = ctx or PluginContext(data_dir=model.parent / "data")
    backend = OnnxBackendConfig(model=model, **keys).build(context)
    backend.open()
    return backend


def boxes(backend: OnnxBackend) -> list[list[list[float]]]:
    found = backend.infer([frame(index, width=128, height=64) for index in range(3)])
    assert all(isinstance(one, Detections) for one in found)
    return [one.xyxy.tolist() for one in found if isinstance(one, Detections)]


def test_a_model_on_a_gpu_is_fed_there_by_two_workers(rig: Machine, model: Path) -> None:
    backend = opened(model, in_graph="none", max_batch=8)
    assert (backend.device, backend.concurrency, backend.max_batch) == ("cuda:0", 2, 8)
    assert boxes(backend) == [[[48, 24, 80, 40]]] * 3
    assert rig.ways == [("cuda:0", None)]
    assert rig.loaded == [(model, "cuda:0")]
    backend.close()


def test_what_is_composed_takes_the_plain_models_place_on_every_gpu(rig: Machine, large: Path) -> None:
    rig.gpus = 2
    backend = opened(large, in_graph="output", max_batch=4)
    assert backend.device == "cuda:0,cuda:1"
    assert backend.concurrency == 4
    assert boxes(backend) == [[[48, 24, 80, 40]]] * 3
    devices, answers = zip(*rig.ways, strict=True)
    assert devices == ("cuda:0", "cuda:1")
    assert answers[0] is not None
    assert answers[0] is answers[1]
    plain, *composed = rig.loaded
    assert plain == (large, "cuda:0")
    assert [device for _, device in composed] == ["cuda:0", "cuda:1"]
    assert all(loaded != large for loaded, _ in composed), "the second one never loads the plain model"
    backend.close()


def test_tensorrt_runs_the_model_as_it_is_for_its_engine_was_built_of_that(
    rig: Machine, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[GpuPlan] = []
    make = gpu_feed

    def overheard(plan: GpuPlan, *rest: Any) -> Any:
        plans.append(plan)
        return make(plan, *rest)

    monkeypatch.setattr(ways, "gpu_feed", overheard)
    backend = opened(large, in_graph="output")
    (plan,) = plans
    engine = DeviceChoice(((TENSORRT, {}), (CUDA, {})), "cuda:0", TENSORRT)
    session = plan.make_session(engine)
    assert session is not None
    assert rig.loaded[-1] == (large, "cuda:0")
    plan.make_feed(session, engine, 4).close()
    first, last = (answers for _, answers in rig.ways)
    assert first is not None
    assert last is None
    backend.close()


def test_a_gpu_whose_memory_cannot_be_reached_is_fed_over_the_host_and_that_is_said(rig: Machine, model: Path) -> None:
    rig.broken = True
    ctx = PluginContext(data_dir=model.parent / "data")
    backend = opened(model, ctx, in_graph="none")
    assert boxes(backend) == [[[48, 24, 80, 40]]] * 3
    assert ctx.fallbacks == [("cuda:0", "cpu", "pictures are made ready on the CPU: no stream")]
    backend.close()


def test_a_gpu_that_is_not_there_is_told_like_any_other_fallback(rig: Machine, model: Path) -> None:
    def broken(number: int) -> Any:
        raise DeviceError(f"cuda:{number} fell off the bus")

    rig.gpu = broken  # type: ignore[method-assign]
    ctx = PluginContext(data_dir=model.parent / "data")
    backend = opened(model, ctx)
    assert backend.device == "cpu"
    assert ctx.fallbacks == [("cuda:0", "cpu", "cuda:0 fell off the bus")]
    backend.close()
    with pytest.raises(ConfigError, match="fell off the bus") as caught:
        opened(model, device="cuda:0")
    assert caught.value.key == "device"


def test_tensorrt_is_refused_where_the_model_runs_on_the_cpu(model: Path) -> None:
    with pytest.raises(ConfigError, match="tensorrt = true, but the model runs on cpu") as caught:
        opened(model, device="cpu", tensorrt=True)
    assert caught.value.key == "tensorrt"


def test_a_composed_model_is_fed_by_its_own_feed_on_the_cpu(model: Path) -> None:
    for in_graph, kind in (("both", GraphFeed), ("auto", HostFeed), ("none", HostFeed)):
        backend = opened(model, device="cpu", in_graph=in_graph, max_batch=3)
        assert backend._loaded is not None
        assert type(backend._loaded._feed) is kind
        assert boxes(backend) == [[[48, 24, 80, 40]]] * 3
        backend.close()
