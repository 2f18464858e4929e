"""The Supervisely dialect of the server, asked as its clients ask it."""

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from asking import NAMES, FakeAsking, detector, found, model, picture_file, serve_dialects
from hypothesis import given
from hypothesis import strategies as st
from media import number_of, numbered_video
from serving import Answer, Ask

from pipeline.contracts.backend import Task
from pipeline.contracts.frame import Frame, Picture, Size, Wishes
from pipeline.contracts.result import Detections
from pipeline.runtime.asking import AskError
from pipeline.server.access import Access, Token
from pipeline.server.inference._supervisely_sessions import SessionLimits
from pipeline.server.inference.service import Dialect, InferenceLimits, Service
from pipeline.server.inference.supervisely import dialect
from pipeline.wire.supervisely_meta import decode_meta
from pipeline.wire.supervisely_objects import decode_annotation
from pipeline.wire.supervisely_state import FrameWindow

SIZE = Size(320, 240)
MASKED: Task = "instance-segmentation"


def form(*files: bytes, state: Any = None, name: str = "state", kind: str = "image/jpeg") -> aiohttp.FormData:
    """A multipart body as their clients send it."""
    data = aiohttp.FormData()
    for index, file in enumerate(files):
        data.add_field("files", file, filename=f"{index}.jpg", content_type=kind)
    if state is not None:
        data.add_field(name, json.dumps(state), content_type="text/plain")
    return data


def sly(service: Service) -> Dialect:
    return dialect(service)


def state(uuid: str, **more: Any) -> dict[str, Any]:
    """The body of a question about a session."""
    return {"state": {"inference_request_uuid": uuid, **more}, "context": {}}


async def started(ask: Ask, endpoint: str, body: aiohttp.FormData) -> str:
    """The id of a new session."""
    answer = await ask("POST", f"/sly/{endpoint}", data=body)
    assert answer.status == 200, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    uuid = answer.body["inference_request_uuid"]
    assert isinstance(uuid, str)
    return uuid


