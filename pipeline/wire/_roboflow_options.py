"""What an inference request to a Roboflow server may ask for, and its names in the query and in the body."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.contracts.backend import Task
from pipeline.contracts.frame import Wishes
from pipeline.wire.document import quoted

MaskDecodeMode = Literal["accurate", "tradeoff", "fast"]
MaskFormat = Literal["polygon", "rle"]
Format = Literal["json", "image", "image_and_json"]

MAX_PROBLEMS = 20


class Problem(NamedTuple):
    """One thing that is wrong with a request, as FastAPI writes it in a 422."""

    type: str
    loc: tuple[str | int, ...]
    msg: str
    input: str | int | float | bool | None


class InvalidRequestError(ValueError):
    """A request that breaks the schema: 422 in Roboflow's server. Its text is one line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        super().__init__(f"{'.'.join(str(step) for step in first.loc)}: {first.msg}")
        self.problems = tuple(problems)

    def body(self) -> dict[str, Any]:
        """The answer's body: `{"detail": [{type, loc, msg, input}]}`."""
        return {"detail": [problem._asdict() | {"loc": list(problem.loc)} for problem in self.problems]}


def invalid(error: ValidationError, where: str, wire_names: Mapping[str, str]) -> InvalidRequestError:
    """pydantic's findings with the names that are used on the wire, `where` = "query" or "body"."""
    problems = []
    for found in error.errors(include_url=False, include_context=False)[:MAX_PROBLEMS]:
        loc = tuple(wire_names.get(step, step) if isinstance(step, str) else step for step in found["loc"])
        value = found["input"]
        plain = value if value is None or isinstance(value, bool | int) else quoted(value).strip("'\"")
        plain = None if "secret" in str(loc) else plain
        problems.append(Problem(found["type"], (where, *loc), found["msg"], plain))
    return InvalidRequestError(problems)


def _as_the_model_is(value: object) -> object:
    """`best` and `default` in place of a confidence: whatever the model was configured with."""
    return None if value in ("best", "default") else value


def _known_or_json(value: object) -> object:
    """A format that is not known is answered with JSON."""
    return value if value in get_args(Format) else "json"


def _names(value: object) -> object:
    """A list of names, or the same as one text with commas (in the query)."""
    if isinstance(value, str):
        return tuple(name for name in (part.strip() for part in value.split(",")) if name)
    return value


Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Short = Annotated[str, Field(max_length=1000)]
ClassNames = Annotated[tuple[Short, ...], Field(max_length=10_000)]


