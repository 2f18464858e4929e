"""What a source is: something that yields frames, and never retries."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol, Self, runtime_checkable

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pipeline.contracts.analysis import LineConfig, TrackingConfig, ZoneConfig
from pipeline.contracts.component import ComponentConfig, Context, FrozenModel, Name, QueueConfig
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.contracts.scene import LivenessConfig, MotionConfig


class Source(Protocol):
    """One camera, file or folder. Built and read by its own thread; `frames` is called anew for every attempt."""

    live: bool
    """True: the newest frame wins, an end is a disconnect. False: no frame is lost, an end is the end."""

    def frames(self, stop: threading.Event) -> Iterator[Frame | FailedFrame]:
        """Open, read, clean up: one generator with one `finally`.

        It ends at the end of the stream, or soon after `stop` is set; no call in it blocks without a time limit. It
        never yields a frame that it did not decode; a frame that it could not decode it yields as a `FailedFrame`.
        `Frame.seq` goes on where the generator before it ended.

        Raises:
            TransientError: it may work later; the runner comes again with back-off.
            FatalError: it will not work until someone acts.
        """
        ...


@runtime_checkable
class Counted(Protocol):
    """A source that knows how much is to come, for the progress bar."""

    @property
    def expected_frames(self) -> int | None:
        """How many frames it will yield in all, as well as it knows by now; None when it does not."""
        ...


@runtime_checkable
class Sparing(Protocol):
    """A source that leaves frames undecoded where nobody would want them: they are counted, too."""

    @property
    def skipped_frames(self) -> int:
        """Frames that were there and were never given, because they would have been sampled out, or nothing moved.

        Over all attempts: it only grows. No frame in it was yielded, as a `Frame` or as a `FailedFrame`. Called from
        any thread, must not block.
        """
        ...


@runtime_checkable
class Described(Protocol):
    """A source that can say what it is reading, for status pages."""

    def details(self) -> Mapping[str, str | int | float]:
        """Codec, transport and the like, as known now; no credentials. Called from any thread, must not block."""
        ...


REST_SHARE = 0.5
"""A frame comes in every such share of `stall_timeout_s` also from a source that rests: only that much later is one
missed."""


@runtime_checkable
class Resting(Protocol):
    """A live source that gives fewer frames while nothing moves: `[sources.NAME.motion] decode = "keyframes"`.

    Its config says `can_rest`. What it leaves out it counts as `Sparing`. It gives one as often as `REST_SHARE` says.
    """

    @property
    def resting(self) -> bool:
        """Whether most frames before the one that was yielded last were left out, so that `stride` does not apply.

        Called from any thread, must not block.
        """
        ...

    def rest(self, for_s: float) -> None:
        """The motion gate has seen the frame that was yielded last; called by the runner, in the source's thread.

        Args:
            for_s: 0: something moves, or did just now, and every frame is wanted. Else nothing does: the next frame is
                wanted as soon as something may move, and in so many seconds at the latest.
        """
        ...


@runtime_checkable
class Idle(Protocol):
    """A source that may be well without giving a frame."""

    @property
    def may_idle(self) -> bool:
        """True: at a reload it is not tried, since its first frame may be hours away."""
        ...


class SourceConfig(ComponentConfig, ABC):
    """The keys that every source has: they are carried out by the runner around it, not by the plugin."""

    can_rest: ClassVar[bool] = False
    """Whether the source is `Resting` where `motion` asks for it."""

    backend: Name | None = Field(
        default=None, description="name of the backend; may be left out while there is one, fallbacks not counted"
    )
    stride: int = Field(default=1, ge=1, description="take every n-th frame; the others are sampled out")
    max_fps: float | None = Field(default=None, gt=0, description="take at most this many frames of each second")
    max_staleness_s: float | None = Field(
        default=None, gt=0, description="drop a frame that waited longer than this for the backend"
    )
    queue: QueueConfig = Field(default=QueueConfig(), description="the bounds of the lane in front of the backend")
    priority: int = Field(
        default=0, ge=-100, le=100, description="under load, frames of sources with a lower priority are shed first"
    )
    required: bool = Field(default=False, description="not ready (/readyz) while this source gives no frames")
    motion: MotionConfig | None = Field(default=None, description="infer only frames in which something moves")
    liveness: LivenessConfig = Field(
        default=LivenessConfig(), description="watch a live source for frozen, black and displaced pictures"
    )

    tracking: TrackingConfig | None = Field(default=None, description="number the objects from frame to frame")
    zones: dict[Name, ZoneConfig] = Field(default={}, description="polygons in which objects are counted")
    lines: dict[Name, LineConfig] = Field(default={}, description="lines whose crossings are counted")

    @field_validator("motion")
    @classmethod
    def _may_rest(cls, value: MotionConfig | None) -> MotionConfig | None:
        if value is not None and value.decode == "keyframes" and not cls.can_rest:
            raise ValueError('decode = "keyframes" is for cameras and streams: of this source every frame is decoded')
        return value

    @field_validator("tracking")
    @classmethod
    def _outlasts_a_frame(cls, value: TrackingConfig | None, info: ValidationInfo) -> TrackingConfig | None:
        max_fps = info.data.get("max_fps")
        if value is not None and max_fps is not None and value.lost_after_s * max_fps <= 1:
            raise ValueError(
                f"lost_after_s = {value.lost_after_s:g} must be more than the {1 / max_fps:g} s from frame to frame "
                f"that max_fps = {max_fps:g} leaves"
            )
        return value

    @field_validator("zones")
    @classmethod
    def _knows_how_long(cls, value: dict[str, ZoneConfig], info: ValidationInfo) -> dict[str, ZoneConfig]:
        if info.data.get("tracking") is None and "tracking" in info.data:
            for name, zone in value.items():
                if zone.min_dwell_s:
                    raise ValueError(f"{name}: min_dwell_s needs tracking; add: tracking = {{}}")
        return value

    @field_validator("lines")
    @classmethod
    def _knows_who(cls, value: dict[str, LineConfig], info: ValidationInfo) -> dict[str, LineConfig]:
        if value and info.data.get("tracking") is None and "tracking" in info.data:
            raise ValueError("crossings are of tracked objects only; add: tracking = {}")
        for name, line in value.items():
            if line.start == line.end:
                raise ValueError(f"{name}: start and end are the same point")
        return value

    @abstractmethod
    def build(self, ctx: Context) -> Source:
        """Make the source; cheap, opens nothing."""

    def reads(self) -> Sequence[Path]:
        """The files and folders that it reads, so that no sink is pointed at one of them."""
        return ()


class ReconnectConfig(FrozenModel):
    """How a live source is tried again: the delay doubles from `min_s` to `max_s`, with full jitter, for ever."""

    min_s: Annotated[float, Field(gt=0, le=3600)] = Field(default=1.0, description="wait at least this long")
    max_s: Annotated[float, Field(gt=0, le=86_400)] = Field(default=30.0, description="wait at most this long")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_s > self.max_s:
            raise ValueError(f"min_s = {self.min_s:g} must not be greater than max_s = {self.max_s:g}")
        return self


class LiveSourceConfig(SourceConfig, ABC):
    """The keys that every live source has on top; `reconnect` and `on_startup_error` are carried out by the runner."""

    on_startup_error: Literal["retry", "error"] = Field(
        default="retry", description='what to do when the first attempt fails: "retry" for ever, or give up: "error"'
    )
    stall_timeout_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=4.0, description="no frame for so long is a failure: STALLED or TIMEOUT, and the source is opened anew"
    )
    reconnect: ReconnectConfig = Field(default=ReconnectConfig(), description="the delays between attempts")
    exclusive: bool = Field(
        default=False,
        description="it serves one reader at a time: at a reload the old one is closed before the new one is opened",
    )
    on_corrupt: Literal["flag", "skip"] = Field(
        default="flag",
        description='a frame whose damage the decoder concealed is inferred and flagged, or "skip": not inferred',
    )
