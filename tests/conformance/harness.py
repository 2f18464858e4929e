"""Runs the vendors' own programs in their own environments, against our server or as servers for our backends."""

import json
import os
import signal
import subprocess
import tempfile
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from daemon import Daemon, free_port
from observed import until

from tests.conformance.setup import RIGS

__all__ = ["Ours", "needs", "started", "vendor", "vendor_server"]

_MARK: Final = "@@answer@@"
_TAIL_LINES = 25

# No proxy and no network: all of it is on loopback. Nobody phones home, and nobody finds a real account.
_ENVIRONMENT: Final[Mapping[str, str]] = {
    "HTTP_PROXY": "",
    "HTTPS_PROXY": "",
    "http_proxy": "",
    "https_proxy": "",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "LOG_LEVEL": "ERROR",
    "OFFLINE_MODE": "True",
    "TELEMETRY_OPT_OUT": "True",
    "METRICS_ENABLED": "False",
    "ENABLE_PROMETHEUS": "True",
    "NOTEBOOK_ENABLED": "False",
    "MPLBACKEND": "Agg",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}
_UNWANTED: Final = (
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "SERVER_ADDRESS",
    "API_TOKEN",
    "ROBOFLOW_API_KEY",
    "HF_TOKEN",
)

# In front of every script: what it was given is `args`, and `answer(...)` is how it says what it found.
_PRELUDE: Final = f"""
import json as _json, sys as _sys, types as _types

def _plain(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, tuple)):
        return list(value)
    return repr(value)

def answer(value):
    _sys.stdout.write("\\n{_MARK}" + _json.dumps(value, default=_plain) + "\\n")
    _sys.stdout.flush()

args = _types.SimpleNamespace(**_json.loads(_sys.stdin.read()))
"""


def needs(name: str) -> Path:
    """The interpreter of a vendor's environment; the test is skipped, with the reason, where it is not there."""
    why = RIGS.missing(name)
    if why is not None:
        pytest.skip(why)
    return RIGS.python_of(name)


def vendor(
    name: str, script: str, /, *, limit_s: float = 45.0, environment: Mapping[str, str] | None = None, **arguments: Any
) -> Any:
    """What a script says (its last `answer(value)`) when it is run in the vendor's environment.

    Args:
        name: of the environment, as in `RIGS.names`.
        script: Python, indented as one likes; finds `arguments` in `args`.
        limit_s: it is killed, and the test has failed, after so long.
        environment: on top of what all get.
        arguments: whatever JSON takes.

    Raises:
        AssertionError: the script failed, or said nothing; with the end of what it wrote.
    """
    python = needs(name)
    with tempfile.TemporaryDirectory(prefix=f"vendor_{name}_") as folder:
        path = _written(script, Path(folder))
        process = subprocess.Popen(
            [python, path],
            cwd=folder,
            env=_environment(Path(folder), environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(json.dumps(arguments), limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"{name}: not done after {limit_s:g} s\n{_tail(err)}") from None
    assert process.returncode == 0, f"{name}: ended with {process.returncode}\n{_tail(err)}"
    answers = [line.removeprefix(_MARK) for line in out.splitlines() if line.startswith(_MARK)]
    assert answers, f"{name}: the script gave no answer\n{_tail(err)}"
    return json.loads(answers[-1])


@contextmanager
def vendor_server(
    name: str,
    script: str,
    /,
    *,
    ready: str = "/",
    limit_s: float = 60.0,
    environment: Mapping[str, str] | None = None,
    **arguments: Any,
) -> Iterator[str]:
    """A vendor's server while the context lasts; gives its URL. The script finds `args.port`, and listens there.

    Args:
        name: of the environment.
        script: as with `vendor`; does not end by itself.
        ready: the path that answers, with whatever status below 500, once it is up.
        limit_s: for that.
        environment: on top of what all get.
        arguments: whatever JSON takes.
    """
    python, port = needs(name), free_port()
    with tempfile.TemporaryDirectory(prefix=f"server_{name}_") as folder:
        path = _written(script, Path(folder))
        said = json.dumps({**arguments, "port": port})
        command = [str(python), str(path)]
        url, home = f"http://127.0.0.1:{port}", Path(folder)
        with started(command, url, ready, home, limit_s=limit_s, environment=environment, said=said):
            yield url


@contextmanager
def started(
    command: Sequence[str],
    url: str,
    ready: str,
    folder: Path,
    *,
    limit_s: float = 60.0,
    environment: Mapping[str, str] | None = None,
    said: str = "",
) -> Iterator[str]:
    """Any server while the context lasts, in a session of its own; afterwards all of it is gone.

    Raises:
        AssertionError: it ended, or did not answer within `limit_s`; with the end of its log.
    """
    log, told = folder / "server.log", folder / "server.in"
    told.write_text(said, encoding="utf-8")
    with log.open("wb") as err, told.open("rb") as standard_input:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env=_environment(folder, environment),
            stdin=standard_input,
            stdout=err,
            stderr=err,
            start_new_session=True,
        )
    try:

        def is_up() -> bool:
            ended = process.poll()
            assert ended is None, f"the server ended with {ended}\n{_tail(log.read_text(errors='replace'))}"
            return 0 < _status(url + ready) < 500

        try:
            until(f"{url}{ready} answers", is_up, limit_s, every_s=0.1)
        except AssertionError as error:
            error.add_note(_tail(log.read_text(errors="replace")))
            raise
        yield url
    finally:
        # The group, too, when its first process is gone already: the children may not be.
        for number, wait_s in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(process.pid, number)
                process.wait(wait_s)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


class Ours(Daemon):
    """Penstock with models for clients and without cameras, in a process of its own; a context manager.

    `text` holds the tables `[models.NAME]`; `inference` is what stands in `[server.inference]`.
    """

    def __init__(self, folder: Path, text: str, *, inference: str = "", **options: Any) -> None:
        server = options.pop("server", "")
        table = f"\n[server.inference]\n{textwrap.dedent(inference)}\n"
        super().__init__(folder, text, server=textwrap.dedent(server) + table, command="serve", **options)


def _written(script: str, folder: Path) -> Path:
    path = folder / "script.py"
    path.write_text(_PRELUDE + textwrap.dedent(script), encoding="utf-8")
    return path


def _environment(folder: Path, more: Mapping[str, str] | None) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if key not in _UNWANTED}
    home = {"HOME": str(folder), "HF_HOME": str(folder / "hf"), "MODEL_CACHE_DIR": str(folder / "models")}
    return {**own, **_ENVIRONMENT, **home, **(more or {})}


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own URL
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (OSError, ValueError):
        return 0


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-_TAIL_LINES:])
