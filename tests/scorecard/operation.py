"""Rows 28 to 31, 33 and 36: reloads, stops, clocks, a starved processor and the alarm. Each drives the real program."""

import itertools
import json
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median
from typing import Any

from daemon import JSONL, ONNX, Daemon, free_port
from media import camera_clip
from observed import Tail, until
from rtsp_server import RtspServer
from service_manager import Message, ServiceManager

from tests.scorecard.sources import camera, hold
from tests.scorecard.table import Figures, NotRunError

PROJECT = Path(__file__).parents[2]
LIBFAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"
RIGS = Path.home() / ".cache/penstock-rigs"


def synthetic(name: str, fps: float = 30, more: str = "") -> str:
    """The table of a camera that does not exist."""
    return f'\n[sources.{name}]\ntype = "synthetic"\nwidth = 64\nheight = 48\nfps = {fps:g}\n{more}\n'


def tool(name: str) -> str:
    """Where a program is.

    Raises:
        NotRunError: nowhere.
    """
    found = shutil.which(name) or shutil.which(name, path=str(RIGS / "prometheus/usr/bin"))
    if found is None:
        raise NotRunError(f"needs {name} (just setup-rigs, just setup-scorecard)")
    return found


def results(daemon: Daemon, source: str) -> list[dict[str, Any]]:
    """A source's results, without the events between them."""
    return [line for line in daemon.lines(f"out/{source}.jsonl") if "frame_id" in line]


ROOMY = 'queue = { max_frames = 60, when_full = "drop_oldest" }'


def row_28(folder: Path) -> Figures:
    """20 reloads (SIGHUP) of one of eight cameras under load, every second one with a mistake in the file."""
    fixed = "".join(synthetic(f"cam{number}", more=ROOMY) for number in range(1, 8)) + ONNX + JSONL
    took = []
    with ServiceManager(folder) as manager:
        environment = manager.environment()
        with Daemon(folder, synthetic("cam0") + fixed, environment=environment) as daemon:
            daemon.ready()
            for number in range(8):
                daemon.wait_state(f"cam{number}", "running")
            for number in range(20):
                daemon.wait_frames("cam7", 15)
                manager.drain()  # a socket that nobody reads holds ten messages
                in_force = _config_hash(daemon)
                daemon.write(synthetic("cam0", 20 + number, "fsp = 3" if number % 2 else "") + fixed)
                start = time.monotonic()
                ok = daemon.reload()
                took.append(time.monotonic() - start)
                assert ok == (number % 2 == 0), f"reload {number} went {'well' if ok else 'wrong'}"
                assert (_config_hash(daemon) == in_force) == (not ok), "not the configuration that it should be"
            daemon.wait_frames("cam7", 30)
            samples = daemon.scrape()
            daemon.stop()
        told = [name for message in _drained(manager) for name in ("RELOADING", "READY") if name in message.fields]
    assert told == ["READY", *["RELOADING", "READY"] * 20], f"the service manager was told {told}"
    frames = 0
    for number in range(1, 8):
        seen = [line["frame_id"] for line in results(daemon, f"cam{number}")]
        assert seen == list(range(len(seen))), f"cam{number}: frames are missing or came twice"
        assert len(seen) >= samples.of("penstock_frames_decoded_total", source=f"cam{number}")
        frames += len(seen)
    return {"median reload s": median(took), "frames of the other seven": frames, "of them lost": 0}


def _config_hash(daemon: Daemon) -> str:
    return str(json.loads(daemon.request("/api/v1/status")[1])["config_hash"])


def _drained(manager: ServiceManager) -> list[Message]:
    manager.drain()
    return manager.messages


def row_29(folder: Path) -> Figures:
    """SIGTERM while eight cameras give more than the backend takes."""
    backend = '\n[backends.slow]\ntype = "rig"\ndelay_s = 0.02\n'
    text = "".join(synthetic(f"cam{number}") for number in range(8)) + backend + JSONL
    with Daemon(folder, text) as daemon:
        daemon.ready()
        for number in range(8):
            daemon.wait_frames(f"cam{number}", 30)
        took_s = daemon.stop(10)
    inferred = sum(int(count.replace(",", "")) for count in re.findall(r"([\d,]+) inferred", daemon.log()))
    written = sum(len(results(daemon, f"cam{number}")) for number in range(8))
    assert "in flight" not in daemon.log().split("SIGTERM")[-1]
    assert inferred == written, f"{inferred} results, {written} lines"
    return {"gone s": took_s, "results": written, "of them lost": 0}


