"""A real Prometheus for tests: found on the path or where `just setup-rigs` puts it, and asked over its own API."""

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from daemon import free_port
from observed import until

RIGS = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "penstock-rigs"


def tool(name: str) -> str | None:
    """Where `prometheus` or `promtool` is; None: not on this machine."""
    return shutil.which(name) or shutil.which(name, path=str(RIGS / "prometheus/usr/bin"))


class Prometheus:
    """Scrapes once a second what its config names, in a folder of its own; a context manager."""

    def __init__(self, folder: Path, config: str) -> None:
        self._folder = folder
        self._url = f"http://127.0.0.1:{free_port()}"
        (folder / "prometheus.yml").write_text(config)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        program = tool("prometheus")
        assert program is not None
        command = [
            program,
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'tsdb'}",
            f"--web.listen-address={self._url.removeprefix('http://')}",
        ]
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until("Prometheus is ready", self._is_ready, 20)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query.

        Raises:
            AssertionError: Prometheus refuses it.
        """
        status, answer = self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        assert status == 200, f"{expression}: {answer}"
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def firing(self) -> set[tuple[str, str]]:
        """Name and source of the alerts that fire now."""
        alerts = self._get("/api/v1/alerts")[1]["data"]["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"].get("source", ""))
            for alert in alerts
            if alert["state"] == "firing"
        }

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5):  # noqa: S310 - our own
                return True
        except OSError:
            return False

    def _get(self, path: str) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(self._url + path, timeout=10) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
