"""Owns a camera behind a cable that can be cut: a network namespace with a veth pair, for tests run as root."""

import os
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

SERVER = Path(__file__).with_name("rtsp_server.py")
_numbers = count()


def why_not() -> str | None:
    """Why there can be no network namespace here; None when there can."""
    for tool in ("ip", "nft"):
        if shutil.which(tool) is None:
            return f"needs {tool} (just setup-rigs)"
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False)
    if os.geteuid() != 0 or done.returncode:
        return f"needs root and network namespaces: {done.stderr.strip()}"
    probe = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True, check=False)
    return None if probe.returncode == 0 else f"may not make a network namespace: {probe.stderr.strip()}"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


class FarCamera:
    """An RTSP server in a namespace of its own, reached over a veth pair.

    Used as a context manager; everything it made is gone afterwards.
    """

    def __init__(self, clip: Path, path: str = "/cam") -> None:
        number = next(_numbers)
        self._name = f"cam{os.getpid()}n{number}"
        self._near, self._far = f"v{os.getpid()}n{number}", f"w{os.getpid()}n{number}"
        third = os.getpid() * 4 + number
        subnet = f"10.{64 + third // 256 % 64}.{third % 256}"
        self._here, self._there = f"{subnet}.1", f"{subnet}.2"
        self._clip, self._path = clip, path
        self._server: subprocess.Popen[str] | None = None
        self.url = f"rtsp://{self._there}:8554{path}"

    def __enter__(self) -> Self:
        _run("ip", "netns", "add", self._name)
        try:
            self._wire()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wire(self) -> None:
        inside = ("ip", "-n", self._name)
        _run("ip", "link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self._name)
        _run("ip", "addr", "add", f"{self._here}/24", "dev", self._near)
        _run("ip", "link", "set", self._near, "up")
        _run(*inside, "addr", "add", f"{self._there}/24", "dev", self._far)
        _run(*inside, "link", "set", self._far, "up")
        _run(*inside, "link", "set", "lo", "up")
        command = [sys.executable, str(SERVER), f"{self._there}:8554", f"{self._path}={self._clip}"]
        self._server = subprocess.Popen(
            ["ip", "netns", "exec", self._name, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline().startswith("ready")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.communicate()
        # The near end goes first: with its socket still closing, a namespace outlives its name for a while.
        subprocess.run(["ip", "link", "del", self._near], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", self._name], check=False, capture_output=True)

    def _nft(self, *words: str) -> None:
        _run("ip", "netns", "exec", self._name, "nft", *words)

    def black_hole(self) -> None:
        """Every packet from the camera disappears; nothing says so."""
        self._nft("add", "table", "inet", "t")
        self._nft("add", "chain", "inet", "t", "out", "{ type filter hook output priority 0; policy drop; }")

    def lossy(self, percent: int) -> None:
        """That share of the packets from the camera disappears."""
        self._nft("add", "table", "inet", "t")
        self._nft("add", "chain", "inet", "t", "out", "{ type filter hook output priority 0; }")
        self._nft("add", "rule", "inet", "t", "out", "numgen", "random", "mod", "100", "<", str(percent), "drop")

    def heal(self) -> None:
        """Take `black_hole` or `lossy` back."""
        self._nft("delete", "table", "inet", "t")

    def link(self, up: bool) -> None:
        """Pull the cable, or put it back."""
        _run("ip", "-n", self._name, "link", "set", self._far, "up" if up else "down")
