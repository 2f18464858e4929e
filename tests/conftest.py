"""What every test gets: nothing it starts may outlive it."""

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Fails a test that leaves a thread of Penstock's behind, or more than a few open files."""
    threads_before = set(threading.enumerate())
    descriptors_before = _descriptors()
    yield
    ours = ("source-", "backend-", "sink-")
    left = [t.name for t in threading.enumerate() if t not in threads_before and t.name.startswith(ours)]
    assert not left, f"threads left behind: {left}"
    if _descriptors() > descriptors_before:
        gc.collect()
    assert _descriptors() <= descriptors_before + 4, "files left open"


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real models, videos and labelled pictures beside the project; a test that needs them is skipped without."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no test data at {path}")
    return path
