"""Labels: from metadata that anybody may have written, from files, and names that a user mistyped."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contracts.errors import ConfigError
from pipeline.models.labels import COCO_80, find_classes, from_file, from_metadata


def test_coco_has_its_80_names_in_the_usual_order() -> None:
    assert len(set(COCO_80)) == 80
    assert (COCO_80[0], COCO_80[2], COCO_80[9], COCO_80[27], COCO_80[79]) == (
        "person",
        "car",
        "traffic light",
        "tie",
        "toothbrush",
    )


@given(st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), max_size=20), min_size=1))
def test_names_survive_as_a_dict_and_as_a_list(names: list[str]) -> None:
    assert from_metadata(str(dict(enumerate(names)))) == tuple(names)
    assert from_metadata(str(names)) == tuple(names)


def test_gaps_are_filled_and_control_characters_taken_out() -> None:
    assert from_metadata("{0: 'a', 2: 'c\\nd\\x1b[31m'}") == ("a", "class_1", "c d [31m")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "person",
        "{}",
        "{0: open('/etc/passwd')}",
        "[__import__('os')]",
        "{0: ['a']}",
        "{'a': 'b'}",
        "{999999: 'a'}",
        "[" * 100_000,
        "{0: " + "-" * 100_000 + "1}",
        "{0: '" + "\\" * 200_001,
        "['" + "a" * 2_000_000 + "']",
    ],
)
def test_anything_else_in_the_metadata_is_no_labels(text: str) -> None:
    assert from_metadata(text) == ()


@given(st.text(alphabet="{}[]()'\",:0123456789\\ax\n -", max_size=200))
def test_no_metadata_text_raises(text: str) -> None:
    from_metadata(text)


def test_a_file_has_one_name_a_line_or_a_json_list(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("car\r\ntraffic light\n\n")
    assert from_file(path) == ("car", "traffic light")
    path.write_text('["car", "bus"]')
    assert from_file(path) == ("car", "bus")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[1, 2]", b"[" * 50_000, b"["])
def test_a_file_that_is_no_list_of_names_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"labels\.txt") as caught:
        from_file(path)
    assert caught.value.key == "labels"


def test_a_missing_label_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        from_file(tmp_path / "labels.txt")


def test_classes_are_found_by_name_in_any_case_and_by_number() -> None:
    assert find_classes(["Person", 2, "traffic light", 0], COCO_80, 80) == (0, 2, 9)


def test_an_unknown_class_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'persn'; did you mean 'person'") as caught:
        find_classes(["persn"], COCO_80, 80)
    assert caught.value.key == "classes"


def test_a_class_number_beyond_the_last_is_refused() -> None:
    with pytest.raises(ConfigError, match="no class 80: they are 0 to 79"):
        find_classes([80], COCO_80, 80)


def test_a_name_without_labels_asks_for_labels() -> None:
    with pytest.raises(ConfigError, match="give `labels` or class numbers"):
        find_classes(["car"], (), 3)