def row_30(folder: Path) -> Figures:
    """SIGTERM with a reader and a backend that are blocked (shutdown_timeout_s = 7)."""
    backends = ONNX + '\n[backends.hung]\ntype = "rig"\nhang_file = "hang"\n'
    with RtspServer() as server:
        url = server.add("/cam", camera_clip(folder / "cam.mkv"))
        text = "shutdown_timeout_s = 7\n" + camera("cam", url, 'backend = "model"\nstall_timeout_s = 60')
        text += synthetic("other", more='backend = "hung"') + backends + JSONL
        with Daemon(folder, text) as daemon:
            daemon.ready().wait_frames("cam", 30)
            daemon.wait_frames("other", 10)
            server.fault.silent = True
            (folder / "hang").touch()
            hold(daemon, 2)
            took_s = daemon.stop(12, code=1)
    assert took_s <= 10, f"gone after {took_s:.1f} s"
    late = [line for line in daemon.log().splitlines() if "did not end in time" in line]
    assert len(late) == 1, f"{late}"
    assert "backend-hung" in late[0], late[0]
    return {"gone s": took_s}


def row_31(folder: Path) -> Figures:
    """The wall clock goes an hour back, and then two hours ahead."""
    found = sorted(Path("/").glob(LIBFAKETIME[1:]))
    if not found:
        raise NotRunError("needs libfaketime (just setup-scorecard)")
    offset = folder / "offset"
    offset.write_text("+0")
    environment = {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
    }
    with RtspServer() as server:
        url = server.add("/cam", camera_clip(folder / "cam.mkv"))
        text = camera("cam", url) + camera("gone", "rtsp://127.0.0.1:9/none") + synthetic("syn", 25) + ONNX + JSONL
        with Daemon(folder, text, environment=environment) as daemon:
            daemon.ready().wait_frames("cam", 50)
            rates, attempts = [], []
            for shift in ("-3600", "+3600"):
                before, tried, since = daemon.decoded("syn"), _tries(daemon), time.monotonic()
                offset.write_text(shift)
                hold(daemon, 8)
                assert daemon.state("cam") == daemon.state("syn") == "running"
                rates.append((daemon.decoded("syn") - before) / (time.monotonic() - since))
                attempts.append(_tries(daemon) - tried)
            samples = daemon.scrape()
            assert samples.of("penstock_source_reconnects_total", source="cam") == 0, "the camera was left"
            oldest = samples.of("penstock_frame_age_seconds_sum", stage="inferred")
            oldest /= samples.of("penstock_frame_age_seconds_count", stage="inferred")
            daemon.stop()
    assert all(20 <= rate <= 30 for rate in rates), f"frames a second after the jumps: {rates}"
    assert all(2 <= tries <= 17 for tries in attempts), f"attempts in 8 s after the jumps: {attempts}"
    assert 0 <= oldest < 0.5, f"mean age {oldest:.2f} s"
    latencies = [line["latency_s"] for line in results(daemon, "cam") + results(daemon, "syn")]
    assert min(latencies) >= 0, "a negative latency"
    assert max(latencies) < 2, f"a latency of {max(latencies)} s"
    return {"frames/s after": min(rates), "worst latency s": max(latencies)}


def _tries(daemon: Daemon) -> float:
    return daemon.scrape().of("penstock_source_reconnects_total", source="gone")


STRESS_S = 60
WATCHDOG_S = 10.0


def row_33(folder: Path) -> Figures:
    """The processor is starved for 60 s (stress-ng with twice as many workers as cores)."""
    stress = tool("stress-ng")
    with ServiceManager(folder) as manager, RtspServer() as server:
        url = server.add("/cam", camera_clip(folder / "cam.mkv"))
        text = camera("cam", url) + "".join(synthetic(f"cam{number}", 25) for number in range(3)) + ONNX + JSONL
        with Daemon(folder, text, environment=manager.environment(WATCHDOG_S)) as daemon:
            daemon.ready().wait_frames("cam", 50)
            began_at = time.monotonic()
            command = [stress, "--cpu", "4", "--timeout", str(STRESS_S), "--quiet"]
            with subprocess.Popen(command) as load:
                while load.poll() is None:
                    manager.drain()
                    time.sleep(0.1)
            ended_at = time.monotonic()
            tail = Tail(folder / "out/cam.jsonl")
            tail.ages()
            start = time.monotonic()
            until("fresh results", lambda: [age for _, age in tail.ages() if age < 0.5], 5.0)
            fresh_s = time.monotonic() - start
            daemon.scrape()
            daemon.wait_frames("cam", 25)
            daemon.stop()
    told = [message.at for message in manager.messages if message.fields.get("WATCHDOG") == "1"]
    fed = [began_at, *(at for at in told if began_at < at < ended_at), ended_at]
    pause_s = max(after - before for before, after in itertools.pairwise(fed))
    assert pause_s < WATCHDOG_S, f"the watchdog was not fed for {pause_s:.1f} s"
    dropped = sum(int(n.replace(",", "")) for n in re.findall(r"([\d,]+) dropped queue full", daemon.log()))
    return {"longest without watchdog s": pause_s, "fresh again s": fresh_s, "dropped": dropped}


