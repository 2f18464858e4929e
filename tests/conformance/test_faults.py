"""Every fault that a server can have, against every backend elsewhere: the right result or the named error, never less.

In front of a Penstock that serves a model in all protocols stands a server that passes requests on, or misbehaves as it
is told. Each row of the matrix is one run of a whole pipeline: the ledger is checked, the failures are counted by name.
"""

import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from daemon import Daemon
from harness import Run, run
from makers import brightness_model
from misbehaving_server import (
    BOMB,
    CUT,
    DRIP,
    GARBAGE,
    HANG,
    HTML,
    HUGE,
    JUNK,
    LOADING,
    RESET,
    WELL,
    Asked,
    MisbehavingServer,
    Reply,
    json_body,
    redirect,
    status,
)

from pipeline.backends.huggingface import HuggingFaceBackendConfig
from pipeline.backends.kserve import KserveBackendConfig
from pipeline.backends.roboflow import RoboflowBackendConfig
from pipeline.backends.supervisely import SuperviselyBackendConfig
from pipeline.contracts.backend import BackendConfig
from pipeline.contracts.result import Detections

PLUGINS: list[type[BackendConfig]] = [
    HuggingFaceBackendConfig,
    KserveBackendConfig,
    RoboflowBackendConfig,
    SuperviselyBackendConfig,
]
SERVER = """
[models.far]
type = "onnx"
model = "model.onnx"
device = "cpu"
confidence = 0.01
aliases = ["cameras/1"]
"""
DIALECTS: dict[str, dict[str, Any]] = {
    "roboflow_v0": {
        "type": "roboflow",
        "api_version": "v0",
        "model_id": "cameras/1",
        "confidence": 0.01,
        "api_key": "k",
    },
    "roboflow_v1": {"type": "roboflow", "api_version": "v1", "model_id": "cameras/1", "confidence": 0.01},
    "huggingface": {"type": "huggingface", "url": "/hf", "task": "object-detection", "model": "far"},
    "supervisely": {"type": "supervisely", "url": "/sly"},
    "kserve": {"type": "kserve", "model_name": "far"},
}
FRAMES = 6
FAULTY = 3


@dataclass(frozen=True)
class Fault:
    """One row of the matrix.

    Attributes:
        replies: to the requests for one frame, as many as are sent.
        code: the error's name; None: it comes out right in the end.
    """

    replies: tuple[Reply, ...]
    code: str | None


