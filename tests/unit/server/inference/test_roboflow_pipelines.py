"""Roboflow's stream manager in front of a pipeline that is none: which source is put, which results are given out."""

import base64
import io
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from asking import FakeAsking, detector, found, serve_dialects
from PIL import Image
from serving import Ask, FakeControl

from pipeline.contracts.frame import NoPicture
from pipeline.contracts.result import Result
from pipeline.runtime.control import ReloadOutcome
from pipeline.runtime.tapping import ResultBuffer
from pipeline.server.access import Access, Token
from pipeline.server.inference.roboflow import dialect
from pipeline.server.inference.streams import Streams
from pipeline.testing import frame, result

MODEL = {"type": "ObjectDetectionModel", "name": "model", "image": "$inputs.image", "model_id": "det/1"}
COUNT = {
    "type": "PropertyDefinition",
    "name": "count",
    "data": "$steps.model.predictions",
    "operations": [{"type": "SequenceLength"}],
}
DRAW = {
    "type": "BoundingBoxVisualization",
    "name": "draw",
    "image": "$inputs.image",
    "predictions": "$steps.model.predictions",
}


def workflow(*steps: Any, **outputs: str) -> dict[str, Any]:
    return {
        "version": "1.0",
        "inputs": [{"type": "WorkflowImage", "name": "image"}],
        "steps": list(steps),
        "outputs": [{"type": "JsonField", "name": name, "selector": selector} for name, selector in outputs.items()],
    }


COUNTING = workflow(MODEL, COUNT, said="$steps.model.predictions", count="$steps.count.output")


def body(reference: Any = "rtsp://10.0.0.5/ch1", specification: Any = COUNTING, **video: Any) -> dict[str, Any]:
    return {
        "api_key": "K",
        "video_configuration": {"type": "VideoConfiguration", "video_reference": reference, **video},
        "processing_configuration": {"type": "WorkflowConfiguration", "workflow_specification": specification},
        "sink_configuration": {"type": "MemorySinkConfiguration", "results_buffer_size": 3},
    }


class FakeTaps:
    """Keeps each buffer, to be filled by the test."""

    def __init__(self) -> None:
        self.buffers: dict[str, ResultBuffer] = {}
        self.sizes: dict[str, int] = {}

    def tap(self, source: str, *, size: int, pictures: bool) -> ResultBuffer | None:
        self.sizes[source] = size
        self.buffers[source] = ResultBuffer(size, pictures=pictures)
        return self.buffers[source]


class Rig:
    def __init__(self, *, sources_by_api: bool = True, takes_orders: bool = True, can_listen: bool = True) -> None:
        self.control = FakeControl()
        self.taps = FakeTaps()
        self.streams = Streams(
            self.control if takes_orders else None,
            self.control.status,
            self.taps if can_listen else None,
            sources_by_api,
        )

    def run(self, test: Callable[[Ask], Awaitable[None]], **options: Any) -> None:
        asking = FakeAsking(detector("local", "det/1"))
        serve_dialects(asking, {"": lambda service: dialect(service, self.streams)}, test, **options)


def said(seq: int) -> Result:
    return result(frame(seq, width=320, height=240), found())


async def initialised(ask: Ask, **changes: Any) -> str:
    answer = await ask("POST", "/inference_pipelines/initialise", json=body(**changes))
    assert answer.status == 200, answer.text
    assert answer.body["status"] == "success"
    pipeline_id: str = answer.body["context"]["pipeline_id"]
    return pipeline_id


@pytest.mark.parametrize(
    ("reference", "table"),
    [
        ("rtsp://10.0.0.5/ch1", {"type": "rtsp", "url": "rtsp://10.0.0.5/ch1"}),
        (["rtsps://h/a"], {"type": "rtsp", "url": "rtsps://h/a"}),
        ("http://h/a.m3u8", {"type": "stream", "url": "http://h/a.m3u8"}),
        ("videos/a.mp4", {"type": "file", "path": "videos/a.mp4"}),
        ("/dev/video2", {"type": "device", "path": "/dev/video2"}),
        (0, {"type": "device", "path": "/dev/video0"}),
    ],
)
def test_a_pipeline_is_a_source_of_the_kind_that_its_reference_says(reference: Any, table: dict[str, Any]) -> None:
    rig = Rig()

    async def test(ask: Ask) -> None:
        name = await initialised(ask, reference=reference, max_fps=5)
        assert rig.control.orders == [("put", name, {**table, "backend": "local", "max_fps": 5.0}, None)]
        assert rig.taps.sizes == {name: 3}

    rig.run(test)


