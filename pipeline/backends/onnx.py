"""The `onnx` backend: a model of the user's own, run here with ONNX Runtime."""

from collections.abc import Hashable, Sequence
from typing import Annotated, Literal

from pydantic import Field, Strict

from pipeline.backends._onnx.config import RunConfig
from pipeline.backends._onnx.device import CPU, DeviceChoice, installed_wheels, usable_cores, wheel_conflict
from pipeline.backends._onnx.gpu import GpuFeed
from pipeline.backends._onnx.model import LoadedModel
from pipeline.backends._onnx.open import check_batch, device_of, session_of, start
from pipeline.backends._onnx.report import findings, in_few_words, model_lines
from pipeline.backends._onnx.rewritten import rewritten
from pipeline.backends._onnx.session import Runtime
from pipeline.backends._onnx.started import Started, refuses_rectangles, trial
from pipeline.backends._onnx.tune import tuned
from pipeline.backends._onnx.ways import feed_of
from pipeline.contracts.backend import ModelInfo
from pipeline.contracts.component import Context, Finding
from pipeline.contracts.errors import ConfigError, FatalError
from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.paths import ConfigPath
from pipeline.contracts.result import Prediction
from pipeline.models.description import ModelDescription, ModelOptions, Shapes
from pipeline.models.description import describe as describe_model
from pipeline.models.families import FamilyName
from pipeline.models.labels import find_classes
from pipeline.models.onnx_file import read_onnx
from pipeline.models.preprocess import PreprocessConfig
from pipeline.models.reader import Reader
from pipeline.models.rules import ReadSettings

Side = Annotated[int, Field(ge=32, le=8192)]

OnnxTask = Literal[
    "object-detection",
    "instance-segmentation",
    "keypoint-detection",
    "classification",
    "multi-label-classification",
    "semantic-segmentation",
    "embedding",
]


class OnnxBackendConfig(RunConfig):
    """A model in an ONNX file, run on this machine: detection, segmentation, keypoints, classification or embedding."""

    type: Literal["onnx"] = "onnx"
    model: ConfigPath = Field(description="the .onnx file; pkg:PACKAGE/path is a file inside an installed package")
    family: Literal["auto"] | FamilyName = Field(default="auto", description="how the output is read")
    task: OnnxTask | None = Field(default=None, description="what the model does, where the model does not say")
    confidence: float = Field(default=0.25, ge=0.0, le=1.0, description="boxes with a lower score are dropped")
    iou_threshold: float = Field(default=0.5, ge=0.0, le=1.0, description="boxes that overlap more are one object")
    max_detections: int = Field(default=300, ge=1, le=10_000, description="at most this many boxes a frame")
    class_agnostic_nms: bool = Field(default=False, description="boxes of different classes suppress each other, too")
    keypoint_confidence: float = Field(
        default=0.0, ge=0.0, le=1.0, description="keypoints with a lower score were not found"
    )
    classes: tuple[Annotated[int, Strict()] | str, ...] | None = Field(
        default=None, min_length=1, description="names or numbers of the classes to keep; all if left out"
    )
    labels: ConfigPath | tuple[str, ...] | None = Field(
        default=None, description="class names, or a text file with one a line; the model's own if left out"
    )
    keypoints: tuple[str, ...] | None = Field(
        default=None, min_length=1, max_length=1000, description="names of the keypoints; the model's own if left out"
    )
    input_size: Side | tuple[Side, Side] | None = Field(
        default=None, description="side, or [width, height], that a model with a dynamic input is fed"
    )
    input_shape: Literal["auto", "square", "fit"] = Field(
        default="auto",
        description="dynamic models: square, the whole input size, or fit, the least rectangle in it that holds the "
        "frame (faster); auto is fit where the model takes it",
    )
    preprocess: PreprocessConfig = Field(
        default=PreprocessConfig(), description="where the model wants something else than its family"
    )

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
        choice = device_of(self, runtime)
        if description.choice is None:
            cpu = DeviceChoice(((CPU, {}),), "cpu", CPU)
            description = self.describe(trial(session_of(self, self.model, runtime, cpu)[0], runtime, description, 1))
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
        options = ModelOptions(
            family=self.family,
            task=self.task,
            labels=self.labels,
            keypoints=self.keypoints,
            input_size=Size(size, size) if isinstance(size, int) else size and Size(*size),
            preprocess=self.preprocess,
        )
        description = describe_model(read_onnx(self.model), options, shapes)
        check_batch(self, description)
        if self.input_shape == "fit" and description.whole_input is not None:
            raise ConfigError(f'input_shape = "fit" needs {description.whole_input}', key="input_shape")
        return description


