"""What lies on a Supervisely platform, asked for by id; the platform is one of our own."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from asking import FakeAsking, detector, picture_file, serve_dialects
from media import numbered_video
from serving import Answer, Ask
from sly_platform import TOKEN, PlatformData

from pipeline.contracts.clock import SystemClock
from pipeline.server.access import Access, Token
from pipeline.server.inference import _supervisely_fetching as fetching
from pipeline.server.inference import _supervisely_ids as ids
from pipeline.server.inference import _supervisely_platform as platform
from pipeline.server.inference._supervisely_platform import PlatformAddress
from pipeline.server.inference._supervisely_sessions import SessionLimits
from pipeline.server.inference.service import Dialect, InferenceLimits, Service
from pipeline.server.inference.supervisely import dialect

Fault = Callable[[str, int], Awaitable[web.StreamResponse | None]]
Test = Callable[[Ask], Awaitable[None]]


def some() -> PlatformData:
    """Five pictures, each of a size of its own, in two datasets."""
    pictures = {number: picture_file(100 + number, 150) for number in (7, 8, 11, 12, 13)}
    return PlatformData(pictures, {3: b"no video"}, {9: [7, 8], 10: [11, 12, 13]})


@asynccontextmanager
async def served(data: PlatformData, fault: Fault, listening: socket.socket) -> AsyncIterator[None]:
    """The platform; `fault` may answer in its place: it is told the method, and for the how-manyth time."""
    calls: dict[str, int] = {}

    async def handle(request: web.Request) -> web.StreamResponse:
        method, token = request.path.rpartition("/")[2], request.headers.get("x-api-key")
        calls[method] = calls.get(method, 0) + 1
        other = await fault(method, calls[method])
        if other is not None:
            data.asked.append((method, {}, token))
            return other
        status, body, kind = data.answer(request.path, await request.json(), token)
        return web.Response(status=status, body=body, content_type=kind)

    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def nothing(method: str, number: int) -> web.StreamResponse | None:
    """The platform itself answers."""


def run(
    test: Test,
    data: PlatformData | None = None,
    fault: Fault = nothing,
    *,
    token: str | None = None,
    limits: InferenceLimits | None = None,
    asking: FakeAsking | None = None,
    access: Access | None = None,
) -> PlatformData:
    """`test` beside a server that knows a platform; `token` is the configured one."""
    platform_data = data or some()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = PlatformAddress(f"http://127.0.0.1:{listening.getsockname()[1]}", token)

        def sly(service: Service) -> Dialect:
            return dialect(service, platform=address)

        async def whole(ask: Ask) -> None:
            async with served(platform_data, fault, listening):
                await test(ask)

        serve_dialects(asking or FakeAsking(detector("local")), {"/sly": sly}, whole, limits=limits, access=access)
    return platform_data


def body(**state: Any) -> dict[str, Any]:
    """What a client sends that has a token."""
    return {"state": state, "context": {}, "api_token": TOKEN, "server_address": "http://169.254.169.254"}


def asked(endpoint: str, document: Any, headers: dict[str, str] | None = None, **options: Any) -> Answer:
    """The answer to one question."""
    answers: list[Answer] = []

    async def test(ask: Ask) -> None:
        answers.append(await ask("POST", f"/sly/{endpoint}", json=document, headers=headers or {}))

    run(test, **options)
    return answers[0]


async def fetched(ask: Ask, endpoint: str, document: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All results of a new session, and what was said last."""
    started = await ask("POST", f"/sly/{endpoint}", json=document)
    assert started.status == 200, started.text
    question = {"state": {"inference_request_uuid": started.body["inference_request_uuid"]}}
    results: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        while True:
            answer = await ask("POST", "/sly/pop_inference_results", json=question)
            results += answer.body["pending_results"]
            if answer.body["finished"]:
                return results, answer.body
            await asyncio.sleep(0)


