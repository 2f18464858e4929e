"""Orders to a real `penstock run`: pause, put, delete, reload, and what a restart remembers."""

import json
import signal
import socket
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from workplace import Workplace

WITHIN_S = 20.0
TOKEN = "integration-0123456789"  # noqa: S105
CAMERA = {"type": "file", "path": "clip.mp4", "pace": "realtime", "loop": True}


@dataclass
class Daemon:
    """A `penstock run` in a folder, and its API."""

    workplace: Workplace
    port: int
    headers: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    def start(self, **environment: str) -> None:
        self.process = self.workplace.start("run", **environment)
        self.until("it is ready", lambda: self.ask("GET", "/readyz")[0] == 200)

    def stop(self) -> str:
        """SIGTERM; what it said. The ledger balanced and nothing was lost, or this fails."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, err
        assert "every frame and every result is accounted for" in err
        return err

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON; (0, None) while nobody answers."""
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", content, method=method)
        for name, value in {**self.headers, **headers}.items():
            request.add_header(name.replace("_", "-"), value)
        if content is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                text = answer.read().decode()
                return answer.status, json.loads(text) if text.startswith("{") else text
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())
        except OSError:
            return 0, None

    def source(self, name: str) -> Mapping[str, Any]:
        status, source = self.ask("GET", f"/api/v1/sources/{name}")
        assert status == 200, source
        found: Mapping[str, Any] = source
        return found

    def names(self) -> list[str]:
        return [source["name"] for source in self.ask("GET", "/api/v1/sources")[1]["sources"]]

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Ask until it is so: there is nobody to wait for on the other side of HTTP."""
        deadline = time.monotonic() + WITHIN_S
        while not holds():
            assert self.process is None or self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline, f"not within {WITHIN_S:g} s: {what}"
            time.sleep(0.05)

    def check_ledger(self) -> None:
        """decoded = what became of it + in flight, at one scrape."""
        samples: dict[tuple[str, str], float] = {}
        for family in text_string_to_metric_families(self.ask("GET", "/metrics")[1]):
            for sample in family.samples:
                key = (sample.name, sample.labels.get("source", ""))
                samples[key] = samples.get(key, 0) + sample.value
        decoded = {
            source: value for (name, source), value in samples.items() if name == "penstock_frames_decoded_total"
        }
        assert decoded
        for source, value in decoded.items():
            settled = samples["penstock_frames_total", source] + samples["penstock_frames_in_flight", source]
            assert value == settled


@pytest.fixture
def daemon(workplace: Workplace) -> Daemon:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    workplace.write(f"""
        [sources.cam]
        type = "file"
        path = "clip.mp4"
        pace = "realtime"
        loop = true

        [backends.local]
        type = "onnx"
        model = "model.onnx"

        [sinks.lines]
        type = "jsonl"
        path = "out/{{source}}.jsonl"

        [server]
        listen = "127.0.0.1:{port}"
        sources_by_api = true
    """)
    return Daemon(workplace, port)


def test_a_source_is_paused_and_goes_on(daemon: Daemon) -> None:
    daemon.start()
    daemon.until("frames come", lambda: daemon.source("cam")["decoded"] > 5)
    assert daemon.ask("POST", "/api/v1/sources/cam/pause") == (200, {"source": "cam", "order": "pause"})
    daemon.until("it is paused", lambda: daemon.source("cam")["state"] == "paused")
    held = daemon.source("cam")["decoded"]
    assert daemon.ask("POST", "/api/v1/sources/nobody/pause")[0] == 404
    assert daemon.ask("GET", "/readyz")[0] == 200
    assert daemon.source("cam")["decoded"] == held
    daemon.check_ledger()
    assert daemon.ask("POST", "/api/v1/sources/cam/resume")[0] == 200
    daemon.until("it goes on", lambda: daemon.source("cam")["decoded"] > held)
    assert daemon.source("cam")["state"] == "running"
    daemon.check_ledger()
    err = daemon.stop()
    assert "local: pause source cam: done" in err
    assert "local: resume source cam: done" in err


def test_what_was_put_and_removed_is_in_force_at_once_and_after_a_restart(daemon: Daemon) -> None:
    daemon.start()
    first = daemon.ask("GET", "/api/v1/status")[1]["config_hash"]
    status, answer = daemon.ask("PUT", "/api/v1/sources/yard", {**CAMERA, "max_fps": 5}, If_Match=f'"{first}"')
    assert (status, answer["problems"]) == (201, [])
    assert answer["config_hash"] != first
    daemon.until("the new one runs", lambda: daemon.source("yard")["decoded"] > 0)
    assert daemon.ask("PUT", "/api/v1/sources/yard", CAMERA, If_Match=f'"{first}"')[0] == 412
    kept = daemon.workplace.folder / "data" / "sources.toml"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600

    status, answer = daemon.ask("PUT", "/api/v1/sources/yard", {**CAMERA, "max_fpz": 5})
    assert status == 422
    assert [problem for problem in answer["problems"] if "max_fpz: unknown key; did you mean max_fps?" in problem]
    assert daemon.ask("PUT", "/api/v1/sources/yard", {"type": "file"})[0] == 422
    assert "max_fpz" not in kept.read_text()

    assert daemon.ask("DELETE", "/api/v1/sources/cam")[0] == 200
    daemon.until("it is gone", lambda: daemon.names() == ["yard"])
    assert daemon.ask("DELETE", "/api/v1/sources/cam")[0] == 404
    assert daemon.ask("DELETE", "/api/v1/sources/yard")[0] == 409  # the last one
    daemon.check_ledger()
    daemon.stop()

    code, out, err = daemon.workplace.penstock("check")
    assert (code, err) == (0, "")
    assert out == "pipeline.toml: ok: 1 source, 1 backend, 1 sink; data/sources.toml: put yard; removed cam\n"
    daemon.start()
    assert daemon.names() == ["yard"]
    assert daemon.ask("PUT", "/api/v1/sources/cam", CAMERA)[0] == 201
    daemon.until("it is back", lambda: sorted(daemon.names()) == ["cam", "yard"])
    daemon.stop()


def test_a_reload_that_fails_changes_nothing_and_says_why(daemon: Daemon) -> None:
    daemon.start()
    before = daemon.ask("GET", "/api/v1/status")[1]["config_hash"]
    path = daemon.workplace.folder / "pipeline.toml"
    good = path.read_text()
    path.write_text(good.replace('pace = "realtime"', 'pacee = "realtime"'))
    status, answer = daemon.ask("POST", "/api/v1/reload")
    assert status == 409
    assert answer["config_hash"] == before
    assert ["pacee: unknown key" in problem for problem in answer["problems"]] == [True]
    daemon.until("it runs as before", lambda: daemon.source("cam")["decoded"] > 0)
    path.write_text(good.replace("loop = true", "loop = true\nmax_fps = 5"))
    status, answer = daemon.ask("POST", "/api/v1/reload")
    assert (status, len(answer["changes"])) == (200, 1)
    assert answer["config_hash"] != before
    assert daemon.ask("GET", "/api/v1/status")[1]["config_hash"] == answer["config_hash"]
    daemon.stop()


def test_with_tokens_nobody_gets_anything_without_one(daemon: Daemon) -> None:
    path = daemon.workplace.folder / "pipeline.toml"
    text = (
        path.read_text()
        .replace("127.0.0.1:", "0.0.0.0:")
        .replace("sources_by_api", f'hosts = ["box.lan"]\n{"sources_by_api"}')
    )
    table = '[server.tokens.ops]\ntoken = "${OPS_TOKEN}"\nscopes = ["metrics", "read", "control"]\n'
    path.write_text(text)
    assert "which needs a token" in daemon.workplace.penstock("check")[2]
    path.write_text(text + table)
    daemon.start(OPS_TOKEN=TOKEN)
    assert daemon.ask("GET", "/livez") == (200, {"status": "ok"})
    for method, route in (("GET", "/metrics"), ("GET", "/api/v1/status"), ("POST", "/api/v1/reload"), ("GET", "/")):
        assert daemon.ask(method, route)[0] == 401
        assert daemon.ask(method, route, Authorization=f"Bearer {TOKEN}x")[0] == 401
        assert daemon.ask(method, route, Authorization=f"Bearer {TOKEN}", Host="box.lan")[0] == 200
        assert daemon.ask(method, route, Authorization=f"Bearer {TOKEN}", Host="evil.lan")[0] == 421
    url = f"http://127.0.0.1:{daemon.port}"
    code, _, err = daemon.workplace.penstock("top", url, "--once", "--interval", "0.2")
    assert (code, err) == (1, f"penstock: {url}/metrics: 401 a token is needed: send `Authorization: Bearer TOKEN`\n")
    err = daemon.stop()
    assert "tls_cert" in err
    assert "/api/v1/reload: denied" in err
    assert TOKEN not in err


def test_top_shows_what_runs(daemon: Daemon) -> None:
    daemon.start()
    daemon.until("frames come", lambda: daemon.source("cam")["decoded"] > 5)
    code, out, err = daemon.workplace.penstock("top", "--once", "--interval", "1")  # from its pipeline.toml
    assert (code, err) == (0, "")
    (cam,) = [line.split() for line in out.split("\n") if line.startswith("cam")]
    assert cam[1:3] == ["running", "ok"]
    assert 10 < float(cam[3]) < 40
    assert any(line.startswith("local") and "ready" in line for line in out.split("\n"))
    assert any(line.startswith("lines") and "ready" in line for line in out.split("\n"))
    daemon.stop()
