"""Identifiers: unlike any other, or the same wherever they are made of the same."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from pipeline.contracts.ids import derived_id, new_id

AT = 1_700_000_000.123


def test_a_new_id_is_a_uuid7_that_sorts_by_time_and_is_like_no_other() -> None:
    ids = [new_id() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert all((uuid.UUID(one).version, uuid.UUID(one).variant) == (7, uuid.RFC_4122) for one in ids)
    assert [one[:12] for one in ids] == sorted(one[:12] for one in ids)


def test_a_derived_id_is_the_same_for_the_same_and_tells_when() -> None:
    assert derived_id(AT, "a", "b") == derived_id(AT, "a", "b") == "018bcfe5687b7ab39e9b82627f375d83"
    assert len({derived_id(AT, *parts) for parts in (("a", "b"), ("ab",), ("b", "a"), ("a", "b", ""))}) == 4
    assert int(derived_id(AT, "a")[:12], 16) == 1_700_000_000_123


@given(st.floats(), st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_time_gives_an_id_of_the_same_form(at: float, parts: list[str]) -> None:
    made = uuid.UUID(derived_id(at, *parts))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
