"""The `clip` backend: pictures, and texts, as vectors of one space; and zero-shot classification by comparing them."""

from collections.abc import Hashable, Sequence
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, StringConstraints, model_validator

from pipeline.backends._clip_texts import TextSide, describe_texts, read_tokenizer
from pipeline.backends._onnx.config import RunConfig
from pipeline.backends._onnx.device import usable_cores
from pipeline.backends._onnx.gpu import GpuFeed
from pipeline.backends._onnx.model import LoadedModel
from pipeline.backends._onnx.open import check_batch, device_of, session_of, start
from pipeline.backends._onnx.report import model_lines
from pipeline.backends._onnx.rewritten import rewritten
from pipeline.backends._onnx.session import Runtime
from pipeline.backends._onnx.tune import tuned
from pipeline.backends._onnx.ways import feed_of
from pipeline.contracts.backend import ModelInfo
from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError, FatalError, TransientError
from pipeline.contracts.frame import Frame, Size
from pipeline.contracts.paths import ConfigPath
from pipeline.contracts.result import Classification, Embedding, Prediction
from pipeline.models.description import ModelDescription, ModelOptions, Shapes, describe
from pipeline.models.onnx_file import read_onnx
from pipeline.models.preprocess import PreprocessConfig
from pipeline.models.reader import Reader
from pipeline.models.scores import softmax

Prompt = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class ClipBackendConfig(RunConfig):
    """CLIP in two ONNX files, run on this machine: embeddings, and classification by texts of your own."""

    type: Literal["clip"] = "clip"
    model: ConfigPath = Field(description="the image encoder, an .onnx file")
    text_model: ConfigPath | None = Field(default=None, description="the text encoder, an .onnx file")
    tokenizer: ConfigPath | None = Field(default=None, description="the text encoder's tokenizer.json")
    prompts: tuple[Prompt, ...] = Field(
        default=(), max_length=1000, description="classify every picture by these texts; embeddings if left out"
    )
    labels: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="names of the classes of `prompts`; the texts themselves if left out"
    )
    logit_scale: float = Field(
        default=100.0, gt=0, le=1000, description="cosines are multiplied by it before the softmax"
    )
    input_size: Annotated[int, Field(ge=32, le=2048)] | None = Field(
        default=None, description="side that an image encoder with a dynamic input is fed"
    )
    preprocess: PreprocessConfig = Field(
        default=PreprocessConfig(), description="where the image encoder wants something else than OpenAI's CLIP"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.text_model is None) != (self.tokenizer is None):
            raise ValueError("text_model and tokenizer are set together, or not at all")
        if self.prompts and self.text_model is None:
            raise ValueError("prompts need text_model and tokenizer")
        if self.labels is not None and len(self.labels) != len(self.prompts):
            raise ValueError(f"there are {len(self.prompts)} prompts, but {len(self.labels)} labels")
        return self

    def check(self) -> None:
        """Read the outsides of the models and the tokenizer; onnxruntime is not loaded."""
        self.describe()
        if self.text_model is not None and self.tokenizer is not None:
            read_tokenizer(self.tokenizer, describe_texts(self.text_model).length)

    def inspect(self) -> Sequence[str]:
        """All about the image encoder."""
        runtime = Runtime()
        return model_lines(self.describe(), device_of(self, runtime).device, tuple(runtime.available))

    def build(self, ctx: Context) -> "ClipImages | ClipBackend":
        """Make the backend; loads nothing."""
        images = ClipImages(self, ctx)
        return images if self.text_model is None else ClipBackend(self, images)

    def describe(self, shapes: Shapes | None = None) -> ModelDescription:
        """What is known of the image encoder without running it.

        Raises:
            ConfigError: with the key to blame.
        """
        side = self.input_size
        options = ModelOptions(
            task="embedding", input_size=None if side is None else Size(side, side), preprocess=self.preprocess
        )
        description = describe(read_onnx(self.model), options, shapes)
        check_batch(self, description)
        return description


