"""The folder of a command that measures goes with it, however that ends."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.benching.folder import passing_folder

PROGRAM = """
import sys, threading
from pipeline.benching.folder import passing_folder
with passing_folder("penstock-test-") as folder:
    (folder / "file").touch()
    print("there", flush=True)
    threading.Event().wait(30)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_program_leaves_no_folder(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, env={"TMPDIR": str(tmp_path)}
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "there\n"
        assert len(list(tmp_path.iterdir())) == 1
        program.send_signal(number)
        assert program.wait(20) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_afterwards_signals_do_what_they_did_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with passing_folder("penstock-test-") as folder:
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    assert not folder.exists()
