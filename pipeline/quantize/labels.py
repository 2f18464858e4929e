"""What is in pictures, as people labelled it: COCO's JSON, or a folder of YOLO's text files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.contracts.errors import ConfigError
from pipeline.quantize.scoring import Boxes, boxes

MAX_PICTURES = 1000
"""More would not make the figure much surer, and each is looked at several times."""

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_MAX_BYTES = 512 * 2**20


class Labelled(NamedTuple):
    """A picture with what is in it; boxes of YOLO's files are parts of the picture until its size is known."""

    path: Path
    truth: Boxes
    relative: bool

    def in_pixels(self, width: int, height: int) -> Boxes:
        """The truth in pixels of the picture."""
        if not self.relative:
            return self.truth
        return self.truth._replace(xyxy=self.truth.xyxy * (width, height, width, height))


def read_labels(path: Path, names: Sequence[str], folders: Sequence[Path]) -> list[Labelled]:
    """The labelled pictures that are there, at most `MAX_PICTURES`, in the order of their names.

    Args:
        path: a COCO file (`instances_val2017.json`), or a folder of text files, one for each picture.
        names: the model's classes.
        folders: where pictures may lie, besides the usual places around the labels.

    Raises:
        ConfigError: there are none, or none that the model knows.
    """
    places = [*folders, path.parent / "images", path.parent, path, path / "images"]
    try:
        found = _yolo(path, places) if path.is_dir() else _coco(path, names, places)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        raise ConfigError(f"--labels {path}: neither COCO's JSON nor a folder of YOLO's labels: {why}") from error
    found = sorted(found, key=lambda labelled: labelled.path.name)[:MAX_PICTURES]
    if not found:
        raise ConfigError(f"--labels {path}: none of the labelled pictures is there (looked in {places[0]} and around)")
    if not any(len(labelled.truth.class_ids) for labelled in found):
        raise ConfigError(f"--labels {path}: no label is of a class that the model knows")
    return found


def _coco(path: Path, names: Sequence[str], places: Sequence[Path]) -> list[Labelled]:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError("the file is too large")
    tree = json.loads(path.read_text())
    ids = {name: index for index, name in enumerate(names)}
    classes = {each["id"]: ids.get(each["name"]) for each in tree["categories"]}
    rows: dict[int, list[Any]] = {each["id"]: [] for each in tree["images"]}
    for each in tree["annotations"]:
        class_id = classes.get(each["category_id"])
        if class_id is not None and each["image_id"] in rows:
            x, y, width, height = map(float, each["bbox"])
            rows[each["image_id"]].append(((x, y, x + width, y + height), class_id, bool(each.get("iscrowd"))))
    found = []
    for each in tree["images"]:
        picture = _first([place / each["file_name"] for place in places])
        if picture is not None:
            own = rows[each["id"]]
            truth = boxes([row[0] for row in own], None, [row[1] for row in own], [row[2] for row in own])
            found.append(Labelled(picture, truth, relative=False))
    return found


def _yolo(path: Path, places: Sequence[Path]) -> list[Labelled]:
    found = []
    for file in sorted(path.glob("*.txt")):
        picture = _first([place / f"{file.stem}{suffix}" for place in places for suffix in _SUFFIXES])
        if picture is None:
            continue
        corners, class_ids = [], []
        for line in file.read_text().splitlines():
            class_id, *numbers = line.split()
            values = [float(number) for number in numbers]
            if len(values) == 4:
                x, y, width, height = values
                corners.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
            elif len(values) >= 6:  # the outline of a mask
                corners.append((min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])))
            else:
                raise ValueError(f"{file.name}: {line[:80]!r} is no label")
            class_ids.append(int(class_id))
        found.append(Labelled(picture, boxes(corners, None, class_ids), relative=True))
    return found


def _first(paths: Sequence[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)
