"""A pipeline whose model is another Penstock's, over the Hugging Face protocol; and what becomes of its frames."""

from pathlib import Path

import pytest
from answering import install
from daemon import Daemon
from makers import clip
from misbehaving_server import HTML, MisbehavingServer, Reply
from observed import until
from workplace import Workplace

SERVED = """
    [models.bright]
    type = "onnx"
    model = "model.onnx"
    device = "cpu"
    confidence = 0.01
    aliases = ["some/bright-model"]

    [models.cutter]
    type = "answering"
    task = "instance-segmentation"
"""
PIPELINE = """
    [sources.near]
    type = "file"
    path = "clip.mp4"
    backend = "local"

    [sources.far]
    type = "file"
    path = "clip.mp4"
    backend = "cloud"

    [backends.local]
    type = "onnx"
    model = "model.onnx"
    device = "cpu"
    confidence = 0.01

    [backends.cloud]
    type = "huggingface"
    url = "URL"
    model = "some/bright-model"
    task = "object_detection"
    token = "hf_averysecrettoken"
    max_concurrent_requests = 4
    timeout_s = 20.0
    MORE

    [sinks.lines]
    type = "jsonl"
    path = "out/{source}.jsonl"

    [server]
    listen = "off"
"""
BALANCED = "every frame and every result is accounted for"


def test_a_model_elsewhere_finds_what_it_finds_here(workplace: Workplace) -> None:
    # Greys that differ: an answer that went to another frame would have another confidence.
    clip(workplace.folder / "clip.mp4", [40 + 6 * index for index in range(30)])
    served = workplace.folder / "served"
    served.mkdir()
    install(served)
    with Daemon(served, SERVED, command="serve") as daemon:
        daemon.ready()
        workplace.write(PIPELINE.replace("URL", f"{daemon.url}/hf").replace("MORE", 'format = "png"'))
        code, _, err = workplace.penstock("run")
        assert daemon.scrape().of("penstock_requests_total", dialect="huggingface", code="200") >= 30
    assert code == 0, err
    assert "source far: 30 decoded = 30 inferred" in err
    assert BALANCED in err
    assert "averysecret" not in err
    near, far = workplace.lines("out/near.jsonl"), workplace.lines("out/far.jsonl")
    assert [line["frame_id"] for line in far] == list(range(30))
    assert {line["backend"] for line in far} == {"cloud"}
    assert {line["model"] for line in far} == {"some/bright-model"}
    for here, there in zip(near, far, strict=True):
        [one], [other] = here["predictions"], there["predictions"]
        assert other["class"] == one["class"]
        assert other["confidence"] == pytest.approx(one["confidence"], abs=0.01)
        assert [other[key] for key in ("x", "y", "width", "height")] == pytest.approx(
            [one[key] for key in ("x", "y", "width", "height")], abs=1.0
        )


def test_masks_come_back_in_the_frames_own_size(workplace: Workplace) -> None:
    served = workplace.folder / "served"
    served.mkdir()
    install(served)
    table = PIPELINE.replace("some/bright-model", "cutter").replace("object_detection", "image_segmentation")
    with Daemon(served, SERVED, command="serve") as daemon:
        daemon.ready()
        workplace.write(table.replace("URL", f"{daemon.url}/hf").replace("MORE", "max_size = 64"))
        code, _, err = workplace.penstock("run")
    assert code == 0, err
    assert BALANCED in err
    for line in workplace.lines("out/far.jsonl"):
        assert line["image"] == {"width": 128, "height": 64}
        assert {tuple(one["rle"]["size"]) for one in line["predictions"]} == {(64, 128)}


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (HTML, "bad_answer"),
        (Reply(body=b'{"error": "out of memory"}'), "bad_answer"),
        (Reply(401, body=b'{"error": "Authorization header is invalid"}'), "auth"),
        (Reply(500, body=b'{"error": "boom"}'), "server_error"),
    ],
)
def test_a_server_that_fails_costs_its_own_frames_and_each_is_accounted_for(
    tmp_path: Path, reply: Reply, code: str
) -> None:
    clip(tmp_path / "clip.mp4", [200] * 10)
    more = "wait_for_model = false\n    circuit = { failures = 1000 }\n    retries = { max_attempts = 1 }"
    table = PIPELINE.partition("[server]")[0].replace("MORE", more)
    with MisbehavingServer(lambda _: []) as server:
        server.always(reply)
        with Daemon(tmp_path, table.replace("URL", server.url), server='linger_s = "inf"') as daemon:
            until("it listens", lambda: daemon.request("/livez")[0] == 200, 20)

            def all_failed() -> bool:
                found = daemon.scrape()  # which checks the ledger
                counted = found.of("penstock_backend_requests_total", backend="cloud", code=code)
                near = found.of("penstock_frames_total", source="near", outcome="inferred")
                far = found.of("penstock_frames_total", source="far", outcome="failed_backend")
                return (counted, near, far) == (10, 10, 10)

            until("all frames are settled", all_failed, 20)
            daemon.stop(code=None)
            assert "averysecret" not in daemon.log()
