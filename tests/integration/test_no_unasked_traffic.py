"""The program opens no connection that it was not told to open: onnxruntime would, by itself, if it were let."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workplace import Workplace

NEEDS_STRACE = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (just setup-rigs)")


def _connects(trace: Path) -> list[str]:
    return re.findall(r"connect\(\d+, (\{sa_family=AF_INET6?.*?\})", trace.read_text())


@NEEDS_STRACE
def test_a_whole_run_connects_to_nothing(workplace: Workplace) -> None:
    trace = workplace.folder / "trace"
    command = [
        *("strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(trace)),
        sys.executable,
        "-m",
        "pipeline",
    ]
    done = subprocess.run(
        [*command, "run", "-q"], cwd=workplace.folder, capture_output=True, text=True, timeout=50, check=False
    )
    if "PTRACE" in done.stderr or "ptrace" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(workplace.lines("out/cam.jsonl")) == 30
    assert _connects(trace) == []
    assert not re.search(r"sendto\(\d+, .*sa_family=AF_INET", trace.read_text())


@NEEDS_STRACE
def test_the_trace_would_show_a_connection(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=connect", "-o", str(trace), sys.executable, "-c", code], check=True
    )
    assert len(_connects(trace)) == 1


def test_onnxruntimes_telemetry_is_off_before_it_is_imported(workplace: Workplace) -> None:
    code = "import sys, os, pipeline; print(os.environ['ORT_DISABLE_TELEMETRY'], 'onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 False\n"
