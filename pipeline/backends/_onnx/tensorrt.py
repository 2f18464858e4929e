"""TensorRT as onnxruntime has it: its libraries, its options for a model, and the engines that are kept on disk."""

import contextlib
import ctypes
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.backends._onnx.device import CPU, CUDA, TENSORRT, DeviceChoice

LIBRARIES = ("libnvinfer.so.10", "libnvonnxparser.so.10")
"""What onnxruntime's provider is linked to (version 1.31)."""

_WHEEL = "tensorrt_libs"
"""The package in which NVIDIA's wheels put them."""

_WORKSPACE_BYTES = 1 << 30
"""What TensorRT may take while it tries kernels: it would take the whole device, where others are at work. As much as
onnxruntime's provider gave it when it still had a default of its own."""

_KEPT = 3
"""Engines of a backend: of the model in use, and of those before it, for who goes back."""
_MAX_TIMING_BYTES = 64 << 20

READY = "ready.json"

Shapes = Mapping[str, Sequence[int]]


class Profile(NamedTuple):
    """The shapes of a model's inputs that an engine is made for: all between the least and the most.

    Attributes:
        least: of each input.
        usual: for these the engine is fastest.
        most: of each input.
    """

    least: Shapes
    usual: Shapes
    most: Shapes

    @property
    def is_fixed(self) -> bool:
        """There is only one shape: then TensorRT takes it from the model."""
        return all(tuple(self.least[name]) == tuple(self.most[name]) for name in self.least)


def load_libraries(*, to_build: bool = False) -> str | None:
    """Load TensorRT's libraries into the process, so that onnxruntime's provider finds them: those of the system, or
    those in NVIDIA's wheel; what is wrong, or None.

    Args:
        to_build: also what is only needed to make an engine.
    """
    spec = importlib.util.find_spec(_WHEEL)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec is not None else []
    for name in LIBRARIES:
        fault = _load(name, folders)
        if fault is not None:
            return fault
    if to_build:
        for folder in folders:
            for path in sorted(folder.glob("libnvinfer_builder_resource*.so*")):
                _load(path.name, [folder])  # without it TensorRT says itself what it lacks
    return None


def library_version() -> int:
    """TensorRT's version as it tells it, for example 101301; 0 where it is not loaded."""
    try:
        return int(ctypes.CDLL(LIBRARIES[0]).getInferLibVersion())
    except (OSError, AttributeError):
        return 0


def tensorrt_choice(cuda: DeviceChoice, folder: Path, timing: Path, profile: Profile) -> DeviceChoice:
    """TensorRT on the device that CUDA runs on, with its engine in a folder; pure.

    What TensorRT does not know CUDA runs. All numbers stay float32 (TensorFloat-32 inside of products, as with CUDA):
    whoever wants less exports the model so.

    Args:
        cuda: what runs now.
        folder: of this engine.
        timing: where measurements of kernels are kept, for other models' engines, too.
        profile: the shapes that it will be fed.
    """
    options: dict[str, Any] = {
        "device_id": cuda.gpu or 0,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(timing),
        "trt_max_workspace_size": _WORKSPACE_BYTES,
    }
    if not profile.is_fixed:
        options |= {
            "trt_profile_min_shapes": _as_text(profile.least),
            "trt_profile_opt_shapes": _as_text(profile.usual),
            "trt_profile_max_shapes": _as_text(profile.most),
        }
    ours = next(given for name, given in cuda.providers if name == CUDA)
    return DeviceChoice(((TENSORRT, options), (CUDA, ours), (CPU, {})), cuda.device, TENSORRT)


class EngineCache:
    """A backend's engines, a folder for each; bounded. Made when the backend opens; used by one thread.

    Args:
        root: the folder of all.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.timing = root / "timing"

    def folder(self, *facts: object) -> Path:
        """Where the engine of this model, these shapes and this machine is, or will be.

        Args:
            facts: all that an engine depends on.
        """
        key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:24]
        return self._root / f"engine-{key}"

    def prepare(self, folder: Path) -> None:
        """Make room for one: what was not finished goes, so do the oldest, and the folder is there then.

        Raises:
            OSError: there can be no such folder.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        folders = [each for each in self._root.glob("engine-*") if each.is_dir()]
        ready = sorted((each for each in folders if (each / READY).is_file()), key=_used_at, reverse=True)
        others = [each for each in ready if each != folder]
        for gone in {*folders} - {*ready} | {*others[_KEPT - 1 :]}:
            shutil.rmtree(gone)
        if self.timing.is_dir() and sum(f.stat().st_size for f in self.timing.iterdir()) > _MAX_TIMING_BYTES:
            shutil.rmtree(self.timing)
        folder.mkdir(exist_ok=True)
        self.timing.mkdir(exist_ok=True)

    def discard(self, folder: Path) -> None:
        """It is of no use."""
        with contextlib.suppress(OSError):  # the next `prepare` will try again
            shutil.rmtree(folder)


def _as_text(shapes: Shapes) -> str:
    return ",".join(f"{name}:{'x'.join(str(side) for side in shape)}" for name, shape in shapes.items())


def _used_at(folder: Path) -> float:
    return (folder / READY).stat().st_mtime


def _load(name: str, folders: Sequence[Path]) -> str | None:
    """The library by its own name, else from one of the folders; what is wrong, or None."""
    fault = ""
    for path in (*(str(folder / name) for folder in folders), name):
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            fault = str(error)
        else:
            return None
    return fault
