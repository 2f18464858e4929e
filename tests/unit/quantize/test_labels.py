"""Labels as COCO and YOLO write them."""

import json
from pathlib import Path

import pytest
from conv_detector import pictures

from pipeline.contracts.errors import ConfigError
from pipeline.quantize.labels import read_labels

NAMES = ("thing", "other")


def coco(folder: Path, **changes: object) -> Path:
    tree = {
        "images": [
            {"id": 7, "file_name": "00.png"},
            {"id": 8, "file_name": "01.png"},
            {"id": 9, "file_name": "gone.png"},
        ],
        "categories": [{"id": 1, "name": "other"}, {"id": 5, "name": "unknown"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40], "iscrowd": 0},
            {"image_id": 7, "category_id": 5, "bbox": [0, 0, 3, 4], "iscrowd": 0},
            {"image_id": 8, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 1},
        ],
    }
    path = folder / "labels.json"
    path.write_text(json.dumps(tree | changes))
    return path


def test_cocos_boxes_are_corners_of_classes_that_the_model_knows(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "photos", 3)
    found = read_labels(coco(tmp_path), NAMES, [folder])
    assert [each.path.name for each in found] == ["00.png", "01.png"]
    assert found[0].truth.xyxy.tolist() == [[10, 20, 40, 60]]
    assert found[0].truth.class_ids.tolist() == [1]
    assert found[1].truth.crowd.tolist() == [True]


def test_yolos_boxes_are_parts_of_the_picture_and_outlines_have_one_too(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "images", 3)
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "00.txt").write_text("1 0.5 0.5 0.5 0.25\n0 0.1 0.1 0.3 0.1 0.3 0.4\n")
    (labels / "01.txt").write_text("")
    found = read_labels(labels, NAMES, [])
    assert [each.path for each in found] == [folder / "00.png", folder / "01.png"]
    assert found[0].in_pixels(200, 100).xyxy.tolist() == [
        pytest.approx([50, 37.5, 150, 62.5]),
        pytest.approx([20, 10, 60, 40]),
    ]
    assert len(found[1].truth.class_ids) == 0


@pytest.mark.parametrize("text", ["[]", "{", '{"images": [{}], "categories": [], "annotations": []}'])
def test_what_is_no_label_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="neither COCO's JSON nor") as found:
        read_labels(path, NAMES, [])
    assert "\n" not in str(found.value)


def test_a_line_that_is_no_label_is_shown(tmp_path: Path) -> None:
    pictures(tmp_path / "labels", 1)
    (tmp_path / "labels" / "00.txt").write_text("1 0.5 zwei\n")
    with pytest.raises(ConfigError, match="zwei"):
        read_labels(tmp_path / "labels", NAMES, [])


def test_labels_without_their_pictures_or_of_strange_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of the labelled pictures is there"):
        read_labels(coco(tmp_path), NAMES, [tmp_path])
    folder = pictures(tmp_path / "photos", 3)
    with pytest.raises(ConfigError, match="no label is of a class"):
        read_labels(coco(tmp_path), ("cat", "dog"), [folder])
