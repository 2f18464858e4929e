"""The program before a person's eyes: standard error is a terminal, standard output is where the results go."""

import os
import pty
import signal
import subprocess
import sys

from workplace import Workplace


def _on_a_terminal(workplace: Workplace, *args: str, hang_up_at: str | None = None) -> tuple[int, str, str]:
    """Exit code, what came out of standard output (a pipe), and what the terminal was shown.

    Once `hang_up_at` is shown, the process gets the signal that says that its terminal is closed.
    """
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
    out = b"" if hang_up_at else process.stdout.read()
    try:
        while data := os.read(ours, 65536):
            shown += data
            if hang_up_at and hang_up_at.encode() in shown:
                hang_up_at = None
                process.send_signal(signal.SIGHUP)
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


def test_a_closed_terminal_stops_it_like_any_other_signal(workplace: Workplace) -> None:
    toml = (workplace.folder / "pipeline.toml").read_text()
    workplace.write(toml.replace('"clip.mp4"', '"clip.mp4"\npace = "realtime"\nloop = true'))
    code, _, shown = _on_a_terminal(workplace, "run", hang_up_at="source cam: running")
    assert code == 0, shown
    assert "SIGHUP: stopping" in shown
    assert workplace.lines("out/cam.jsonl")
