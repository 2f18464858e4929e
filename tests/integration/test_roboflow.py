"""A whole pipeline whose model is on a Roboflow server: every frame ends in one counted outcome."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from harness import Run, run
from misbehaving_server import HTML, NAN, Asked, MisbehavingServer, Reply, json_body, status
from PIL import Image

from pipeline.backends.roboflow import RoboflowBackendConfig
from pipeline.contracts.frame import Size
from pipeline.contracts.result import Detections
from pipeline.testing import detections
from pipeline.wire.roboflow import RegistryModel, encode_registry, encode_response

FRAMES = 12
QUICK = {"retries": {"max_attempts": 2, "min_s": 0.001, "max_s": 0.002}, "timeout_s": 5.0}


def rules(asked: Asked) -> Any:
    if asked.path.startswith("/model/"):
        return encode_registry([RegistryModel("det/1", "object-detection", 4, Size(64, 64))])
    images = asked.json()["image"] if asked.path.startswith("/infer/") else {"value": asked.body}
    answers = [answer(one["value"]) for one in (images if isinstance(images, list) else [images])]
    return answers if isinstance(images, list) else answers[0]


def answer(text: str | bytes) -> Any:
    size = Size(*Image.open(io.BytesIO(base64.b64decode(text))).size)
    return encode_response(detections((2, 2, 10, 8), names=("cat",)), size, time_s=0.01, inference_id="ab")


def pipeline(server: MisbehavingServer, frames: int = FRAMES, **keys: Any) -> Run:
    backend = {"type": "roboflow", "url": server.url, "model_id": "det/1", **QUICK, **keys}
    source = {"frames": frames, "queue": {"max_frames": 100}}
    return run({"sources": {"cam": source}, "backends": {"model": backend}}, plugins=[RoboflowBackendConfig])


def outcomes(done: Run) -> dict[str, float]:
    samples = done.scrape()
    return {
        dict(labels)["outcome"]: value
        for (name, labels), value in samples.items()
        if name == "penstock_frames_total" and value
    }


@pytest.mark.parametrize(
    "keys",
    [
        {"api_version": "v1"},
        {"api_version": "v1", "max_batch_size": 4, "max_wait_s": 0.05},
        {"api_version": "v1", "max_concurrent_requests": 8},
        {"api_version": "v0"},
    ],
)
def test_every_frame_gets_its_boxes_in_order(keys: dict[str, Any]) -> None:
    with MisbehavingServer(rules) as server:
        done = pipeline(server, **keys)
    assert outcomes(done) == {"inferred": FRAMES}
    assert done.seqs() == list(range(FRAMES))
    for result in done.sink().results:
        assert isinstance(result.prediction, Detections)
        np.testing.assert_allclose(result.prediction.xyxy, [[2, 2, 10, 8]])
        assert result.prediction.label(0) == "cat"
        assert result.model == "det/1"


@pytest.mark.parametrize(
    "reply",
    [
        status(400, "bad image"),
        status(500, "Internal error."),
        HTML,
        NAN,
        Reply(body=b"[]"),
        Reply(body=b'{"predictions": [{"x": 1'),
        Reply(body=b"[" * 100_000),
        json_body({"message": "over quota"}),
        json_body({"is_stub": True, "model_id": "det/1", "task_type": "object-detection"}),
        json_body({"predictions": [{"x": 9e9, "y": 1, "width": 2, "height": 2, "confidence": 1, "class": "a"}]}),
        json_body({"predictions": [], "image": {"width": 5, "height": 5}}),
    ],
    ids=lambda reply: str((reply.status, (reply.body or b"")[:20])),
)
def test_an_answer_that_cannot_be_used_fails_its_frame_and_no_other(reply: Reply) -> None:
    with MisbehavingServer(rules) as server:
        listed = Reply(body=b'{"models": [{"model_id": "det/1", "task_type": "object-detection"}]}')
        server.then(listed, reply)
        done = pipeline(server, max_concurrent_requests=1)
    assert outcomes(done) == {"inferred": FRAMES - 1, "failed_backend": 1}
    assert len(done.seqs()) == FRAMES - 1
    assert done.seqs() == sorted(done.seqs())


def test_a_short_refusal_costs_nothing() -> None:
    with MisbehavingServer(rules) as server:
        server.then(Reply(body=b'{"models": [{"model_id": "det/1", "task_type": "object-detection"}]}'), status(503))
        done = pipeline(server, max_concurrent_requests=1)
    assert outcomes(done) == {"inferred": FRAMES}
