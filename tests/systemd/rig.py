"""A real systemd with Penstock installed in it: a small Debian, booted by systemd-nspawn, and commands run inside.

Needs root, mmdebstrap and systemd-container, and a python3 of this machine that is as new as Debian's.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "penstock-rigs"
PROJECT = Path(__file__).resolve().parents[2]
SUITE = "bookworm"
PACKAGES = "systemd,systemd-sysv,dbus,procps,python3"
PYTHON = "/usr/bin/python3"


class UnavailableError(Exception):
    """This machine cannot do it, and why."""


def make_root() -> Path:
    """The Debian, made once (a minute, 300 MB) and kept in the cache.

    Raises:
        UnavailableError: a tool is missing, or this is not root.
    """
    missing = [tool for tool in ("mmdebstrap", "systemd-nspawn", "nsenter", "uv") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        raise UnavailableError(f"needs {', '.join(missing)}" if missing else "needs root")
    root = CACHE / "systemd-root"
    if not root.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = CACHE / "systemd-root.part"
        sources = next(iter(Path("/etc/apt/sources.list.d").glob("debian.sources")), Path("/etc/apt/sources.list"))
        shutil.rmtree(part, ignore_errors=True)
        _run("mmdebstrap", "--variant=apt", f"--include={PACKAGES}", SUITE, str(part), str(sources))
        part.rename(root)
    return root


def install(root: Path) -> None:
    """Build the wheel and put it with all that the lock file names where the shipped unit expects it."""
    venv = root / "opt/penstock/.venv"
    versions = {_output(PYTHON, "--version"), _output("chroot", str(root), PYTHON, "--version")}
    if len({version.rpartition(".")[0] for version in versions}) != 1:
        raise UnavailableError(f"{PYTHON} is not the same here and there: {versions}")
    work = root / "opt/penstock/build"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    _run("uv", "build", "-q", "--wheel", "--out-dir", str(work), str(PROJECT))
    export = ("export", "-q", "--frozen", "--no-dev", "--no-emit-project", "--no-hashes", "--project", str(PROJECT))
    _run("uv", *export, "-o", str(work / "requirements.txt"))
    (wheel,) = work.glob("*.whl")
    _run("uv", "venv", "-q", "--clear", "--relocatable", "--python", PYTHON, str(venv))
    target = ("--python", str(venv / "bin/python"), "-q", "--no-deps")
    _run("uv", "pip", "install", *target, "-r", str(work / "requirements.txt"), str(wheel))


class Machine:
    """The booted Debian; a context manager: afterwards it is powered off."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Self:
        command = [
            "systemd-nspawn",
            "-q",
            "--register=no",
            "--keep-unit",
            "-D",
            str(self.root),
            "-b",
            "--private-network",
        ]
        with (self.root.parent / "nspawn.log").open("wb") as log:
            self._nspawn = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self.until(self._is_running, 30)
        except BaseException:
            self._power_off()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._power_off()

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside; its output, without the end of the last line.

        Raises:
            AssertionError: it failed.
        """
        done = subprocess.run(
            ["nsenter", "-t", str(self._leader), "-a", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return (done.stdout + done.stderr).rstrip("\n")

    def show(self, key: str, unit: str = "penstock") -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "-P", key, unit)

    def journal(self, *arguments: str) -> str:
        """What the unit wrote since the machine was booted."""
        return self.run("journalctl", "-b", "-u", "penstock", "-o", "cat", "--no-pager", *arguments)

    def get(self, path: str) -> tuple[int, str]:
        """Ask Penstock's HTTP server, which only the machine itself can reach; 0: nobody answers."""
        code = (
            "import sys, urllib.request as u, urllib.error as e\n"
            f"try: a = u.urlopen('http://127.0.0.1:9464{path}', timeout=5)\n"
            "except e.HTTPError as error: a = error\n"
            "except OSError: print(0); sys.exit()\n"
            "print(a.status); print(a.read().decode())"
        )
        status, _, body = self.run(PYTHON, "-c", code).partition("\n")
        return int(status), body

    @staticmethod
    def until(condition: Callable[[], object], limit_s: float) -> float:
        """Wait for something inside; seconds that it took.

        Raises:
            AssertionError: it did not come true in time.
        """
        began_at = time.monotonic()
        while not condition():
            assert time.monotonic() - began_at < limit_s, f"not within {limit_s:g} s"
            time.sleep(0.05)
        return time.monotonic() - began_at

    def _is_running(self) -> bool:
        assert self._nspawn is not None
        assert self._nspawn.poll() is None, "systemd-nspawn ended: see nspawn.log beside the root"
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        if not children:
            return False
        self._leader = int(children[0])
        return self.run("systemctl", "is-system-running", check=False).endswith(("running", "degraded"))

    def _power_off(self) -> None:
        if self._nspawn is None:
            return
        if self._leader:
            self.run("systemctl", "poweroff", check=False)
        try:
            self._nspawn.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._nspawn.pid, signal.SIGKILL)
            self._nspawn.wait(10)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode != 0:
        raise UnavailableError(f"{' '.join(command[:3])}: {done.stderr.strip()[-500:]}")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _environment() -> dict[str, str]:
    """Without the environment that a `uv run` around this has set up."""
    return {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")}
