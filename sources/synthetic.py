"""The source `synthetic`: a camera that does not exist, with known pictures and, if asked, known faults."""

import random
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.contracts.component import Context, FrozenModel
from pipeline.contracts.errors import SourceErrorCode, TransientError
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.contracts.source import LiveSourceConfig

if TYPE_CHECKING:
    from sources._pattern import Painter

FaultKind = Literal["disconnect", "freeze", "corrupt", "still", "black"]

SHOWN_FOR_S = 60.0
"""How long a picture stays still or black when that is the fault."""

_TOO_LATE_S = 0.5


class FaultsConfig(FrozenModel):
    """`faults = { mean_s = 30, kinds = ["freeze"], seed = 1 }`: what goes wrong, at random times that are always the
    same for a seed.
    """

    mean_s: Annotated[float, Field(gt=0)] = Field(description="seconds from one fault to the next, on average")
    kinds: Annotated[tuple[FaultKind, ...], Field(min_length=1)] = Field(
        default=("disconnect", "freeze"),
        description="disconnect: the connection breaks; freeze: nothing comes until stall_timeout_s is over; "
        "corrupt: a frame in which the decoder concealed damage; still, black: the same or a black picture "
        "for a minute",
    )
    seed: int = Field(default=0, description="another number, other times")


class SyntheticSourceConfig(LiveSourceConfig):
    """A moving test pattern, for tests and demonstrations; every picture says its number."""

    type: Literal["synthetic"]
    width: int = Field(default=640, ge=16, le=7680, multiple_of=2, description="pixels")
    height: int = Field(default=360, ge=16, le=4320, multiple_of=2, description="pixels")
    fps: float = Field(default=25.0, ge=0, le=10_000, description="frames of each second; 0: as fast as they are taken")
    pattern: Literal["bars", "noise", "static", "black"] = Field(
        default="bars",
        description="bars: colour bars with a moving block; noise: grey noise; both tell the frame's number. static: "
        "always the same bars; black: always black",
    )
    frames: int | None = Field(
        default=None, ge=1, description="end after so many; as for any camera that is a disconnect, and it is read anew"
    )
    faults: FaultsConfig | None = Field(default=None, description="what goes wrong, and how often")

    def build(self, ctx: Context) -> "SyntheticSource":
        """Make the source; opens nothing."""
        return SyntheticSource(self, ctx)


class SyntheticSource:
    """Paints frames by the monotonic clock. Built and read by its runner's thread.

    The number in the picture is `seq`, modulo 65,536, and `pts_s` is `seq / fps`, or the time since the first frame
    with `fps = 0`. A reader that is late gets fewer frames: what it missed is not made up for.
    """

    live = True

    def __init__(self, config: SyntheticSourceConfig, ctx: Context) -> None:
        self._config = config
        self._ctx = ctx
        self._seq = 0
        self._first_at: float | None = None
        self._faults = _Faults(config.faults) if config.faults is not None else None

    def details(self) -> dict[str, str | int | float]:
        """What is painted."""
        config = self._config
        return {"pattern": config.pattern, "width": config.width, "height": config.height, "fps": config.fps}

    def frames(self, stop: threading.Event) -> Iterator[Frame | FailedFrame]:
        """The pattern, frame by frame. See `Source`.

        Raises:
            TransientError: the faults `disconnect` (CONNECTION_FAILED) and `freeze` (STALLED, in time).
        """
        from sources._pattern import Painter

        config, monotonic = self._config, self._ctx.clock.monotonic
        painter = Painter(config.pattern, config.width, config.height)
        interval_s = 1 / config.fps if config.fps else 0.0
        given, due_at = 0, monotonic()
        shown, shown_until = "", 0.0
        while not stop.is_set() and given != config.frames:
            now = monotonic()
            if interval_s and due_at > now and stop.wait(due_at - now):
                return
            due_at = max(due_at + interval_s, now - _TOO_LATE_S)
            now = monotonic()
            fault = self._faults.due(now) if self._faults is not None else None
            if fault == "disconnect":
                raise TransientError("the test pattern was disconnected", code=SourceErrorCode.CONNECTION_FAILED)
            if fault == "freeze":
                if not stop.wait(config.stall_timeout_s):
                    raise TransientError(f"no frame for {config.stall_timeout_s:g} s", code=SourceErrorCode.STALLED)
                return
            if fault in {"still", "black"}:
                shown, shown_until = fault, now + SHOWN_FOR_S
            given += 1
            if fault == "corrupt" and config.on_corrupt == "skip":
                yield FailedFrame(f"frame {given} of the test pattern is damaged", corrupt=True)
                continue
            yield self._frame(painter, shown if now < shown_until else "", corrupt=fault == "corrupt")
            self._seq += 1

    def _frame(self, painter: "Painter", shown: str, *, corrupt: bool) -> Frame:
        """The next frame; whoever gets it is the only one who holds its picture."""
        clock, fps = self._ctx.clock, self._config.fps
        began = clock.monotonic()
        picture = painter.black() if shown == "black" else painter.again() if shown == "still" else None
        picture = picture or painter.paint(self._seq)
        now = clock.monotonic()
        if self._first_at is None:
            self._first_at = now
        return Frame(
            source=self._ctx.name,
            seq=self._seq,
            pts_s=self._seq / fps if fps else now - self._first_at,
            captured_at=clock.wall(),
            time_source="arrival",
            picture=picture,
            decoded_at=now,
            duration_s=1 / fps if fps else None,
            corrupt=corrupt,
            decode_s=now - began,
        )


class _Faults:
    """When something goes wrong next: at exponentially distributed intervals, as independent faults do."""

    def __init__(self, config: FaultsConfig) -> None:
        self._config = config
        self._random = random.Random(config.seed)  # noqa: S311  (it must be the same every time)
        self._next_at: float | None = None

    def due(self, now: float) -> FaultKind | None:
        """The fault whose time has come; each is told once."""
        if self._next_at is None:
            self._next_at = now + self._wait_s()
        if now < self._next_at:
            return None
        self._next_at = None  # counts from when frames come again
        return self._random.choice(self._config.kinds)

    def _wait_s(self) -> float:
        return self._random.expovariate(1 / self._config.mean_s)