def test_results_are_consumed_oldest_first_with_the_workflows_other_steps_done() -> None:
    rig = Rig()

    async def test(ask: Ask) -> None:
        name = await initialised(ask)
        path = f"/inference_pipelines/{name}/consume"
        nothing = await ask("GET", path, json={"api_key": "K", "excluded_fields": []})
        assert (nothing.body["outputs"], nothing.body["frames_metadata"]) == ([], [])
        for seq in range(5):
            rig.taps.buffers[name].put(said(seq))
        for seq in (2, 3, 4):  # of five results the buffer kept the last three
            answer = await ask("GET", path, json={"api_key": "K", "excluded_fields": ["said"] if seq == 4 else []})
            (metadata,) = answer.body["frames_metadata"]
            assert metadata["frame_id"] == seq
            (output,) = answer.body["outputs"]
            assert output["count"] == 2
            assert ("said" in output) == (seq != 4)
        assert output.keys() == {"count"}
        assert (await ask("GET", path)).body["outputs"] == []

    rig.run(test)


def test_a_confidence_of_the_workflow_is_heeded_afterwards() -> None:
    rig = Rig()
    strict = workflow(
        {**MODEL, "confidence": 0.8, "class_filter": ["person", "bus"]}, COUNT, count="$steps.count.output"
    )

    async def test(ask: Ask) -> None:
        name = await initialised(ask, specification=strict)
        rig.taps.buffers[name].put(said(0))
        answer = await ask("GET", f"/inference_pipelines/{name}/consume")
        assert answer.body["outputs"] == [{"count": 1}]

    rig.run(test)


def test_pictures_are_kept_only_for_a_workflow_that_draws() -> None:
    rig = Rig()

    async def test(ask: Ask) -> None:
        plain = await initialised(ask)
        drawing = await initialised(ask, specification=workflow(MODEL, DRAW, picture="$steps.draw.image"))
        assert not rig.taps.buffers[plain].pictures
        buffer = rig.taps.buffers[drawing]
        assert buffer.pictures
        buffer.put(said(0).released())  # it was under way before anybody wanted its pixels
        buffer.put(said(1))
        answer = await ask("GET", f"/inference_pipelines/{drawing}/consume")
        assert answer.body["frames_metadata"][0]["frame_id"] == 1
        picture = Image.open(io.BytesIO(base64.b64decode(answer.body["outputs"][0]["picture"]["value"])))
        assert np.asarray(picture).std() > 5

    rig.run(test)


def test_without_pixels_numbers_are_still_given() -> None:
    rig = Rig()

    async def test(ask: Ask) -> None:
        name = await initialised(ask)
        rig.taps.buffers[name].put(said(0).released())
        assert isinstance(said(0).released().frame.picture, NoPicture)
        assert (await ask("GET", f"/inference_pipelines/{name}/consume")).body["outputs"][0]["count"] == 2

    rig.run(test)


def test_sources_of_the_configuration_are_pipelines_too() -> None:
    rig = Rig(sources_by_api=False)

    async def test(ask: Ask) -> None:
        assert (await ask("GET", "/inference_pipelines/list", json={"api_key": "K"})).body["pipelines"] == [
            "gate",
            "door",
        ]
        status = await ask("GET", "/inference_pipelines/gate/status")
        (source,) = status.body["report"]["sources_metadata"]
        assert (source["state"], source["source_reference"]) == ("RESTARTING", "gate")
        assert status.body["report"]["video_source_status_updates"][0]["payload"]["error_message"] == "no answer"
        assert (await ask("GET", "/inference_pipelines/gate/consume")).body["outputs"] == []
        rig.taps.buffers["gate"].put(said(7))
        answer = await ask("GET", "/inference_pipelines/gate/consume")
        assert answer.body["outputs"][0]["predictions"]["predictions"][0]["class"] == "person"
        for order in ("pause", "resume"):
            assert (await ask("POST", f"/inference_pipelines/gate/{order}", json={"api_key": "K"})).status == 200
        assert rig.control.orders == [("pause", "gate"), ("resume", "gate")]

    rig.run(test)


