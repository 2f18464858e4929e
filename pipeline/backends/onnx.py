"""The `onnx` backend: a detection model of the user's own, run here with ONNX Runtime."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, Strict, StringConstraints

from pipeline.backends._onnx_detector import Detector, DetectorSettings
from pipeline.backends._onnx_device import (
    CPU,
    DeviceChoice,
    OnFallback,
    choose_device,
    cuda_devices,
    fallback,
    installed_wheels,
    usable_cores,
    wheel_conflict,
)
from pipeline.backends._onnx_report import findings, in_few_words, model_lines
from pipeline.backends._onnx_session import Runtime, Session, decide_run_error, zeros
from pipeline.contracts.backend import BackendConfig
from pipeline.contracts.component import Context, Finding
from pipeline.contracts.errors import ConfigError, FatalError
from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.paths import ConfigPath
from pipeline.contracts.result import Detections
from pipeline.models.detector import DetectorOptions, ModelDescription, Shapes
from pipeline.models.detector import describe as describe_detector
from pipeline.models.families import FamilyName
from pipeline.models.labels import find_classes
from pipeline.models.onnx_file import read_onnx
from pipeline.models.preprocess import PreprocessConfig

GPU_WORKERS = 2
GPU_BATCH = 8

Side = Annotated[int, Field(ge=32, le=8192)]


class OnnxBackendConfig(BackendConfig):
    """A detection model in an ONNX file, run on this machine."""

    type: Literal["onnx"] = "onnx"
    model: ConfigPath = Field(description="the .onnx file; pkg:PACKAGE/path is a file inside an installed package")
    family: Literal["auto"] | FamilyName = Field(default="auto", description="how the output is read")
    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda|cuda:[0-9]{1,2})$")] = Field(
        default="auto", description="auto, cpu, cuda or cuda:N; auto takes CUDA where it works"
    )
    on_fallback: OnFallback = Field(
        default="fail", description="CUDA asked for and absent: fail, or warn and use the CPU"
    )
    providers: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="execution providers of onnxruntime, instead of `device`"
    )
    confidence: float = Field(default=0.25, ge=0.0, le=1.0, description="boxes with a lower score are dropped")
    iou_threshold: float = Field(default=0.5, ge=0.0, le=1.0, description="boxes that overlap more are one object")
    max_detections: int = Field(default=300, ge=1, le=10_000, description="at most this many boxes a frame")
    class_agnostic_nms: bool = Field(default=False, description="boxes of different classes suppress each other, too")
    classes: tuple[Annotated[int, Strict()] | str, ...] | None = Field(
        default=None, min_length=1, description="names or numbers of the classes to keep; all if left out"
    )
    labels: ConfigPath | tuple[str, ...] | None = Field(
        default=None, description="class names, or a text file with one a line; the model's own if left out"
    )
    input_size: Side | tuple[Side, Side] | None = Field(
        default=None, description="side, or [width, height], that a model with a dynamic input is fed"
    )
    input_shape: Literal["square", "fit"] = Field(
        default="square",
        description="dynamic models: the whole input size, or the least rectangle in it that fits the frame (faster)",
    )
    preprocess: PreprocessConfig = Field(
        default=PreprocessConfig(), description="where the model wants something else than its family"
    )
    workers: int | None = Field(default=None, ge=1, le=256, description="frames at work at once; one per core on a CPU")
    intra_op_threads: int | None = Field(default=None, ge=1, le=256, description="threads inside one run")
    max_batch: int | None = Field(default=None, ge=1, le=128, description="frames in one run; 1 on a CPU")

    def check(self) -> None:
        """Read the model's outside and see that all keys fit it; onnxruntime is not loaded."""
        _class_ids(self, self.describe())

    @classmethod
    def examine(cls) -> Sequence[Finding]:
        """Which onnxruntime is installed, and whether CUDA is there for it."""
        return findings()

    def inspect(self) -> Sequence[str]:
        """All about the model; runs it once, on the CPU, only where its output's shape is dynamic and unclear."""
        description = self.describe()
        runtime = Runtime()
        choice = _device(self, runtime)
        if description.choice is None:
            cpu = DeviceChoice(((CPU, {}),), "cpu", CPU)
            description = self.describe(_trial(_session(self, runtime, cpu)[0], runtime, description, 1))
        return model_lines(description, choice.device, tuple(runtime.available))

    def build(self, ctx: Context) -> "OnnxBackend":
        """Make the backend; loads nothing."""
        return OnnxBackend(self, ctx)

    def describe(self, shapes: Shapes | None = None) -> ModelDescription:
        """What is known of the model without running it.

        Args:
            shapes: the outputs' true shapes, where a trial run has told them.

        Raises:
            ConfigError: with the key to blame.
        """
        size = self.input_size
        options = DetectorOptions(
            family=self.family,
            labels=self.labels,
            input_size=Size(size, size) if isinstance(size, int) else size and Size(*size),
            preprocess=self.preprocess,
        )
        description = describe_detector(read_onnx(self.model), options, shapes)
        fixed = description.fixed_batch
        if fixed is not None and self.max_batch not in {None, fixed}:
            raise ConfigError(f"the model takes {fixed} frames in a run, not {self.max_batch}", key="max_batch")
        if self.input_shape == "fit" and not description.dynamic_size:
            raise ConfigError(
                f'input_shape = "fit" needs a dynamic input; the model takes {description.image}', key="input_shape"
            )
        return description


