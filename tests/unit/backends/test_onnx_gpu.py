"""The `onnx` backend as it runs on GPUs, on a machine without one: sessions on the CPU stand in for CUDA's and
TensorRT's, a driver that is none for NVIDIA's. What is put together, how it loses memory and devices, how TensorRT
takes over.
"""

import gc
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import fake_gpus
from model_files import Array, detector, yolov8_output

from pipeline.backends._onnx import gpu as _gpu
from pipeline.backends._onnx.device import CPU, CPU_CHOICE, CUDA, DeviceChoice
from pipeline.backends._onnx.feed import HostFeed
from pipeline.backends._onnx.session import Runtime, Session
from pipeline.backends.onnx import OnnxBackend, OnnxBackendConfig
from pipeline.contracts.errors import ConfigError, FatalError
from pipeline.contracts.result import Detections, Prediction
from pipeline.testing import PluginContext, frame

LOST = "CUDA failure 719: unspecified launch failure ; GPU=0"
NO_MEMORY = "BFCArena: Failed to allocate memory for requested buffer of size 1228800"


class StandIn:
    """A session on the CPU that says it is on a GPU, and fails as one does: `fault` is raised by the next runs,
    `fits` frames fit into its memory."""

    def __init__(self, real: Session, device: str) -> None:
        self.real = real
        self.device = device
        self.fault: str | None = None
        self.fits = 1000
        self.rows: list[int] = []

    def run(self, output_names: Sequence[str] | None, input_feed: dict[str, Array]) -> Sequence[Array]:
        rows = len(next(iter(input_feed.values())))
        if self.fault is not None:
            raise RuntimeError(self.fault)
        if rows > self.fits:
            raise RuntimeError(NO_MEMORY)
        self.rows.append(rows)
        return self.real.run(output_names, input_feed)

    def get_providers(self) -> Sequence[str]:
        return (CUDA, CPU)


class Machine:
    """Two GPUs that are none. `sessions` are those that were made, in their order; `broken` devices start none."""

    def __init__(self) -> None:
        self.sessions: list[StandIn] = []
        self.broken: set[str] = set()
        self.fits = 1000

    def on(self, device: str) -> StandIn:
        return next(session for session in self.sessions if session.device == device)


