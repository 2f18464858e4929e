"""What is drawn, and how: the steps of `draw` and the names of `annotators`, as one style that sinks can share."""

import difflib
import re
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field

from pipeline.contracts.component import FrozenModel

_RGB = r"#[0-9a-fA-F]{6}"


def _check_color(color: str) -> str:
    if not re.fullmatch(rf"class|track|{_RGB}", color):
        raise ValueError(f'must be "class", "track" or "#rrggbb", got "{color}"')
    return color


def _check_rgb(color: str) -> str:
    if not re.fullmatch(_RGB, color):
        raise ValueError(f'must be "#rrggbb", got "{color}"')
    return color


ColorName = Annotated[
    str, AfterValidator(_check_color), Field(json_schema_extra={"pattern": f"^(class|track|{_RGB})$"})
]
"""What colour to draw in: "class": each class its own; "track": each object its own; or "#rrggbb"."""

FixedColor = Annotated[str, AfterValidator(_check_rgb), Field(json_schema_extra={"pattern": f"^{_RGB}$"})]


class _Step(FrozenModel):
    classes: tuple[str, ...] | None = Field(default=None, description="only these classes; all if left out")


class _Line(_Step):
    color: ColorName = Field(default="class", description='"class", "track" or "#rrggbb"')
    thickness_px: int | None = Field(default=None, ge=1, le=100, description="by the size of the picture if left out")


class BoxStep(_Line):
    """The outline of each object's box."""

    type: Literal["box"] = "box"


class LabelStep(_Step):
    """What each object is: number, class and confidence; over all boxes."""

    type: Literal["label"] = "label"
    color: ColorName = Field(default="class", description='of the ground: "class", "track" or "#rrggbb"')
    show: tuple[Literal["track", "class", "confidence"], ...] = Field(
        default=("track", "class", "confidence"), description="what to write of it"
    )


class MaskStep(_Step):
    """The pixels of each object, where the model tells them."""

    type: Literal["mask"] = "mask"
    color: ColorName = Field(default="class", description='"class", "track" or "#rrggbb"')
    opacity: float = Field(default=0.5, ge=0, le=1, description="0: not seen, 1: nothing seen through it")


class KeypointStep(_Step):
    """The keypoints of each object, where the model finds some."""

    type: Literal["keypoint"] = "keypoint"
    color: ColorName = Field(default="class", description='"class", "track" or "#rrggbb"')
    radius_px: int | None = Field(default=None, ge=1, le=100, description="by the size of the picture if left out")
    min_confidence: float = Field(default=0.3, ge=0, le=1, description="leave out what the model is less sure of")


class TraceStep(_Line):
    """The way that each tracked object came."""

    type: Literal["trace"] = "trace"
    length_s: float = Field(default=2.0, gt=0, le=60, description="how much of it, in seconds")


class ZoneStep(FrozenModel):
    """The zones of the source, with how many objects are inside."""

    type: Literal["zone"] = "zone"
    color: FixedColor = Field(default="#ffb000", description="#rrggbb")
    thickness_px: int | None = Field(default=None, ge=1, le=100, description="by the size of the picture if left out")
    opacity: float = Field(default=0.0, ge=0, le=1, description="of its area; 0: only the outline")
    counts: bool = Field(default=True, description="write its name and how many are inside")


class LineStep(FrozenModel):
    """The lines of the source, with how many objects have crossed them."""

    type: Literal["line"] = "line"
    color: FixedColor = Field(default="#40c4ff", description="#rrggbb")
    thickness_px: int | None = Field(default=None, ge=1, le=100, description="by the size of the picture if left out")
    counts: bool = Field(default=True, description="write its name and how many have crossed it")


class _Privacy(_Step):
    cells: int = Field(default=8, ge=1, le=64, description="how many spots are left along the longer side of a box")
    margin_ratio: float = Field(default=0.1, ge=0, le=2, description="hide so much more on each side of a box")


class BlurStep(_Privacy):
    """Makes objects unrecognisable, smoothly: before anything else is drawn, or the picture is not shown."""

    type: Literal["blur"] = "blur"


class PixelateStep(_Privacy):
    """Makes objects unrecognisable, in squares: before anything else is drawn, or the picture is not shown."""

    type: Literal["pixelate"] = "pixelate"


Supervisions = Literal[
    "background_overlay",
    "box_corner",
    "circle",
    "color",
    "dot",
    "ellipse",
    "halo",
    "heat_map",
    "percentage_bar",
    "polygon",
    "round_box",
    "triangle",
]


class SupervisionStep(_Step):
    """One of supervision's annotators as it comes: slower (5 to 50 ms at 1080p)."""

    type: Supervisions


PrivacyStep = BlurStep | PixelateStep
MarkStep = MaskStep | KeypointStep | TraceStep | ZoneStep | LineStep
DrawStep = Annotated[
    BoxStep | LabelStep | MarkStep | PrivacyStep | SupervisionStep,
    Field(discriminator="type"),
]
"""One `{ type = "...", ... }` of the key `draw`."""

_STEPS = {
    "box": BoxStep(),
    "label": LabelStep(),
    "mask": MaskStep(),
    "keypoint": KeypointStep(),
    "trace": TraceStep(),
    "zone": ZoneStep(),
    "line": LineStep(),
    "blur": BlurStep(),
    "pixelate": PixelateStep(),
    **{name: SupervisionStep(type=name) for name in Supervisions.__args__},  # type: ignore[attr-defined]
}

DEFAULT_NAMES = ("box", "label")


class Style(NamedTuple):
    """All that is drawn on a picture: equal styles give equal pictures. Used by any thread.

    Attributes:
        privacy: what hides something; first of all.
        supervision: the annotators of supervision, in the order of the config.
        marks: areas, points and lines, likewise.
        boxes: outlines, over those.
        labels: on top of all.
    """

    privacy: tuple[PrivacyStep, ...] = ()
    supervision: tuple[SupervisionStep, ...] = ()
    marks: tuple[MarkStep, ...] = ()
    boxes: tuple[BoxStep, ...] = ()
    labels: tuple[LabelStep, ...] = ()

    @property
    def remembers(self) -> bool:
        """Whether a picture depends on those before it in a way that only one drawer can follow."""
        return any(step.type == "heat_map" for step in self.supervision)

    @property
    def slow_names(self) -> tuple[str, ...]:
        """Which annotators of supervision there are."""
        return tuple(step.type for step in self.supervision)


def _check_name(name: str) -> str:
    if name in _STEPS:
        return name
    near = difflib.get_close_matches(name, _STEPS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(_STEPS))}"
    raise ValueError(f"there is no annotator {name!r}; {hint}")


AnnotatorName = Annotated[str, AfterValidator(_check_name)]
"""The name of a step, which is drawn as it comes."""


def style_of(annotators: tuple[str, ...] = DEFAULT_NAMES, draw: tuple[DrawStep, ...] | None = None) -> Style:
    """The style of these keys of a sink: `draw` where it is given, else the steps of these names as they come."""
    steps = [_STEPS[name] for name in annotators] if draw is None else list(draw)
    return Style(
        privacy=tuple(step for step in steps if isinstance(step, PrivacyStep)),
        supervision=tuple(step for step in steps if isinstance(step, SupervisionStep)),
        marks=tuple(
            step for step in steps if isinstance(step, MaskStep | KeypointStep | TraceStep | ZoneStep | LineStep)
        ),
        boxes=tuple(step for step in steps if isinstance(step, BoxStep)),
        labels=tuple(step for step in steps if isinstance(step, LabelStep)),
    )
