import json
import logging
import os
import shlex
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.contracts.secret import Redactor
from pipeline.telemetry import logs
from pipeline.telemetry.events import Events
from pipeline.telemetry.journal import Journal, is_stderr_journal
from pipeline.telemetry.limits import Limiter
from pipeline.telemetry.logs import LOGGER
from pipeline.testing import MovableClock


@pytest.fixture(autouse=True)
def _the_log_is_put_back() -> Iterator[None]:
    logger, root = logging.getLogger(LOGGER), logging.getLogger()
    before, root_before = (logger.handlers[:], logger.level, logger.propagate), root.handlers[:]
    hooks = sys.excepthook, threading.excepthook
    yield
    for handler in {*logger.handlers, *root.handlers} - {*before[0], *root_before}:
        handler.close()
    logger.handlers[:], logger.level, logger.propagate = before
    root.handlers[:] = root_before
    sys.excepthook, threading.excepthook = hooks


class Stderr:
    """What was written to stderr since the test began."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Stderr:
    return Stderr(capsys)


def a_bug(message: str) -> BaseException:
    try:
        raise ZeroDivisionError(message)  # noqa: TRY301
    except ZeroDivisionError as error:
        return error


def test_what_repeats_is_logged_once_in_ten_seconds_and_then_with_its_count(stderr: Stderr) -> None:
    clock = MovableClock()
    logs.set_up()
    events = Events(clock)
    for _ in range(1000):
        events.frame_not_decoded("cam", "packet at 1.0 s")
    assert stderr.getvalue().count("\n") == 1
    clock.advance(11)
    events.frame_not_decoded("cam", "packet at 12.0 s")
    assert "(999 more like it before)" in stderr.getvalue()
    events.frame_not_decoded("cam", "packet at 12.1 s")
    events.say_leftovers()
    assert "cam: failed_decode: 1 more time since it was last told" in stderr.getvalue()


def test_two_components_do_not_share_a_limit(stderr: Stderr) -> None:
    logs.set_up()
    events = Events(MovableClock())
    events.frame_not_decoded("cam", "x")
    events.frame_not_decoded("gate", "x")
    assert stderr.getvalue().count("\n") == 2


def test_a_camera_that_is_away_for_an_hour_is_told_once_a_minute_and_then_up(stderr: Stderr) -> None:
    clock = MovableClock()
    logs.set_up()
    events = Events(clock)
    events.source_up("cam", None)
    events.source_down("cam", "TIMEOUT", 1.0, "no answer")
    for _ in range(360):
        clock.advance(10)
        events.source_still_down("cam", "TIMEOUT", 10.0, "no answer")
    events.source_up("cam", 3600.0)
    lines = stderr.getvalue().splitlines()
    assert "source cam: down: TIMEOUT: no answer; next try in 1.0 s" in lines[1]
    assert [line for line in lines if "still down" in line] == lines[2:-1]
    assert len(lines[2:-1]) == 60
    assert "source cam: running again after 3600.0 s" in lines[-1]


def test_a_camera_that_fails_for_another_reason_is_told_at_once_and_what_was_held_back_when_it_is_up(
    stderr: Stderr,
) -> None:
    clock = MovableClock()
    logs.set_up()
    events = Events(clock)
    events.source_down("cam", "CONNECTION_FAILED", 1.0, "closed")
    for _ in range(3):
        clock.advance(5)
        events.source_still_down("cam", "AUTH_FAILED", 20.0, "wrong password")
    events.source_up("cam", 15.0)
    events.source_stopped("cam", 7)
    lines = [line.split(" ", 1)[1].strip() for line in stderr.getvalue().splitlines()]
    assert lines == [
        "WARNING source cam: down: CONNECTION_FAILED: closed; next try in 1.0 s",
        "WARNING source cam: still down: AUTH_FAILED: wrong password; next try in 20.0 s",
        "INFO    source cam: running again after 15.0 s, 2 more failed attempts",
        "INFO    source cam: stopped after 7 frames",
    ]


def test_a_camera_that_flaps_is_told_less_often_than_every_ten_seconds_and_never_left_wrong(
    stderr: Stderr,
) -> None:
    clock = MovableClock()
    logs.set_up()
    events = Events(clock)
    for _ in range(100):
        events.source_down("cam", "CORRUPT", 1.0, "garbage")
        clock.advance(0.5)
        events.source_up("cam", 0.5)
        clock.advance(0.5)
    lines = stderr.getvalue().splitlines()
    assert 2 <= len(lines) < 10
    events.source_up("cam", None)
    assert stderr.getvalue().splitlines()[len(lines) :] != [], "by order, without having been down"
    lines = stderr.getvalue().splitlines()[:-1]
    said = [" down: " in line for line in lines]
    assert said == [True, False] * (len(lines) // 2), "what is told down is told up"
    events.source_down("cam", "CORRUPT", 1.0, "garbage")
    for _ in range(8):
        clock.advance(10)
        events.source_still_down("cam", "CORRUPT", 10.0, "garbage")
    events.source_up("cam", 80.0)
    tail = stderr.getvalue().splitlines()[len(lines) + 1 :]
    assert "down" in tail[0], "a state that stays is told within a minute"
    assert "running again" in tail[-1]
    events.source_stopped("cam", 7)
    assert "source cam: down: " in stderr.getvalue()
    assert "more times" in stderr.getvalue()


def test_a_restart_by_order_is_told_up_though_it_was_never_down(stderr: Stderr) -> None:
    logs.set_up()
    events = Events(MovableClock())
    for _ in range(5):
        events.source_up("cam", None)
    assert stderr.getvalue().count("running") == 5


def test_json_lines_are_json_with_fields_and_the_traceback_inside(stderr: Stderr) -> None:
    logs.set_up(style="json")
    Events(MovableClock()).bug("sink lines", a_bug("division"))
    (line,) = [json.loads(line) for line in stderr.getvalue().splitlines()]
    assert (line["level"], line["event"], line["sink"]) == ("error", "bug", "lines")
    assert "raise ZeroDivisionError(message)" in line["traceback"]


def test_logfmt_lines_can_be_taken_apart(stderr: Stderr) -> None:
    logs.set_up(style="logfmt")
    Events(MovableClock()).source_down("gate", "TIMEOUT", 1.25, 'it said "no" = never\n\x1b[2J')
    (line,) = stderr.getvalue().splitlines()
    pairs = dict(part.split("=", 1) for part in shlex.split(line))
    assert {key: pairs[key] for key in ("level", "event", "source", "code", "delay_s")} == {
        "level": "warning",
        "event": "source_down",
        "source": "gate",
        "code": "TIMEOUT",
        "delay_s": "1.2",
    }
    assert 'it said "no" = never' in pairs["msg"]


@pytest.mark.parametrize("style", ["text", "logfmt", "json"])
def test_no_control_character_from_outside_reaches_the_log(style: logs.Style, stderr: Stderr) -> None:
    logs.set_up(style=style)
    events = Events(MovableClock())
    evil = "title\r\n12:00:00 ERROR   forged \x1b[2J\x9b31m\x7f\u2028\udcff"
    events.source_down(evil, "TIMEOUT", 1.0, evil)
    events.bug("source cam", a_bug(evil))
    assert stderr.getvalue().count("title") >= 3
    for line in stderr.getvalue().split("\n"):
        assert line.isprintable(), line
        assert not line.startswith("12:00:00 ERROR   forged")


@pytest.mark.parametrize("style", ["text", "logfmt", "json"])
def test_a_known_secret_is_masked_in_messages_fields_tracebacks_and_libraries_lines(
    style: logs.Style, stderr: Stderr
) -> None:
    redactor = Redactor()
    redactor.learn(['s3cr"t/käse'])
    logs.set_up("debug", style, redactor)
    events = Events(MovableClock())
    for form in ('s3cr"t/käse', "s3cr%22t%2Fk%C3%A4se", "s3cr%22t/k%C3%A4se"):
        events.source_down("cam", "AUTH_FAILED", 1.0, f"rtsp://u:{form}@h/x")
        events.note("source cam", f"the password is {form}")
        events.stopping(form)
        events.bug("source cam", a_bug(f"open({form!r})"))
        logging.getLogger("asyncio").error("never retrieved: %s", form, exc_info=a_bug(form))
    written = stderr.getvalue()
    assert written.count("***") >= 15
    assert "never retrieved" in written
    assert "s3cr" not in written


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_nobody_caught_is_logged_without_secrets(stderr: Stderr) -> None:
    redactor = Redactor()
    redactor.learn(["swordfish"])
    logs.set_up("info", "text", redactor)
    logs.catch_uncaught()

    def fails() -> None:
        raise ZeroDivisionError("swordfish in a thread")

    thread = threading.Thread(target=fails, name="worker")
    thread.start()
    thread.join(5)
    error = a_bug("swordfish at the top")
    sys.excepthook(type(error), error, None)
    assert "worker: ZeroDivisionError: *** in a thread" in stderr.getvalue()
    assert "penstock: ZeroDivisionError: *** at the top" in stderr.getvalue()
    assert "swordfish" not in stderr.getvalue()


def test_the_level_holds_back_what_is_below(stderr: Stderr) -> None:
    logs.set_up("warning")
    events = Events(MovableClock())
    events.source_up("cam", None)
    assert stderr.getvalue() == ""
    events.note("source cam", "no time stamps")
    assert "source cam: no time stamps" in stderr.getvalue()


def test_a_limiter_lets_the_first_through_and_tells_what_it_held() -> None:
    clock = MovableClock()
    limiter = Limiter(clock, every_s=10)
    assert [limiter.let_through("a") for _ in range(4)] == [0, None, None, None]
    clock.advance(10)
    assert limiter.let_through("a") == 3
    assert limiter.leftovers() == {}


def fields_of(datagram: bytes) -> dict[str, str]:
    """What the journal would make of it: `NAME=value` lines, and values with their length in front."""
    fields, at = {}, 0
    while at < len(datagram):
        end = datagram.index(b"\n", at)
        name, equals, value = datagram[at:end].partition(b"=")
        at = end + 1
        if not equals:
            (size,) = struct.unpack_from("<Q", datagram, at)
            value = datagram[at + 8 : at + 8 + size]
            at += 8 + size + 1
        fields[name.decode()] = value.decode()
    return fields


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket where the journal's would be."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(5)
        monkeypatch.setattr("pipeline.telemetry.logs.Journal", lambda: Journal(path))
        yield listener


def test_the_journal_gets_fields_priorities_and_long_tracebacks(journal: socket.socket, stderr: Stderr) -> None:
    logs.set_up(style="journal")
    events = Events(MovableClock())
    events.source_down("gate", "TIMEOUT", 1.0, "no answer")
    found = fields_of(journal.recv(1 << 20))
    assert found == {
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "penstock",
        "PENSTOCK_EVENT": "source_down",
        "PENSTOCK_SOURCE": "gate",
        "PENSTOCK_CODE": "TIMEOUT",
        "PENSTOCK_DELAY_S": "1.0",
        "MESSAGE": "source gate: down: TIMEOUT: no answer; next try in 1.0 s",
    }
    events.bug("source gate", a_bug("x" * 200_000))
    found = fields_of(journal.recv(1 << 20))
    assert found["PRIORITY"] == "3"
    assert "x" * 1000 in found["PENSTOCK_TRACEBACK"]
    assert stderr.getvalue() == "", "nothing twice"


def test_a_journal_that_is_not_there_leaves_stderr_with_priorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: Stderr
) -> None:
    monkeypatch.setattr("pipeline.telemetry.logs.Journal", lambda: Journal(tmp_path / "nothing"))
    logs.set_up(style="journal")
    Events(MovableClock()).note("source cam", "no time stamps")
    (line,) = stderr.getvalue().splitlines()
    assert line.startswith("<4>time=")
    assert "event=note source=cam" in line


def test_a_journal_that_takes_nothing_costs_lines_and_says_how_many(
    journal: socket.socket, monkeypatch: pytest.MonkeyPatch, stderr: Stderr
) -> None:
    monkeypatch.setattr("pipeline.telemetry.journal.SEND_TIMEOUT_S", 0.01)
    logs.set_up(style="journal")
    events = Events(MovableClock())
    queue = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    for _ in range(queue + 12):
        events.note("source cam", "hello")
    entries = []
    journal.setblocking(False)
    while True:
        try:
            entries.append(journal.recv(1 << 20))
        except BlockingIOError:
            break
    events.note("source cam", "there again")
    lost = int(fields_of(journal.recv(1 << 20))["PENSTOCK_LOST_LINES"])
    assert len(entries) + lost == queue + 12
    assert lost > 0


def test_only_the_stream_that_systemd_connected_is_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "stream").open("w") as file:
        monkeypatch.setattr("sys.stderr", file)
        found = os.fstat(file.fileno())
        assert is_stderr_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        assert not is_stderr_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
        assert not is_stderr_journal({"JOURNAL_STREAM": ""})
        assert not is_stderr_journal({})
