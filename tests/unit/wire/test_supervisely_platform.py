"""What the Supervisely platform answers, read."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire.supervisely import SENT, Origin, result_item
from pipeline.wire.supervisely_platform import (
    Dataset,
    Item,
    decode_dataset,
    decode_item,
    decode_kind,
    decode_page,
    encode_datasets,
    encode_info,
    encode_pictures,
)
from pipeline.wire.supervisely_state import decode_body

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["id", "name", "datasetId", "projectId", "itemsCount", "type", "entities", "pagesCount"]),
            inner,
        )
    ),
    max_leaves=12,
)


def test_a_picture_a_dataset_and_a_project_are_read() -> None:
    assert decode_item({"id": 7, "name": "a.jpg", "datasetId": 9, "meta": {}}, 7) == Item(7, "a.jpg", 9)
    assert decode_item({"id": 7, "name": "a.jpg"}, dataset_id=4) == Item(7, "a.jpg", 4)
    assert decode_dataset({"id": 9, "projectId": 5, "itemsCount": None, "imagesCount": 3}, 9) == Dataset(9, 5, 3)
    assert decode_dataset({"id": 9, "projectId": 5}) == Dataset(9, 5, None)
    assert decode_kind({"id": 5, "type": "images"}) == "images"
    assert decode_page({"entities": [1, 2], "pagesCount": 3, "total": 6}) == ([1, 2], 3)


@pytest.mark.parametrize("wrong", [{}, {"id": 8}, {"id": True}, {"id": 7, "name": 3}, {"id": 7, "name": "a"}, [], None])
def test_what_is_no_picture_or_another_one_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode_item(wrong, 7)


@given(JSON)
def test_whatever_it_answers_is_read_or_refused(document: Any) -> None:
    for decode in (decode_item, decode_dataset, decode_kind, decode_page):
        with contextlib.suppress(ValueError):
            decode(document)


@given(JSON)
def test_whatever_a_client_names_is_an_id_or_refused(value: Any) -> None:
    state = decode_body({"state": {"image_ids": value, "video_id": value, "project_id": value, "dataset_ids": value}})
    for read in (state.image_ids, state.video_id, state.project_id, state.dataset_ids):
        try:
            found = read()
        except ValueError:
            continue
        assert all(each >= 1 for each in (found if isinstance(found, list) else [found or 1]))


def test_the_questions_are_those_of_the_platforms_own_client() -> None:
    assert encode_info(7) == {"id": 7, "forceMetadataForLinks": False}
    paged = {"filter": [], "sort": "id", "sort_order": "asc", "page": 2, "per_page": 500}
    assert encode_pictures(9, 2) == {"datasetId": 9, "forceMetadataForLinks": False, **paged}
    assert encode_datasets(5, 2) == {"projectId": 5, "recursive": True, **paged}


def test_a_result_says_where_its_picture_lies_and_of_what_was_sent_nothing() -> None:
    keys = {"annotation", "data", "source", "name", "path", "url", "project_id", "dataset_id", "image_id", "video_id"}
    sent = result_item({}, SENT)
    assert set(sent) == keys | {"frame_index", "slides_data"}
    kept = result_item({}, Origin("a.jpg", 5, 9, 7))
    assert (kept["name"], kept["image_name"], kept["image_id"]) == ("a.jpg", "a.jpg", 7)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, None),
        ({"upload": False, "upload_mode": None, "output_project_id": None}, None),
        ({"upload_mode": "append"}, "upload_mode = append"),
        ({"settings": {"upload_mode": "create"}}, "upload_mode = create"),
        ({"output_project_id": 5}, "output_project_id"),
        ({"upload": True}, "upload"),
    ],
)
def test_what_is_to_be_written_there_is_found(state: dict[str, Any], expected: str | None) -> None:
    assert decode_body({"state": state}).uploads() == expected


@pytest.mark.parametrize("mode", ["merge", 3, ["append"], {}])
def test_a_mode_that_there_is_not_is_refused(mode: Any) -> None:
    with pytest.raises(ValueError, match="upload_mode"):
        decode_body({"state": {"upload_mode": mode}}).uploads()