async def fetched(ask: Ask, uuid: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All results of a session until it is finished, and what was said last."""
    results: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        while True:
            answer = await ask("POST", "/sly/pop_inference_results", json=state(uuid))
            assert answer.status == 200, answer.text
            results += answer.body["pending_results"]
            if answer.body["finished"]:
                return results, answer.body


def ask_one(path: str, **options: Any) -> Answer:
    """What a server with a detector and a segmenter says to one POST."""
    answers: list[Answer] = []

    async def test(ask: Ask) -> None:
        answers.append(await ask(options.pop("method", "POST"), path, **options))

    serve_dialects(FakeAsking(detector("local", "coco/9"), model("shapes", MASKED)), {"/sly": sly}, test)
    return answers[0]


def test_one_picture_gives_one_result() -> None:
    answer = ask_one("/sly/inference_image", data=form(picture_file()))
    assert answer.status == 200
    assert answer.body["annotation"]["objects"][0] == {
        "classTitle": "person",
        "description": "",
        "tags": [{"name": "confidence", "value": 0.875}],
        "points": {"exterior": [[10, 20], [109, 119]], "interior": []},
        "geometryType": "rectangle",
        "shape": "rectangle",
        "nnCreated": True,
        "nnUpdated": True,
    }
    assert {key: answer.body[key] for key in ("source", "name", "path", "url", "frame_index")} == dict.fromkeys(
        ("source", "name", "path", "url", "frame_index")
    )


def test_a_batch_gives_a_list_in_the_order_of_the_upload() -> None:
    sizes = [(100, 50), (200, 100), (300, 150)]
    answer = ask_one("/sly/inference_batch", data=form(*(picture_file(*size) for size in sizes)))
    assert [tuple(item["annotation"]["size"].values()) for item in answer.body] == [
        (height, width) for width, height in sizes
    ]


@pytest.mark.parametrize("part", ["state", "settings"])
def test_settings_become_wishes(part: str) -> None:
    asking = FakeAsking(detector())
    settings = {"conf": 0.3, "iou": 0.6, "max_det": 5, "agnostic_nms": True, "classes": ["bus"], "recursive": False}

    async def test(ask: Ask) -> None:
        body = form(picture_file(), state={"settings": settings}, name=part)
        assert (await ask("POST", "/sly/inference_image", data=body)).status == 200

    serve_dialects(asking, {"/sly": sly}, test)
    assert asking.asked[0].wishes == Wishes(0.3, 0.6, 5, class_agnostic_nms=True, classes=("bus",))


def test_settings_may_be_yaml() -> None:
    asking = FakeAsking(detector())
    yaml = "# how sure\nconf: 0.3  # or more\niou: 0.5\nclasses:\n  - bus\n  - 'dog'\nname: \"x: y\"\n"

    async def test(ask: Ask) -> None:
        body = form(picture_file(), state={"settings": yaml})
        assert (await ask("POST", "/sly/inference_image", data=body)).status == 200

    serve_dialects(asking, {"/sly": sly}, test)
    assert asking.asked[0].wishes == Wishes(0.3, 0.5, classes=("bus", "dog"))


@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        ("inference_image", form(picture_file(), picture_file()), "Only one file expected but got 2"),
        ("inference_image", form(state={}), "At least one file"),
        ("inference_batch", form(state={"settings": {}}), "At least one file"),
        ("inference_batch_async", form(picture_file(), b""), "a file is empty"),
        ("inference_video_async", form(b""), "a file is empty"),
        ("inference_video_async", form(b"a", b"b"), "Only one file expected but got 2"),
        ("inference_image", form(b"no picture"), "the picture cannot be read"),
        ("inference_image", form(picture_file(), state={"settings": {"conf": 7}}), "the confidence is not from 0 to 1"),
        ("inference_image", form(picture_file(), state={"settings": 7}), "the settings is no object"),
        ("inference_image", form(picture_file(), state=[1]), "is no object"),
        ("inference_batch_async", form(picture_file(), state={"batch_size": 0}), "batch_size is not from 1"),
        ("inference_video_async", form(b"a", state={"stride": 0}), "stride is not from 1"),
        ("inference_video_async", form(b"a", state={"direction": "up"}), "neither forward nor backward"),
        ("inference_video_async", form(b"a", state={"tracker": "botsort"}), "not followed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_an_upload_is_said_at_once(endpoint: str, body: aiohttp.FormData, expected: str) -> None:
    answer = ask_one(f"/sly/{endpoint}", data=body)
    assert answer.status == 400
    assert answer.body["success"] is False
    assert expected in answer.body["message"]
    assert answer.body["detail"]["message"] == answer.body["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b'{"state": 5}', b'{"state": {"inference_request_uuid": 5}}', b"[" * 100_000]
)
def test_a_body_that_makes_no_sense_is_refused(body: bytes) -> None:
    answer = ask_one("/sly/get_inference_progress", data=body)
    assert answer.status == 400
    assert answer.body["success"] is False


@pytest.mark.parametrize(
    "endpoint",
    [
        *("get_inference_progress", "get_inference_status", "pop_inference_results", "get_inference_result"),
        *("stop_inference", "clear_inference_request", "get_preparing_progress"),
    ],
)
def test_a_session_must_be_named_and_known(endpoint: str) -> None:
    unnamed = ask_one(f"/sly/{endpoint}", json={"state": {}, "context": {}})
    assert (unnamed.status, unnamed.body["message"]) == (400, "Error: 'inference_request_uuid' is required.")
    unknown = ask_one(f"/sly/{endpoint}", json=state("f" * 32))
    assert unknown.status == 404
    assert "no such inference_request_uuid" in unknown.body["message"]


@pytest.mark.parametrize("endpoint", ["get_session_info", "inference_image", "pop_inference_results", "get_model_meta"])
def test_only_post_is_taken(endpoint: str) -> None:
    assert ask_one(f"/sly/{endpoint}", method="GET").status == 405


@pytest.mark.parametrize("endpoint", ["predict", "openapi.json", "docs"])
def test_what_is_not_there_is_not_found(endpoint: str) -> None:
    assert ask_one(f"/sly/{endpoint}").status == 404


@pytest.mark.parametrize("endpoint", ["inference_image_id", "inference_batch_ids_async", "inference_video_id_async"])
def test_what_needs_the_platform_says_so(endpoint: str) -> None:
    answer = ask_one(f"/sly/{endpoint}", json={"state": {"image_id": 1}})
    assert answer.status == 501
    assert "platform" in answer.body["message"]


def test_a_model_says_what_it_is() -> None:
    answer = ask_one("/sly/get_session_info", json={"state": {}, "context": {}})
    assert answer.body == {
        "app_name": "Penstock local",
        "session_id": None,
        "number_of_classes": 3,
        "sliding_window_support": "none",
        "videos_support": True,
        "async_video_inference_support": True,
        "tracking_on_videos_support": False,
        "async_image_inference_support": True,
        "tracking_algorithms": [],
        "batch_inference_support": True,
        "max_batch_size": 16,
        "task type": "object detection",
    }


def test_the_meta_names_the_classes() -> None:
    for endpoint in ("get_model_meta", "get_output_classes_and_tags"):
        meta = decode_meta(ask_one(f"/sly/{endpoint}", json={}).body)
        assert meta.titles == NAMES
        assert meta.task() == "object-detection"


def test_the_path_selects_a_model_and_the_first_that_can_answers_without() -> None:
    asking = FakeAsking(model("clip", "embedding"), detector("slow", state="loading"), detector("local", "coco/9"))

    async def test(ask: Ask) -> None:
        first = await ask("POST", "/sly/get_deploy_info", json={})
        assert (first.body["model_name"], first.body["checkpoint_name"]) == ("coco/9", "local")
        named = await ask("POST", "/sly/coco/9/get_session_info", json={})
        assert named.body["app_name"] == "Penstock local"
        assert (await ask("POST", "/sly/local/inference_image", data=form(picture_file()))).status == 200
        assert (await ask("POST", "/sly/nobody/inference_image", data=form(picture_file()))).status == 404
        assert (await ask("POST", "/sly/clip/inference_image", data=form(picture_file()))).status == 501
        assert (await ask("GET", "/sly/local/is_ready")).body == {"status": "ready"}
        assert (await ask("POST", "/sly/slow/is_ready", json={})).status == 503

    serve_dialects(asking, {"/sly": sly}, test)
    assert [asked.model_id for asked in asking.asked] == ["local"]


def test_without_a_model_it_is_alive_and_not_ready() -> None:
    async def test(ask: Ask) -> None:
        for method, path in (("GET", "readyz"), ("GET", "is_ready"), ("POST", "is_ready")):
            assert (await ask(method, f"/sly/{path}")).status == 503
        for path in ("livez", "is_alive"):
            assert (await ask("GET", f"/sly/{path}")).body["running"] is True
        deployed = await ask("POST", "/sly/is_deployed", json={})
        assert deployed.body == {"deployed": False, "description:": "Model is not ready"}
        assert (await ask("POST", "/sly/get_model_meta", json={})).status == 503

    serve_dialects(FakeAsking(), {"/sly": sly}, test)


def test_what_clients_ask_beside_is_answered() -> None:
    asking = FakeAsking(detector("local", "coco/9"), model("spare", MASKED, state="unloaded"))

    async def test(ask: Ask) -> None:
        async def body(endpoint: str, **about: Any) -> Any:
            answer = await ask("POST", f"/sly/{endpoint}", json={"state": about, "context": {}})
            assert answer.status == 200, answer.text
            return answer.body

        assert set((await body("get_custom_inference_settings"))["settings"]) >= {"conf", "iou", "classes"}
        assert await body("get_tracking_settings") == {"botsort": {}}
        assert await body("get_deploy_settings") == []
        assert await body("list_pretrained_models") == ["coco/9", "spare"]
        assert (await body("list_pretrained_model_infos"))[1]["task type"] == "instance segmentation"
        assert await body("is_deployed") == {"deployed": True, "description:": "Model is ready to receive requests"}
        assert (await body("is_running"))["running"] is True
        status = await body("get_status")
        assert status["is_deployed"] is True
        assert status["progress"]["message"] == "Ready"
        assert status["ram_memory"]["total"] > 1e8
        assert "message" in await body("freeze_model")
        assert (await body("deploy_from_api", model_name="spare"))["result"]
        assert asking.models["spare"].state == "ready"
        refused = await ask("POST", "/sly/deploy_from_api", json={"state": {"model_name": "other"}})
        assert refused.status == 404

    serve_dialects(asking, {"/sly": sly}, test)


def test_a_picture_by_url_is_fetched_only_where_that_is_allowed() -> None:
    answer = ask_one("/sly/inference_image_url", json={"state": {"image_url": "http://127.0.0.1:1/a.jpg"}})
    assert answer.status == 400
    assert ask_one("/sly/inference_image_url", json={"state": {}}).status == 400


def test_a_token_is_found_where_their_clients_put_it() -> None:
    client_key = "0123456789abcdef"
    access = Access([Token.of("client", client_key, ["infer"])])

    async def test(ask: Ask) -> None:
        body: dict[str, Any] = {"state": {}, "context": {}}
        assert (await ask("POST", "/sly/get_session_info", json=body)).status == 401
        assert (await ask("POST", "/sly/get_session_info", json=body | {"api_token": "wrong"})).status == 401
        assert (await ask("POST", "/sly/get_session_info", json=body | {"api_token": 5})).status == 401
        assert (await ask("POST", "/sly/get_session_info", json=body | {"api_token": client_key})).status == 200
        padded = body | {"api_token": client_key, "more": "x" * 70_000}
        assert (await ask("POST", "/sly/get_session_info", json=padded)).status == 401, "nobody's megabytes are read"
        headers = {"x-api-key": client_key}
        assert (await ask("POST", "/sly/inference_image", data=form(picture_file()), headers=headers)).status == 200
        refused = await ask("POST", "/sly/inference_image", data=form(picture_file()))
        assert (refused.status, refused.body["success"]) == (401, False)

    serve_dialects(FakeAsking(detector()), {"/sly": sly}, test, access=access)


# Sessions


def test_a_session_gives_every_result_once_and_in_order() -> None:
    widths = list(range(100, 140))

    async def test(ask: Ask) -> None:
        files = [picture_file(width, 50) for width in widths]
        uuid = await started(ask, "inference_batch_async", form(*files, state={"settings": {"conf": 0.1}}))
        results, last = await fetched(ask, uuid)
        assert [item["annotation"]["size"]["width"] for item in results] == widths
        assert last["stage"] == "Finished"
        assert last["progress"]["current"] == last["progress"]["total"] == 40
        assert last["exception"] is None
        assert last["is_inferring"] is False
        assert (await fetched(ask, uuid))[0] == []
        result = await ask("POST", "/sly/get_inference_result", json=state(uuid))
        assert result.body is None
        cleared = await ask("POST", "/sly/clear_inference_request", json=state(uuid))
        assert cleared.body == {"success": True}
        assert (await ask("POST", "/sly/get_inference_progress", json=state(uuid))).status == 200

    asking = FakeAsking(detector())
    serve_dialects(asking, {"/sly": sly}, test)
    assert {asked.wishes for asked in asking.asked} == {Wishes(confidence=0.1)}
    assert all(len(asked.pictures) <= 16 for asked in asking.asked)


def test_the_wished_batch_size_is_kept_to() -> None:
    asking = FakeAsking(detector())

    async def test(ask: Ask) -> None:
        uuid = await started(ask, "inference_batch_async", form(*[picture_file()] * 7, state={"batch_size": 3}))
        await fetched(ask, uuid)

    serve_dialects(asking, {"/sly": sly}, test)
    assert [len(asked.pictures) for asked in asking.asked] == [3, 3, 1]


def test_progress_is_told_while_it_runs_and_a_stopped_session_ends() -> None:
    asking = FakeAsking(detector())

    async def test(ask: Ask) -> None:
        asking.gate = asyncio.Event()
        uuid = await started(ask, "inference_batch_async", form(*[picture_file()] * 40))
        progress = (await ask("POST", "/sly/get_inference_progress", json=state(uuid))).body
        assert progress["stage"] in ("Preparing model for inference...", "Running inference...")
        assert (progress["is_inferring"], progress["finished"], progress["pending_results"]) == (True, False, 0)
        assert progress["progress"]["total"] == 40
        status = (await ask("POST", "/sly/get_inference_status", json=state(uuid))).body
        assert "pending_results" not in status
        assert status["ram_memory"]["total"] > 0
        stopped = await ask("POST", "/sly/stop_inference", json=state(uuid))
        assert stopped.body == {"message": "Inference will be stopped.", "success": True}
        asking.gate.set()
        results, last = await fetched(ask, uuid)
        assert last["stage"] == "Cancelled"
        assert last["stopped"] is True
        assert len(results) < 40

    serve_dialects(asking, {"/sly": sly}, test)


def test_a_picture_that_cannot_be_read_ends_the_session_with_its_error() -> None:
    async def test(ask: Ask) -> None:
        uuid = await started(ask, "inference_batch_async", form(picture_file(), b"nothing", state={"batch_size": 1}))
        results, last = await fetched(ask, uuid)
        assert len(results) == 1
        assert last["stage"] == "Error"
        assert "cannot be read" in last["exception"]["message"]
        assert set(last["exception"]) == {"type", "message", "traceback"}
        assert last["exception"]["traceback"] == ""

    serve_dialects(FakeAsking(detector()), {"/sly": sly}, test)


def test_a_session_waits_for_its_turn_where_others_are_told_to_come_again() -> None:
    asking = FakeAsking(detector())

    async def test(ask: Ask) -> None:
        asking.fault = AskError("busy", "too many wait", 0.05)
        uuid = await started(ask, "inference_batch_async", form(picture_file()))
        assert (await ask("POST", "/sly/inference_image", data=form(picture_file()))).status == 503
        asking.fault = None
        results, last = await fetched(ask, uuid)
        assert len(results) == 1
        assert last["exception"] is None

    serve_dialects(asking, {"/sly": sly}, test)


def test_a_model_that_fails_ends_the_session() -> None:
    asking = FakeAsking(detector())
    asking.fault = AskError("failed", "the model failed")

    async def test(ask: Ask) -> None:
        uuid = await started(ask, "inference_batch_async", form(picture_file()))
        results, last = await fetched(ask, uuid)
        assert (results, last["exception"]["message"]) == ([], "the model failed")

    serve_dialects(asking, {"/sly": sly}, test)


def test_no_more_results_wait_than_are_fetched() -> None:
    asking = FakeAsking(detector())
    limits = SessionLimits(results=5)

    async def test(ask: Ask) -> None:
        uuid = await started(ask, "inference_batch_async", form(*[picture_file(16, 16)] * 30, state={"batch_size": 2}))
        async with asyncio.timeout(10):
            while not (progress := (await ask("POST", "/sly/get_inference_progress", json=state(uuid))).body)["paused"]:
                assert progress["pending_results"] <= 5
        assert progress["pending_results"] == 5
        assert sum(len(asked.pictures) for asked in asking.asked) <= 8
        results, last = await fetched(ask, uuid)
        assert len(results) == 30
        assert last["paused"] is False

    serve_dialects(asking, {"/sly": lambda service: dialect(service, limits)}, test)


def test_there_is_room_for_so_many_sessions_and_spent_ones_make_room() -> None:
    asking = FakeAsking(detector())

    async def test(ask: Ask) -> None:
        asking.gate = asyncio.Event()
        uuids = [await started(ask, "inference_batch_async", form(picture_file())) for _ in range(2)]
        full = await ask("POST", "/sly/inference_batch_async", data=form(picture_file()))
        assert (full.status, full.headers["Retry-After"]) == (503, "1")
        asking.gate.set()
        await fetched(ask, uuids[0])
        await started(ask, "inference_batch_async", form(picture_file()))
        assert (await ask("POST", "/sly/get_inference_progress", json=state(uuids[0]))).status == 404
        assert (await ask("POST", "/sly/get_inference_progress", json=state(uuids[1]))).status == 200
        async with asyncio.timeout(10):
            while not (await ask("POST", "/sly/get_inference_progress", json=state(uuids[1]))).body["finished"]:
                pass
        await ask("POST", "/sly/clear_inference_request", json=state(uuids[1]))
        await started(ask, "inference_batch_async", form(picture_file()))

    serve_dialects(asking, {"/sly": lambda service: dialect(service, SessionLimits(sessions=2))}, test)


def test_a_session_that_nobody_asks_for_is_forgotten() -> None:
    limits = SessionLimits(idle_s=0.05, sweep_s=0.02)

    async def test(ask: Ask) -> None:
        uuid = await started(ask, "inference_batch_async", form(picture_file()))
        async with asyncio.timeout(5):
            await asyncio.sleep(0.2)  # the idle time itself is what is tested
        assert (await ask("POST", "/sly/get_inference_progress", json=state(uuid))).status == 404

    serve_dialects(FakeAsking(detector()), {"/sly": lambda service: dialect(service, limits)}, test)


def test_sessions_whose_clients_are_gone_make_way() -> None:
    asking = FakeAsking(detector())
    limits = SessionLimits(sessions=1, results=2, abandoned_s=0.0)

    async def test(ask: Ask) -> None:
        gone = await started(ask, "inference_batch_async", form(*[picture_file()] * 9, state={"batch_size": 1}))
        async with asyncio.timeout(10):
            while not (await ask("POST", "/sly/get_inference_progress", json=state(gone))).body["paused"]:
                pass
        assert (await ask("POST", "/sly/inference_batch_async", data=form(picture_file()))).status == 503
        await fetched(ask, await started(ask, "inference_batch_async", form(picture_file())))
        assert (await ask("POST", "/sly/get_inference_progress", json=state(gone))).status == 404

    serve_dialects(asking, {"/sly": lambda service: dialect(service, limits)}, test)


def test_so_many_videos_are_read_at_once(clip: bytes) -> None:
    asking = FakeAsking(detector())

    async def test(ask: Ask) -> None:
        asking.gate = asyncio.Event()
        uuids = [await started(ask, "inference_video_async", form(clip)) for _ in range(4)]
        full = await ask("POST", "/sly/inference_video_async", data=form(clip))
        assert (full.status, full.headers["Retry-After"]) == (503, "5")
        asking.gate.set()
        for uuid in uuids:
            assert len((await fetched(ask, uuid))[0]) == 24
        assert len((await fetched(ask, await started(ask, "inference_video_async", form(clip))))[0]) == 24

    serve_dialects(asking, {"/sly": sly}, test)


def test_uploads_that_wait_are_counted_in_bytes() -> None:
    asking = FakeAsking(detector())
    file = picture_file() + bytes(900_000)
    limits = InferenceLimits(timeout_s=10, max_body_bytes=1 << 20)

    async def test(ask: Ask) -> None:
        asking.gate = asyncio.Event()
        await started(ask, "inference_batch_async", form(file))
        full = await ask("POST", "/sly/inference_batch_async", data=form(file))
        assert full.status == 503
        assert "uploaded files" in full.body["message"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.server.inference._supervisely_infer.HELD_BYTES", 1 << 20)
        serve_dialects(asking, {"/sly": sly}, test, limits=limits)


def test_a_server_that_closes_ends_its_sessions() -> None:
    asking = FakeAsking(detector())

    async def test(ask: Ask) -> None:
        asking.gate = asyncio.Event()
        await started(ask, "inference_batch_async", form(picture_file()))
        await started(ask, "inference_video_async", form(b"no video"))

    serve_dialects(asking, {"/sly": sly}, test)
    assert asking.now == 0


# Videos


def by_brightness(picture: Picture, _: Wishes | None) -> Detections:
    """A box whose left edge is the number that the frame shows."""
    frame = Frame("test", 0, None, 0.0, "pts", picture, 0.0)
    number = number_of(frame)
    return found(
        xyxy=np.array([[number, 0, 40, 30]], np.float32),
        confidence=np.array([0.5], np.float32),
        class_id=np.array([0], np.int32),
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """24 frames that tell their numbers, with keyframes and frames that refer to later ones."""
    path = numbered_video(tmp_path_factory.mktemp("clip") / "clip.mp4", 24)
    return Path(path).read_bytes()


def watched(clip: bytes, **about: Any) -> tuple[list[int], list[int], dict[str, Any]]:
    """The frames' numbers as they come back, as their pictures say, and what was said last."""
    asking = FakeAsking(detector())
    asking.answers["local"] = by_brightness
    got: list[tuple[list[dict[str, Any]], dict[str, Any]]] = []

    async def test(ask: Ask) -> None:
        uuid = await started(ask, "inference_video_async", form(clip, state=about, kind="video/*"))
        got.append(await fetched(ask, uuid))

    serve_dialects(asking, {"/sly": sly}, test)
    results, last = got[0]
    numbers = [item["frame_index"] for item in results]
    shown = [item["annotation"]["objects"][0]["points"]["exterior"][0][0] for item in results]
    return numbers, shown, last


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({}, list(range(24))),
        ({"start_frame": 5, "num_frames": 4}, [5, 6, 7, 8]),
        ({"startFrameIndex": 5, "framesCount": 4}, [5, 6, 7, 8]),
        ({"start_frame_index": 5, "frames_count": 4}, [5, 6, 7, 8]),
        ({"startFrameIndex": 5, "endFrameIndex": 8}, [5, 6, 7, 8]),
        ({"start_frame": 5, "end_frame": 8}, [5, 6, 7, 8]),
        ({"settings": {"start_frame": 5, "num_frames": 4, "stride": 2}}, [5, 7]),
        ({"stride": 7}, [0, 7, 14, 21]),
        ({"step": 7, "batch_size": 2}, [0, 7, 14, 21]),
        ({"start_frame": 20, "num_frames": 100}, [20, 21, 22, 23]),
        ({"start_frame": 100}, []),
        ({"duration": 0.2}, [0, 1, 2, 3, 4]),
        ({"start_frame": 6, "num_frames": 4, "direction": "backward"}, [6, 5, 4, 3]),
        ({"start_frame": 6, "framesDirection": "backward", "stride": 3}, [6, 3, 0]),
        ({"direction": "backward", "num_frames": 3}, [23, 22, 21]),
        ({"direction": "backward", "batch_size": 5}, list(range(23, -1, -1))),
    ],
    ids=str,
)
def test_every_spelling_of_a_window_gives_these_frames(clip: bytes, about: dict[str, Any], expected: list[int]) -> None:
    numbers, shown, last = watched(clip, **about)
    assert numbers == expected
    assert shown == expected
    assert last["progress"]["total"] == len(expected)
    assert last["exception"] is None


