"""Which device onnxruntime shall use, how many threads suit it, and what stands in its way."""

import ctypes
import importlib.metadata
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.contracts.errors import ConfigError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

OnFallback = Literal["fail", "warn"]

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class DeviceChoice(NamedTuple):
    """What to ask onnxruntime for.

    Attributes:
        providers: names and options, in the order of preference, as `InferenceSession` takes them.
        device: "cpu", "cuda:N", or the first provider's name where the config lists providers.
        must_have: the provider without which the session is not what was asked for.
        warning: what to tell the operator, or None.
    """

    providers: tuple[tuple[str, dict[str, Any]], ...]
    device: str
    must_have: str
    warning: str | None = None


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


def cuda_devices() -> int:
    """How many CUDA devices the driver has; 0 without a driver. Asks the driver, makes no context.

    onnxruntime is not asked: it would write its own lines to the terminal when the driver is missing.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def choose_device(
    device: str, on_fallback: OnFallback, wanted: Sequence[str] | None, available: Collection[str], devices: int
) -> DeviceChoice:
    """Turn the config's words into providers; pure.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".
        on_fallback: what to do when CUDA is asked for and absent.
        wanted: providers that the config lists itself, instead of `device`.
        available: what this build of onnxruntime has.
        devices: how many CUDA devices there are.

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
    if device == "cpu":
        return _CPU_CHOICE
    index = int(device.partition(":")[2] or 0)
    if CUDA not in available:
        reason = "this onnxruntime is built without CUDA; install onnxruntime-gpu"
    elif devices == 0:
        reason = "no NVIDIA driver or no GPU was found"
    elif index >= devices:
        reason = f"there are {devices} GPUs, the first is cuda:0"
    else:
        return DeviceChoice(((CUDA, {"device_id": index}), (CPU, {})), f"cuda:{index}", CUDA)
    return fallback(device, on_fallback, reason)


def fallback(device: str, on_fallback: OnFallback, reason: str) -> DeviceChoice:
    """The CPU instead of a CUDA that cannot be had, where the config allows that.

    Raises:
        ConfigError: with key `device`.
    """
    if device == "auto":
        return _CPU_CHOICE
    if on_fallback == "fail":
        raise ConfigError(
            f'device = "{device}", but {reason}; use device = "cpu" or "auto", or on_fallback = "warn"', key="device"
        )
    return _CPU_CHOICE._replace(warning=f'device = "{device}", but {reason}: running on the CPU')


_CPU_CHOICE = DeviceChoice(((CPU, {}),), "cpu", CPU)
