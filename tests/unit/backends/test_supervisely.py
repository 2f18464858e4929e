"""The `supervisely` backend against a serving app that a test can make say anything."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from looped import LoopedContext
from misbehaving_server import HANG, HTML, Asked, MisbehavingServer, Reply, json_body, status
from PIL import Image
from pydantic import ValidationError

from pipeline.backends._http_backend import HttpBackend
from pipeline.backends.supervisely import SuperviselyBackendConfig
from pipeline.contracts.backend import ModelInfo, Task
from pipeline.contracts.errors import BackendErrorCode, ConfigError, TransientError
from pipeline.contracts.frame import Size, Wishes
from pipeline.contracts.result import Classification, Detections, Prediction
from pipeline.server.inference.multipart import boundary_of, parse_multipart
from pipeline.testing import frame
from pipeline.wire.supervisely import Progress, encode_progress, encode_session_info, encode_start, result_item
from pipeline.wire.supervisely_annotation import encode_annotation
from pipeline.wire.supervisely_meta import encode_meta

NAMES = ("person", "bus")
SIZE = Size(64, 48)
QUICK: dict[str, Any] = {"retries": {"max_attempts": 2, "min_s": 0.001, "max_s": 0.002}, "timeout_s": 5.0}


class App:
    """A serving app: finds in each picture a person as wide as it, and says how bright it is.

    Attributes:
        info: the model.
        states: of all inference requests.
        names: of all files.
        sessions: results that wait, by id; a session that was cleared is gone.
        slow: results come one by one.
        answers: what is said of each picture in place of the person.
    """

    def __init__(self, task: Task = "object-detection") -> None:
        self.info = ModelInfo(task, NAMES)
        self.states: list[dict[str, Any]] = []
        self.batches: list[int] = []
        self.names: list[str | None] = []
        self.sessions: dict[str, list[Any]] = {}
        self.cleared: list[str] = []
        self.slow = False
        self.answers: list[Prediction] = []
        self.max_batch = 16
        self.prefix = ""
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Any:
        with self._lock:
            return self._answer(asked)

    def _answer(self, asked: Asked) -> Any:
        if asked.path == "/public/api/v3/tasks.info":
            assert asked.json() == {"id": 77}
            return {"id": 77, "meta": {"sessionToken": "secret-token"}}
        prefix, _, endpoint = asked.path.rpartition("/")
        if prefix != self.prefix:
            return status(404, "no such session")
        if asked.headers["content-type"].startswith("multipart/"):
            return self._infer(endpoint, asked)
        body = asked.json()
        uuid = body["state"].get("inference_request_uuid", "")
        answers: dict[str, Callable[[], Any]] = {
            "get_session_info": lambda: encode_session_info("demo", self.info, self.max_batch),
            "get_model_meta": lambda: encode_meta(self.info),
            "pop_inference_results": lambda: self._pop(uuid),
            "clear_inference_request": lambda: self._clear(uuid),
            "stop_inference": lambda: {"message": "Inference will be stopped.", "success": True},
        }
        return answers[endpoint]()

    def _clear(self, uuid: str) -> Any:
        self.cleared.append(uuid)
        return {"success": self.sessions.pop(uuid, None) is not None}

    def _infer(self, endpoint: str, asked: Asked) -> Any:
        parts = parse_multipart(asked.body, boundary_of(asked.headers["content-type"]))
        files = [part for part in parts if part.name == "files"]
        assert all(part.content_type in ("image/jpeg", "image/png") and part.filename for part in files)
        self.names += [part.filename for part in files]
        self.states.append(json.loads(next(part.data for part in parts if part.name == "state")))
        self.batches.append(len(files))
        results = [result_item(self._look(part.data)) for part in files]
        match endpoint:
            case "inference_image":
                return results[0]
            case "inference_batch":
                return results
        uuid = f"{len(self.states):032x}"
        self.sessions[uuid] = results
        return encode_start(uuid)

    def _look(self, data: bytes) -> dict[str, Any]:
        image = Image.open(io.BytesIO(data))
        if self.answers:
            return encode_annotation(self.answers[0], Size(*image.size))
        grey = float(np.asarray(image.convert("L")).mean()) / 255
        found = Detections(
            np.array([[0, 0, image.width, image.height / 2], [1, 1, 5, 5]], np.float32),
            np.array([max(grey, 0.25), 0.125], np.float32),
            np.array([0, 1], np.int32),
            NAMES,
        )
        return encode_annotation(found, Size(*image.size))

    def _pop(self, uuid: str) -> Any:
        waiting = self.sessions[uuid]
        popped = waiting[:1] if self.slow else waiting
        self.sessions[uuid] = waiting[len(popped) :]
        finished = not self.sessions[uuid]
        progress = Progress(uuid, "Running inference...", 0, 1, len(popped), finished)
        return encode_progress(progress) | {"pending_results": popped}


@contextmanager
def running(
    tmp_path: Path, app: App | None = None, *, opened: bool = True, **keys: Any
) -> Iterator[tuple[HttpBackend, MisbehavingServer]]:
    """An open backend and its server."""
    with MisbehavingServer(app or App()) as server, LoopedContext("cloud", tmp_path) as ctx:
        where = "server" if "task_id" in keys else "url"
        backend = SuperviselyBackendConfig.model_validate({where: server.url, **QUICK, **keys}).build(ctx)
        try:
            if opened:
                backend.open()
            yield backend, server
        finally:
            backend.close()


def one(backend: HttpBackend, **changes: Any) -> Detections:
    (found,) = backend.infer([replace(frame(grey=200, width=64, height=48), **changes)])
    assert isinstance(found, Detections)
    return found


def fault(backend: HttpBackend) -> TransientError:
    with pytest.raises(TransientError) as caught:
        backend.infer([frame(width=64, height=48)])
    return caught.value


def test_a_picture_is_asked_about(tmp_path: Path) -> None:
    app = App()
    with running(tmp_path, app, settings={"iou": 0.6}, conf=0.125, img_size=[480, 640]) as (backend, server):
        found = one(backend)
        assert found.xyxy.tolist() == [[0, 0, 64, 24], [1, 1, 5, 5]]
        assert found.names == NAMES
        assert found.label(0) == "person"
        assert backend.info() == ModelInfo("object-detection", NAMES)
        assert backend.model == "Penstock demo"
        assert backend.describe() == f"Penstock demo at 127.0.0.1:{server.port}"
    assert app.states == [{"settings": {"iou": 0.6, "conf": 0.125, "img_size": [480, 640]}}]
    assert server.paths() == ["/get_session_info", "/get_model_meta", "/inference_image"]


def test_boxes_of_a_smaller_picture_are_scaled_back(tmp_path: Path) -> None:
    with running(tmp_path, max_size=32) as (backend, _):
        assert one(backend).xyxy.tolist() == [[0, 0, 64, 24], [2, 2, 10, 10]]


def test_a_batch_goes_out_in_one_request_and_comes_back_in_order(tmp_path: Path) -> None:
    app = App()
    with running(tmp_path, app, max_batch_size=8) as (backend, _):
        assert backend.max_batch == 8
        found = backend.infer([frame(grey=grey, width=64, height=48) for grey in (80, 160, 240)])
    assert [round(float(each.confidence[0]) * 255) // 10 for each in found if isinstance(each, Detections)] == [
        8,
        16,
        24,
    ]
    assert app.batches == [3]
    assert app.states[0]["batch_size"] == 3


def test_no_two_files_have_one_name(tmp_path: Path) -> None:
    app = App()
    with running(tmp_path, app, max_batch_size=4) as (backend, _):
        for _ in range(3):
            backend.infer([frame(width=64, height=48)] * 4)
    assert len(set(app.names)) == 12, "a serving app keeps uploads by their names"


def test_the_server_bounds_the_batch(tmp_path: Path) -> None:
    app = App()
    app.max_batch = 4
    with running(tmp_path, app, max_batch_size=8) as (backend, _):
        assert backend.max_batch == 4


def test_frames_of_different_wishes_are_asked_about_apart(tmp_path: Path) -> None:
    app = App()
    wishes = [Wishes(confidence=0.5), None, Wishes(confidence=0.5), Wishes(classes=("bus",), max_detections=3)]
    frames = [replace(frame(grey=60 * n, width=64, height=48), wishes=wish) for n, wish in enumerate(wishes, 1)]
    with running(tmp_path, app, max_batch_size=8, conf=0.25) as (backend, _):
        found = backend.infer(frames)
    assert app.batches == [2, 1, 1]
    assert [state["settings"] for state in app.states] == [
        {"conf": 0.5},
        {"conf": 0.25},
        {"conf": 0.25, "max_det": 3, "classes": ["bus"]},
    ]
    assert isinstance(found[1], Detections)
    assert isinstance(found[3], Detections)
    assert round(float(found[1].confidence[0]) * 255) // 10 == 12
    assert [found[3].label(0)] == ["bus"], "what the app does not leave out is left out here"


def test_a_class_that_the_model_does_not_know_is_the_users_mistake(tmp_path: Path) -> None:
    with running(tmp_path, opened=False, classes=["bus", "tram"]) as (backend, _):
        with pytest.raises(ConfigError, match="'tram'; it has person, bus") as caught:
            backend.open()
        assert caught.value.key == "classes"


def test_a_session_is_started_fetched_and_cleared(tmp_path: Path) -> None:
    app = App()
    app.slow = True
    with running(tmp_path, app, session=True, max_batch_size=4) as (backend, server):
        found = backend.infer([frame(grey=grey, width=64, height=48) for grey in (80, 160, 240)])
        assert [round(float(each.confidence[0]) * 255) // 10 for each in found if isinstance(each, Detections)] == [
            8,
            16,
            24,
        ]
        one(backend)
    assert server.paths()[2:] == [
        *("/inference_batch_async", *["/pop_inference_results"] * 3, "/clear_inference_request"),
        *("/inference_batch_async", "/pop_inference_results", "/clear_inference_request"),
    ]
    assert app.sessions == {}


def test_sessions_beside_each_other_are_left_alone(tmp_path: Path) -> None:
    app = App()
    app.slow = True
    with (
        running(tmp_path, app, session=True, max_batch_size=4, max_concurrent_requests=8, adaptive=False) as (
            backend,
            _,
        ),
        ThreadPoolExecutor(8) as threads,
    ):
        batches = [[frame(grey=100, width=64, height=48)] * 4 for _ in range(24)]
        assert [len(found) for found in threads.map(backend.infer, batches)] == [4] * 24
    assert sorted(app.cleared) == sorted(f"{n:032x}" for n in range(1, 25))


def test_a_session_that_failed_is_cleared_later(tmp_path: Path) -> None:
    app = App()
    with running(tmp_path, app, session=True) as (backend, server):
        exception = {"type": "CUDAError", "message": "out of memory at http://me:secret@host/", "traceback": "..."}
        failed = encode_progress(Progress("0" * 32, "Error", 0, 1, 0, finished=True))
        server.then(Reply(), json_body(failed | {"pending_results": [], "exception": exception}))
        error = fault(backend)
        assert error.code is BackendErrorCode.SERVER_ERROR
        assert "CUDAError: out of memory" in str(error)
        assert "secret" not in str(error)
        assert app.cleared == []
        one(backend)
        assert app.cleared == [f"{2:032x}", f"{1:032x}"]
        server.then(Reply(), json_body(failed | {"pending_results": []}))
        assert fault(backend).code is BackendErrorCode.BAD_ANSWER
    assert f"{3:032x}" in app.cleared, "at the latest when the backend is closed"


def test_a_session_that_is_not_through_in_time_is_given_up(tmp_path: Path) -> None:
    app = App()
    with running(tmp_path, app, session=True, timeout_s=0.5) as (backend, server):
        server.then(Reply(), HANG)
        assert fault(backend).code is BackendErrorCode.TIMEOUT
        one(backend)
    assert sorted(app.cleared) == [f"{1:032x}", f"{2:032x}"]


def test_results_that_were_lost_on_the_way_are_missed(tmp_path: Path) -> None:
    app = App()
    app.slow = True
    with running(tmp_path, app, session=True, max_batch_size=4) as (backend, server):
        server.then(Reply(), status(503))
        with pytest.raises(TransientError) as caught:
            backend.infer([frame(width=64, height=48)] * 2)
        assert caught.value.code is BackendErrorCode.SERVER_ERROR
        assert server.paths().count("/pop_inference_results") == 1, "what is given once is not asked for twice"


def test_a_model_on_a_platform_is_found_by_its_task(tmp_path: Path) -> None:
    app = App()
    app.prefix = "/net/secret-token"
    with running(tmp_path, app, task_id=77, token="t" * 128) as (backend, server):
        one(backend)
        assert "secret-token" not in backend.describe()
        assert {asked.headers["x-api-key"] for asked in server.asked} == {"t" * 128}
        server.then(status(404, "no such session"))
        assert fault(backend).code is BackendErrorCode.NOT_FOUND
        one(backend)
    assert server.paths().count("/public/api/v3/tasks.info") == 2, "the app may have been started anew elsewhere"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (HTML, BackendErrorCode.BAD_ANSWER),
        (json_body([]), BackendErrorCode.BAD_ANSWER),
        (json_body({}), BackendErrorCode.BAD_ANSWER),
        (json_body({"annotation": None}), BackendErrorCode.BAD_ANSWER),
        (json_body({"annotation": {"size": {"width": 1, "height": 1}, "objects": []}}), BackendErrorCode.BAD_ANSWER),
        (Reply(body=b"[" * 100_000), BackendErrorCode.BAD_ANSWER),
        (Reply(body=b'{"annotation": NaN}'), BackendErrorCode.BAD_ANSWER),
        (status(500, "boom"), BackendErrorCode.SERVER_ERROR),
        (status(400, "no"), BackendErrorCode.REJECTED),
        (status(401), BackendErrorCode.AUTH),
    ],
    ids=range(10),
)
def test_an_answer_that_makes_no_sense_is_an_error_with_a_name(
    tmp_path: Path, reply: Reply, code: BackendErrorCode
) -> None:
    with running(tmp_path) as (backend, server):
        server.then(reply)
        assert fault(backend).code is code
        assert len(one(backend)) == 2


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_batch_of_the_wrong_length_is_an_error(tmp_path: Path, count: int) -> None:
    with running(tmp_path, max_batch_size=4) as (backend, server):
        server.then(json_body([result_item(encode_annotation(Classification(np.zeros(0, np.float32)), SIZE))] * count))
        with pytest.raises(TransientError, match=f"{count} results for 2 pictures") as caught:
            backend.infer([frame(width=64, height=48)] * 2)
        assert caught.value.code is BackendErrorCode.BAD_ANSWER


def test_an_upload_is_whole_at_the_second_attempt(tmp_path: Path) -> None:
    app = App()
    with running(tmp_path, app) as (backend, server):
        server.then(status(503))
        assert len(one(backend)) == 2
        first, second = (asked for asked in server.asked if asked.path == "/inference_image")
    assert len(first.body) == len(second.body)


def test_a_classifier_answers_with_tags(tmp_path: Path) -> None:
    app = App("classification")
    app.answers = [Classification(np.array([0.25, 0.75], np.float32), NAMES)]
    with running(tmp_path, app) as (backend, _):
        (found,) = backend.infer([frame(width=64, height=48)])
        assert backend.info() == ModelInfo("classification", NAMES)
    assert isinstance(found, Classification)
    assert found.scores.tolist() == [0.25, 0.75]


def test_the_task_is_the_configs_then_the_apps_then_that_of_the_classes(tmp_path: Path) -> None:
    app = App()
    with running(tmp_path, app, task="instance-segmentation") as (backend, server):
        assert backend.info().task == "instance-segmentation"
        found = one(backend)
        assert found.masks is not None
        assert not found.masks.any()
        app.info = ModelInfo("instance-segmentation", NAMES)
    with running(tmp_path, opened=False) as (backend, server):
        silent = dict.fromkeys(("task type", "app_name", "max_batch_size"))
        server.then(json_body(silent))
        backend.open()
        assert backend.info().task == "object-detection"
        assert backend.model == "supervisely"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"task_id": 5}, "server and task_id go together"),
        ({"server": "http://a", "token": "x"}, "server and task_id go together"),
        ({"server": "http://a", "task_id": 5}, "wants a token"),
        ({"server": "http://a", "url": "http://b", "task_id": 5, "token": "x"}, "give one of them"),
        ({"settings": {"classes": ["a"]}, "classes": ["a"]}, "give it once"),
        ({"settings": {"a": float("inf")}}, "cannot be sent"),
        ({"settings": {"a": object()}}, "cannot be sent"),
        ({"img_size": 0}, "greater than or equal to 1"),
        ({"conf": 2}, "less than or equal to 1"),
        ({"classes": []}, "at least 1"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        SuperviselyBackendConfig.model_validate(keys)


def test_without_an_address_it_is_the_serving_app_on_this_machine() -> None:
    assert SuperviselyBackendConfig().where == "127.0.0.1:8000"
