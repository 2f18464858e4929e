"""`feed_of`: which way pictures come into a model, on the device that it runs on."""

from pathlib import Path

from pipeline.backends._onnx.config import RunConfig
from pipeline.backends._onnx.device import CPU, CPU_CHOICE, CUDA, DeviceChoice, further_gpus
from pipeline.backends._onnx.feed import Feed, HostFeed
from pipeline.backends._onnx.gpu import WORKERS_EACH, GpuPlan, batch_on_gpu, gpu_feed
from pipeline.backends._onnx.graph import Answers, GraphModel, Plain, graph_of
from pipeline.backends._onnx.graph_feed import GraphFeed
from pipeline.backends._onnx.graph_store import device_facts
from pipeline.backends._onnx.session import Session
from pipeline.backends._onnx.started import Started
from pipeline.contracts.component import Context
from pipeline.contracts.errors import FatalError
from pipeline.devices.driver import DeviceError
from pipeline.devices.gpus import cuda_devices, gpus
from pipeline.models.reader import Reader

_SPARE_SIZES = 2  # input sizes for which buffers are kept, where the input fits the frame


def feed_of(config: RunConfig, started: Started, reader: Reader, ctx: Context, *, fit: bool) -> Feed:
    """The way into a started model.

    Args:
        config: where and how it runs.
        started: the model.
        reader: how it is fed and read.
        ctx: of the backend.
        fit: whether its input has the shape of the frames.

    Raises:
        ConfigError: a key that cannot be had.
        FatalError: a device failed.
    """
    ways = _Ways(config, started, reader, ctx, fit=fit)
    return ways.over_the_host(started.session) if started.choice.gpu is None else ways.on_gpus(started.session)


class _Ways:
    """What there is to choose from. Its `make_...` are also called by threads that build engines, one at a time: it
    outlives the first session and holds none."""

    def __init__(self, config: RunConfig, started: Started, reader: Reader, ctx: Context, *, fit: bool) -> None:
        self._config = config
        self._runtime = started.runtime
        self._choice = started.choice
        self._plan = started.plan
        self._base = started.base
        self._reader = reader
        self._ctx = ctx
        self._fit = fit
        self._on_cuda: Path | bytes = reader.model.file.path if started.base is None else started.base.model
        """What CUDA runs: the model's own file, or what was made of it."""
        self._answers: Answers | None = None  # how that answers, where its post-processing is inside

    def over_the_host(self, session: Session) -> Feed:
        """One session; pictures are made ready on the CPU."""
        plan = self._plan
        graph = self._graph(session)
        if graph is None:
            return self._host_feed(session, plan.max_batch, plan.workers)
        return GraphFeed(
            model=graph,
            reader=self._reader,
            max_batch=plan.max_batch,
            spare=self._spare(plan.workers),
            errors=self._runtime.errors,
            now_s=self._ctx.clock.monotonic,
            at_no_cost=self._choice.must_have == CPU,
        )

    def on_gpus(self, session: Session) -> Feed:
        """A session on each GPU."""
        config, model = self._config, self._reader.model
        graph = self._graph(session)
        if graph is not None:  # and the plain session goes, or all weights would lie on the GPU twice
            session, self._on_cuda, self._answers = graph.session, graph.model, graph.answers
        batch = batch_on_gpu(
            session, self._runtime, model, self._ctx, max_batch=config.max_batch, max_run_s=config.max_run_s
        )

        def make_cpu_feed() -> Feed:
            on_cpu = self._load(model.file.path, CPU_CHOICE)
            if on_cpu is None:
                raise FatalError("onnxruntime could not start the CPU")
            return self._host_feed(on_cpu, batch.most, WORKERS_EACH)

        plan = GpuPlan(
            runtime=self._runtime,
            first=self._choice,
            further=further_gpus(config.device, self._choice, cuda_devices()),
            make_session=self.make_session,
            make_feed=self.make_feed,
            make_cpu_feed=make_cpu_feed if config.device == "auto" or config.on_fallback == "warn" else None,
            tensorrt=config.tensorrt,
            fit=self._fit,
        )
        return gpu_feed(plan, session, model, batch, self._ctx)

    def make_session(self, choice: DeviceChoice) -> Session | None:
        """The model on a GPU; None where its provider does not start."""
        # TensorRT runs the model as it is: its engine was built of that one.
        return self._load(self._on_cuda if choice.must_have == CUDA else self._reader.model.file.path, choice)

    def make_feed(self, session: Session, choice: DeviceChoice, rows: int) -> Feed:
        """The way into a session on a GPU."""
        answers = self._answers if choice.must_have == CUDA else None
        if choice.gpu is not None:
            from pipeline.backends._onnx.cuda import cuda_feed

            try:
                gpu = gpus().gpu(choice.gpu)
                return cuda_feed(gpu, self._runtime, session, self._reader, self._ctx, answers=answers)
            except DeviceError as error:
                self._ctx.fell_back(choice.device, "cpu", f"pictures are made ready on the CPU: {error}")
        return self._host_feed(session, rows, WORKERS_EACH)

    def _host_feed(self, session: Session, rows: int, workers: int) -> HostFeed:
        return HostFeed(
            session=session,
            reader=self._reader,
            max_batch=rows,
            spare=self._spare(workers),
            errors=self._runtime.errors,
            now_s=self._ctx.clock.monotonic,
        )

    def _spare(self, workers: int) -> int:
        return workers * (_SPARE_SIZES if self._fit else 1)

    def _load(self, model: Path | bytes, choice: DeviceChoice) -> Session | None:
        plan = self._plan
        return self._runtime.session(model, choice, plan.intra_op_threads, allow_spinning=plan.allow_spinning)

    def _graph(self, session: Session) -> GraphModel | None:
        if self._choice.must_have not in {CPU, CUDA}:
            return None  # what others make of a graph is not known

        def load(model: Path | bytes) -> Session | None:
            return self._load(model, self._choice)

        runtime, choice = self._runtime, self._choice
        plain = Plain(
            session,
            self._reader,
            choice.device,
            runtime.version,
            runtime.errors,
            load,
            facts=device_facts(choice),
            base=self._base,
        )
        return graph_of(self._config.in_graph, plain, self._ctx)