class Prometheus:
    """A real Prometheus with the shipped alert rules, in less time: scraped every half second, `for:` of 2 s."""

    def __init__(self, folder: Path, target: int) -> None:
        rules = (PROJECT / "deploy/prometheus/alerts.yml").read_text()
        (folder / "alerts.yml").write_text(re.sub(r"for: \d+[smh]", "for: 2s", rules))
        self._folder, self._port = folder, free_port()
        self.configure(f'- job_name: penstock\n    static_configs:\n      - targets: ["127.0.0.1:{target}"]')
        options = ["--config.file=prometheus.yml", "--storage.tsdb.path=tsdb", "--log.level=error"]
        # A target that is taken out of the configuration is remembered for five minutes; here for five seconds.
        options.append("--query.lookback-delta=5s")
        listen = f"--web.listen-address=127.0.0.1:{self._port}"
        self.process = subprocess.Popen([tool("prometheus"), *options, listen], cwd=folder)

    def configure(self, jobs: str) -> None:
        """Write its configuration; it reads it at its start and at SIGHUP."""
        times = "global:\n  scrape_interval: 500ms\n  scrape_timeout: 400ms\n  evaluation_interval: 500ms\n"
        text = f"{times}rule_files: [alerts.yml]\nscrape_configs:\n  {jobs}\n"
        (self._folder / "prometheus.yml").write_text(text)

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        try:
            url = f"http://127.0.0.1:{self._port}/api/v1/alerts"
            with urllib.request.urlopen(url, timeout=5) as answer:
                alerts = json.load(answer)["data"]["alerts"]
        except (urllib.error.URLError, ConnectionError):
            return set()
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def fires(self, alert: str, limit_s: float = 30) -> float:
        """Seconds until it fires."""
        start = time.monotonic()
        until(f"{alert} fires", lambda: alert in self.firing(), limit_s, every_s=0.1)
        return time.monotonic() - start

    def is_quiet(self, limit_s: float = 30) -> None:
        """Nothing fires any more that says that something is down."""
        down = {"PenstockDown", "PenstockAbsent", "PenstockCameraDown", "PenstockStuck"}
        until("no alert", lambda: not down & self.firing(), limit_s, every_s=0.1)

    def __enter__(self) -> "Prometheus":
        until("Prometheus answers", self._answers, 20)
        return self

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError):
            return False

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def row_36(folder: Path) -> Figures:
    """A real Prometheus with the shipped rules (`for: 2s`): a frozen camera, a stopped daemon, no daemon at all."""
    tool("prometheus")
    with RtspServer() as server:
        url = server.add("/cam", camera_clip(folder / "cam.mkv"))
        with Daemon(folder, camera("cam", url) + ONNX + JSONL) as daemon, Prometheus(folder, daemon.port) as prometheus:
            daemon.ready().wait_frames("cam", 30)
            prometheus.is_quiet()
            figures = {}
            server.fault.freeze = True
            figures["frozen camera s"] = prometheus.fires("PenstockCameraDown")
            server.fault.freeze = False
            prometheus.is_quiet()
            daemon.signal(signal.SIGSTOP)
            figures["stopped daemon s"] = prometheus.fires("PenstockDown")
            daemon.signal(signal.SIGCONT)
            prometheus.is_quiet()
            prometheus.configure('- job_name: other\n    static_configs:\n      - targets: ["127.0.0.1:9"]')
            prometheus.process.send_signal(signal.SIGHUP)
            figures["absent target s"] = prometheus.fires("PenstockAbsent")
            daemon.stop()
    return figures
