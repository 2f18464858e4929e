"""Where the CPU time of job B goes, library by library: Penstock beside the hand-written limit. Needs Linux's `perf`.

`python -m tests.bench.profile` samples two runs of each, over a short and a long clip, and takes the difference: what
starts and ends a program is in both. It writes `results/profile.md`. Python cannot be told apart by function this way
(3.11 has no names for perf), but the interpreter as a whole is what is ours.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.bench.clips import clip, default_work_dir
from tests.bench.jobs import SHORT_FRAMES, config, models, repository
from tests.bench.measure import environment, machine, note

RATE_HZ = 997
LONG_FRAMES = 420
ROUNDS = 3

PARTS = {
    "onnxruntime": "the model",
    "libavcodec": "decoding",
    "libswscale": "scaling",
    "libpython": "the interpreter: all that is written in Python",
    "numpy": "NumPy: boxes, NMS",
    "kernel": "the kernel: switches, page faults, files",
    "libc": "libc: copies of planes, memory, locks",
}

WHY = (
    "Above 2 %, and neither the model nor FFmpeg: libc, copying planes into the model's input and packets, for the",
    "limit alike; and the interpreter. There the limit does part of the same work (NMS, one line); what Penstock has",
    "more is two hand-overs with their locks, the ledger, histograms, ids, and the checks of what a plugin returns.",
)


def main() -> None:
    """Sample, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description=__doc__)
    parser.add_argument("--work", type=Path, default=default_work_dir(), help="where clips and outputs go")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results"))
    options = parser.parse_args()
    if shutil.which("perf") is None:
        raise SystemExit("perf is not installed: on Debian, apt install linux-perf")
    spent: dict[str, Counter[str]] = {"penstock": Counter(), "limit": Counter()}
    (options.work / "out").mkdir(parents=True, exist_ok=True)
    for subject in spent:
        _sampled(_command(subject, options.work, SHORT_FRAMES))  # the model is tuned once, and files are cached
    for number in range(ROUNDS):
        for subject, total in spent.items():
            note(f"round {number + 1}: {subject}")
            long = _sampled(_command(subject, options.work, LONG_FRAMES))
            short = _sampled(_command(subject, options.work, SHORT_FRAMES))
            total.update(long)
            total.subtract(short)
    text = _page(spent)
    (options.results / "profile.md").write_text(text)
    print(text)


def _command(subject: str, work: Path, frames: int) -> list[str]:
    model, video, out = models()["light"], clip(work, "1080", frames), work / "out" / "profile.jsonl"
    out.unlink(missing_ok=True)
    if subject == "limit":
        size = (str(model.height), str(model.width))
        return [sys.executable, "-m", "tests.bench.limit", str(model.path), str(out), str(video), "--input", *size]
    file = work / "profile.toml"
    file.write_text(config(model, [video], out, data_dir=work / "data"))
    return [sys.executable, "-m", "pipeline", "run", str(file), "--quiet"]


def _sampled(command: list[str]) -> Counter[str]:
    """Samples of the CPU clock by part."""
    with tempfile.NamedTemporaryFile(suffix=".perf") as data:
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(RATE_HZ), "-o", data.name, "--", *command]
        subprocess.run(record, cwd=repository(), env=environment(), check=True, capture_output=True)
        report = ["perf", "report", "-i", data.name, "--stdio", "--sort", "dso", "-n", "-q"]
        text = subprocess.run(report, check=True, capture_output=True, text=True).stdout
    found: Counter[str] = Counter()
    for row in text.splitlines():
        words = row.split()
        if len(words) >= 3 and words[1].isdigit():
            found[_part_of(words[2])] += int(words[1])
    return found


def _part_of(library: str) -> str:
    if "umath" in library or "openblas" in library:
        return "numpy"
    return next((part for part in PARTS if part in library and not library.startswith("libcrypto")), "other")


def _page(spent: dict[str, Counter[str]]) -> str:
    frames = ROUNDS * (LONG_FRAMES - SHORT_FRAMES)
    whole = {subject: sum(samples.values()) for subject, samples in spent.items()}
    if not all(total > 0 for total in whole.values()):
        raise SystemExit("perf took no samples: may this user? see /proc/sys/kernel/perf_event_paranoid")
    facts = machine(repository())
    lines = [
        "# Where the CPU time of job B goes",
        "",
        f"{facts['processor']}, {facts['cores']} cores, Python {facts['python']}. yolox_nano at 416, one 1080p file.",
        f"`perf` at {RATE_HZ} Hz of CPU time, {ROUNDS} rounds, {LONG_FRAMES} frames less {SHORT_FRAMES}; made by",
        "`python -m tests.bench.profile`.",
        "",
        "| part | Penstock, ms a frame | share | the limit, ms a frame | share |",
        "|---|---|---|---|---|",
    ]
    for part, title in {**PARTS, "other": "all others"}.items():
        cells = []
        for subject in ("penstock", "limit"):
            samples = spent[subject][part]
            cells += [f"{1000 * samples / RATE_HZ / frames:.2f}", f"{100 * samples / whole[subject]:.1f} %"]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    sums = [f"{1000 * whole[subject] / RATE_HZ / frames:.2f} | 100 %" for subject in ("penstock", "limit")]
    return "\n".join([*lines, f"| all | {' | '.join(sums)} |", "", *WHY, ""])


if __name__ == "__main__":
    main()