@pytest.mark.parametrize("name", ["clip.mkv", "clip.avi", "clip.ts", "clip.h264", "clip.mov", "clip.flv"])
@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({}, list(range(24))),
        ({"start_frame": 13, "num_frames": 4}, [13, 14, 15, 16]),
        ({"direction": "backward", "batch_size": 5}, list(range(23, -1, -1))),
    ],
    ids=["all", "from within", "backward"],
)
def test_frames_have_their_numbers_in_every_container(
    tmp_path: Path, name: str, about: dict[str, Any], expected: list[int]
) -> None:
    short_groups: dict[str, Any] = {"options": {"g": "7"}}  # a keyframe every seven frames, and frames that refer ahead
    if name.endswith(".avi"):
        short_groups["codec"] = "mpeg4"
    numbers, shown, _ = watched(numbered_video(tmp_path / name, 24, **short_groups).read_bytes(), **about)
    assert numbers == expected
    assert shown == expected


@pytest.mark.parametrize(
    "data", [b"no video", b"#EXTM3U\nhttp://127.0.0.1:1/a.ts\n", b"ffconcat version 1.0\nfile /etc/passwd"]
)
def test_what_is_no_video_ends_the_session(data: bytes) -> None:
    numbers, _, last = watched(data)
    assert numbers == []
    assert last["stage"] == "Error"
    assert "the video cannot be read" in last["exception"]["message"]


