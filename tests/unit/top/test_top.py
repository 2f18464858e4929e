"""`penstock top`: what it makes of a daemon's numbers, and how it meets one that is not there."""

import math
import socket
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.contracts.errors import ConfigError
from pipeline.top.client import Daemon, Snapshot, daemon_at, url_of
from pipeline.top.page import Between, page, show

AGE = "penstock_frame_age_seconds"
BUCKETS = (0.01, 0.1, 1.0, math.inf)


def snapshot(at: float, counts: tuple[float, ...] = (0, 0, 0, 0), decoded: float = 0, **source: Any) -> Snapshot:
    """One source "gate" with a histogram of its age, cumulative as Prometheus has it."""
    labels = {("source", "gate"), ("stage", "inferred")}
    buckets = [
        (frozenset({*labels, ("le", "+Inf" if math.isinf(edge) else str(edge))}), count)
        for edge, count in zip(BUCKETS, counts, strict=True)
    ]
    samples: dict[str, Any] = {
        f"{AGE}_bucket": buckets,
        f"{AGE}_count": [(frozenset(labels), counts[-1])],
        "penstock_frames_decoded_total": [(frozenset({("source", "gate")}), decoded)],
    }
    status = {
        "version": "1.0",
        "config_hash": "abc",
        "uptime_s": 100_000.0,
        "sources": [{"name": "gate", "state": "running", "content": "ok", "queued": 1, "queue_capacity": 4, **source}],
        "backends": [{"name": "local", "model": "m", "ready": True, "error": None}],
        "sinks": [
            {"name": "lines", "state": "failed", "error": "disk \x1b[2J full", "outcomes": {"failed": 3}},
            {
                "name": "hook",
                "state": "degraded",
                "error": None,
                "trouble": "no connection",
                "pending": 1200,
                "outcomes": {"dead_lettered": 7, "kept": 0},
                "spool": {"oldest_age_s": 3725.2},
            },
        ],
    }
    return Snapshot(at, samples, status)


def test_a_rate_is_what_was_gained_in_a_second() -> None:
    span = Between(snapshot(10, decoded=100), snapshot(12, decoded=150))
    assert span.rate("penstock_frames_decoded_total", source="gate") == "25.0"
    assert span.rate("penstock_frames_decoded_total", source="door") == "0.0"


def test_a_daemon_that_was_restarted_begins_from_zero() -> None:
    span = Between(snapshot(10, decoded=1000), snapshot(12, decoded=50))
    assert span.rate("penstock_frames_decoded_total", source="gate") == "25.0"


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ((100, 100, 100, 100), 0.5, "5 ms"),
        ((0, 100, 100, 100), 0.5, "55 ms"),
        ((50, 50, 100, 100), 0.5, "10 ms"),
        ((0, 0, 100, 100), 0.99, "991 ms"),
        ((0, 0, 0, 100), 0.5, "> 1.0 s"),
        ((0, 0, 0, 0), 0.5, ""),
    ],
)
def test_a_quantile_is_read_from_what_the_buckets_gained(
    counts: tuple[float, ...], share: float, expected: str
) -> None:
    before = (7.0, 8.0, 9.0, 10.0)
    after = tuple(had + more for had, more in zip(before, counts, strict=True))
    span = Between(snapshot(1, before), snapshot(2, after))
    assert span.quantile(share, AGE, source="gate", stage="inferred") == expected


def shown(now: Snapshot) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(page(Daemon("http://x"), Between(snapshot(1), now)))
        return console.export_text()


def test_the_page_has_a_line_for_each_and_says_what_was_lost() -> None:
    outcomes = {"inferred": 5, "dropped_stale": 1234, "dropped_queue_full": 0, "failed_decode": 2}
    text = shown(snapshot(2, decoded=30, state="reconnecting", code="TIMEOUT", content="frozen", outcomes=outcomes))
    assert "penstock 1.0  config abc  up 1d 03:46:40  0 of 1 sources running" in text
    (gate,) = [line for line in text.split("\n") if line.startswith("gate")]
    assert gate.split() == [
        *("gate", "reconnecting", "TIMEOUT", "frozen", "30.0", "0.0", "1/4"),
        *("stale", "1,234,", "failed", "decode", "2"),
    ]
    assert any(line.startswith("local") and "ready" in line for line in text.split("\n"))


def test_of_a_sink_one_sees_what_waits_for_how_long_and_why() -> None:
    (hook,) = [line for line in shown(snapshot(2)).split("\n") if line.startswith("hook")]
    assert hook.split() == [
        "hook",
        "degraded",
        "0.0",
        "0.0",
        "1200",
        "1:02:05",
        "dead",
        "lettered",
        "7",
        "no",
        "connection",
    ]


def test_what_a_daemon_says_does_not_steer_the_terminal() -> None:
    text = shown(snapshot(2, state="\x1b]0;owned\x07[bold]"))
    assert "\x1b" not in text
    assert "?]0;owned?[bold]" in text
    assert "disk ?[2J full" in text


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("", "http://127.0.0.1:9464"),
        ('listen = "127.0.0.1:80"', "http://127.0.0.1:80"),
        ('listen = "0.0.0.0:80"\ntls_cert = "a"', "https://127.0.0.1:80"),
        ('listen = "[::]:80"', "http://[::1]:80"),
        ('listen = "off"', "this daemon cannot be asked"),
        ('listen = "${HOST}:80x"', "does not tell where"),
    ],
)
def test_a_file_tells_where_its_daemon_listens(tmp_path: Path, server: str, expected: str) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_text(f'[server]\n{server}\n[sources.a]\nurl = "${{NOT_SET_HERE}}"\n')
    try:
        assert url_of(str(path)) == expected
    except ConfigError as error:
        assert expected in str(error)  # noqa: PT017


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://x", "http://", "http://user:secret@box"])
def test_only_the_url_of_a_daemon_is_taken(where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        url_of(where)
    assert "secret" not in str(caught.value)


def test_a_daemon_that_is_not_there_is_one_line_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:  # bound and not listening: refused
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        assert show(Daemon(url), interval_s=0.1, once=True) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"penstock: {url}: Connection refused\n")


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_API_TOKEN", "from-environment")
    assert daemon_at("http://x").token == "from-environment"  # noqa: S105
    (tmp_path / "token").write_text("from-file\n")
    assert daemon_at("http://x", tmp_path / "token").token == "from-file"  # noqa: S105
    with pytest.raises(ConfigError, match="No such file"):
        daemon_at("http://x", tmp_path / "none")
    with pytest.raises(ConfigError, match="no certificate in PEM"):
        daemon_at("https://x", ca_file=tmp_path / "token")
