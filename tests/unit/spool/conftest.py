"""A spool in a file of its own, with a clock that can be moved."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from parcels import Opener

from pipeline.contracts.sender import BufferConfig
from pipeline.spool.store import Store
from pipeline.testing import MovableClock


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "spool" / "far.webhook.db"


@pytest.fixture
def opened(path: Path, clock: MovableClock) -> Iterator[Opener]:
    """Opens stores on the same file, or in memory; all are closed at the end."""
    stores: list[Store] = []

    def open_one(*, memory: bool = False, **keys: Any) -> Store:
        store = Store.open(None if memory else path, BufferConfig.model_validate({"min_free_bytes": 0, **keys}), clock)
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        store.close()