class OnnxBackend:
    """One model in one session, run by `concurrency` threads at once. Made by `OnnxBackendConfig.build`."""

    def __init__(self, config: OnnxBackendConfig, ctx: Context) -> None:
        self._config = config
        self._ctx = ctx
        self._loaded: LoadedModel | None = None
        self._info: ModelInfo | None = None
        self._gpu: GpuFeed | None = None
        self._how = ""
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
        started = start(config, config.model, self._ctx, description)
        description = config.describe(started.shapes)
        if description.choice is None:  # cannot be: a trial run leaves no shape open
            raise FatalError(f"{config.model}: the family of the model is not known after a trial run")
        fit = self._fits(started, description)
        started = rewritten(config, started, self._ctx, description, fit=fit)
        started = tuned(config, started, self._ctx, description, fit=fit)
        self.device, self.concurrency, self.max_batch = started.device, started.concurrency, started.max_batch
        self.description, self.model, self._how = description, description.name, started.said
        reader = Reader(
            description,
            ReadSettings(
                confidence=config.confidence,
                iou_threshold=config.iou_threshold,
                max_detections=config.max_detections,
                class_agnostic_nms=config.class_agnostic_nms,
                class_ids=_class_ids(config, description),
                keypoint_confidence=config.keypoint_confidence,
            ),
        )
        self._info = reader.info
        feed = feed_of(config, started, reader, self._ctx, fit=fit)
        if isinstance(feed, GpuFeed):
            self._gpu, self.concurrency = feed, config.workers or feed.workers
            self._follow(feed)
        self._loaded = LoadedModel(feed=feed, reader=reader, fit=fit, now_s=self._ctx.clock.monotonic)

    def _fits(self, started: Started, description: ModelDescription) -> bool:
        """Whether the input will have the shape of the frame, which a model must be seen to take."""
        shape = self._config.input_shape
        if shape == "square" or (shape == "auto" and description.whole_input is not None):
            return False
        if shape == "fit":  # it is the user's word
            return True
        why = refuses_rectangles(started, description)
        if why:
            size = f"{description.input_size.width}x{description.input_size.height}"
            self._ctx.warn(f"the input is dynamic by name only and is always fed {size}: {why}")
        return why is None

    def kind_of(self, frame: Frame) -> Hashable:
        """See `Grouping`."""
        return None if self._loaded is None or self.max_batch == 1 else self._loaded.kind_of(frame)

    def infer(self, batch: Sequence[Frame]) -> Sequence[Prediction]:
        """Predictions for 1 to `max_batch` frames, in their order."""
        if self._loaded is None:
            raise FatalError("the backend is not open")
        answers = self._loaded.infer(batch)
        if self._gpu is not None:
            self._follow(self._gpu)
        return answers

    def _follow(self, gpu: GpuFeed) -> None:
        """Batches grow and shrink, and devices go, while the model is at work."""
        self.max_batch, self.device = gpu.max_batch, gpu.device

    def info(self) -> ModelInfo:
        """What clients need to know of the model."""
        if self._info is None:
            raise FatalError("the backend is not open")
        return self._info

    def describe(self) -> str:
        """Model, family, size, device and workers, and how these were found."""
        if self.description is None:
            return self.model
        few = in_few_words(self.description, self.device, self.concurrency, self.max_batch)
        return f"{few}; {self._how}" if self._how else few

    def close(self) -> None:
        """Let the session and all buffers go."""
        if self._loaded is not None:
            self._loaded.close()
        self._loaded = self._gpu = None


def _class_ids(config: OnnxBackendConfig, model: ModelDescription) -> tuple[int, ...] | None:
    if config.classes is None or (model.choice is None and not model.labels):
        return None  # in the second case the trial run decides, and then this is asked again
    return find_classes(config.classes, model.labels, model.classes)