class ClipImages:
    """The image side: a vector for each picture. Made by `ClipBackendConfig.build`; run by `concurrency` threads."""

    def __init__(self, config: ClipBackendConfig, ctx: Context) -> None:
        self._config = config
        self._ctx = ctx
        self._loaded: LoadedModel | None = None
        self._description: ModelDescription | None = None
        self.model = config.model.stem
        self.concurrency = config.workers or usable_cores()
        self.max_batch = config.max_batch or 1
        self.device = config.device
        """Where it runs, once it is open."""
        self._gpu: GpuFeed | None = None
        self._how = ""
        self.numbers = 0
        """How many numbers a vector has, once it is open."""

    def open(self) -> None:
        """Load the image encoder, and warm it up.

        Raises:
            ConfigError: the model, the device or a key that does not fit the model.
            FatalError: onnxruntime cannot be loaded.
        """
        config = self._config
        description = config.describe()
        started = start(config, config.model, self._ctx, description)
        description = config.describe(started.shapes)
        if description.choice is None:  # cannot be: a trial run leaves no shape open
            raise FatalError(f"{config.model}: the output of the image encoder is not known after a trial run")
        started = rewritten(config, started, self._ctx, description, fit=False)
        started = tuned(config, started, self._ctx, description, fit=False)
        self.device, self.concurrency, self.max_batch = started.device, started.concurrency, started.max_batch
        self._how = started.said
        self.numbers = int(np.prod(started.shapes[description.choice.output.name][1:]))
        self._description = description
        reader = Reader(description)
        feed = feed_of(config, started, reader, self._ctx, fit=False)
        if isinstance(feed, GpuFeed):
            self._gpu, self.concurrency = feed, config.workers or feed.workers
            self._follow(feed)
        self._loaded = LoadedModel(feed=feed, reader=reader, fit=False, now_s=self._ctx.clock.monotonic)

    def infer(self, batch: Sequence[Frame]) -> Sequence[Prediction]:
        """A vector of length 1 for each of 1 to `max_batch` frames, in their order."""
        if self._loaded is None:
            raise FatalError("the backend is not open")
        answers = self._loaded.infer(batch)
        if self._gpu is not None:
            self._follow(self._gpu)
        return answers

    def kind_of(self, frame: Frame) -> Hashable:
        """See `Grouping`."""
        return None if self._loaded is None or self.max_batch == 1 else self._loaded.kind_of(frame)

    def _follow(self, gpu: GpuFeed) -> None:
        self.max_batch, self.device = gpu.max_batch, gpu.device

    def info(self) -> ModelInfo:
        """What clients need to know of the model."""
        if self._description is None:
            raise FatalError("the backend is not open")
        return ModelInfo("embedding", (), self._description.input_size)

    def describe(self) -> str:
        """Model, size, device and workers."""
        workers = f"{self.concurrency} worker{'s' * (self.concurrency != 1)}"
        few = f"{self.model} ({self.numbers} numbers) on {self.device}, {workers}"
        return f"{few}; {self._how}" if self._how else few

    def close(self) -> None:
        """Let the session and all buffers go."""
        if self._loaded is not None:
            self._loaded.close()
        self._loaded = self._gpu = None


class ClipBackend:
    """Both sides. Made by `ClipBackendConfig.build`; run by `concurrency` threads at once.

    A picture with texts of its own in its wishes is classified by them; any other one by the configured prompts, or
    it gets its vector where there are none.
    """

    def __init__(self, config: ClipBackendConfig, images: ClipImages) -> None:
        self._config = config
        self._images = images
        self._texts: TextSide | None = None
        self._prompts: npt.NDArray[np.float32] | None = None
        self.model, self.concurrency, self.max_batch = images.model, images.concurrency, images.max_batch

    def open(self) -> None:
        """Load both encoders and the tokenizer; work out the prompts.

        Raises:
            ConfigError: a model, the tokenizer, or two models that do not belong together.
            FatalError: onnxruntime cannot be loaded.
        """
        config = self._config
        if config.text_model is None or config.tokenizer is None:
            raise FatalError("there is no text encoder")
        model = describe_texts(config.text_model)
        tokenizer = read_tokenizer(config.tokenizer, model.length)
        self._images.open()
        self.concurrency, self.max_batch = self._images.concurrency, self._images.max_batch
        runtime = Runtime()
        try:
            session, _ = session_of(config, config.text_model, runtime, device_of(config, runtime))
            texts = TextSide(session=session, model=model, tokenizer=tokenizer, runtime=runtime)
            found = texts.vectors(config.prompts or ("a picture",))
        except ConfigError as error:
            raise ConfigError(str(error), key="text_model" if error.key == "model" else error.key) from error
        except (TransientError, FatalError) as error:
            raise ConfigError(f"{config.text_model}: the text encoder fails: {error}", key="text_model") from error
        if found.shape[1] != self._images.numbers:
            raise ConfigError(
                f"{config.text_model}: gives vectors of {found.shape[1]} numbers, the image encoder of "
                f"{self._images.numbers}: they do not belong together",
                key="text_model",
            )
        self._texts = texts
        self._prompts = found if config.prompts else None

    def infer(self, batch: Sequence[Frame]) -> Sequence[Prediction]:
        """A vector, or one score for each text, for each of 1 to `max_batch` frames, in their order."""
        found = self._images.infer(batch)
        self.max_batch = self._images.max_batch
        return [self._compared(frame, vector) for frame, vector in zip(batch, found, strict=True)]

    def kind_of(self, frame: Frame) -> Hashable:
        """See `Grouping`."""
        return self._images.kind_of(frame)

    @property
    def device(self) -> str:
        """Where it runs, once it is open."""
        return self._images.device

    def _compared(self, frame: Frame, found: Prediction) -> Prediction:
        wanted = frame.wishes.texts if frame.wishes is not None else ()
        texts = self._side().vectors(wanted) if wanted else self._prompts
        if texts is None or not isinstance(found, Embedding):
            return found
        scores = softmax(self._config.logit_scale * (texts @ found.vector))
        names = wanted or self._config.labels or self._config.prompts
        return Classification(scores.astype(np.float32), tuple(names), timings=found.timings)

    def embed_texts(self, texts: Sequence[str]) -> Sequence[Embedding]:
        """A vector of length 1 for each text, in their order."""
        return [Embedding(vector) for vector in self._side().vectors(texts)]

    def info(self) -> ModelInfo:
        """What clients need to know of the model."""
        info, config = self._images.info(), self._config
        if not config.prompts:
            return info
        return ModelInfo("classification", tuple(config.labels or config.prompts), info.input_size, texts="labels")

    def describe(self) -> str:
        """Model, size, device and workers."""
        return f"{self._images.describe()}, with texts"

    def close(self) -> None:
        """Let both sessions go."""
        self._texts = self._prompts = None
        self._images.close()

    def _side(self) -> TextSide:
        if self._texts is None:
            raise FatalError("the backend is not open")
        return self._texts
