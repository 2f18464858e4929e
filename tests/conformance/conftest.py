"""What every test with a vendor's program gets: more time than others, as it starts other people's Python."""

import pytest

LIMIT_S = 120


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The usual limit of a test is for our own code; a marker of the test's own goes before."""
    for item in items:
        if "conformance" in item.path.parts and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LIMIT_S))
