"""What every sink has that encodes pictures: its keys, what is drawn, and the encoder."""

from abc import ABC
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from pipeline.contracts.component import Context
from pipeline.contracts.errors import FatalError, PenstockError
from pipeline.contracts.frame import YuvPlanes
from pipeline.contracts.result import Result
from pipeline.contracts.sink import SinkConfig
from sinks._annotators import is_slow
from sinks._encoder import Codec, Encoder, EncoderName, Encoding, Preset, choose, software
from sinks._planes import Planes, copy_planes
from sinks._style import DEFAULT_NAMES, AnnotatorName, DrawStep, style_of

if TYPE_CHECKING:
    from sinks._drawing import Drawing


class ShowingConfig(SinkConfig, ABC):
    """The keys that every sink has that encodes pictures."""

    content: Literal["annotated", "clean"] = Field(
        default="annotated", description="annotated: with what was found in them; clean: the pictures as they came"
    )
    annotators: tuple[AnnotatorName, ...] = Field(
        default=DEFAULT_NAMES,
        description="what to draw: box, label, mask, keypoint, trace, zone, line, blur and pixelate (fast), and of "
        "supervision's annotators ellipse, heat_map and more",
    )
    draw: tuple[DrawStep, ...] | None = Field(
        default=None,
        description='what to draw and how, in place of annotators: [{ type = "box", color = "#ff0000" }, ...]',
    )
    encoder: EncoderName = Field(
        default="auto",
        description="auto: hardware where it proves at the start that it works, else software; or one by name, which "
        "must work",
    )
    preset: Preset = Field(default="ultrafast", description="slower presets make smaller files")
    crf: int = Field(default=23, ge=0, le=51, description="quality: 18 looks lossless, 28 is small")
    threads: int = Field(default=0, ge=0, le=64, description="of the encoder; 0: as many as it finds useful")
    fps: float = Field(default=25.0, gt=0, le=1000, description="frames a second of a source without a timeline")

    @model_validator(mode="after")
    def _nothing_is_left_undone(self) -> Self:
        chosen = self.annotators != DEFAULT_NAMES
        if self.content == "clean" and (chosen or self.draw is not None):
            raise ValueError(f'{"annotators" if chosen else "draw"}: nothing is drawn with content = "clean"')
        if chosen and self.draw is not None:
            raise ValueError("annotators: draw takes their place; leave one of them out")
        return self

    def encoding(
        self, codec: Codec, *, ahead: Literal["any", "little", "none"] = "little", keyframe_s: float = 4.0
    ) -> Encoding:
        """The same for encoders."""
        return Encoding(codec, self.preset, self.crf, self.threads, self.fps, ahead, keyframe_s)


class Showing:
    """Draws, and knows the encoder to use. Made by a sink in its `open`; used by the sink's thread.

    Args:
        config: the sink's.
        encoding: how it encodes.
        ctx: the sink's.

    Raises:
        ConfigError: there is no such encoder, or it does not work.
    """

    def __init__(self, config: ShowingConfig, encoding: Encoding, ctx: Context) -> None:
        self.encoding = encoding
        self.encoder: Encoder = choose(config.encoder, encoding, ctx)
        self._may_fall_back = config.encoder == "auto"
        self._ctx = ctx
        self._drawing: Drawing | None = None
        if config.content == "annotated":
            from sinks import _drawing

            style = style_of(config.annotators, config.draw)
            if style.slow_names and is_slow():
                ctx.warn(
                    f"the annotators {', '.join(style.slow_names)} are slow without OpenCV; "
                    "install opencv-python-headless to make them fast"
                )
            self._drawing = _drawing.Drawing(style)

    def fill(self, canvas: Planes, result: Result, planes: YuvPlanes) -> None:
        """Fill a canvas with the picture of this result; `planes` are the picture's own.

        Raises:
            FatalError: it cannot be drawn, and will not be.
            TransientError: this picture cannot be drawn, or must not be shown.
        """
        if self._drawing is None:
            copy_planes(canvas, planes)
        else:
            self._drawing.draw(result, canvas, planes)

    def fall_back(self, why: Exception) -> bool:
        """Go on in software where hardware failed after all, if that was left open; whether it does."""
        if self.encoder.device is None or not self._may_fall_back:
            return False
        self._ctx.fell_back(self.encoder.device, "software", f"it failed in the middle of a video: {why}")
        self.encoder = software(self.encoding.codec)
        return True

    def forget(self, source: str) -> None:
        """This source is over."""
        if self._drawing is not None:
            self._drawing.forget(source)


def write_each(results: Sequence[Result], write: Callable[[Result], None]) -> None:
    """Write all of them: a failure of one picture does not keep the others from being shown.

    Raises:
        FatalError: the first of those that are; else the first that there was, whatever it is.
    """
    failures: list[PenstockError] = []
    for result in results:
        try:
            write(result)
        except PenstockError as error:
            failures.append(error)
    if failures:
        raise next((error for error in failures if isinstance(error, FatalError)), failures[0])
