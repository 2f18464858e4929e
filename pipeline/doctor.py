"""`penstock doctor`: looks at this machine, this installation and the cameras of a config, and says what to change."""

import ctypes
import os
import platform
import shutil
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

from pipeline.config.settings import ConfigProblems, Settings
from pipeline.contracts.component import Finding
from pipeline.contracts.secret import redact
from pipeline.contracts.source import LiveSourceConfig
from pipeline.devices.gpus import cuda_devices
from pipeline.registry import Registry
from pipeline.telemetry.logs import printable
from pipeline.version import version

LIBRARIES = ("av", "onnx", "numpy", "pydantic", "aiohttp", "prometheus_client", "click")
SUBJECT_WIDTH = 26
MIN_FREE_BYTES = 1 << 30
SYNCHRONISED = Path("/run/systemd/timesync/synchronized")

_GIB = 1 << 30
_TIMEX_BYTES = 256  # larger than `struct timex` anywhere
_STATUS_OFFSET = 5 * ctypes.sizeof(ctypes.c_long)  # modes (padded), offset, freq, maxerror, esterror, status
_UNSYNCHRONISED = 0x40  # STA_UNSYNC


def examine(config: Path | None = None) -> Iterator[Finding]:
    """What was found: in general, by each plugin, and with a config file, by what it names.

    Args:
        config: a pipeline.toml, or None.
    """
    for finding in _examine(config):
        yield finding._replace(detail=printable(redact(finding.detail)))


def _examine(config: Path | None) -> Iterator[Finding]:
    yield Finding(True, "penstock", f"{version()} on Python {platform.python_version()}, {platform.platform()}")
    yield _libraries()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(True, "processor", f"{cores} cores usable, {platform.machine()}")
    yield clock()
    yield hardware_decoders()
    registry = Registry.load()
    for plugin in registry.plugins():
        if plugin.error is not None:
            yield Finding(False, f"{plugin.kind} {plugin.type}", plugin.error)
        else:
            yield from registry.config_class(plugin.kind, plugin.type).examine()
    if config is None:
        yield disk("this folder", Path.cwd())
    else:
        yield from _of_config(config, registry)


def clock(synchronised: Path = SYNCHRONISED) -> Finding:
    """Whether this machine's time can be believed: results carry it."""
    now = time.gmtime()
    shown = time.strftime("%Y-%m-%dT%H:%M:%SZ", now)
    if now.tm_year < 2025:
        return Finding(False, "clock", f"it says {shown}: set it, and let a time server (NTP) keep it")
    if synchronised.exists():
        return Finding(True, "clock", f"{shown}, synchronised by systemd-timesyncd")
    kernel = _kernel_says_synchronised()
    if kernel:
        return Finding(True, "clock", f"{shown}, synchronised, as the kernel knows")
    unsure = "the kernel knows of no time server" if kernel is False else "the kernel does not say"
    return Finding(
        True, "clock", f"{shown}, not known whether it is synchronised: {unsure}; chrony or systemd-timesyncd see to it"
    )


def hardware_decoders() -> Finding:
    """Which of FFmpeg's hardware devices can be opened here, and what decodes where nothing is said."""
    try:
        import av
        from av.codec.hwaccel import HWAccel, hwdevices_available
    except ImportError as error:
        return Finding(False, "decoders", f"PyAV cannot be imported: {error}")
    found = []
    codec = av.Codec("h264", "r")
    for device in hwdevices_available():
        try:
            HWAccel(device_type=device, allow_software_fallback=False).create(codec)
        except (av.FFmpegError, NotImplementedError, OSError, RuntimeError, ValueError):
            found.append(f"{device} no")
        else:
            found.append(f"{device} opens")
    usual = "a GPU" if cuda_devices() else "the CPU"
    hardware = ", ".join(found) or "none built in"
    return Finding(True, "decoders", f'hardware: {hardware}; decode = "auto" decodes on {usual}')


def wished_decoder(name: str, wish: str) -> Finding | None:
    """A source that wants a GPU to decode which is not here: it would run, on the CPU."""
    kind, _, number = wish.partition(":")
    if kind != "cuda" or cuda_devices() > int(number or 0):
        return None
    absent = f"there is no GPU {number}" if cuda_devices() else "there is no GPU"
    return Finding(False, f"source {name}", f'decode = "{wish}", but {absent}: the CPU would decode')


def disk(subject: str, folder: Path) -> Finding:
    """Whether there is room where this writes."""
    there = next((path for path in (folder, *folder.parents) if path.is_dir()), Path("/"))
    try:
        usage = shutil.disk_usage(there)
    except OSError as error:
        return Finding(False, "disk", f"{subject} ({folder}): {error.strerror}")
    text = f"{subject} ({folder}): {usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free"
    if usage.free < MIN_FREE_BYTES:
        return Finding(False, "disk", f"{text}; less than {MIN_FREE_BYTES / _GIB:.0f} GiB: make room")
    return Finding(True, "disk", text)


def verdict(findings: list[Finding]) -> str:
    """The last line."""
    bad = sum(not finding.ok for finding in findings)
    return f"{bad} of {len(findings)} need attention" if bad else "all is well"


def _libraries() -> Finding:
    found, missing = [], []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version_of(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding(False, "libraries", f"not installed: {', '.join(missing)}; run: uv sync")
    return Finding(True, "libraries", ", ".join(found))


def _kernel_says_synchronised() -> bool | None:
    """What `adjtimex` knows; None where it cannot be asked."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes = 0: only asks
        if libc.adjtimex(buffer) < 0:
            return None
    except (OSError, AttributeError):
        return None
    return not ctypes.c_int.from_buffer(buffer, _STATUS_OFFSET).value & _UNSYNCHRONISED


def _of_config(path: Path, registry: Registry) -> Iterator[Finding]:
    from pipeline.config.check import check
    from pipeline.config.loader import load
    from pipeline.probe import probe

    try:
        settings = load(path, registry=registry)
    except ConfigProblems as error:
        yield from (Finding(False, "config", str(problem)) for problem in error.problems)
        return
    try:
        check(settings)
    except ConfigProblems as error:
        yield from (Finding(False, "config", str(problem)) for problem in error.problems)
    else:
        yield Finding(True, "config", f"{path}: ok")
    for subject, folder in dict(_folders(settings)).items():
        yield disk(subject, folder)
    for name, source in settings.sources.items():
        finding = wished_decoder(name, getattr(source, "decode", "auto"))
        if finding is not None:
            yield finding
    cameras = {name: source for name, source in settings.sources.items() if isinstance(source, LiveSourceConfig)}
    yield from probe(cameras, settings.data_dir)


def _folders(settings: Settings) -> Iterator[tuple[str, Path]]:
    yield "data_dir", settings.data_dir
    for name, sink in settings.sinks.items():
        for source in settings.sources_of(name)[:1]:
            yield from ((f"sink {name}", file.parent) for file in sink.writes(source))