def session(endpoint: str, document: Any, **options: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The same, beside a server of its own."""
    found: list[tuple[list[dict[str, Any]], dict[str, Any]]] = []

    async def test(ask: Ask) -> None:
        found.append(await fetched(ask, endpoint, document))

    run(test, **options)
    return found[0]


def widths(results: list[dict[str, Any]]) -> list[int]:
    """Which picture each one is: all have a width of their own, 100 and their id."""
    return [item["annotation"]["size"]["width"] - 100 for item in results]


def test_a_picture_is_fetched_by_its_id_and_the_result_says_where_it_lies() -> None:
    answer = asked("inference_image_id", body(image_id=8))
    assert answer.status == 200
    assert answer.body["annotation"]["size"] == {"height": 150, "width": 108}
    assert answer.body["annotation"]["objects"][0]["classTitle"] == "person"
    about = {name: answer.body[name] for name in ("name", "image_id", "dataset_id", "project_id", "video_id")}
    assert about == {"name": "8.jpg", "image_id": 8, "dataset_id": 9, "project_id": 5, "video_id": None}


@pytest.mark.parametrize("name", ["batch_ids", "image_ids", "images_ids", "imageIds"])
def test_several_come_in_the_order_in_which_they_are_named_however_that_is_spelt(name: str) -> None:
    answer = asked("inference_batch_ids", body(**{name: [13, 7, 13, 11, 8]}))
    assert widths(answer.body) == [13, 7, 13, 11, 8]
    assert [item["dataset_id"] for item in answer.body] == [10, 9, 10, 10, 9]


def test_a_session_keeps_the_order_over_many_groups() -> None:
    wanted = [7, 8, 11, 12, 13] * 5
    results, last = session("inference_batch_ids_async", body(images_ids=wanted, batch_size=3))
    assert widths(results) == wanted
    assert (last["exception"], last["progress"]["current"], last["progress"]["total"]) == (None, 25, 25)


def test_a_project_is_gone_through_dataset_by_dataset_and_page_by_page() -> None:
    async def test(ask: Ask) -> None:
        results, last = await fetched(ask, "inference_project_id_async", body(project_id=5))
        assert widths(results) == [7, 8, 11, 12, 13]
        assert last["progress"]["total"] == 5

    methods = run(test).methods()
    assert methods.count("images.list") == 3  # two pictures on a page
    assert methods.count("images.info") == methods.count("datasets.info") == 0  # the lists have said that


def test_of_a_project_some_datasets_only() -> None:
    results, _ = session("inference_project_id_async", body(projectId=5, dataset_ids=[10]))
    assert widths(results) == [11, 12, 13]
    answer = asked("inference_project_id_async", body(projectId=5, dataset_ids=[10, 99]))
    assert (answer.status, "99" in answer.body["message"]) == (404, True)


def test_a_project_of_something_else_is_refused() -> None:
    answer = asked("inference_project_id_async", body(project_id=6))
    assert (answer.status, "video_id" in answer.body["message"]) == (400, True)


@pytest.fixture
def clip(tmp_path: Path) -> PlatformData:
    numbered_video(tmp_path / "clip.mp4", 12)
    return PlatformData(videos={3: (tmp_path / "clip.mp4").read_bytes()})


def test_a_window_of_a_video_is_looked_at(clip: PlatformData) -> None:
    results, last = session("inference_video_id_async", body(video_id=3, start_frame=2, num_frames=4), data=clip)
    assert [item["frame_index"] for item in results] == [2, 3, 4, 5]
    assert {(item["video_id"], item["dataset_id"], item["project_id"]) for item in results} == {(3, 30, 6)}
    assert last["exception"] is None


def test_a_video_is_looked_at_in_one_answer(clip: PlatformData) -> None:
    answer = asked("inference_video_id", body(videoId=3, startFrameIndex=8, framesDirection="backward"), data=clip)
    assert [item["frame_index"] for item in answer.body["ann"]] == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert answer.body["video_ann"] is None


def test_too_many_results_for_one_answer_are_refused_and_not_waited_for(
    clip: PlatformData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "SessionLimits", lambda: SessionLimits(results=3))
    answer = asked("inference_video_id", body(video_id=3), data=clip)
    assert (answer.status, "inference_video_id" in answer.text or "_async" in answer.text) == (413, True)


def test_objects_are_not_followed_there_either(clip: PlatformData) -> None:
    assert asked("inference_video_id_async", body(video_id=3, tracker="botsort"), data=clip).status == 400


# Whose token, and where to


def test_the_token_of_the_request_is_shown_to_the_platform() -> None:
    async def test(ask: Ask) -> None:
        document = {"state": {"image_id": 7}}
        assert (await ask("POST", "/sly/inference_image_id", json=document)).status == 403
        answer = await ask("POST", "/sly/inference_image_id", json=document, headers={"x-api-key": TOKEN})
        assert answer.status == 200

    assert {token for _, _, token in run(test).asked} == {TOKEN}


def test_a_token_that_is_for_this_server_stays_here() -> None:
    ours = "0123456789abcdef" * 3

    async def test(ask: Ask) -> None:
        document = {"state": {"image_id": 7}, "api_token": ours}
        answer = await ask("POST", "/sly/inference_image_id", json=document, headers={"x-api-key": ours})
        assert answer.status == 403
        assert ours not in answer.text

    assert run(test).asked == []


def test_without_one_the_configured_token_is_taken() -> None:
    answer = asked("inference_image_id", {"state": {"image_id": 7}}, token=TOKEN)
    assert answer.status == 200


def test_where_a_token_is_wanted_the_platforms_own_opens_the_door_too_if_it_is_configured() -> None:
    async def test(ask: Ask) -> None:
        for token, status in ((TOKEN, 200), ("b" * 128, 401)):
            answer = await ask("POST", "/sly/inference_image_id", json=body(image_id=7) | {"api_token": token})
            assert answer.status == status

    access = Access([Token.of("someone", TOKEN, ["infer"])], SystemClock(), exposed=True)
    assert {token for _, _, token in run(test, access=access).asked} == {TOKEN}


def test_a_token_that_the_platform_does_not_know_is_told() -> None:
    answer = asked("inference_image_id", body(image_id=7) | {"api_token": "b" * 128}, token=TOKEN)
    assert (answer.status, answer.body["message"]) == (403, "the Supervisely platform does not know this token")


def test_a_redirect_is_not_followed() -> None:
    async def elsewhere(method: str, number: int) -> web.StreamResponse | None:
        if method != "images.download":
            return None
        return web.Response(status=307, headers={"Location": "/public/api/v3/videos.download"})

    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/sly/inference_image_id", json=body(image_id=7))
        assert (answer.status, "307" in answer.body["message"]) == (502, True)

    assert "videos.download" not in run(test, fault=elsewhere).methods()


# What goes wrong


def test_what_is_not_there_is_told_at_once_and_in_a_session() -> None:
    answer = asked("inference_batch_ids", body(batch_ids=[7, 99]))
    assert (answer.status, answer.body["success"]) == (404, False)
    results, last = session("inference_batch_ids_async", body(images_ids=[7, 8, 99, 7], batch_size=2))
    assert widths(results) == [7, 8]
    assert "nothing of this id" in last["exception"]["message"]


def test_a_file_that_is_no_picture_ends_the_session_with_that() -> None:
    data = some()
    data.pictures[8] = b"<html>"
    _, last = session("inference_batch_ids_async", body(images_ids=[7, 8], batch_size=1), data=data)
    assert last["exception"] is not None


@pytest.mark.parametrize("state", [{}, {"image_id": "7"}, {"image_id": 0}, {"image_id": []}, {"image_id": [[7]]}])
def test_ids_that_are_none_are_refused(state: dict[str, Any]) -> None:
    assert asked("inference_image_id", body(**state)).status == 400
    assert asked("inference_batch_ids_async", body(**state)).status == 400


def test_more_pictures_than_a_request_may_have_are_refused() -> None:
    limits = InferenceLimits(timeout_s=10, max_pictures=3)
    assert asked("inference_batch_ids", body(batch_ids=[7] * 4), limits=limits).status == 413
    results, _ = session("inference_batch_ids_async", body(batch_ids=[7] * 7), limits=limits)
    assert widths(results) == [7] * 7


@pytest.mark.parametrize("length", ["told", "untold"])
def test_a_file_that_is_too_large_is_not_read_to_its_end(length: str) -> None:
    sent: list[int] = []

    async def endless(method: str, number: int) -> web.StreamResponse | None:
        if method != "images.download":
            return None
        return web.Response(body=b"x" * 300_000) if length == "told" else web.Response(body=drops())

    async def drops() -> AsyncIterator[bytes]:
        for _ in range(1000):
            sent.append(100_000)
            yield b"x" * 100_000

    limits = InferenceLimits(timeout_s=10, max_body_bytes=200_000)
    answer = asked("inference_image_id", body(image_id=7), fault=endless, limits=limits)
    assert (answer.status, "200000 bytes" in answer.body["message"]) == (413, True)
    assert sum(sent) < 30_000_000


async def _after(number: int, good_from: int, bad: web.StreamResponse) -> web.StreamResponse | None:
    return None if number >= good_from else bad


@pytest.mark.parametrize(("status", "expected"), [(500, 502), (503, 502), (429, 503)])
def test_what_passes_is_tried_again_and_what_does_not_pass_is_told(
    status: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "_FIRST_PAUSE_S", 0.01)
    good = asked("inference_image_id", body(image_id=7), fault=lambda _, n: _after(n, 3, web.Response(status=status)))
    assert good.status == 200
    bad = asked("inference_image_id", body(image_id=7), fault=lambda _, n: _after(n, 99, web.Response(status=status)))
    assert bad.status == expected
    assert "127.0.0.1" not in bad.text


NONSENSE = [
    b"",
    b"<html>",
    b"[]",
    b"null",
    b'{"id": 8, "name": "8.jpg", "datasetId": 9}',
    b'{"id": 7, "name": null, "datasetId": 9}',
    b'{"id": 7, "name": "7.jpg", "datasetId": -1}',
    b'{"id": NaN}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("answer", NONSENSE)
def test_an_answer_without_sense_is_told(answer: bytes) -> None:
    async def nonsense(method: str, number: int) -> web.StreamResponse | None:
        return web.Response(body=answer, content_type="application/json") if method == "images.info" else None

    found = asked("inference_image_id", body(image_id=7), fault=nonsense)
    assert (found.status, "makes no sense" in found.body["message"]) == (502, True)


def test_a_platform_that_is_away_is_told_without_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "_FIRST_PAUSE_S", 0.01)

    async def gone(method: str, number: int) -> web.StreamResponse | None:
        raise ConnectionResetError

    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/sly/inference_image_id", json=body(image_id=7))
        assert (answer.status, "127.0.0.1" in answer.text) == (502, False)

    run(test, fault=gone)


@pytest.mark.parametrize("mode", ["create", "append", "replace", "iou_merge"])
def test_what_would_have_to_be_written_to_the_platform_is_refused_before_any_work(mode: str) -> None:
    async def test(ask: Ask) -> None:
        for endpoint, state in (("inference_batch_ids_async", {"images_ids": [7]}), ("inference_image_id", {})):
            answer = await ask("POST", f"/sly/{endpoint}", json=body(**state, upload_mode=mode))
            assert answer.status == 501
            assert f"upload_mode = {mode}" in answer.body["message"]

    assert run(test).asked == []


def test_other_wishes_to_write_are_refused_too_and_other_modes_are_none() -> None:
    assert asked("inference_image_id", body(image_id=7, upload=True)).status == 501
    assert asked("inference_image_id", body(image_id=7, upload=False)).status == 200
    assert asked("inference_batch_ids", body(image_id=7, output_project_id=5)).status == 501
    assert asked("inference_batch_ids", body(image_id=7, upload_mode="merge")).status == 400


# How much is held


def test_where_not_all_may_be_held_the_groups_are_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    size = max(map(len, some().pictures.values()))
    monkeypatch.setattr(ids, "HELD_BYTES", 3 * size)
    monkeypatch.setattr(fetching, "_PAUSE_S", 0.01)
    limits = InferenceLimits(timeout_s=10, max_body_bytes=2 * size)
    wanted = [7, 8, 11, 12, 13] * 4
    results, last = session("inference_batch_ids_async", body(images_ids=wanted, batch_size=8), limits=limits)
    assert last["exception"] is None
    assert widths(results) == wanted


def test_one_group_is_fetched_ahead_and_no_more() -> None:
    at_most = 0

    async def counting(method: str, number: int) -> web.StreamResponse | None:
        nonlocal at_most
        at_most = max(at_most, number if method == "images.download" else 0)
        return None

    async def test(ask: Ask) -> None:
        started = await ask("POST", "/sly/inference_batch_ids_async", json=body(images_ids=[7] * 40, batch_size=4))
        question = {"state": {"inference_request_uuid": started.body["inference_request_uuid"]}}
        async with asyncio.timeout(10):
            while at_most < 8:
                await ask("POST", "/sly/get_inference_progress", json=question)
            for _ in range(10):
                await ask("POST", "/sly/get_inference_progress", json=question)
        assert at_most == 8
        gate.set()
        await ask("POST", "/sly/stop_inference", json=question)

    gate = asyncio.Event()
    asking = FakeAsking(detector("local"))
    asking.gate = gate
    run(test, fault=counting, asking=asking)


def test_so_many_sessions_fetch_at_once_and_no_more() -> None:
    gate = asyncio.Event()

    async def slow(method: str, number: int) -> web.StreamResponse | None:
        await gate.wait()
        return None

    async def test(ask: Ask) -> None:
        statuses = [
            (await ask("POST", "/sly/inference_batch_ids_async", json=body(images_ids=[7]))).status
            for _ in range(ids.MAX_RUNS + 1)
        ]
        gate.set()
        assert statuses == [200] * ids.MAX_RUNS + [503]

    run(test, fault=slow)


def test_without_a_platform_all_of_it_is_refused() -> None:
    async def test(ask: Ask) -> None:
        for endpoint in ("image_id", "batch_ids", "video_id", "image_id_async", "batch_ids_async", "video_id_async"):
            answer = await ask("POST", f"/sly/inference_{endpoint}", json=body(image_id=7, video_id=7))
            assert answer.status == 501
            assert "supervisely_platform" in answer.body["message"]

    serve_dialects(FakeAsking(detector("local")), {"/sly": dialect}, test)
