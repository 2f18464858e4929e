"""The page about where the CPU time of job B goes, made of samples; pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from tests.bench.sampling import PERF_HZ, PYTHON_HZ, STACKS_HZ, Call, Function

PARTS = {
    "onnxruntime": "the model",
    "libavcodec": "decoding",
    "libswscale": "scaling",
    "libpython": "the interpreter: all that is written in Python",
    "numpy": "NumPy: boxes, NMS",
    "kernel": "the kernel: switches, page faults, files",
    "libc": "libc: copies of planes, memory, locks",
}

CALLERS = {
    "libavcodec": "FFmpeg's decoder",
    "libavformat": "FFmpeg's demuxer",
    "libavfilter": "FFmpeg's scaling graph",
    "libavutil": "FFmpeg's buffers",
    "libswscale": "FFmpeg's scaler",
    "onnxruntime": "ONNX Runtime",
    "libpython": "the interpreter",
    "multiarray": "NumPy",
    "umath": "NumPy",
    ".abi3.": "PyAV",
    "libstdc++": "C++ of the model's runtime",
}
"""By a part of the caller's file name."""

TOLD_RATIO = 0.005
"""Functions and calls over this share of the run are told."""

OURS = ("pipeline", "sources", "sinks")
RUNNERS = frozenset(["SourceRunner._run", "BackendRunner._work", "SinkRunner._run"])
"""Where the threads begin that frames go through; what is not under one of them starts, ends or serves the program."""

WHY = {
    "LaneQueue._append": "hands a frame to a worker, or a result to the sink, and wakes it: who is woken often takes "
    "the core at once, and the lock is held for as long. Two hand-overs keep a slow sink off the backend",
    "InputBuffer.put": "copies three planes into the model's input, times 255 where the model wants that",
    "VideoPicture.gbr_planes": "calls the scaler, which lets the lock go",
    "PlaneScaler.scale": "calls the scaler, which lets the lock go",
    "_pooling.<locals>.pooled": "calls the scaler, which lets the lock go",
    "yolox": "reads the candidates out of the raw output",
    "_rows_over": "finds the rows over the threshold: the limit does the same",
    "_matrix": "NMS, as whole arrays: the limit does the same",
    "HostFeed.run": "calls ONNX Runtime, whose Python wrapper checks the names",
    "Decoder.decode": "calls FFmpeg, which lets the lock go",
    "Reading._packetwise": "reads packets, which lets the lock go",
    "to_line": "the JSON line: the limit writes one, too",
    "BackendRunner._work": "takes a batch, has it inferred, hands the answer on",
}
"""What each function that may be over `TOLD_RATIO` does, and why it must be."""

LARGE_PACKAGE_RATIO = 0.02
"""A package over this share of the run is explained as a whole: small functions add up."""

WHY_PACKAGE = {
    "pipeline/models": "what every model needs: planes into its input, boxes out of its raw output, NMS. It is NumPy's "
    "part of the first table and the calls around it; the limit does the same, with the same NumPy",
    "pipeline/runtime": "what Penstock is, and the limit has not: a frame is counted and timed, may be dropped or "
    "fail, and each stage can be stopped and exchanged. Two hand-overs between threads, where the limit has one; "
    "besides waking a thread no step of it is large",
}
"""What each package that may be over `LARGE_PACKAGE_RATIO` does, and why it must be."""

ABOUT_FUNCTIONS = (
    "What a function of Penstock calls elsewhere (NumPy, `threading`, `json`) counts for it. Shares are of the time in",
    "which threads that frames go through hold the lock; all of it is worth what the interpreter and NumPy take in the",
    "first table. A thread that holds the lock and waits for a core counts, too: most of all while it wakes another.",
)


@dataclass
class Spent:
    """Samples of both subjects; the runs over the short clip are taken off."""

    frames: int
    libraries: dict[str, Counter[str]] = field(default_factory=lambda: {"penstock": Counter(), "limit": Counter()})
    calls: dict[str, Counter[Call]] = field(default_factory=lambda: {"penstock": Counter(), "limit": Counter()})
    functions: Counter[tuple[Function, ...]] = field(default_factory=Counter)
    """Of Penstock, by its stacks."""


def page(spent: Spent, facts: Mapping[str, object]) -> str:
    """The whole page.

    Raises:
        SystemExit: there are no samples.
    """
    whole = {subject: sum(samples.values()) for subject, samples in spent.libraries.items()}
    if not all(total > 0 for total in whole.values()):
        raise SystemExit("perf took no samples: may this user? see /proc/sys/kernel/perf_event_paranoid")
    return "\n".join(
        [
            "# Where the CPU time of job B goes",
            "",
            f"{facts['processor']}, {facts['cores']} cores, Python {facts['python']}. yolox_nano at 416, one 1080p",
            f"file, {spent.frames} frames of each program. Made by `python -m tests.bench.profile`.",
            "",
            "## By library",
            "",
            f"`perf`, {PERF_HZ} samples of a CPU second. The difference of runs over a long and a short clip.",
            "",
            *_libraries(spent, whole),
            "",
            "## libc, by who called it",
            "",
            f"`perf` with call stacks, {STACKS_HZ} samples of a CPU second: all over {_percent(TOLD_RATIO)} of a run.",
            "",
            *_calls(spent, whole),
            "",
            "## Python, by function",
            "",
            f"py-spy, {PYTHON_HZ} looks in a second at who holds the interpreter's lock.",
            *ABOUT_FUNCTIONS,
            "",
            *_functions(spent, whole["penstock"]),
            "",
        ]
    )


