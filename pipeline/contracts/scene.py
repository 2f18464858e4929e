"""What a source's pictures show, apart from whether they come: the keys of the motion gate and of content liveness."""

from enum import StrEnum
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from pipeline.contracts.component import FrozenModel

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class ContentState(StrEnum):
    """What the pictures look like: the `content` label of `penstock_source_content`."""

    OK = "ok"
    FROZEN = "frozen"
    BLACK = "black"
    MOVED = "moved"


class Region(NamedTuple):
    """A rectangle of the picture as shares of its width and height, 0..1, `right` and `bottom` exclusive."""

    left: Share
    top: Share
    right: Share
    bottom: Share


class MotionConfig(FrozenModel):
    """`[sources.NAME.motion]`: infer only frames in which something moves; the others are `gated`. Off when absent."""

    threshold: Share = Field(
        default=0.01, description="share of the picture that must have changed for a frame to be inferred"
    )
    sensitivity: Annotated[float, Field(gt=0, le=255)] = Field(
        default=12.0, description="by how many of 255 grey levels a spot must differ from the background to count"
    )
    keepalive_s: Annotated[float, Field(gt=0)] = Field(
        default=10.0, description="let one frame pass at least this often, whatever moves"
    )
    hold_s: Annotated[float, Field(ge=0)] = Field(default=1.0, description="go on for so long after the last movement")
    ignore: tuple[Region, ...] = Field(
        default=(), description="regions to ignore, each [left, top, right, bottom] as shares 0..1 of the picture"
    )
    decode: Literal["all", "keyframes"] = Field(
        default="all",
        description='of a camera, while nothing moves: "all", or "keyframes" only, which saves most of the CPU time; '
        "what begins between two keyframes is then seen when the packets grow, or else up to one keyframe interval "
        "late, and what comes and goes within one may be missed",
    )


class LivenessConfig(FrozenModel):
    """`[sources.NAME.liveness]`: what the pictures are watched for, about once a second."""

    enabled: bool = Field(default=True, description="watch for pictures that are frozen, black or of another scene")
    frozen_after_s: Annotated[float, Field(gt=0)] = Field(
        default=30.0, description="say FROZEN when no picture differed from the one before it for so long"
    )
    black_below: Annotated[float, Field(ge=0, le=255)] = Field(
        default=20.0, description="say BLACK when all of the picture stays below this grey level"
    )
    moved_above: Share = Field(
        default=0.6, description="say MOVED when this share of the picture changed at once and stays changed"
    )
