"""`penstock run` under a service manager: a real datagram socket tells what systemd would be told, and when."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon import Daemon
from service_manager import ServiceManager

PIPELINE = """
    [sources.gate]
    type = "synthetic"
    width = 64
    height = 48
    fps = 20

    [sources.yard]
    type = "stream"
    url = "http://127.0.0.1:9/nobody-is-there"

    [backends.rig]
    type = "rig"
    open_s = 1.5
    hang_file = "hang"

    [sinks.lines]
    type = "jsonl"
    path = "out/{source}.jsonl"
    mode = "append"
"""
WATCHDOG_S = 2.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path) as made:
        yield made


def _service(folder: Path, manager: ServiceManager, text: str = PIPELINE) -> Daemon:
    return Daemon(folder, text, environment=manager.environment(WATCHDOG_S))


def test_ready_is_said_when_the_backend_is_warm_and_stopping_at_the_end(
    tmp_path: Path, manager: ServiceManager
) -> None:
    with _service(tmp_path, manager) as daemon:
        ready = manager.wait_for("READY")
        assert [message for message in manager.messages[:-1] if "STOPPING" in message.fields] == []
        assert daemon.request("/readyz")[0] == 200
        assert any("EXTEND_TIMEOUT_USEC" in message.fields for message in manager.messages)  # while it was loading
        assert ready.at - manager.messages[0].at > 1.0
        manager.wait_for("STATUS", "1 of 2 sources up")  # one camera is down: no reason not to be ready
        daemon.stop()
        manager.wait_for("STOPPING")
    assert sum("READY" in message.fields for message in manager.messages) == 1


def test_a_reload_is_told_from_its_begin_to_its_end_however_it_goes(tmp_path: Path, manager: ServiceManager) -> None:
    with _service(tmp_path, manager) as daemon:
        manager.wait_for("READY")
        daemon.write(PIPELINE.replace("fps = 20", "fps = 10"))
        daemon.signal(signal.SIGHUP)
        reloading = manager.wait_for("RELOADING")
        assert int(reloading.fields["MONOTONIC_USEC"]) / 1e6 == pytest.approx(reloading.at, abs=2.0)
        manager.wait_for("READY")
        assert daemon.reloads() == (1, 0)
        daemon.write(PIPELINE.replace("fps = 20", "fsp = 10"))
        daemon.signal(signal.SIGHUP)
        manager.wait_for("RELOADING")
        manager.wait_for("READY")
        assert daemon.reloads() == (1, 1)
        daemon.wait_frames("gate")
        daemon.stop()


def test_the_watchdog_bites_when_an_inference_hangs_and_the_status_names_it(
    tmp_path: Path, manager: ServiceManager
) -> None:
    with _service(tmp_path, manager) as daemon:
        manager.wait_for("READY")
        daemon.wait_frames("gate", 10)
        manager.drain()
        for _ in range(3):
            manager.wait_for("WATCHDOG", timeout_s=WATCHDOG_S)  # one camera is down: no reason to bite
        (tmp_path / "hang").touch()
        manager.wait_for("STATUS", "STUCK: backend rig", WATCHDOG_S * 3)
        manager.wait_for("WATCHDOG", "trigger", WATCHDOG_S * 3)  # the loop is well, and goes on with everything else
        assert daemon.scrape().of("penstock_stuck_seconds", kind="backend", name="rig") > 1.0
        os.kill(daemon.pid(), signal.SIGABRT)  # as systemd does


def test_a_paused_pipeline_and_one_without_frames_do_not_starve_the_watchdog(
    tmp_path: Path, manager: ServiceManager
) -> None:
    with _service(tmp_path, manager) as daemon:
        manager.wait_for("READY")
        assert daemon.request("/api/v1/sources/gate/pause", "POST")[0] == 200
        daemon.wait_state("gate", "paused")
        manager.drain()
        for _ in range(4):
            manager.wait_for("WATCHDOG", timeout_s=WATCHDOG_S)
        daemon.stop()
