"""The program before a person's eyes: standard error is a terminal, standard output is where the results go."""

import os
import pty
import subprocess
import sys

from workplace import Workplace


def _on_a_terminal(workplace: Workplace, *args: str) -> tuple[int, str, str]:
    """Exit code, what came out of standard output (a pipe), and what the terminal was shown."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *args],
        cwd=workplace.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = bytearray()
    assert process.stdout is not None
    out = process.stdout.read()
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:  # how a terminal says that nobody is left at the other end
        pass
    os.close(ours)
    process.stdout.close()
    return process.wait(timeout=30), out.decode(), shown.decode()


def test_the_progress_bar_does_not_swallow_results(workplace: Workplace) -> None:
    code, out, shown = _on_a_terminal(workplace, "predict", "clip.mp4", "-m", "model.onnx")
    assert code == 0
    assert len(out.splitlines()) == 30
    assert "schema" not in shown
    assert "30 accepted = 30 delivered" in shown


def test_a_bar_shows_how_far_it_is(workplace: Workplace) -> None:
    workplace.write(
        (workplace.folder / "pipeline.toml").read_text().replace('"clip.mp4"', '"clip.mp4"\npace = "realtime"')
    )
    code, _, shown = _on_a_terminal(workplace, "run")
    assert code == 0
    assert "/30" in shown