def test_a_pipeline_that_is_terminated_is_gone_and_nobody_listens_to_it() -> None:
    rig = Rig()

    async def test(ask: Ask) -> None:
        name = await initialised(ask)
        assert (await ask("POST", f"/inference_pipelines/{name}/terminate")).status == 200
        assert rig.control.orders[-1] == ("delete", name, None)
        assert rig.taps.buffers[name].closed
        del rig.control.sources[name]
        for method, what in (("GET", "status"), ("GET", "consume"), ("POST", "pause"), ("POST", "terminate")):
            answer = await ask(method, f"/inference_pipelines/{name}/{what}")
            assert answer.status == 404
            assert answer.body["error_type"] == "not_found"
            assert set(answer.body) == {"message", "error_type", "inner_error_type"}

    rig.run(test)


def test_the_taps_are_let_go_when_the_server_closes() -> None:
    rig = Rig()

    async def test(ask: Ask) -> None:
        await initialised(ask)

    rig.run(test)
    (buffer,) = rig.taps.buffers.values()
    assert buffer.closed


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"reference": ["rtsp://a", "rtsp://b"]}, 400),
        ({"reference": "ftp://h/a"}, 400),
        ({"reference": ""}, 400),
        ({"reference": None}, 422),
        ({"max_fps": -1}, 422),
        ({"specification": workflow(COUNT, count="$steps.count.output")}, 400),
        ({"specification": workflow(MODEL, {**MODEL, "name": "other"}, said="$steps.model.predictions")}, 400),
        ({"specification": workflow({**MODEL, "model_id": "no/1"}, said="$steps.model.predictions")}, 404),
        ({"specification": workflow({**MODEL, "model_id": "$inputs.image"}, said="$steps.model.predictions")}, 400),
        ({"specification": None}, 400),
    ],
)
def test_what_cannot_be_a_pipeline_changes_nothing(changes: dict[str, Any], status: int) -> None:
    rig = Rig()

    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/inference_pipelines/initialise", json=body(**changes))
        assert answer.status == status, answer.text

    rig.run(test)
    assert rig.control.orders == []


def test_a_source_that_the_pipeline_refuses_is_told() -> None:
    rig = Rig()
    rig.control.outcome = ReloadOutcome(False, "0123456789ab", problems=("sources.x.path: no such file",), invalid=True)

    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/inference_pipelines/initialise", json=body("nothing.mp4"))
        assert (answer.status, answer.body["error_type"]) == (400, "invalid_payload")
        assert "no such file" in answer.body["message"]

    rig.run(test)
    assert rig.taps.buffers == {}


@pytest.mark.parametrize(
    ("options", "status"),
    [({"sources_by_api": False}, 403), ({"takes_orders": False}, 501), ({"can_listen": False}, 501)],
)
def test_where_no_source_may_be_put_none_is(options: dict[str, Any], status: int) -> None:
    rig = Rig(**options)

    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/inference_pipelines/initialise", json=body())
        assert answer.status == status
        if status == 403:
            assert answer.body["error_type"] == "authorisation_error"
            assert (await ask("POST", "/inference_pipelines/gate/terminate")).status == 403

    rig.run(test)
    assert rig.control.orders == []


def test_orders_need_the_scope_for_orders() -> None:
    rig = Rig()
    tokens = [Token.of("client", "client-token-0123456789", ["infer", "read"])]

    async def test(ask: Ask) -> None:
        key = {"api_key": "client-token-0123456789"}
        for what in ("initialise", "gate/pause", "gate/resume", "gate/terminate"):
            assert (await ask("POST", f"/inference_pipelines/{what}", json=body() | key)).status == 403
        assert (await ask("GET", "/inference_pipelines/list", json=key)).status == 200
        assert (await ask("GET", "/inference_pipelines/list")).status == 401

    rig.run(test, access=Access(tokens))
    assert rig.control.orders == []