class Listening(PluginContext):
    """A context that somebody waits at."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir=data_dir)
        self._heard = threading.Condition()

    def warn(self, message: str) -> None:
        with self._heard:
            super().warn(message)
            self._heard.notify_all()

    def tell(self, state: str, detail: str, *, well: bool) -> None:
        with self._heard:
            super().tell(state, detail, well=well)
            self._heard.notify_all()

    def wait_until_told(self, times: int) -> None:
        with self._heard:
            assert self._heard.wait_for(lambda: len(self.told) == times or self.warnings, 30)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()
    gpus, _ = fake_gpus(2)
    real_session = Runtime.session

    def session(runtime: Runtime, model: Path, choice: DeviceChoice, *threads: Any, **more: Any) -> Session | None:
        if choice.gpu is None:
            return real_session(runtime, model, choice, *threads, **more)
        if choice.device in found.broken:
            return None
        plain = real_session(runtime, model, CPU_CHOICE, 1)
        assert plain is not None
        made = StandIn(plain, choice.device)
        made.fits = found.fits
        found.sessions.append(made)
        return made  # type: ignore[return-value]

    def host_feed(
        gpu: Any, runtime: Runtime, session: Session, reader: Any, ctx: PluginContext, **_: object
    ) -> HostFeed:
        return HostFeed(
            session=session, reader=reader, max_batch=32, spare=4, errors=runtime.errors, now_s=ctx.clock.monotonic
        )

    monkeypatch.setattr(Runtime, "session", session)
    monkeypatch.setattr(Runtime, "available", (CUDA, CPU))
    for module in ("open", "ways"):
        monkeypatch.setattr(f"pipeline.backends._onnx.{module}.cuda_devices", lambda: 2)
    for module in ("open", "ways", "gpu", "graph_store"):
        monkeypatch.setattr(f"pipeline.backends._onnx.{module}.gpus", lambda: gpus)
    monkeypatch.setattr("pipeline.backends._onnx.cuda.cuda_feed", host_feed)
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    output = yolov8_output((32, 32, 16, 8, 0, 0.9), (8, 30, 8, 8, 1, 0.6))
    return detector(
        tmp_path / "cars.onnx",
        {"output0": output},
        image=("batch", 3, 64, 64),
        metadata={"names": "{0: 'car', 1: 'bus'}"},
    )


@pytest.fixture
def opened(model: Path, tmp_path: Path) -> Iterator[Any]:
    backends: list[OnnxBackend] = []

    def make(**keys: Any) -> tuple[OnnxBackend, Listening]:
        ctx = Listening(tmp_path / "data")
        backends.append(OnnxBackendConfig(model=model, **keys).build(ctx))
        backends[-1].open()
        return backends[-1], ctx

    yield make
    for backend in backends:
        backend.close()


def names(answers: Sequence[Prediction]) -> list[list[str]]:
    assert all(isinstance(answer, Detections) for answer in answers)
    return [[answer.label(i) for i in range(len(answer))] for answer in answers if isinstance(answer, Detections)]


def builders() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("tensorrt-")]


def test_one_model_runs_on_all_gpus_and_answers_as_on_the_cpu(machine: Machine, opened: Any) -> None:
    backend, ctx = opened()
    plain, _ = opened(device="cpu")
    frames = [frame(seq, width=128, height=64, grey=seq) for seq in range(3)]
    assert backend.device == "cuda:0,cuda:1"
    assert backend.concurrency == 2 * _gpu.WORKERS_EACH
    assert "on cuda:0,cuda:1, 4 workers" in backend.describe()
    for answer, expected in zip(backend.infer(frames), plain.infer(frames[:1]) * 3, strict=True):
        np.testing.assert_array_equal(answer.xyxy, expected.xyxy)
    assert names(backend.infer(frames)) == [["car", "bus"]] * 3
    assert ctx.fallbacks == []


def test_a_gpu_that_is_named_is_the_only_one(machine: Machine, opened: Any) -> None:
    backend, _ = opened(device="cuda:1")
    assert (backend.device, backend.concurrency) == ("cuda:1", 2)
    assert {session.device for session in machine.sessions} == {"cuda:1"}


def test_a_further_gpu_that_does_not_start_is_left_out_aloud(machine: Machine, opened: Any) -> None:
    machine.broken.add("cuda:1")
    backend, ctx = opened(device="cuda")
    assert (backend.device, backend.concurrency) == ("cuda:0", 2)
    assert ctx.fallbacks == [("cuda:1", "cuda:0", "onnxruntime could not start CUDA on it")]


def test_batches_are_as_large_as_was_measured_and_a_given_size_is_kept(machine: Machine, opened: Any) -> None:
    backend, _ = opened(device="cuda:0")
    tried = set(machine.on("cuda:0").rows)
    assert tried >= {1, 2, 4}
    assert backend.max_batch in tried
    assert opened(device="cuda:0", max_batch=3)[0].max_batch == 3


def test_the_size_of_batches_follows_the_memory(machine: Machine, opened: Any) -> None:
    backend, ctx = opened(device="cuda:0", max_batch=8)
    machine.on("cuda:0").fits = 3
    assert names(backend.infer([frame(seq) for seq in range(8)])) == [["car", "bus"]] * 8
    assert backend.max_batch == 2
    assert ["4 from now on" in line for line in ctx.warnings] == [True, False]
    assert backend.kind_of(frame()) == backend.kind_of(frame(width=64, height=64))


def test_a_given_size_that_does_not_fit_from_the_start_is_halved_as_well(machine: Machine, opened: Any) -> None:
    machine.fits = 3
    backend, ctx = opened(device="cuda:0", max_batch=8)
    assert names(backend.infer([frame(seq) for seq in range(8)])) == [["car", "bus"]] * 8
    assert backend.max_batch == 2
    assert "4 from now on" in ctx.warnings[0]
    machine.fits = 0
    with pytest.raises(ConfigError, match="Failed to allocate"):
        opened(device="cuda:0", max_batch=8)


def test_a_device_that_is_lost_is_replaced_by_the_others_and_at_last_by_the_cpu(machine: Machine, opened: Any) -> None:
    backend, ctx = opened()
    machine.on("cuda:0").fault = LOST
    assert names(backend.infer([frame()])) == [["car", "bus"]]
    assert backend.device == "cuda:1"
    machine.on("cuda:1").fault = LOST
    assert names(backend.infer([frame(1)])) == [["car", "bus"]]
    assert backend.device == "cpu"
    assert [(wanted, got) for wanted, got, _ in ctx.fallbacks] == [("cuda:0", "cuda:1"), ("cuda:1", "cpu")]


def test_a_gpu_that_was_asked_for_is_not_replaced_by_a_cpu(machine: Machine, opened: Any) -> None:
    backend, ctx = opened(device="cuda:0")
    machine.on("cuda:0").fault = LOST
    with pytest.raises(FatalError, match="CUDA failure 719"):
        backend.infer([frame()])
    assert ctx.fallbacks == []
    told, _ = opened(device="cuda:1", on_fallback="warn")
    machine.on("cuda:1").fault = LOST
    assert names(told.infer([frame()])) == [["car", "bus"]]
    assert told.device == "cpu"


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """TensorRT that is none: its engines are made by the real process, on the CPU."""
    made: list[str] = []

    def choice(cuda: DeviceChoice, folder: Path, timing: Path, profile: object) -> DeviceChoice:
        made.append(cuda.device)
        return DeviceChoice(((CPU, {}),), cuda.device, CPU)

    monkeypatch.setattr(Runtime, "available", ("TensorrtExecutionProvider", CUDA, CPU))
    monkeypatch.setattr(_gpu, "load_libraries", lambda: None)
    monkeypatch.setattr(_gpu, "tensorrt_choice", choice)
    return made


def test_tensorrt_takes_over_under_the_load_of_four_threads_and_loses_nothing(
    machine: Machine, tensorrt: list[str], opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gpu._OnGpu, "_gain", lambda *_: 1.7)
    backend, ctx = opened(device="cuda:0")
    enough = threading.Event()

    def work(worker: int) -> int:
        done = 0
        while not enough.is_set() or done < 10:
            assert names(backend.infer([frame(done)])) == [["car", "bus"]]
            done += 1
        return done

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work, index) for index in range(4)]
        try:
            ctx.wait_until_told(2)
        finally:
            enough.set()
        done = sum(worker.result(30) for worker in workers)
    assert ctx.warnings == []
    assert [state for state, _, _ in ctx.told] == ["cuda", "tensorrt"]
    assert "took over from CUDA on cuda:0: 1.70 times as fast" in ctx.told[-1][1]
    assert tensorrt == ["cuda:0"]
    before, after = machine.sessions
    assert sum(before.rows) + sum(after.rows) >= done
    used = len(before.rows)
    backend.infer([frame()])
    assert len(before.rows) == used  # the new one answers


def test_once_tensorrt_took_over_nobody_keeps_cudas_session(
    machine: Machine, tensorrt: list[str], opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gpu._OnGpu, "_gain", lambda *_: 1.7)
    backend, ctx = opened(device="cuda:0")
    before = weakref.ref(machine.sessions[0])
    ctx.wait_until_told(2)
    machine.sessions.pop(0)
    assert ctx.told[-1][0] == "tensorrt"
    gc.collect()
    assert before() is None
    assert names(backend.infer([frame()])) == [["car", "bus"]]


def test_two_gpus_make_their_engines_beside_each_other(
    machine: Machine, tensorrt: list[str], opened: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_gpu._OnGpu, "_gain", lambda *_: 2.0)
    _, ctx = opened()
    ctx.wait_until_told(4)
    assert ctx.warnings == []
    assert [state for state, _, _ in ctx.told].count("tensorrt") == 2
    assert sorted(tensorrt) == ["cuda:0", "cuda:1"]
    assert len(list((tmp_path / "data").glob("tensorrt/test/cuda-[01]/engine-*/ready.json"))) == 2


def test_tensorrt_that_is_not_faster_does_not_take_over(
    machine: Machine, tensorrt: list[str], opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gpu._OnGpu, "_gain", lambda *_: 0.9)
    backend, ctx = opened(device="cuda:0")
    ctx.wait_until_told(2)
    assert "not faster (0.90 times as fast): CUDA goes on" in ctx.told[1][1]
    assert names(backend.infer([frame()])) == [["car", "bus"]]


def test_a_backend_closes_in_the_middle_of_a_build(machine: Machine, tensorrt: list[str], opened: Any) -> None:
    backend, ctx = opened(device="cuda:0")
    assert builders() == ["tensorrt-test"]
    backend.close()
    assert builders() == []
    assert ctx.warnings == []


def test_tensorrt_is_used_where_it_loads_unless_the_config_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    available = ("TensorrtExecutionProvider",)
    monkeypatch.setattr(_gpu, "load_libraries", lambda: "libnvinfer.so.10: no such file")
    assert _gpu.uses_tensorrt("auto", available) is False
    assert _gpu.uses_tensorrt(False, available) is False
    with pytest.raises(ConfigError, match="tensorrt = true, but libnvinfer") as caught:
        _gpu.uses_tensorrt(True, available)
    assert caught.value.key == "tensorrt"
    monkeypatch.setattr(_gpu, "load_libraries", lambda: None)
    assert _gpu.uses_tensorrt("auto", available)
    assert not _gpu.uses_tensorrt(False, available)
    with pytest.raises(ConfigError, match="built without it"):
        _gpu.uses_tensorrt(True, ())