def _libraries(spent: Spent, whole: Mapping[str, int]) -> list[str]:
    by_part = {subject: _by_part(samples) for subject, samples in spent.libraries.items()}
    lines = [
        "| part | Penstock, ms a frame | share | the limit, ms a frame | share |",
        "|---|---|---|---|---|",
    ]
    for part, title in {**PARTS, "other": "all others"}.items():
        lines.append(f"| {title} | {_pair({s: by_part[s][part] for s in whole}, spent.frames, whole, PERF_HZ)} |")
    return [*lines, f"| all | {_pair(whole, spent.frames, whole, PERF_HZ)} |"]


def _calls(spent: Spent, whole: Mapping[str, int]) -> list[str]:
    per_hz = STACKS_HZ / PERF_HZ
    scaled = {subject: round(total * per_hz) for subject, total in whole.items()}
    found: dict[str, Counter[tuple[str, str]]] = {}
    for subject, samples in spent.calls.items():
        found[subject] = Counter()
        for call, count in samples.items():
            found[subject][call.does, _caller(call.library)] += count
    kinds = sorted(set(found["penstock"]) | set(found["limit"]), key=lambda kind: -found["penstock"][kind])
    told = [kind for kind in kinds if any(found[s][kind] > TOLD_RATIO * scaled[s] for s in scaled)]
    lines = [
        "| what | for whom | Penstock, ms a frame | share | the limit, ms a frame | share |",
        "|---|---|---|---|---|---|",
    ]
    for does, whom in told:
        cells = _pair({s: found[s][does, whom] for s in scaled}, spent.frames, scaled, STACKS_HZ)
        lines.append(f"| {does} | {whom} | {cells} |")
    rest = {s: sum(found[s].values()) - sum(found[s][kind] for kind in told) for s in scaled}
    return [*lines, f"| all others | | {_pair(rest, spent.frames, scaled, STACKS_HZ)} |"]


def _functions(spent: Spent, whole: int) -> list[str]:
    own: Counter[Function] = Counter()
    for stack, count in spent.functions.items():
        if any(function.name in RUNNERS for function in stack):
            own[_innermost_own(stack)] += count
    held = sum(own.values())
    if held == 0:
        return ["py-spy took no samples."]
    by_part = _by_part(spent.libraries["penstock"])
    python = by_part["libpython"] + by_part["numpy"]
    of_run, ms = python / whole, 1000 * python / PERF_HZ / spent.frames
    packages: Counter[str] = Counter()
    for function, count in own.items():
        packages[_package(function.file)] += count
    told = [(function, count) for function, count in own.most_common() if count / held * of_run > TOLD_RATIO / 5]
    rest = held - sum(count for _, count in told)
    return [
        f"{held} samples; interpreter and NumPy together: {ms:.2f} ms a frame, {_percent(of_run)} of the run.",
        "",
        f"Explained: packages over {_percent(LARGE_PACKAGE_RATIO)} of the run, functions over {_percent(TOLD_RATIO)}.",
        "",
        "| package | of the lock's time | ms a frame | of the run | what it does, and why |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {_share(count / held, ms, of_run)} | "
            f"{_why(WHY_PACKAGE, name, count / held * of_run > LARGE_PACKAGE_RATIO)} |"
            for name, count in packages.most_common()
        ),
        "",
        "| function | of the lock's time | ms a frame | of the run | what it does, and why |",
        "|---|---|---|---|---|",
        *(
            f"| `{function.name}` ({_package(function.file)}) | {_share(count / held, ms, of_run)} | "
            f"{_why(WHY, function.name, count / held * of_run > TOLD_RATIO)} |"
            for function, count in told
        ),
        f"| all others | {_share(rest / held, ms, of_run)} | each under {_percent(TOLD_RATIO / 5)} |",
    ]


def _why(known: Mapping[str, str], name: str, large: bool) -> str:
    return known.get(name, "**not explained**" if large else "")


def _by_part(samples: Mapping[str, int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for library, count in samples.items():
        found[_part_of(library)] += count
    return found


def _part_of(library: str) -> str:
    if "umath" in library or "openblas" in library:
        return "numpy"
    return next((part for part in PARTS if part in library and not library.startswith("libcrypto")), "other")


def _caller(library: str) -> str:
    return next((title for part, title in CALLERS.items() if part in library), "others")


def _innermost_own(stack: Sequence[Function]) -> Function:
    """The last function of ours: what it calls elsewhere is on its account."""
    ours = [function for function in stack if _is_own(function.file)]
    return ours[-1] if ours else stack[-1]


def _is_own(file: str) -> bool:
    return PurePath(file).parts[0] in OURS


def _package(file: str) -> str:
    """`pipeline/runtime`, `sinks` and so on; the file itself where it is none of ours."""
    parts = PurePath(file).parts
    return "/".join(parts[:2]) if parts[0] == "pipeline" else parts[0]


def _pair(samples: Mapping[str, int], frames: int, whole: Mapping[str, int], rate_hz: int) -> str:
    cells: list[str] = []
    for subject in ("penstock", "limit"):
        cells += [f"{1000 * samples[subject] / rate_hz / frames:.2f}", _percent(samples[subject] / whole[subject])]
    return " | ".join(cells)


def _share(part: float, ms: float, of_run: float) -> str:
    return f"{_percent(part)} | {part * ms:.3f} | {100 * part * of_run:.2f} %"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.1f} %"
