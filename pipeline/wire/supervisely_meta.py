"""What a Supervisely model can say: its project meta (classes, tags, templates of keypoints), both ways.

Format: supervisely 6.74.51, `ProjectMeta.to_json`.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.contracts.backend import ModelInfo, Task
from pipeline.contracts.result import label_of
from pipeline.wire.document import items, mapping, quoted, text

MAX_CLASSES = 100_000
MAX_NODES = 10_000

CONFIDENCE_TAGS = ("confidence", "conf", "score")
"""Names of the tag that says how sure the model is, the usual one first."""

_TASK_TYPES: dict[str, Task] = {
    "object detection": "object-detection",
    "prompt-based object detection": "object-detection",
    "instance segmentation": "instance-segmentation",
    "interactive segmentation": "instance-segmentation",
    "promptable segmentation": "instance-segmentation",
    "salient object segmentation": "instance-segmentation",
    "semantic segmentation": "semantic-segmentation",
    "pose estimation": "keypoint-detection",
    "classification": "classification",
    "image classification": "classification",
    "multi-label classification": "multi-label-classification",
    "image captioning": "text",
}
_NAMES_OF_TASKS: dict[Task, str] = {
    task: next(name for name, of in _TASK_TYPES.items() if of == task) for task in dict.fromkeys(_TASK_TYPES.values())
}
# What every class of a model of this task may be drawn as. A mask can be empty, which their bitmaps cannot: such an
# object comes as a rectangle, and "any" lets it.
_SHAPES: dict[Task, str] = {
    "object-detection": "rectangle",
    "instance-segmentation": "any",
    "keypoint-detection": "graph",
    "semantic-segmentation": "bitmap",
}
_TASK_OF_SHAPE: dict[str, Task] = {
    "rectangle": "object-detection",
    "oriented_bbox": "object-detection",
    "bitmap": "instance-segmentation",
    "polygon": "instance-segmentation",
    "alpha_mask": "instance-segmentation",
    "graph": "keypoint-detection",
}


@dataclass(frozen=True, slots=True)
class ObjectClass:
    """A class of objects.

    Attributes:
        title: its name.
        shape: how its objects are drawn: "rectangle", "bitmap", "graph", "any".
        nodes: id and label of each keypoint, in the order of the template; () where it has none.
    """

    title: str
    shape: str
    nodes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Meta:
    """A project meta: the model's classes, and the names of its tags other than confidence."""

    classes: tuple[ObjectClass, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def titles(self) -> tuple[str, ...]:
        """The names of the classes."""
        return tuple(item.title for item in self.classes)

    @property
    def keypoints(self) -> tuple[str, ...]:
        """The labels of the keypoints of the first class that has some."""
        return next((tuple(label for _, label in item.nodes) for item in self.classes if item.nodes), ())

    def task(self) -> Task | None:
        """What a model with these classes does, as far as one can tell."""
        shapes = {_TASK_OF_SHAPE.get(item.shape) for item in self.classes}
        if not shapes:
            return "classification" if self.tags else None
        return shapes.pop() if len(shapes) == 1 else None


def task_type(task: Task) -> str | None:
    """What Supervisely calls a task; None: it has nothing like it."""
    return _NAMES_OF_TASKS.get(task)


def task_of(name: object) -> Task | None:
    """The task that Supervisely calls by this name."""
    return _TASK_TYPES.get(name.strip().lower()) if isinstance(name, str) else None


def titles_of(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels as names of classes: none empty."""
    return tuple(label_of(labels, index) or f"class_{index}" for index in range(len(labels)))


def node_ids(keypoints: Sequence[str], count: int) -> tuple[str, ...]:
    """The ids of the nodes of `count` keypoints: their names, or their numbers where there is no name of its own."""
    names = [name if name and keypoints.index(name) == index else "" for index, name in enumerate(keypoints[:count])]
    names += [""] * (count - len(names))
    return tuple(name or str(index) for index, name in enumerate(names))


def encode_meta(info: ModelInfo) -> dict[str, Any]:
    """The project meta of a model."""
    titles = tuple(dict.fromkeys(titles_of(info.labels)))
    confidence = _tag(CONFIDENCE_TAGS[0], 0, 1, "objectsOnly")
    if info.task in ("classification", "multi-label-classification"):
        tags = [_tag(title, index, len(titles), "imagesOnly") for index, title in enumerate(titles)]
        return _project([], tags)
    shape = _SHAPES.get(info.task)
    if shape is None:  # a text or a vector is about the whole picture
        return _project([], [])
    template = encode_template(info.keypoints) if shape == "graph" else {}
    if shape == "graph" and not info.keypoints:  # their graphs need a template
        shape = "any"
    classes = [
        {
            "title": title,
            "description": "",
            "shape": shape,
            "color": _color(index, len(titles)),
            "geometry_config": template,
            "hotkey": "",
        }
        for index, title in enumerate(titles)
    ]
    return _project(classes, [confidence])


def encode_template(keypoints: Sequence[str]) -> dict[str, Any]:
    """The `geometry_config` of a class with keypoints."""
    count = len(keypoints)
    nodes = {
        name: {"label": name, "loc": [index, index], "color": _color(index, count)}
        for index, name in enumerate(node_ids(keypoints, count))
    }
    return {"nodes": nodes, "edges": []}


def decode_meta(document: object) -> Meta:
    """A project meta.

    Raises:
        ValueError: it is none.
    """
    meta = mapping(document, "the project meta")
    classes = [_decode_class(item) for item in items(meta.get("classes", []), "the classes", MAX_CLASSES)]
    tags = [
        text(mapping(item, "a tag").get("name"), "a tag's name")
        for item in items(meta.get("tags", []), "the tags", MAX_CLASSES)
    ]
    if len({item.title for item in classes}) != len(classes):
        raise ValueError("the project meta has two classes of one name")
    return Meta(tuple(classes), tuple(dict.fromkeys(tag for tag in tags if tag not in CONFIDENCE_TAGS)))


def _decode_class(document: object) -> ObjectClass:
    item = mapping(document, "a class")
    title = text(item.get("title"), "a class's title")
    shape = text(item.get("shape", "any"), f"the shape of class {quoted(title)}")
    config = item.get("geometry_config")
    if config is None or "nodes" not in mapping(config, f"the geometry of class {quoted(title)}"):
        return ObjectClass(title, shape)
    nodes = mapping(config["nodes"], f"the nodes of class {quoted(title)}")
    if len(nodes) > MAX_NODES:
        raise ValueError(f"class {quoted(title)} has more than {MAX_NODES} nodes")
    labels = ((key, mapping(node, "a node").get("label")) for key, node in nodes.items())
    return ObjectClass(title, shape, tuple((key, label if isinstance(label, str) else key) for key, label in labels))


def _project(classes: list[dict[str, Any]], tags: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "classes": classes,
        "tags": tags,
        "projectSettings": {"multiView": {"enabled": False, "tagName": None, "tagId": None, "isSynced": False}},
    }


def _tag(name: str, index: int, count: int, applies_to: str) -> dict[str, Any]:
    return {
        "name": name,
        "value_type": "any_number",
        "color": _color(index, count),
        "hotkey": "",
        "applicable_type": applies_to,
        "classes": [],
        "target_type": "all",
    }


def _color(index: int, count: int) -> str:
    """Colours of `count` things, evenly spread."""
    red, green, blue = colorsys.hsv_to_rgb(index / max(count, 1), 0.8, 0.9)
    return f"#{round(red * 255):02X}{round(green * 255):02X}{round(blue * 255):02X}"