class Options(BaseModel):
    """What is asked of the model and of the answer; None: not said. Booleans in any spelling of pydantic.

    Format: PROTOCOLS 1.5; `iou_threshold` is `overlap` in the legacy query, `stroke_width` is `stroke` there and
    `visualization_stroke_width` in a body, and so on.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    confidence: Annotated[Ratio | None, BeforeValidator(_as_the_model_is)] = None
    keypoint_confidence: Ratio | None = None
    iou_threshold: Ratio | None = None
    max_detections: Count | None = None
    max_candidates: Count | None = None
    class_filter: Annotated[ClassNames | None, BeforeValidator(_names)] = None
    class_agnostic_nms: bool | None = None
    fix_batch_size: bool | None = None
    format: Annotated[Format | None, BeforeValidator(_known_or_json)] = None
    visualize_predictions: bool | None = None
    visualize_labels: bool | None = None
    stroke_width: Annotated[int, Field(ge=1, le=1000)] | None = None
    mask_decode_mode: MaskDecodeMode | None = None
    tradeoff_factor: Ratio | None = None
    allow_reduced_mask_resolution: bool | None = None
    response_mask_format: MaskFormat | None = None
    include_anomaly_map: bool | None = None
    disable_preproc_auto_orient: bool | None = None
    disable_preproc_contrast: bool | None = None
    disable_preproc_grayscale: bool | None = None
    disable_preproc_static_crop: bool | None = None
    disable_active_learning: bool | None = None
    active_learning_target_dataset: Short | None = None
    source: Short | None = None
    source_info: Short | None = None
    count_inference: bool | None = None
    service_secret: Annotated[Short | None, Field(repr=False)] = None

    def wishes(self) -> Wishes:
        """What of it a model is asked."""
        return Wishes(
            confidence=self.confidence,
            iou_threshold=self.iou_threshold,
            max_detections=self.max_detections,
            class_agnostic_nms=self.class_agnostic_nms,
            classes=self.class_filter or None,
            keypoint_confidence=self.keypoint_confidence,
        )

    def to_query(self) -> list[tuple[str, str]]:
        """As the query of the legacy route, booleans as `True` and `False`."""
        return _query(self, LEGACY_NAMES)

    def to_body(self, task: Task) -> dict[str, Any]:
        """As the fields of a v1 body for this task; what the task does not know is left out."""
        names = (name for name in type(self).model_fields if name in BODY_FIELDS[task])
        found = ((BODY_NAMES.get(name, name), getattr(self, name)) for name in names)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found if value is not None}

    def to_body_query(self) -> list[tuple[str, str]]:
        """As the query beside a v1 body."""
        return _query(self, BODY_QUERY_NAMES)


_EVERYWHERE = frozenset(
    {
        "disable_preproc_auto_orient",
        "disable_preproc_contrast",
        "disable_preproc_grayscale",
        "disable_preproc_static_crop",
        "disable_active_learning",
        "active_learning_target_dataset",
        "source",
        "source_info",
        "confidence",
        "stroke_width",
        "visualize_predictions",
    }
)
_OBJECTS = _EVERYWHERE | {
    "iou_threshold",
    "max_detections",
    "max_candidates",
    "class_filter",
    "class_agnostic_nms",
    "fix_batch_size",
    "visualize_labels",
}
_MASKS = _OBJECTS | {
    "mask_decode_mode",
    "tradeoff_factor",
    "allow_reduced_mask_resolution",
    "response_mask_format",
}
_CLASSES = _EVERYWHERE | {"include_anomaly_map"}

BODY_FIELDS: dict[Task, frozenset[str]] = {
    "object-detection": _OBJECTS,
    "instance-segmentation": _MASKS,
    "keypoint-detection": _OBJECTS | {"keypoint_confidence"},
    "classification": _CLASSES,
    "multi-label-classification": _CLASSES,
    "semantic-segmentation": _EVERYWHERE,
    "embedding": frozenset({"source", "source_info"}),
    "text": frozenset({"source", "source_info"}),
}
"""Which options go into the v1 body of which task."""

BODY_NAMES = {"visualize_labels": "visualization_labels", "stroke_width": "visualization_stroke_width"}
"""What options are called in a v1 body where that is not their own name."""

BODY_QUERY_NAMES = {"service_secret": "service_secret", "count_inference": "countinference"}
"""What goes into the query beside a v1 body, and what it is called there."""

LEGACY_NAMES = {
    "confidence": "confidence",
    "keypoint_confidence": "keypoint_confidence",
    "iou_threshold": "overlap",
    "max_detections": "max_detections",
    "class_filter": "class_filter",
    "format": "format",
    "visualize_labels": "labels",
    "stroke_width": "stroke",
    "mask_decode_mode": "mask_decode_mode",
    "tradeoff_factor": "tradeoff_factor",
    "allow_reduced_mask_resolution": "allow_reduced_mask_resolution",
    "response_mask_format": "response_mask_format",
    "include_anomaly_map": "include_anomaly_map",
    "disable_preproc_auto_orient": "disable_preproc_auto_orient",
    "disable_preproc_contrast": "disable_preproc_contrast",
    "disable_preproc_grayscale": "disable_preproc_grayscale",
    "disable_preproc_static_crop": "disable_preproc_static_crop",
    "disable_active_learning": "disable_active_learning",
    "active_learning_target_dataset": "active_learning_target_dataset",
    "source": "source",
    "source_info": "source_info",
    "count_inference": "countinference",
    "service_secret": "service_secret",
}
"""What options are called in the query of the legacy route."""


LEGACY_FIELDS = frozenset(LEGACY_NAMES)
"""Which options the legacy route knows."""


def _query(options: Options, wire_names: Mapping[str, str]) -> list[tuple[str, str]]:
    found = ((wire_name, getattr(options, name)) for name, wire_name in wire_names.items())
    return [(name, _word(value)) for name, value in found if value is not None]


def _word(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
