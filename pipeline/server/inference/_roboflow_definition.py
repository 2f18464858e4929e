"""The definition of a Roboflow workflow: its inputs, steps and outputs, checked, with the steps in the order to be run.

The subset that Penstock can carry out: a model, crop, filter, visualise, count. Anything else is refused by its name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, Literal

from pipeline.server.inference._roboflow_answers import RoboflowRefusedError
from pipeline.wire.roboflow import encode_workflow_error

MAX_STEPS = 50
MAX_FIELDS = 100
MAX_NAME = 200

Kind = Literal["model", "crop", "filter", "draw_boxes", "draw_labels", "draw_masks", "draw_keypoints", "property"]

PARSING = "workflow_compilation | workflow_definition_parsing"
GRAPH = "workflow_compilation | execution_graph_construction"
INPUTS = "workflow_execution | runtime_input_validation"
EXECUTION = "workflow_execution | step_execution"

_MODEL_BLOCKS: Final = {
    "object_detection": ("RoboflowObjectDetectionModel", "ObjectDetectionModel"),
    "instance_segmentation": ("RoboflowInstanceSegmentationModel", "InstanceSegmentationModel"),
    "keypoint_detection": ("RoboflowKeypointDetectionModel", "KeypointsDetectionModel"),
    "classification": ("RoboflowClassificationModel", "ClassificationModel"),
    "multi_label_classification": ("RoboflowMultiLabelClassificationModel", "MultiLabelClassificationModel"),
    "semantic_segmentation": (),
}

BLOCKS: Final[dict[str, Kind]] = {
    **{f"roboflow_core/roboflow_{name}_model@v{n}": "model" for name in _MODEL_BLOCKS for n in (1, 2, 3)},
    **{alias: "model" for aliases in _MODEL_BLOCKS.values() for alias in aliases},
    **dict.fromkeys(("roboflow_core/dynamic_crop@v1", "DynamicCrop", "Crop"), "crop"),
    **dict.fromkeys(("roboflow_core/detections_filter@v1", "DetectionsFilter"), "filter"),
    **dict.fromkeys(("roboflow_core/bounding_box_visualization@v1", "BoundingBoxVisualization"), "draw_boxes"),
    **dict.fromkeys(
        (
            *(f"roboflow_core/label_visualization@v{n}" for n in (1, 2)),
            "LabelVisualization",
        ),
        "draw_labels",
    ),
    **dict.fromkeys(
        (
            *(f"roboflow_core/{name}_visualization@v1" for name in ("mask", "polygon")),
            "MaskVisualization",
            "PolygonVisualization",
        ),
        "draw_masks",
    ),
    **dict.fromkeys(("roboflow_core/keypoint_visualization@v1", "KeypointVisualization"), "draw_keypoints"),
    **dict.fromkeys(("roboflow_core/property_definition@v1", "PropertyDefinition", "PropertyExtraction"), "property"),
}
"""Every block that is known here, under each of its names."""

OUTPUTS: Final[dict[Kind, tuple[str, ...]]] = {
    "model": ("predictions", "inference_id", "model_id"),
    "crop": ("crops", "predictions"),
    "filter": ("predictions",),
    "draw_boxes": ("image",),
    "draw_labels": ("image",),
    "draw_masks": ("image",),
    "draw_keypoints": ("image",),
    "property": ("output",),
}
NEEDS: Final[dict[Kind, tuple[str, ...]]] = {
    "model": ("images", "model_id"),
    "crop": ("images", "predictions"),
    "filter": ("predictions", "operations"),
    "draw_boxes": ("image", "predictions"),
    "draw_labels": ("image", "predictions"),
    "draw_masks": ("image", "predictions"),
    "draw_keypoints": ("image", "predictions"),
    "property": ("data", "operations"),
}
_SAME_FIELD: Final = {"images": "image", "image": "images", "predictions": "detections"}
_IMAGE_INPUTS: Final = ("WorkflowImage", "InferenceImage")
_OTHER_INPUTS: Final = ("WorkflowParameter", "InferenceParameter", "WorkflowVideoMetadata")


@dataclass(frozen=True, slots=True)
class Input:
    """What a run is given: an image, or a parameter with its default."""

    name: str
    is_image: bool
    has_default: bool
    default: Any


@dataclass(frozen=True, slots=True)
class Step:
    """One block with its fields; values that are selectors ("$inputs.x", "$steps.y.z") are still that."""

    name: str
    type: str
    kind: Kind
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Output:
    """One key of the answer."""

    name: str
    selector: str
    own_coordinates: bool


@dataclass(frozen=True, slots=True)
class Definition:
    """A whole workflow, its steps in an order in which each finds what it needs."""

    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Output, ...]


def workflow_error(
    message: str,
    error_type: str,
    context: str,
    *,
    status: int = 400,
    step: Step | None = None,
    field: str | None = None,
) -> RoboflowRefusedError:
    """A fault of a workflow in Roboflow's form; `step` and `field` are to blame."""
    blame: list[dict[str, Any]] = []
    if step is not None:
        blame = [{"block_id": step.name, "block_type": step.type, "property_name": field, "property_details": message}]
    body = encode_workflow_error(
        message,
        error_type,
        context=context,
        inner_error_type=error_type,
        inner_error_message=message,
        blocks_errors=blame,
    )
    return RoboflowRefusedError(status, body)


