"""Which device onnxruntime shall use, how many threads suit it, and what stands in its way."""

import importlib.metadata
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.contracts.errors import ConfigError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

OnFallback = Literal["fail", "warn"]

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class FellBack(NamedTuple):
    """What `Context.fell_back` is told: what was wanted, what is used, and why."""

    wanted: str
    got: str
    reason: str


class DeviceChoice(NamedTuple):
    """What to ask onnxruntime for.

    Attributes:
        providers: names and options, in the order of preference, as `InferenceSession` takes them.
        device: "cpu", "cuda:N", or the first provider's name where the config lists providers.
        must_have: the provider without which the session is not what was asked for.
        fell_back: what to tell the operator, or None.
    """

    providers: tuple[tuple[str, dict[str, Any]], ...]
    device: str
    must_have: str
    fell_back: FellBack | None = None

    @property
    def gpu(self) -> int | None:
        """The CUDA device's number; None for others."""
        return int(self.device.removeprefix("cuda:")) if self.device.startswith("cuda:") else None


def usable_cores(quota: Path = _CGROUP_QUOTA) -> int:
    """Cores that this process may keep busy: its affinity, and its share of time where it runs in a container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        allowed, period = quota.read_text("ascii").split()[:2]
        if allowed != "max":
            cores = min(cores, -(-int(allowed) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        pass  # no cgroup v2 here: the affinity is all that limits us
    return max(1, cores)


def installed_wheels() -> frozenset[str]:
    """Which distributions of onnxruntime are installed (`onnxruntime`, `onnxruntime-gpu`, ...)."""
    names = (d.metadata["Name"] or "" for d in importlib.metadata.distributions())
    folded = (re.sub(r"[-_.]+", "-", name).lower() for name in names)
    return frozenset(name for name in folded if name == "onnxruntime" or name.startswith("onnxruntime-"))


def wheel_conflict(installed: Collection[str]) -> str | None:
    """What is wrong with these distributions being installed together, or None; pure.

    All of them hold the same files: the one installed last wins, and taking either away breaks the other.
    """
    runtimes = sorted(name for name in installed if name in _RUNTIMES)
    if len(runtimes) < 2:
        return None
    return (
        f"{' and '.join(runtimes)} are both installed and overwrite each other's files: uninstall both, then install "
        f"the one you need (onnxruntime-gpu runs on the CPU, too)"
    )


_RUNTIMES = frozenset(
    ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")
)


def cuda_options(gpu: int, *, fixed_shape: bool, max_bytes: int | None) -> dict[str, Any]:
    """The options of the CUDA provider; pure.

    Args:
        gpu: the device's number.
        fixed_shape: the model is run with one shape only.
        max_bytes: of the device's memory, for this session; None: as much as there is.
    """
    options: dict[str, Any] = {
        "device_id": gpu,
        # The other way to grow doubles each time, and several models (and the decoder) share the device.
        "arena_extend_strategy": "kSameAsRequested",
        # EXHAUSTIVE runs every algorithm of every convolution, for each shape that it has not met. With rectangles and
        # growing batches all cameras would wait for that in the middle of the day.
        "cudnn_conv_algo_search": "EXHAUSTIVE" if fixed_shape else "HEURISTIC",
    }
    return options if max_bytes is None else {**options, "gpu_mem_limit": max_bytes}


def choose_device(
    device: str,
    on_fallback: OnFallback,
    wanted: Sequence[str] | None,
    available: Collection[str],
    devices: int,
    *,
    fixed_shape: bool = False,
    max_gpu_bytes: int | None = None,
) -> DeviceChoice:
    """Turn the config's words into providers, for the first device; pure.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".
        on_fallback: what to do when CUDA is asked for and absent.
        wanted: providers that the config lists itself, instead of `device`.
        available: what this build of onnxruntime has.
        devices: how many CUDA devices there are.
        fixed_shape: see `cuda_options`.
        max_gpu_bytes: see `cuda_options`.

    Raises:
        ConfigError: with key `device` or `providers`.
    """
    if wanted:
        missing = [name for name in wanted if name not in available]
        if missing:
            raise ConfigError(
                f"onnxruntime has no {', '.join(missing)} here; it has {', '.join(sorted(available))}", key="providers"
            )
        return DeviceChoice(tuple((name, {}) for name in wanted), wanted[0], wanted[0])
    if device == "cpu" or (device == "auto" and devices == 0):
        return CPU_CHOICE
    index = int(device.partition(":")[2] or 0)
    if CUDA not in available:
        reason = "this onnxruntime is built without CUDA; install onnxruntime-gpu"
    elif devices == 0:
        reason = "no NVIDIA driver or no GPU was found"
    elif index >= devices:
        reason = f"there are {devices} GPUs, the first is cuda:0"
    else:
        return _on_cuda(index, cuda_options(index, fixed_shape=fixed_shape, max_bytes=max_gpu_bytes))
    return fallback(device, on_fallback, reason)


def further_gpus(device: str, first: DeviceChoice, devices: int) -> tuple[DeviceChoice, ...]:
    """The other GPUs that run the same model: all where the config names none; pure.

    Args:
        device: what the config says.
        first: what was made of it, and works.
        devices: how many CUDA devices there are.
    """
    if first.must_have != CUDA or device not in {"auto", "cuda"}:
        return ()
    options = first.providers[0][1]
    if "device_id" not in options:  # the config lists providers itself
        return ()
    return tuple(_on_cuda(index, {**options, "device_id": index}) for index in range(devices) if index != first.gpu)


def fallback(device: str, on_fallback: OnFallback, reason: str) -> DeviceChoice:
    """The CPU instead of a CUDA that cannot be had, where the config allows that.

    Raises:
        ConfigError: with key `device`.
    """
    if device != "auto" and on_fallback == "fail":
        raise ConfigError(
            f'device = "{device}", but {reason}; use device = "cpu" or "auto", or on_fallback = "warn"', key="device"
        )
    wanted = device if ":" in device else "cuda:0"
    return CPU_CHOICE._replace(fell_back=FellBack(wanted, "cpu", reason))


def _on_cuda(index: int, options: dict[str, Any]) -> DeviceChoice:
    return DeviceChoice(((CUDA, options), (CPU, {})), f"cuda:{index}", CUDA)


CPU_CHOICE = DeviceChoice(((CPU, {}),), "cpu", CPU)
