"""Where the CPU time of job B goes: by library, in libc by caller, in Python by function; beside the limit.

`python -m tests.bench.profile` samples runs over a short and a long clip (`sampling.py`) and takes the difference: what
starts and ends a program is in both. It needs Linux's `perf` and uv, and writes `results/profile.md`.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tests.bench.clips import clip, default_work_dir
from tests.bench.jobs import SHORT_FRAMES, config, models, repository
from tests.bench.measure import machine, note
from tests.bench.profile_page import Spent, page
from tests.bench.sampling import by_caller, by_function, by_library, missing

LONG_FRAMES = 420
ROUNDS = 2

T = TypeVar("T")


def main() -> None:
    """Sample, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description=__doc__)
    parser.add_argument("--work", type=Path, default=default_work_dir(), help="where clips and outputs go")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    reason = missing()
    if reason is not None:
        raise SystemExit(reason)
    (options.work / "out").mkdir(parents=True, exist_ok=True)
    text = page(_sampled(options.work, options.rounds), machine(repository()))
    (options.results / "profile.md").write_text(text)
    print(text)


def _sampled(work: Path, rounds: int) -> Spent:
    spent = Spent(rounds * (LONG_FRAMES - SHORT_FRAMES))
    for subject in spent.libraries:
        by_library(_command(subject, work, SHORT_FRAMES))  # the model is tuned once, and files are cached
    for number in range(rounds):
        for subject in spent.libraries:
            note(f"round {number + 1}: {subject}")
            _add(spent.libraries[subject], by_library, subject, work)
            _add(spent.calls[subject], by_caller, subject, work)
        note(f"round {number + 1}: Python")
        spent.functions.update(by_function(_command("penstock", work, LONG_FRAMES)))
    return spent


def _add(total: Counter[T], sample: Callable[[Sequence[str]], Counter[T]], subject: str, work: Path) -> None:
    """The samples of a long run less those of a short one."""
    total.update(sample(_command(subject, work, LONG_FRAMES)))
    total.subtract(sample(_command(subject, work, SHORT_FRAMES)))


def _command(subject: str, work: Path, frames: int) -> list[str]:
    model, video, out = models()["light"], clip(work, "1080", frames), work / "out" / "profile.jsonl"
    out.unlink(missing_ok=True)
    if subject == "limit":
        size = (str(model.height), str(model.width))
        return [sys.executable, "-m", "tests.bench.limit", str(model.path), str(out), str(video), "--input", *size]
    file = work / "profile.toml"
    file.write_text(config(model, [video], out, data_dir=work / "data"))
    return [sys.executable, "-m", "pipeline", "run", str(file), "--quiet"]


if __name__ == "__main__":
    main()
