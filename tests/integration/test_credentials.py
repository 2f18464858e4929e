"""A planted secret turns up nowhere: the real program at debug level, its cameras failing in every way."""

# ruff: noqa: S105, S106, S310  (the secrets are planted, the URL is our own)

import json
import os
import re
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from makers import clip
from rtsp_server import RtspServer
from workplace import Workplace

from pipeline.server.routes import ROUTES

if TYPE_CHECKING:
    import subprocess

URL_PASS = "c4nary-url"
KEY_PASS = 'c4nary/k@y: "%41ä'
ENV_PASS = "c4nary/env%2B1"
QUERY_TOKEN = "c4nary+query"
API_TOKEN = "c4nary-api-token-0123456789abcdef"
PLUGIN_PASS = "c4nary plugin"
CANARY = re.compile(r"c4nary|c4n(?:\\u0061|%61)ry", re.IGNORECASE)

PLUGIN = '''
import threading
from typing import Literal
from pipeline.contracts.source import LiveSourceConfig
from pipeline.contracts.secret import Secret

class BuggyConfig(LiveSourceConfig):
    """A plugin that tells all it knows, in every way there is."""
    type: Literal["buggy"] = "buggy"
    password: Secret
    api_key: str = ""

    def build(self, ctx):
        ctx.warn(f"my password is {self.password.get_secret_value()}, my key {self.api_key}")
        return Buggy(self)

class Buggy:
    live = True

    def __init__(self, config):
        self._config = config

    def frames(self, stop):
        threading.Thread(target=self._fail, name="buggy").start()
        self._fail()
        yield

    def details(self):
        return {"password": self._config.password.get_secret_value()}

    def _fail(self):
        secret = self._config.password.get_secret_value()
        try:
            open(f"/nowhere/{secret}")
        except OSError as error:
            raise ZeroDivisionError(f"rtsp://u:{secret}@host {self._config.api_key!r}") from error
'''


def pipeline(port: int, log_format: str) -> str:
    """Six cameras, none of which works, and each has a secret in another place."""
    url_pass, key_pass = quote(URL_PASS, safe=""), json.dumps(KEY_PASS, ensure_ascii=False)
    return f"""
        [sources.in_url]
        type = "rtsp"
        url = "rtsp://me:{url_pass}@127.0.0.1:{port}/shut"

        [sources.in_key]
        type = "rtsp"
        url = "rtsp://127.0.0.1:{port}/shut"
        user = "me"
        password = {key_pass}

        [sources.in_environment]
        type = "rtsp"
        url = "rtsp://me:${{CAM_PASSWORD}}@127.0.0.1:{port}/nothing"

        [sources.in_query]
        type = "stream"
        url = "http://127.0.0.1:{port}/video?token={quote(QUERY_TOKEN, safe="")}"

        [sources.refused]
        type = "rtsp"
        url = "rtsp://me:{url_pass}@127.0.0.1:9/x"

        [sources.buggy]
        type = "buggy"
        password = "{PLUGIN_PASS}"
        api_key = "{PLUGIN_PASS}-key"

        [backends.local]
        type = "onnx"
        model = "model.onnx"

        [sinks.lines]
        type = "jsonl"
        path = "out/{{source}}.jsonl"
        notices = ["sources"]

        [server]
        listen = "127.0.0.1:0"

        [server.tokens.all]
        token = "${{API_TOKEN}}"
        scopes = ["read", "metrics", "control"]

        [log]
        level = "debug"
        format = "{log_format}"
    """


SOURCES = ("in_url", "in_key", "in_environment", "in_query", "refused", "buggy")


@pytest.fixture
def environment(workplace: Workplace) -> dict[str, str]:
    """The planted variables, and an installed plugin with a bug."""
    plugins = workplace.folder / "plugins"
    metadata = plugins / "buggy-1.dist-info"
    metadata.mkdir(parents=True)
    (plugins / "buggy_plugin.py").write_text(PLUGIN)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: buggy\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[penstock.sources]\nbuggy = buggy_plugin:BuggyConfig\n")
    path = os.pathsep.join(filter(None, (str(plugins), os.environ.get("PYTHONPATH"))))
    return {"CAM_PASSWORD": quote(ENV_PASS, safe=""), "API_TOKEN": API_TOKEN, "PYTHONPATH": path}


@pytest.fixture
def shut_camera(workplace: Workplace) -> Iterator[RtspServer]:
    """A camera whose password is another one."""
    with RtspServer() as server:
        server.add("/shut", clip(workplace.folder / "camera.mp4", [90] * 25), user="me", password="other")
        yield server


def ask(url: str, method: str = "GET", token: str = API_TOKEN) -> str:
    """Status, headers and body of an answer, whatever it is."""
    request = urllib.request.Request(url, method=method, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return f"{answer.status} {answer.headers} {answer.read().decode()}"
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code} {error.headers} {error.read().decode()}"