NUMBERS = '{"a": [NaN, Infinity, -1e999]}'
FAULTS = {
    "503_twice_then_200": Fault((status(503), status(503), WELL), None),
    "503_for_ever": Fault((status(503),) * 3, "server_error"),
    "429_once": Fault((status(429), WELL), None),
    "504_twice": Fault((status(504), status(504), WELL), None),
    "408_once": Fault((status(408), WELL), None),
    "500": Fault((status(500, "out of memory"),), "server_error"),
    "400_with_json": Fault((status(400, "bad picture"),), "rejected"),
    "401": Fault((status(401),), "auth"),
    "404": Fault((status(404),), "not_found"),
    "redirected": Fault((redirect("http://127.0.0.1:9/"),), "rejected"),
    "slower_than_the_time_out": Fault((Reply(delay_s=2.0),), "timeout"),
    "hangs": Fault((HANG,), "timeout"),
    "drips": Fault((DRIP,), "timeout"),
    "connection_reset": Fault((RESET,) * 3, "connection"),
    "cut_off": Fault((CUT,) * 3, "connection"),
    "cut_off_once": Fault((CUT, WELL), None),
    "an_object_that_is_none_of_theirs": Fault((json_body({"unexpected": 1}),), "bad_answer"),
    "a_list_that_is_none_of_theirs": Fault((json_body([1, 2]),), "bad_answer"),
    "items_without_fields": Fault((json_body([{}, {}]),), "bad_answer"),
    "text_in_place_of_json": Fault((json_body("all is well"),), "bad_answer"),
    "null": Fault((json_body(None),), "bad_answer"),
    "200_with_an_error_inside": Fault((json_body({"error": "no such luck", "message": "none"}),), "bad_answer"),
    "numbers_that_are_none": Fault((Reply(body=NUMBERS.encode()),), "bad_answer"),
    "nested_100000_deep": Fault((Reply(body=b"[" * 100_000 + b"]" * 100_000),), "bad_answer"),
    "nothing_at_all": Fault((Reply(body=b""),), "bad_answer"),
    "junk": Fault((JUNK,), "bad_answer"),
    "no_http": Fault((GARBAGE,), "bad_answer"),
    "an_html_page": Fault((HTML,), "bad_answer"),
    "json_labelled_text_html": Fault((Reply(headers={"Content-Type": "text/html"}),), None),
    "100_mb": Fault((HUGE,), "too_large"),
    "a_gzip_bomb": Fault((BOMB,), "too_large"),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Penstock that serves a model in all protocols."""
    folder = tmp_path_factory.mktemp("served")
    brightness_model(folder / "model.onnx", ("dark", "bright"))
    with Daemon(folder, SERVER, command="serve") as daemon:
        yield daemon.ready().url


def passed_on(to: str, asked: Asked) -> Reply:
    """What the server behind answers."""
    url = to + quote(asked.path) + (f"?{urlencode(asked.query)}" if asked.query else "")
    headers = {name: value for name, value in asked.headers.items() if name not in {"host", "accept-encoding"}}
    request = urllib.request.Request(url, asked.body or None, headers, method=asked.method)  # noqa: S310 - our own
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            kept, body = dict(answer.headers.items()), answer.read()
            code: int = answer.status
    except urllib.error.HTTPError as error:
        with error:
            kept, body, code = dict(error.headers.items()), error.read(), error.code
    unwanted = {"content-length", "transfer-encoding", "connection", "server", "date"}
    return Reply(code, {name: value for name, value in kept.items() if name.lower() not in unwanted}, body)


def pipeline(dialect: str, url: str, **more: Any) -> dict[str, Any]:
    """Six frames through one backend, one request at a time."""
    keys = dict(DIALECTS[dialect])
    keys["url"] = url + keys.get("url", "")
    machinery = {
        "timeout_s": 1.0,
        "max_concurrent_requests": 1,
        "retries": {"max_attempts": 3, "min_s": 0.001, "max_s": 0.002},
        "circuit": {"failures": 1000},
        "adaptive": False,
    }
    # At this pace one frame is done, attempts and all, before the next one comes: the script is for one at a time.
    camera = {"frames": FRAMES, "pixels": (64, 48), "fps": 12}
    return {"sources": {"cam": camera}, "backends": {"far": keys | machinery | more}}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_or_overcome(served: str, dialect: str, name: str) -> None:
    fault = FAULTS[name]
    with MisbehavingServer(lambda asked: passed_on(served, asked)) as server:
        server.then(*[WELL] * (opening_requests(served, dialect) + 1), *(fault.replies * FAULTY))
        done = run(pipeline(dialect, server.url), plugins=PLUGINS)
    (account,) = done.report.sources
    outcomes = {outcome: count for outcome, count in account.outcomes.items() if count}
    attempts = {
        dict(labels)["code"]: int(value)
        for (metric, labels), value in done.scrape().items()
        if metric == "penstock_backend_attempts_total" and value
    }
    if fault.code is None:
        assert outcomes == {"inferred": FRAMES}, attempts
        assert done.seqs() == list(range(FRAMES))
    elif fault.code == "timeout":
        # So do frames that waited behind the first one: nobody was answered meanwhile.
        assert sum(outcomes.values()) == FRAMES
        assert FAULTY <= outcomes["failed_backend"] == attempts["timeout"] < FRAMES
    elif (dialect, name) == ("roboflow_v1", "404"):
        # It takes 404 for a model that was taken out, and has it added again before the next frame: also a 404 here.
        assert sum(outcomes.values()) == FRAMES
        assert attempts["not_found"] == FAULTY
        assert 1 <= outcomes["failed_backend"] <= FAULTY
    else:
        assert outcomes == {"inferred": FRAMES - FAULTY, "failed_backend": FAULTY}, attempts
        assert attempts[fault.code] == FAULTY * len(fault.replies), attempts
        assert done.seqs() == [0, 4, 5]
    for result in done.sink().results:
        assert isinstance(result.prediction, Detections)
        assert len(result.prediction) > 0


@cache
def opening_requests(served: str, dialect: str) -> int:
    """How many requests the backend sends before its first frame."""
    with MisbehavingServer(lambda asked: passed_on(served, asked)) as server:
        tree = pipeline(dialect, server.url)
        tree["sources"]["cam"]["frames"] = 1
        run(tree, plugins=PLUGINS)
        return len(server.asked) - 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_model_that_is_loading_is_waited_for_and_told_from_one_that_is_broken(served: str, dialect: str) -> None:
    with MisbehavingServer(lambda asked: passed_on(served, asked)) as server:
        server.then(*[WELL] * (opening_requests(served, dialect) + 1), *[LOADING] * 5)
        done = run(pipeline(dialect, server.url), plugins=PLUGINS)
    assert done.report.sources[0].outcomes["inferred"] == FRAMES
    assert done.scrape()["penstock_backend_attempts_total", (("backend", "far"), ("code", "loading"))] == 5


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_server_that_refuses_connections_is_named(served: str, dialect: str) -> None:
    with MisbehavingServer(lambda asked: passed_on(served, asked)) as server:

        async def during(this: Run) -> None:
            await this.until(lambda: len(this.sink().results) > 2)
            server.down()
            await this.until(lambda: failed(this) > 3)
            server.up()
            before = len(this.sink().results)
            await this.until(lambda: len(this.sink().results) > before)
            this.supervisor.stop("enough")

        def failed(this: Run) -> float:
            return this.scrape()["penstock_backend_attempts_total", (("backend", "far"), ("code", "connection"))]

        tree = pipeline(dialect, server.url)
        tree["sources"] = {"cam": {"type": "live", "endless": True, "fps": 30, "pixels": (64, 48)}}
        done = run(tree, during, plugins=PLUGINS)
    assert done.seqs() == sorted(done.seqs())
    assert done.report.sources[0].outcomes["failed_backend"] > 0
