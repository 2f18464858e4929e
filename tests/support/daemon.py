"""`penstock run` as a service that a test or a rig watches from outside: API, ledger, memory, threads."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from makers import brightness_model
from observed import Samples, until
from rig_plugins import plugin_path

ONNX = """
    [backends.model]
    type = "onnx"
    model = "model.onnx"
    device = "cpu"
    confidence = 0.01
"""
JSONL = """
    [sinks.lines]
    type = "jsonl"
    path = "out/{source}.jsonl"
    mode = "overwrite"
    notices = ["sources"]
"""

IDLE = """
    data_dir = "data"

    [backends.rig]
    type = "rig"

    [sources.idle]
    type = "synthetic"
    fps = 1

    [sinks.nothing]
    type = "slow"
    delay_s = 0
    sources = ["idle"]
"""
"""What keeps the program running when all files have ended; its sources' results go to the sinks that are added."""

WAITING_FILE = """
    [sources.{name}]
    type = "file"
    path = "{path}"
    {more}
    queue = {{ max_frames = 64, when_full = "block" }}
"""
"""A source that waits rather than lose a frame."""


def free_port() -> int:
    """A port that was free a moment ago, below those that the system gives away: it is still free after a restart."""
    for port in random.sample(range(10_240, 32_768), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class Usage(NamedTuple):
    """What the process holds."""

    rss_mib: float
    threads: int
    descriptors: int


class Daemon:
    """One `penstock run`, or what else `command` says, in a folder of its own; a context manager: then it is gone.

    `text` is the pipeline.toml without its `[server]` table; a file `model.onnx` is made where there is none. The
    output goes to the files `stdout` and `stderr` in the folder. Requests carry `token` unless they bring headers of
    their own for that. Every scrape checks the ledger.
    """

    def __init__(
        self,
        folder: Path,
        text: str,
        *,
        server: str = "",
        token: str | None = None,
        before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        command: str = "run",
        arguments: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self._command = [command, *arguments]
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = f'\n[server]\nlisten = "127.0.0.1:{self.port}"\n{textwrap.dedent(server)}\n'
        self._token = token
        self._before = before
        self._environment = {**os.environ, "COLUMNS": "120", **plugin_path(folder), **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None
        if not (folder / "model.onnx").exists():
            brightness_model(folder / "model.onnx")
        self.write(text)

    def write(self, text: str) -> None:
        """Write pipeline.toml anew; it takes effect at the next reload."""
        new = self.folder / "pipeline.new"
        new.write_text(textwrap.dedent(text) + self.server)
        new.replace(self.folder / "pipeline.toml")

    def __enter__(self) -> Self:
        with (self.folder / "stdout").open("wb") as out, (self.folder / "stderr").open("wb") as err:
            self.process = subprocess.Popen(
                [*self._before, sys.executable, "-m", "pipeline", *self._command],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._environment,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # with what stands before it, as strace
            self.process.wait(10)
        if error is not None and not isinstance(error, Exception):
            return
        if isinstance(error, AssertionError) and self.log():
            error.add_note("the last lines of the log:\n" + "\n".join(self.log().splitlines()[-12:]))

    # What it says

    def log(self) -> str:
        """All of its standard error until now."""
        path = self.folder / "stderr"
        return path.read_text(errors="replace") if path.exists() else ""

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines of a file, the last only where it is complete."""
        path = self.folder / name
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def request(
        self, path: str, method: str = "GET", body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Status and body of one request; 0 where nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, dict(headers or {}), method=method)  # noqa: S310
        if data is not None:
            request.add_header("Content-Type", "application/json")
        if self._token is not None and not request.has_header("Authorization"):
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own URL
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return 0, ""

    def scrape(self) -> Samples:
        """Its metrics now; the ledger is checked."""
        status, body = self.request("/metrics")
        assert status == 200, f"/metrics answers {status}: {body[:200]}; {self.alive()}"
        samples = Samples.parse(body)
        samples.check_ledger()
        return samples

    def alive(self) -> str:
        """Whether the process runs, in words; raises where it has ended.

        Raises:
            AssertionError: it has ended.
        """
        assert self.process is not None
        assert self.process.poll() is None, f"the process ended with {self.process.returncode}"
        return "the process runs"

    # What it does

    def ready(self, limit_s: float = 30.0) -> Self:
        """Wait until it says so itself."""

        def is_ready() -> bool:
            self.alive()
            return self.request("/readyz")[0] == 200

        until("ready", is_ready, limit_s)
        return self

    def state(self, source: str) -> str:
        """What a source is doing."""
        for (name, labels), value in self.scrape().items():
            one = dict(labels)
            if name == "penstock_source_state" and one["source"] == source and value == 1:
                return one["state"]
        return "none"

    def decoded(self, source: str) -> int:
        """Frames decoded so far; 0 for a source that is not there."""
        return int(self.scrape().of("penstock_frames_decoded_total", source=source))

    def wait_state(self, source: str, wanted: str, limit_s: float = 15.0) -> float:
        """Wait until a source is in that state; seconds that it took."""
        start = time.monotonic()
        until(f"source {source} is {wanted}", lambda: self.state(source) == wanted, limit_s)
        return time.monotonic() - start

    def wait_frames(self, source: str, more: int = 1, limit_s: float = 15.0) -> float:
        """Wait for new frames of a source; seconds that it took."""
        start, before = time.monotonic(), self.decoded(source)
        until(f"{more} more frames of {source}", lambda: self.decoded(source) >= before + more, limit_s)
        return time.monotonic() - start

    def usage(self) -> Usage:
        """Memory, threads and open files of the process itself, not of what stands before it."""
        folder = Path(f"/proc/{self.pid()}")
        status = dict(re.findall(r"^(\w+):\s+(\d+)", (folder / "status").read_text(), re.MULTILINE))
        return Usage(int(status["VmRSS"]) / 1024, int(status["Threads"]), len(list((folder / "fd").iterdir())))

    def pid(self) -> int:
        """The process that runs the pipeline: the youngest of the line."""
        assert self.process is not None
        pid = self.process.pid
        while self._before:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if not children:
                break
            pid = int(children[0])
        return pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid(), number)

    def reloads(self) -> tuple[int, int]:
        """How many reloads went well, and how many failed."""
        samples = self.scrape()
        ok, failed = (samples.of("penstock_config_reloads_total", outcome=outcome) for outcome in ("ok", "failed"))
        return int(ok), int(failed)

    def reload(self, limit_s: float = 40.0) -> bool:
        """SIGHUP, and wait for how it ends."""
        before = self.reloads()
        self.signal(signal.SIGHUP)
        until("the reload ends", lambda: self.reloads() != before, limit_s)
        return self.reloads()[0] > before[0]

    def stop(self, limit_s: float = 15.0, code: int | None = 0) -> float:
        """SIGTERM; seconds until it is gone. Its own summary must say that the ledger balances."""
        assert self.process is not None
        start = time.monotonic()
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not gone {limit_s} s after SIGTERM") from None
        took_s = time.monotonic() - start
        assert code is None or self.process.returncode == code, f"exit code {self.process.returncode}, not {code}"
        assert "every frame and every result is accounted for" in self.log(), "no balanced ledger in the summary"
        return took_s
