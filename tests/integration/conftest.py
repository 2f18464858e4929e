"""What the integration tests share: a folder to run `penstock` in, and a golden pipeline.toml to edit."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from makers import brightness_model, clip
from workplace import PIPELINE, Workplace


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Workplace]:
    """A folder with `model.onnx` (finds a "thing" as sure as the picture is bright) and `clip.mp4` (30 frames)."""
    brightness_model(tmp_path / "model.onnx")
    clip(tmp_path / "clip.mp4", [200] * 30)
    place = Workplace(tmp_path)
    place.write(PIPELINE)
    yield place
    for process in place.processes:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


@pytest.fixture
def edited() -> Callable[[str, str], str]:
    """The workplace's pipeline.toml with one text replaced by another, which must be there."""

    def edit(old: str, new: str) -> str:
        assert old in PIPELINE
        return PIPELINE.replace(old, new)

    return edit
