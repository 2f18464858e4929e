"""The shipped dashboard and alerts, in a real Prometheus that scrapes a real `penstock run`."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon import Daemon
from media import camera_clip
from monitoring import Prometheus, tool
from observed import until
from rtsp_server import RtspServer

from pipeline.config.loader import load
from pipeline.generate import generate
from pipeline.registry import Registry

NEEDS_PROMETHEUS = pytest.mark.skipif(
    tool("prometheus") is None or tool("promtool") is None, reason="needs prometheus and promtool (just setup-rigs)"
)

SITE = """
    [sources.gate]
    type = "rtsp"
    url = "{url}"
    backend = "model"
    decode = "cuda:99"

    [sources.yard]
    type = "rtsp"
    url = "rtsp://127.0.0.1:9/nobody-is-there"
    backend = "model"
    reconnect = {{ min_s = 0.2, max_s = 0.5 }}

    [sources.far]
    type = "synthetic"
    fps = 5
    width = 64
    height = 48
    backend = "itself"

    [backends.model]
    type = "onnx"
    model = "model.onnx"
    device = "cpu"
    confidence = 0.01
    aliases = ["bright/1"]

    [backends.itself]
    type = "roboflow"
    url = "http://127.0.0.1:{port}"
    model_id = "bright/1"
    api_key = "any"

    [sinks.lines]
    type = "jsonl"
    path = "out/{{source}}.jsonl"
    mode = "append"

    [sinks.hook]
    type = "webhook"
    url = "http://127.0.0.1:9/nobody-is-there"
    sources = ["far"]
"""
AWAY = {"PenstockSinkDegraded", "PenstockSinkStalled", "PenstockDeviceFallback"}
"""What fires for the hook, and for a camera that wants a GPU which is nowhere."""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A camera that gives frames, one that is down, and one whose model is elsewhere: a client of this very daemon."""
    clip = camera_clip(tmp_path / "clip.mp4")
    with RtspServer() as server:
        made = Daemon(tmp_path, "")
        made.write(SITE.format(url=server.add("/gate", clip), port=made.port))
        with made:
            made.ready().wait_frames("gate")
            made.wait_frames("far")
            yield made
            made.stop()


def _monitored(root: Path, folder: Path, port: int) -> Prometheus:
    """The shipped scrape config and alerts, at a hundredfold pace: seconds instead of minutes."""
    deploy = root / "deploy/prometheus"
    alerts = (deploy / "alerts.yml").read_text()
    alerts = re.sub(r"for: \d+[ms]", "for: 1s", alerts)
    (folder / "alerts.yml").write_text(re.sub(r"\[(?:2|5)m\]", "[5s]", alerts))
    config = (deploy / "prometheus.yml").read_text().replace("127.0.0.1:9464", f"127.0.0.1:{port}")
    assert str(port) in config
    return Prometheus(folder, config.replace("15s", "1s"))


def _queries(root: Path) -> dict[str, str]:
    """Every query of every panel, with the variables as `All` would have them."""
    found = {}
    for panel in json.loads((root / "deploy/grafana/dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "5s")
            for variable in ("job", "instance", "source"):
                expression = expression.replace(f'"${variable}"', '".*"')
            assert "$" not in expression
            found[f"{panel['title']} {target['refId']}"] = expression
    return found


@NEEDS_PROMETHEUS
def test_every_panel_of_the_dashboard_shows_something(root: Path, tmp_path: Path, daemon: Daemon) -> None:
    queries = _queries(root)
    assert len(queries) > 30
    with _monitored(root, tmp_path, daemon.port) as prometheus:
        empty = dict(queries)

        def all_answered() -> bool:
            for title, expression in list(empty.items()):
                if prometheus.query(expression):
                    del empty[title]
            return not empty

        try:
            until("every panel has data", all_answered, 20, every_s=0.5)
        except AssertionError as error:
            raise AssertionError(f"no data: {empty}") from error
        assert {row["metric"]["source"] for row in prometheus.query("penstock_source_up")} == {"gate", "yard", "far"}
        for variable in json.loads((root / "deploy/grafana/dashboard.json").read_text())["templating"]["list"][1:]:
            (metric, label) = re.fullmatch(r"label_values\((\w+).*, (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            assert all(row["metric"][label] for row in prometheus.query(metric)), variable["name"]
        assert prometheus.query("sum(penstock_frames_total{outcome='inferred'}) > 0")


@NEEDS_PROMETHEUS
def test_the_right_alerts_fire_for_a_camera_that_is_down_and_for_a_daemon_that_hangs(
    root: Path, tmp_path: Path, daemon: Daemon
) -> None:
    with _monitored(root, tmp_path, daemon.port) as prometheus:
        down = ("PenstockCameraDown", "yard")
        until("the camera is reported", lambda: down in prometheus.firing(), 15)
        assert {name for name, source in prometheus.firing() if source != "yard"} <= AWAY
        daemon.signal(signal.SIGSTOP)
        try:
            until("the daemon is reported", lambda: ("PenstockDown", "") in prometheus.firing(), 20)
            # What many a rule file relies on says nothing now: the series are stale.
            until("the series are gone", lambda: not prometheus.query("penstock_frames_decoded_total"), 10)
            assert prometheus.query("sum(rate(penstock_frames_decoded_total[5s])) == 0") == []
        finally:
            daemon.signal(signal.SIGCONT)
        until("the daemon is well again", lambda: ("PenstockDown", "") not in prometheus.firing(), 15)


@NEEDS_PROMETHEUS
def test_promtool_accepts_the_metrics_the_rules_and_their_tests(root: Path, daemon: Daemon, tmp_path: Path) -> None:
    promtool = tool("promtool")
    assert promtool is not None
    folder = root / "deploy/prometheus"
    fitted = tmp_path / "alerts.yml"
    site = load(daemon.folder / "pipeline.toml", registry=Registry.load())
    fitted.write_text(generate("alerts", site))
    metrics = daemon.request("/metrics")[1]
    for command, given in (
        (["check", "config", "prometheus.yml"], ""),
        (["check", "rules", "alerts.yml"], ""),
        (["check", "rules", str(fitted)], ""),
        (["test", "rules", "alerts_test.yml"], ""),
        (["check", "metrics"], metrics),
    ):
        done = subprocess.run(
            [promtool, *command], cwd=folder, input=given, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr.strip()) == (0, ""), f"{command}: {done.stdout}{done.stderr}"


def test_every_alert_has_a_test_and_names_only_series_that_exist(root: Path, daemon: Daemon) -> None:
    alerts = (root / "deploy/prometheus/alerts.yml").read_text()
    tested = (root / "deploy/prometheus/alerts_test.yml").read_text()
    names = re.findall(r"- alert: (\w+)", alerts)
    assert len(names) == len(set(names)) > 15
    assert [name for name in names if name not in tested] == []
    there = set(re.findall(r"(?m)^((?:penstock|process)_\w+?)(?:_bucket)?[{ ]", daemon.request("/metrics")[1]))
    until("the camera's clock is known", lambda: "clock_offset" in daemon.request("/metrics")[1], 10)
    until("a result waits", lambda: "spool_oldest" in daemon.request("/metrics")[1], 10)
    there |= {"penstock_source_clock_offset_seconds", "penstock_sink_spool_oldest_timestamp_seconds"}
    used = set(
        re.findall(r"\b(?:penstock|process)_\w+", "\n".join(re.findall(r"(?s)expr: (.*?)\n\s+(?:for|labels):", alerts)))
    )
    assert used - there == set()
