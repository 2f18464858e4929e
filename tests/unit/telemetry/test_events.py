import io
import json
import logging
from collections.abc import Iterator

import pytest

from pipeline.telemetry import logs
from pipeline.telemetry.events import Events
from pipeline.telemetry.logs import LOGGER, Limiter
from pipeline.telemetry.metrics import MAX_CLASSES, Metrics
from pipeline.testing import MovableClock, detections


@pytest.fixture(autouse=True)
def _the_log_is_put_back() -> Iterator[None]:
    logger = logging.getLogger(LOGGER)
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def _stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    return written


def test_what_repeats_is_logged_once_in_ten_seconds_and_then_with_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    written, clock = _stderr(monkeypatch), MovableClock()
    logs.set_up()
    events = Events(clock)
    for _ in range(1000):
        events.frame_not_decoded("cam", "packet at 1.0 s")
    assert written.getvalue().count("\n") == 1
    clock.advance(11)
    events.frame_not_decoded("cam", "packet at 12.0 s")
    assert "(999 more like it before)" in written.getvalue()
    events.frame_not_decoded("cam", "packet at 12.1 s")
    events.say_leftovers()
    assert "cam: failed_decode: 1 more times" in written.getvalue()


def test_two_components_do_not_share_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    written = _stderr(monkeypatch)
    logs.set_up()
    events = Events(MovableClock())
    events.frame_not_decoded("cam", "x")
    events.frame_not_decoded("gate", "x")
    assert written.getvalue().count("\n") == 2


def test_json_lines_are_json_with_the_traceback_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    written = _stderr(monkeypatch)
    logs.set_up(style="json")
    events = Events(MovableClock())
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    events.bug("sink lines", caught.value)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert len(lines) == 1
    assert lines[0]["level"] == "error"
    assert "_ = 1 / 0" in lines[0]["traceback"]


def test_the_level_holds_back_what_is_below(monkeypatch: pytest.MonkeyPatch) -> None:
    written = _stderr(monkeypatch)
    logs.set_up("warning")
    events = Events(MovableClock())
    events.source_running("cam")
    assert written.getvalue() == ""
    events.note("source cam", "no time stamps")
    assert "source cam: no time stamps" in written.getvalue()


def test_a_limiter_lets_the_first_through_and_tells_what_it_held() -> None:
    clock = MovableClock()
    limiter = Limiter(clock, every_s=10)
    assert [limiter.let_through("a") for _ in range(4)] == [0, None, None, None]
    clock.advance(10)
    assert limiter.let_through("a") == 3
    assert limiter.leftovers() == {}


def test_the_classes_of_detections_are_bounded() -> None:
    metrics = Metrics("test")
    counter = metrics.detections("cam")
    names = tuple(f"class {index}" for index in range(MAX_CLASSES + 50))
    for index in range(len(names)):
        found = detections((0, 0, 1, 1), names=names)
        found.class_id[:] = index
        counter.count(found)
    text = metrics.exposition()[0].decode()
    samples = [line for line in text.splitlines() if line.startswith("penstock_detections_total{")]
    assert len(samples) == MAX_CLASSES + 1
    assert 'penstock_detections_total{class="other",source="cam"} 50.0' in text


def test_a_scrape_speaks_openmetrics_when_it_is_asked_to() -> None:
    body, content_type = Metrics("test").exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert Metrics("test").exposition()[1].startswith("text/plain")