def is_selector(value: object) -> bool:
    """Whether it stands for something else."""
    return isinstance(value, str) and value.startswith(("$inputs.", "$steps."))


def parse_definition(document: object) -> Definition:
    """The workflow in a JSON document.

    Raises:
        RoboflowRefusedError: 400, in Roboflow's form: what is wrong with it, and in which step.
    """
    if not isinstance(document, dict):
        raise _syntax("the specification is no object")
    version = document.get("version")
    if not isinstance(version, str) or not version.startswith("1."):
        raise _syntax('the specification has no "version" 1.x')
    inputs = tuple(_input(item) for item in _list(document, "inputs"))
    steps = tuple(_step(item) for item in _list(document, "steps"))
    outputs = tuple(_output(item) for item in _list(document, "outputs"))
    for what, names in (("input", inputs), ("step", steps), ("output", outputs)):
        _refuse_doubles(what, [item.name for item in names])
    _check_references(inputs, steps, outputs)
    return Definition(inputs, _in_order(steps), outputs)


def resolved_field(fields: Mapping[str, Any], name: str) -> Any:
    """A field under either of its names; None where it is not there."""
    other = _SAME_FIELD.get(name)
    return fields.get(name, None if other is None else fields.get(other))


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list) or len(value) > MAX_STEPS:
        raise _syntax(f'the specification needs a list "{key}" of at most {MAX_STEPS}')
    return value


def _syntax(message: str, step: Step | None = None, field: str | None = None) -> RoboflowRefusedError:
    return workflow_error(message, "WorkflowSyntaxError", PARSING, step=step, field=field)


def _name(item: object, what: str) -> str:
    name = item.get("name") if isinstance(item, dict) else None
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or (what != "output" and "." in name):
        raise _syntax(f"every {what} is an object with a name, without a dot in it")
    return name


def _input(item: Any) -> Input:
    name, kind = _name(item, "input"), item.get("type")
    if kind in _IMAGE_INPUTS:
        return Input(name, is_image=True, has_default=False, default=None)
    if kind in _OTHER_INPUTS:
        metadata = kind == "WorkflowVideoMetadata"
        return Input(
            name, is_image=False, has_default=metadata or "default_value" in item, default=item.get("default_value")
        )
    raise _syntax(f"input {name!a} has a type that is not known here: {_quoted(kind)}")


def _step(item: Any) -> Step:
    name, kind = _name(item, "step"), item.get("type")
    if not isinstance(kind, str) or kind not in BLOCKS:
        unknown = Step(name, str(kind)[:MAX_NAME], "property", {})
        raise _syntax(f"step {name!a}: there is no block {_quoted(kind)} here", unknown, "type")
    if len(item) > MAX_FIELDS:
        raise _syntax(f"step {name!a} has more than {MAX_FIELDS} fields")
    step = Step(name, kind, BLOCKS[kind], {key: value for key, value in item.items() if key not in ("name", "type")})
    for field in NEEDS[step.kind]:
        if resolved_field(step.fields, field) is None:
            raise _syntax(f"step {name!a} has no field {field!r}", step, field)
    return step


def _output(item: Any) -> Output:
    name = _name(item, "output")
    selector, system = item.get("selector"), item.get("coordinates_system", "parent")
    if item.get("type") != "JsonField" or not is_selector(selector) or system not in ("own", "parent"):
        raise _syntax(f"output {name!a} must be a JsonField with a selector, and coordinates_system own or parent")
    return Output(name, selector, system == "own")


def _refuse_doubles(what: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise _syntax(f"two {what}s have the same name")


def _check_references(inputs: tuple[Input, ...], steps: tuple[Step, ...], outputs: tuple[Output, ...]) -> None:
    known = {f"$inputs.{item.name}" for item in inputs}
    for step in steps:
        known |= {f"$steps.{step.name}.{name}" for name in (*OUTPUTS[step.kind], "*")}
    users = [
        *((step, one) for step in steps for one in selectors_of(step.fields)),
        *((None, o.selector) for o in outputs),
    ]
    for user, selector in users:
        if selector not in known or (user is not None and selector.endswith(".*")):
            message = f"nothing here goes by {_quoted(selector)}"
            raise workflow_error(message, "InvalidReferenceTargetError", GRAPH, step=user)


def selectors_of(fields: Mapping[str, Any]) -> Iterator[str]:
    """The selectors among the fields of a step, and one level deeper: in lists and in `operations_parameters`."""
    for value in fields.values():
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value,)
        yield from (one for one in inner if is_selector(one))


def _in_order(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    by_name = {step.name: step for step in steps}
    graph = {
        step.name: {one.split(".")[1] for one in selectors_of(step.fields) if one.startswith("$steps.")}
        for step in steps
    }
    try:
        return tuple(by_name[name] for name in TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise workflow_error("the steps wait for each other", "ExecutionGraphStructureError", GRAPH) from error


def _quoted(value: object) -> str:
    return ascii(str(value)[:100])