def test_a_video_that_is_cut_off_gives_the_frames_that_are_there(clip: bytes, tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "clip.mkv", 24)
    data = path.read_bytes()
    numbers, shown, last = watched(data[: len(data) * 3 // 4])
    assert 0 < len(numbers) < 24
    assert numbers == shown == list(range(len(numbers)))
    assert last["stage"] == "Finished"


def test_a_stopped_video_ends_early(clip: bytes) -> None:
    asking = FakeAsking(detector())

    async def test(ask: Ask) -> None:
        asking.gate = asyncio.Event()
        uuid = await started(ask, "inference_video_async", form(clip, state={"batch_size": 1}))
        await ask("POST", "/sly/stop_inference", json=state(uuid))
        asking.gate.set()
        results, last = await fetched(ask, uuid)
        assert last["stage"] == "Cancelled"
        assert len(results) <= 1

    serve_dialects(asking, {"/sly": sly}, test)


@given(
    start=st.integers(0, 60),
    count=st.integers(0, 60) | st.none(),
    end=st.integers(0, 60) | st.none(),
    stride=st.integers(1, 9),
    backward=st.booleans(),
    frames=st.integers(1, 50),
)
def test_a_window_names_frames_that_are_there_in_equal_strides(
    start: int, count: int | None, end: int | None, stride: int, *, backward: bool, frames: int
) -> None:
    window = FrameWindow(start, count, end, None, stride, backward)
    numbers = list(window.indexes(frames, 25.0))
    assert all(0 <= number < frames for number in numbers)
    step = -stride if backward else stride
    assert all(after - before == step for before, after in itertools.pairwise(numbers))
    if numbers:
        assert (numbers[0] - start) % stride == 0
        if count is not None:
            assert len(numbers) <= -(-count // stride)


def test_masks_and_keypoints_arrive(clip: bytes) -> None:
    asking = FakeAsking(
        model("shapes", MASKED), model("poses", "keypoint-detection"), model("map", "semantic-segmentation")
    )

    async def test(ask: Ask) -> None:
        for name in ("shapes", "poses", "map"):
            meta = decode_meta((await ask("POST", f"/sly/{name}/get_model_meta", json={})).body)
            answer = await ask("POST", f"/sly/{name}/inference_image", data=form(picture_file()))
            info = asking.models[name].info
            assert info is not None
            back = decode_annotation(answer.body["annotation"], meta, SIZE, info.task)
            if isinstance(back, Detections):
                np.testing.assert_allclose(back.xyxy, found().xyxy, atol=0.5)
                assert (back.masks is None) == (name == "poses")
                assert back.keypoint_names == (("nose", "left_eye") if name == "poses" else ())

    serve_dialects(asking, {"/sly": sly}, test)
