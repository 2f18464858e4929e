"""The program as its user runs it: a process, with its files in a folder of its own."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

PIPELINE = """
    [sources.cam]
    type = "file"
    path = "clip.mp4"

    [backends.local]
    type = "onnx"
    model = "model.onnx"

    [sinks.lines]
    type = "jsonl"
    path = "out/{source}.jsonl"

    [server]
    listen = "off"
"""


class Workplace:
    """A folder with a small model, a clip and a pipeline.toml, and `penstock` run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []

    def write(self, toml: str, name: str = "pipeline.toml") -> Path:
        """Write a file, with the text's common indentation taken off."""
        path = self.folder / name
        path.write_text(textwrap.dedent(toml))
        return path

    def start(self, *args: str, **environment: str) -> subprocess.Popen[str]:
        """Start `penstock ARGS` here."""
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", *args],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "error", "COLUMNS": "120", **environment},
        )
        self.processes.append(process)
        return process

    def penstock(self, *args: str, **environment: str) -> tuple[int, str, str]:
        """Run `penstock ARGS` here: exit code, stdout, stderr."""
        process = self.start(*args, **environment)
        out, err = process.communicate(timeout=50)
        return process.returncode, out, err

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines of a file."""
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]
