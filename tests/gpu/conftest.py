"""What tests on a GPU get: the device, decoders and sessions on it. Without one they are skipped, and say why."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gpu_rig import Rig, numbered_clip

from pipeline.backends._onnx.session import Runtime
from pipeline.devices.gpu import Gpu
from pipeline.devices.gpus import gpus

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All in this folder want a GPU."""
    mine = [item for item in items if HERE in item.path.parents]
    without = None if gpus().count() else pytest.mark.skip(reason="no NVIDIA driver or no GPU: see tests/gpu/README.md")
    for item in mine:
        item.add_marker(pytest.mark.gpu)
        if without is not None:
            item.add_marker(without)


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    """The first device, made before any session or decoder."""
    return gpus().gpu(0)


@pytest.fixture(scope="session")
def rig(gpu: Gpu) -> Rig:
    """onnxruntime; the device's context is ours already."""
    return Rig(gpu, Runtime())


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """Makes numbered clips, each once."""
    folder = tmp_path_factory.mktemp("clips")
    made: dict[object, Path] = {}

    def clip(size: tuple[int, int] = (1920, 1080), frames: int = 60, first: int = 0, codec: str = "libx264") -> Path:
        key = (size, frames, first, codec)
        if key not in made:
            made[key] = numbered_clip(folder / f"{len(made)}.mp4", size, frames, first, codec)
        return made[key]

    yield clip
    shutil.rmtree(folder, ignore_errors=True)