class Stderr:
    """Collects a process's stderr, and waits for what shall come."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.lines: list[str] = []
        self._process = process
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()

    def wait_for(self, *patterns: str) -> None:
        def there() -> bool:
            return all(any(re.search(pattern, line) for line in self.lines) for pattern in patterns)

        with self._changed:
            assert self._changed.wait_for(there, 30), "".join(self.lines)

    def end(self) -> str:
        self._thread.join(20)
        return "".join(self.lines)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_secret_turns_up_anywhere_while_every_camera_fails(
    workplace: Workplace, environment: dict[str, str], shut_camera: RtspServer, log_format: str
) -> None:
    workplace.write(pipeline(shut_camera.port, log_format))
    process = workplace.start("run", **environment)
    stderr = Stderr(process)
    stderr.wait_for("listening on", *(rf"source {name}: (still )?down: " for name in SOURCES))
    stderr.wait_for("buggy: ZeroDivisionError", "in_url.*AUTH_FAILED", "in_key.*AUTH_FAILED")
    url = next(found[1] for line in stderr.lines if (found := re.search(r"listening on (http://[^\s\"]+)", line)))
    url = url.rstrip("/")
    answers = []
    for route in ROUTES:
        if route.method in {"GET", "POST"}:
            names = SOURCES if "{" in route.path else ("",)
            answers += [ask(url + re.sub(r"\{.*\}", name, route.path), route.method) for name in names]
    answers += [ask(f"{url}/api/v1/status", token="wrong"), ask(f"{url}/api/v1/sources/no")]
    assert sum("AUTH_FAILED" in answer for answer in answers) >= 2, "the failures themselves are told"
    workplace.write(pipeline(shut_camera.port, log_format).replace("user =", "usr ="))
    answers.append(ask(f"{url}/api/v1/reload", "POST"))
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert process.stdout is not None
    out, err = process.stdout.read(), stderr.end()
    assert "***" in err, "the plugin did tell its password"
    written = [path for folder in ("out", "data") for path in (workplace.folder / folder).rglob("*") if path.is_file()]
    if log_format == "json":
        assert all(isinstance(json.loads(line), dict) for line in err.splitlines() if line.startswith("{"))
    for text in (out, err, *answers, *(path.read_text() for path in written)):
        found = CANARY.search(text)
        assert found is None, text[max(0, found.start() - 200) : found.end() + 100]


@pytest.mark.parametrize("command", ["check", "run", "doctor"])
def test_no_secret_turns_up_when_the_config_is_wrong(
    workplace: Workplace, environment: dict[str, str], command: str
) -> None:
    workplace.write(
        """
        [sources.space]
        type = "rtsp"
        url = "rtsp://me:c4nary one@host/x"

        [sources.slash]
        type = "rtsp"
        url = "rtsp://me:c4nary/two@host/x"

        [sources.scheme]
        type = "rtsp"
        url = "ftp://me:c4nary-three@host/x"

        [sources.kind]
        type = "rtsp"
        url = ["rtsp://me:c4nary-four@host/x"]
        password = 5

        [sources.twice]
        type = "rtsp"
        url = "rtsp://me:c4nary-five@host/x"
        password = "c4nary-six"
        transport = "rtsp://me:c4nary-seven@host/x"
        max_fps = "${CAM_PASSWORD}"

        [sources.path]
        type = "file"
        path = "rtsp://me:c4nary eight@host/x"

        [backends.local]
        type = "onnx"
        model = "http://me:c4nary/nine@host/x.onnx"

        [sinks.lines]
        type = "jsonl"
        path = "http://me:c4nary/eleven@host/{source}.jsonl"

        [server]
        listen = "http://me:c4nary-ten@host/"

        [server.tokens.all]
        token = "c4nary"
        scopes = ["read", "${API_TOKEN}"]
        """
    )
    code, out, err = workplace.penstock(command, "pipeline.toml", **environment)
    assert code == (1 if command == "doctor" else 78)
    assert len([line for line in (out + err).splitlines() if "pipeline.toml:" in line]) >= 10, out + err
    assert "Traceback" not in err
    assert CANARY.search(out + err) is None, out + err


def test_a_mistake_in_a_reveal_would_be_found(workplace: Workplace, environment: dict[str, str]) -> None:
    """The canary's own test: its pattern finds what it is for."""
    for secret in (URL_PASS, KEY_PASS, ENV_PASS, QUERY_TOKEN, API_TOKEN, PLUGIN_PASS):
        for form in (secret, quote(secret, safe=""), json.dumps(secret), repr(secret), secret.upper()):
            assert CANARY.search(f"x{form}x")
    assert (Path(environment["PYTHONPATH"].split(os.pathsep)[0]) / "buggy_plugin.py").is_file()