class OnnxBackend:
    """One model in one session, run by `concurrency` threads at once. Made by `OnnxBackendConfig.build`."""

    def __init__(self, config: OnnxBackendConfig, ctx: Context) -> None:
        self._config = config
        self._ctx = ctx
        self._detector: Detector | None = None
        self.model = config.model.stem
        self.concurrency = config.workers or usable_cores()
        self.max_batch = config.max_batch or 1
        self.device = config.device
        """Where it runs, once it is open: "cpu", "cuda:N", or the name of a provider."""
        self.description: ModelDescription | None = None
        """What was found out about the model, once it is open."""

    def open(self) -> None:
        """Load the model, find out what is still open about it, and warm every worker's way up.

        Raises:
            ConfigError: the model, the device or a key that does not fit the model.
            FatalError: onnxruntime cannot be loaded.
        """
        config = self._config
        description = config.describe()
        conflict = wheel_conflict(installed_wheels())
        if conflict is not None:
            self._ctx.warn(conflict)
        runtime = Runtime()
        session, device = _session(config, runtime, _device(config, runtime))
        if device.warning is not None:
            self._ctx.warn(device.warning)
        on_cpu = device.must_have == CPU
        if config.workers is None and not on_cpu:
            self.concurrency = GPU_WORKERS
        self.max_batch = description.fixed_batch or config.max_batch or (1 if on_cpu else GPU_BATCH)
        shapes = _trial(session, runtime, description, self.max_batch)
        description = config.describe(shapes)
        choice = description.choice
        if choice is None:  # cannot be: a trial run leaves no shape open
            raise FatalError(f"{config.model}: the family of the model is not known after a trial run")
        self.device, self.description, self.model = device.device, description, description.name
        self._detector = Detector(
            session=session,
            model=description,
            choice=choice,
            settings=DetectorSettings(
                confidence=config.confidence,
                iou_threshold=config.iou_threshold,
                max_detections=config.max_detections,
                class_agnostic_nms=config.class_agnostic_nms,
                keep=_keep(_class_ids(config, description)),
                fit=config.input_shape == "fit",
                max_batch=self.max_batch,
                concurrency=self.concurrency,
            ),
            errors=runtime.errors,
            now_s=self._ctx.clock.monotonic,
        )

    def infer(self, batch: Sequence[Frame]) -> Sequence[Detections]:
        """Detections for 1 to `max_batch` frames, in their order."""
        if self._detector is None:
            raise FatalError("the backend is not open")
        return self._detector.infer(batch)

    def describe(self) -> str:
        """Model, family, size, device and workers."""
        if self.description is None:
            return self.model
        return in_few_words(self.description, self.device, self.concurrency, self.max_batch)

    def close(self) -> None:
        """Let the session and all buffers go."""
        self._detector = None


def _device(config: OnnxBackendConfig, runtime: Runtime) -> DeviceChoice:
    asks_cuda = config.device != "cpu" and config.providers is None
    devices = cuda_devices() if asks_cuda else 0
    return choose_device(config.device, config.on_fallback, config.providers, runtime.available, devices)


def _session(config: OnnxBackendConfig, runtime: Runtime, device: DeviceChoice) -> tuple[Session, DeviceChoice]:
    """The session, and the device that it really runs on."""
    cores = usable_cores()
    # Measured on two cores: as many single-threaded runs as cores beat one run on all of them by 1.39.
    threads = config.intra_op_threads or max(1, cores // (config.workers or cores))
    session = runtime.session(config.model, device, threads)
    if session is None and config.providers is None:
        reason = "onnxruntime could not start CUDA (its CUDA 13 or cuDNN 9 libraries are missing: penstock[cuda])"
        device = fallback(config.device, config.on_fallback, reason)
        session = runtime.session(config.model, device, threads)
    if session is None:
        raise ConfigError(f"onnxruntime could not start {device.must_have}", key="providers")
    return session, device


def _trial(session: Session, runtime: Runtime, model: ModelDescription, batch: int) -> Shapes:
    """Run once with an empty picture: warms up, and tells the true shapes."""
    width, height = model.input_size
    rows = model.fixed_batch or batch
    shape = (rows, height, width, 3) if model.channels_last else (rows, 3, height, width)
    names = [output.name for output in model.file.outputs]
    try:
        outputs = session.run(names, {model.image.name: zeros(shape, model.image.dtype)})
    except runtime.errors as error:
        raise ConfigError(
            f"{model.file.path}: {decide_run_error(error)} (fed with {model.image.dtype} {list(shape)})", key="model"
        ) from error
    shapes = {name: np.shape(output) for name, output in zip(names, outputs, strict=True)}
    if rows > 1 and all(len(s) != 3 or s[0] != rows for s in shapes.values()):
        raise ConfigError(f"{model.file.path}: fed with {rows} frames, the model answers {shapes}", key="max_batch")
    return shapes


def _class_ids(config: OnnxBackendConfig, model: ModelDescription) -> tuple[int, ...] | None:
    if config.classes is None or (model.choice is None and not model.labels):
        return None  # in the second case the trial run decides, and then this is asked again
    return find_classes(config.classes, model.labels, model.classes)


def _keep(class_ids: tuple[int, ...] | None) -> "np.ndarray[tuple[int], np.dtype[np.bool_]] | None":
    if class_ids is None:
        return None
    keep = np.zeros(max(class_ids) + 1, np.bool_)
    keep[list(class_ids)] = True
    return keep
