"""Virtual environments for other people's programs, which want other versions of the same packages than Penstock.

Each is made of the exact versions in `pins/NAME.txt` and stands under the cache folder; a stamp says of what it was
made, so that a second call is quick. One that cannot be made leaves its reason in `NAME.failed`. Standard library only.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PYTHON = "3.11"
INSTALL_LIMIT_S = 1800.0
REASON_CHARACTERS = 600

Install = Callable[[Sequence[str]], str | None]
"""`uv pip install` into the environment that is being made, with these words; why it failed, or None."""


def _nothing(_: str, __: Path, ___: Install) -> str | None:
    return None


@dataclass(frozen=True)
class Environments:
    """Those of one purpose. Made by its `setup.py`; two processes may make them at once.

    Attributes:
        project: the folder's name under the cache.
        command: what makes them, for who finds that one is missing.
        pins: the folder of `NAME.txt`, in which every package stands with its version.
        names: of all of them, in the order in which they are made.
        recipe: of what else they are made: where that changes, they are made anew.
        options: of `uv pip install`.
        finish: what is still to be done once the pins are installed in this folder; why it failed, or None.
    """

    project: str
    command: str
    pins: Path
    names: Sequence[str]
    recipe: str = PYTHON
    options: Sequence[str] = ()
    finish: Callable[[str, Path, Install], str | None] = _nothing

    @property
    def home(self) -> Path:
        """The folder in which they stand."""
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return Path(cache) / self.project / "venvs"

    def python_of(self, name: str) -> Path:
        """The interpreter of one of them."""
        return self.home / name / "bin" / "python"

    def missing(self, name: str) -> str | None:
        """Why this one cannot be used, in words for a table or a skipped test; None when it can."""
        if self._is_made(name):
            return None
        failed = self._failed(name)
        if failed.exists():
            return f"not installed here: {failed.read_text(encoding='utf-8').strip()}"
        return f"not installed here: run `{self.command}`"

    def pinned(self, name: str) -> dict[str, str]:
        """Version by package."""
        rows = (row.partition("==") for row in self._pins(name).read_text(encoding="utf-8").splitlines())
        return {package: version for package, _, version in rows if version}

    def make(self, name: str) -> str | None:
        """Make one, or do nothing where it is there already; why it failed, or None."""
        folder, failed = self.home / name, self._failed(name)
        if self._is_made(name):
            failed.unlink(missing_ok=True)
            return None
        shutil.rmtree(folder, ignore_errors=True)
        reason = self._build(name, folder)
        if reason is None:
            (folder / "stamp").write_text(self._stamp(name), encoding="utf-8")
            failed.unlink(missing_ok=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            failed.write_text(reason, encoding="utf-8")
        return reason

    def main(self, names: Sequence[str]) -> int:
        """Make the named ones, all without names. One that fails is told, and is no failure of the whole."""
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            sys.stderr.write(f"unknown: {', '.join(unknown)}; known: {', '.join(self.names)}\n")
            return 2
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two of these at once would write into the same folders
            for name in names or self.names:
                if not self._is_made(name):
                    say(f"{name}: {len(self.pinned(name))} packages")
                began_at = time.monotonic()
                reason = self.make(name)
                say(f"{name}: {reason or 'ready'} ({time.monotonic() - began_at:.1f} s)")
        return 0

    def _pins(self, name: str) -> Path:
        return self.pins / f"{name}.txt"

    def _failed(self, name: str) -> Path:
        return self.home / f"{name}.failed"

    def _stamp(self, name: str) -> str:
        return hashlib.sha256(self.recipe.encode() + self._pins(name).read_bytes()).hexdigest()

    def _is_made(self, name: str) -> bool:
        try:
            return (self.home / name / "stamp").read_text(encoding="utf-8") == self._stamp(name)
        except OSError:
            return False

    def _build(self, name: str, folder: Path) -> str | None:
        uv = shutil.which("uv")
        if uv is None:
            return "the program uv is not on the PATH"
        # Without our own configuration of uv, which keeps the plain onnxruntime out.
        install = [uv, "pip", "install", "--quiet", "--no-config", "--python", str(self.python_of(name)), *self.options]

        def more(words: Sequence[str]) -> str | None:
            return run([*install, *words])

        return (
            run([uv, "venv", "--quiet", "--no-config", "--python", PYTHON, str(folder)])
            # Every package stands in the pins, so nothing is left to resolve: --no-deps keeps it exact and quick.
            or more(["--no-deps", "--requirement", str(self._pins(name))])
            or self.finish(name, folder, more)
        )


def run(command: Sequence[str]) -> str | None:
    """Run it; why it failed, or None."""
    # An environment that is active is not the one to install into.
    environment = {key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the installation took more than {INSTALL_LIMIT_S:.0f} s"
    if done.returncode == 0:
        return None
    words = " ".join((done.stderr or done.stdout).split())
    return words[-REASON_CHARACTERS:] or f"the installation ended with status {done.returncode}"


def say(text: str) -> None:
    """A line for who waits."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
