"""The KServe routes: what a client of Triton asks is answered as Triton does, and nonsense with a clear 400."""

import asyncio
import gzip
import json
import struct
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from asking import NAMES, NODES, FakeAsking, detector, found, model, picture_file, serve_dialects
from serving import Ask

from pipeline.contracts.backend import ModelInfo, Task
from pipeline.contracts.frame import Size, Wishes
from pipeline.contracts.result import Classification, Detections, Text
from pipeline.runtime.asking import AskError
from pipeline.server.access import Access, Token
from pipeline.server.inference.kserve import dialect
from pipeline.server.inference.service import InferenceLimits
from pipeline.wire.kserve import HEADER, Body, InferRequest, RequestedOutput, encode_request
from pipeline.wire.kserve_tensors import tensor

PICTURE = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)


def serve(asking: FakeAsking, test: Callable[[Ask], Awaitable[None]], **options: Any) -> None:
    serve_dialects(asking, {"": dialect}, test, **options)


def headers_of(body: Body) -> dict[str, str]:
    length = {} if body.header_length is None else {HEADER: str(body.header_length)}
    return {"Content-Type": body.media_type, **length}


def request_of(values: Any = PICTURE, name: str = "image", **more: Any) -> Body:
    return encode_request(InferRequest((tensor(name, values),), **more))


async def infer(ask: Ask, body: Body, path: str = "/v2/models/coco/9/infer", **options: Any) -> Any:
    answer = await ask("POST", path, data=body.data, headers=headers_of(body), **options)
    assert answer.status == 200, answer.text
    return {output["name"]: output for output in answer.body["outputs"]} | {"answer": answer.body}


def test_the_server_its_health_and_its_models_are_described() -> None:
    asking = FakeAsking(detector("local", "coco/9"), model("pose", "keypoint-detection"))

    async def test(ask: Ask) -> None:
        about = (await ask("GET", "/v2")).body
        assert about["name"] == "penstock"
        assert "binary_tensor_data" in about["extensions"]
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/local/ready", "/v2/models/coco/9/ready"):
            answer = await ask("GET", path)
            assert (answer.status, answer.text) == (200, "")
        for path in ("/v2/models/coco/9", "/v2/models/coco%2F9", "/v2/models/coco/9/versions/1"):
            about = (await ask("GET", path)).body
            assert about["name"] == "coco/9"
            assert about["versions"] == ["1"]
            assert about["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
            assert {"name": "boxes", "datatype": "FP32", "shape": [-1, -1, 4]} in about["outputs"]
        config = (await ask("GET", "/v2/models/pose/config")).body
        said = {key: value["string_value"] for key, value in config["parameters"].items()}
        assert said["task"] == "keypoint-detection"
        assert json.loads(said["labels"]) == list(NAMES)
        assert json.loads(said["keypoints"]) == list(NODES)
        assert said["input_size"] == "640x480"
        assert config["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": [-1, -1, 3]}]

    serve(asking, test)


def test_a_server_whose_model_is_on_its_way_is_not_ready_and_one_that_was_taken_out_does_not_matter() -> None:
    asking = FakeAsking(detector("local"), detector("other", state="loading", info=None))

    async def test(ask: Ask) -> None:
        assert (await ask("GET", "/v2/health/ready")).status == 503
        assert (await ask("GET", "/v2/health/live")).status == 200
        answer = await ask("GET", "/v2/models/other/ready")
        assert (answer.status, answer.body) == (400, {"error": "Model version not ready"})
        assert (await ask("GET", "/v2/models/other")).status == 503
        asking.models["other"] = detector("other", state="unloaded")
        assert (await ask("GET", "/v2/health/ready")).status == 200

    serve(asking, test)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/nope", 404),
        ("GET", "/v2/models/nope/config", 404),
        ("GET", "/v2/models/nope/stats", 400),
        ("GET", "/v2/models/nope/ready", 400),
        ("GET", "/v2/models/local/versions/7", 404),
        ("GET", "/v2/models/local/versions/7/ready", 400),
        ("POST", "/v2/models/nope/infer", 404),
        ("POST", "/v2/models/local/versions/7/infer", 404),
        ("POST", "/v2/repository/models/nope/load", 404),
        ("POST", "/v2/repository/models/nope/unload", 404),
        ("GET", "/v2/models/local/infer", 404),  # a model by the name of local/infer
        ("GET", "/v2/nope", 404),
        ("POST", "/v2", 405),
        ("PUT", "/v2/models/local/infer", 405),
    ],
)
def test_what_is_not_there_is_told_with_the_status_and_the_form_of_triton(method: str, path: str, status: int) -> None:
    async def test(ask: Ask) -> None:
        answer = await ask(method, path)
        assert answer.status == status
        assert list(answer.body) == ["error"]

    serve(FakeAsking(detector("local")), test)


def test_a_picture_as_it_is_is_answered_in_pixels_of_that_picture() -> None:
    asking = FakeAsking(detector("local", "coco/9"))

    async def test(ask: Ask) -> None:
        for values, pictures in ((PICTURE, 1), (np.stack([PICTURE, PICTURE]), 2)):
            outputs = await infer(ask, request_of(values, id="7"))
            assert outputs["answer"]["id"] == "7"
            assert outputs["answer"]["model_name"] == "coco/9"
            assert outputs["answer"]["model_version"] == "1"
            assert outputs["num_detections"]["data"] == [2] * pictures
            assert outputs["boxes"]["shape"] == [pictures, 2, 4]
            assert outputs["boxes"]["data"] == found().xyxy.ravel().tolist() * pictures
            assert outputs["scores"]["data"] == [0.875, 0.5] * pictures
            assert outputs["labels"]["data"] == ["person", "bus"] * pictures
            assert asking.asked[-1].pictures[-1].size == Size(32, 24)
            np.testing.assert_array_equal(asking.asked[-1].pictures[-1].rgb(), PICTURE)
            assert asking.asked[-1].wishes is None

    serve(asking, test)


def test_files_are_decoded_and_a_bare_body_is_one_file() -> None:
    asking = FakeAsking(detector("local", "coco/9"))
    jpeg, png = picture_file(40, 30), picture_file(20, 10, "PNG")

    async def test(ask: Ask) -> None:
        outputs = await infer(ask, request_of([jpeg, png]))
        assert outputs["num_detections"]["data"] == [2, 2]
        assert [picture.size for picture in asking.asked[-1].pictures] == [Size(40, 30), Size(20, 10)]
        for body in (jpeg, struct.pack("<I", len(jpeg)) + jpeg):
            answer = await ask("POST", "/v2/models/local/infer", data=body, headers={HEADER: "0"})
            assert answer.status == 200
            assert HEADER in answer.headers
            assert asking.asked[-1].pictures[0].size == Size(40, 30)

    serve(asking, test)


def test_only_the_outputs_that_were_asked_for_come_each_in_the_form_that_was_asked_for() -> None:
    wanted = (RequestedOutput("boxes", binary=True), RequestedOutput("scores"), RequestedOutput("labels", binary=False))

    async def test(ask: Ask) -> None:
        body = request_of(outputs=wanted, binary_output=True)
        answer = await ask("POST", "/v2/models/local/infer", data=body.data, headers=headers_of(body))
        assert answer.headers["Content-Type"] == "application/octet-stream"
        head = json.loads(answer.data[: int(answer.headers[HEADER])])
        boxes, scores, labels = head["outputs"]
        assert boxes["parameters"] == {"binary_data_size": 32}
        assert scores["parameters"] == {"binary_data_size": 8}
        assert labels["data"] == ["person", "bus"]
        buffers = answer.data[int(answer.headers[HEADER]) :]
        assert np.frombuffer(buffers[:32], "<f4").tolist() == found().xyxy.ravel().tolist()
        assert np.frombuffer(buffers[32:], "<f4").tolist() == [0.875, 0.5]

    serve(FakeAsking(detector("local")), test)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_both_ways_may_be_packed_and_the_header_counts_what_is_not(encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress

    async def test(ask: Ask) -> None:
        body = request_of(binary_output=True)
        headers = {**headers_of(body), "Content-Encoding": encoding, "Accept-Encoding": encoding}
        answer = await ask("POST", "/v2/models/local/infer", data=pack(body.data), headers=headers)
        assert answer.status == 200
        assert answer.headers["Content-Encoding"] == encoding
        head = json.loads(answer.data[: int(answer.headers[HEADER])])  # the test's own client has unpacked it
        assert [output["name"] for output in head["outputs"]][:2] == ["num_detections", "boxes"]

    serve(FakeAsking(detector("local")), test)


def test_parameters_are_wishes_and_strange_ones_are_let_be() -> None:
    asking = FakeAsking(detector("local", "coco/9"))
    asked = {
        "confidence": 0.4,
        "iou_threshold": 1,
        "max_detections": 5,
        "class_agnostic_nms": True,
        "classes": "person, bus",
        "keypoint_confidence": 0.1,
        "timeout": 1000,
        "sequence_id": "x",
    }

    async def test(ask: Ask) -> None:
        await infer(ask, request_of(parameters=asked))
        assert asking.asked[-1].wishes == Wishes(0.4, 1.0, 5, True, ("person", "bus"), 0.1)
        for name, value in (
            ("confidence", 40),
            ("confidence", "0.4"),
            ("max_detections", -1),
            ("max_detections", 1.5),
            ("class_agnostic_nms", 1),
            ("classes", 7),
        ):
            body = request_of(parameters={name: value})
            answer = await ask("POST", "/v2/models/local/infer", data=body.data, headers=headers_of(body))
            assert answer.status == 400
            assert name in answer.body["error"]

    serve(asking, test)


@pytest.mark.parametrize(
    ("task", "shapes"),
    [
        ("instance-segmentation", {"masks": [1, 2]}),
        ("keypoint-detection", {"keypoints": [1, 2, 2, 3]}),
        ("classification", {"scores": [1, 3], "labels": [1, 3]}),
        ("multi-label-classification", {"scores": [1, 3]}),
        ("embedding", {"embedding": [1, 4]}),
        ("text", {"text": [1]}),
    ],
)
def test_each_task_has_its_outputs(task: Task, shapes: dict[str, list[int]]) -> None:
    async def test(ask: Ask) -> None:
        outputs = await infer(ask, request_of(np.zeros((240, 320, 3), np.uint8)))
        for name, shape in shapes.items():
            assert outputs[name]["shape"] == shape
        declared = (await ask("GET", "/v2/models/coco/9")).body["outputs"]
        assert [output["name"] for output in declared] == [name for name in outputs if name != "answer"]

    serve(FakeAsking(model("any", task, "coco/9")), test)


def test_a_map_of_classes_comes_as_bytes_and_json_is_refused_in_words() -> None:
    asking = FakeAsking(model("any", "semantic-segmentation"))

    async def test(ask: Ask) -> None:
        body = request_of(binary_output=True)
        answer = await ask("POST", "/v2/models/any/infer", data=body.data, headers=headers_of(body))
        assert answer.status == 200
        assert b"\x89PNG" in answer.data
        body = request_of()
        answer = await ask("POST", "/v2/models/any/infer", data=body.data, headers=headers_of(body))
        assert answer.status == 400
        assert "ask for binary data" in answer.body["error"]

    serve(asking, test)


def test_a_model_for_texts_embeds_them_and_compares_pictures_with_them() -> None:
    asking = FakeAsking(model("clip", "embedding"))

    async def test(ask: Ask) -> None:
        inputs = (await ask("GET", "/v2/models/clip")).body["inputs"]
        assert [entry["name"] for entry in inputs] == ["image", "text"]
        outputs = await infer(ask, request_of([b"a cat", "ein Kä".encode()], name="text"), "/v2/models/clip/infer")
        assert outputs["embedding"]["shape"] == [2, 4]
        assert asking.texts == ["a cat", "ein Kä"]
        body = request_of(parameters={"texts": "cat,dog"}, outputs=(RequestedOutput("scores", classification=1),))
        outputs = await infer(ask, body, "/v2/models/clip/infer")
        assert outputs["scores"]["data"] == ["0.500000:0:cat"]

    serve(asking, test)


def test_a_question_is_passed_on_whole_to_a_model_that_takes_one() -> None:
    asking = FakeAsking(model("chat", "text", info=ModelInfo("text", texts="question")))

    async def test(ask: Ask) -> None:
        config = (await ask("GET", "/v2/models/chat/config")).body
        assert config["parameters"]["texts"] == {"string_value": "question"}
        for parameters in ({"texts": "how many, all in all?"}, {"texts": ""}):
            outputs = await infer(ask, request_of(parameters=parameters), "/v2/models/chat/infer")
            said.append(outputs["text"]["data"])

    said: list[Any] = []
    serve(asking, test)
    assert said == [["how many, all in all?: a bus in a street"], ["a bus in a street"]]
    assert [one.wishes for one in asking.asked] == [Wishes(texts=("how many, all in all?",)), None]


def test_labels_of_a_request_are_those_of_its_scores() -> None:
    info = ModelInfo("classification", NAMES, texts="labels")
    asking = FakeAsking(model("far", "classification", info=info))
    asking.answers["far"] = lambda _, wishes: Classification(
        np.array([0.25, 0.75], np.float32), wishes.texts if wishes else NAMES
    )

    async def test(ask: Ask) -> None:
        body = request_of(parameters={"texts": "cat,dog"}, outputs=(RequestedOutput("scores", classification=1),))
        outputs = await infer(ask, body, "/v2/models/far/infer")
        assert outputs["scores"]["data"] == ["0.750000:1:dog"]

    serve(asking, test)


@pytest.mark.parametrize("texts", [["x"] * 1001, ["x" * 10_001]], ids=["too-many", "too-long"])
def test_more_text_than_clip_takes_never_reaches_it(texts: list[str]) -> None:
    asking = FakeAsking(model("clip", "embedding"))

    async def test(ask: Ask) -> None:
        for body in (
            request_of([text.encode() for text in texts], name="text"),
            request_of(parameters={"texts": ",".join(texts)}),
        ):
            answer = await ask("POST", "/v2/models/clip/infer", data=body.data, headers=headers_of(body))
            assert answer.status in {400, 413}

    serve(asking, test)
    assert (asking.asked, asking.texts) == ([], [])


def test_the_best_classes_come_with_their_names() -> None:
    body = request_of(outputs=(RequestedOutput("scores", classification=2),))

    async def test(ask: Ask) -> None:
        outputs = await infer(ask, body)
        assert outputs["scores"]["data"] == ["0.750000:1:bus", "0.125000:0:person"]

    serve(FakeAsking(model("any", "classification", "coco/9")), test)


BAD_REQUESTS: list[tuple[bytes, str]] = [
    (b"", "JSON"),
    (b"{", "JSON"),
    (b"[]", "no object"),
    (b"{}", "inputs"),
    (b"[" * 100_000, "nested too deep"),
    (b'{"inputs":[]}', "expected 1 input but got 0"),
    (encode_request(InferRequest((tensor("x", PICTURE),))).data, "UTF-8"),
    (encode_request(InferRequest((tensor("x", PICTURE),)), binary=False).data, "unexpected inference input 'x'"),
    (b'{"inputs":[{"name":"image","shape":[1],"datatype":"FP32","data":[1]}]}', "data-type is 'FP32'"),
    (b'{"inputs":[{"name":"image","shape":[1,1,1],"datatype":"UINT8","data":[1]}]}', "unexpected shape"),
    (b'{"inputs":[{"name":"image","shape":[0,1,3],"datatype":"UINT8","data":[]}]}', "unexpected shape"),
    (b'{"inputs":[{"name":"image","shape":[0,1,1,3],"datatype":"UINT8","data":[]}]}', "no picture"),
    (b'{"inputs":[{"name":"image","shape":[0],"datatype":"BYTES","data":[]}]}', "no picture"),
    (b'{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","data":["junk"]}]}', "cannot be read"),
    (b'{"inputs":[{"name":"image","shape":[2],"datatype":"UINT8","data":[1]}]}', "has 1 values"),
]


@pytest.mark.parametrize(("body", "says"), BAD_REQUESTS, ids=range(len(BAD_REQUESTS)))
def test_a_request_that_makes_no_sense_is_a_400_that_says_why(body: bytes, says: str) -> None:
    asking = FakeAsking(detector("local"))

    async def test(ask: Ask) -> None:
        answer = await ask("POST", "/v2/models/local/infer", data=body)
        assert answer.status == 400
        assert says in answer.body["error"]
        assert not asking.asked
        stats = (await ask("GET", "/v2/models/local/stats")).body["model_stats"][0]
        assert stats["inference_stats"]["fail"]["count"] == 0

    serve(asking, test)


def test_an_output_that_is_not_there_and_a_header_that_lies_are_refused() -> None:
    async def test(ask: Ask) -> None:
        body = request_of(outputs=(RequestedOutput("zz"),))
        answer = await ask("POST", "/v2/models/local/infer", data=body.data, headers=headers_of(body))
        assert (answer.status, answer.body["error"]) == (400, "unexpected inference output 'zz' for model 'local'")
        for length in ("-1", "x", "99999999"):
            answer = await ask("POST", "/v2/models/local/infer", data=body.data, headers={HEADER: length})
            assert answer.status == 400
            assert HEADER in answer.body["error"]

    serve(FakeAsking(detector("local")), test)


def test_too_many_pictures_and_pixels_are_413() -> None:
    limits = InferenceLimits(max_pictures=2, max_pixels=100)

    async def test(ask: Ask) -> None:
        for values in (PICTURE, np.zeros((3, 1, 1, 3), np.uint8), [b"x"] * 3):
            body = request_of(values)
            answer = await ask("POST", "/v2/models/local/infer", data=body.data, headers=headers_of(body))
            assert answer.status == 413
            assert list(answer.body) == ["error"]

    serve(FakeAsking(detector("local")), test, limits=limits)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AskError("loading", "the model is loading", 3.0), 503),
        (AskError("busy", "too many wait"), 503),
        (AskError("late", "too late"), 504),
        (AskError("failed", "it broke"), 500),
    ],
)
def test_a_model_that_gives_no_answer_is_told_in_the_protocols_form(error: AskError, status: int) -> None:
    asking = FakeAsking(detector("local"))
    asking.fault = error

    async def test(ask: Ask) -> None:
        body = request_of()
        answer = await ask("POST", "/v2/models/local/infer", data=body.data, headers=headers_of(body))
        assert (answer.status, answer.body) == (status, {"error": str(error)})
        assert ("Retry-After" in answer.headers) == (status == 503)
        stats = (await ask("GET", "/v2/models/local/stats")).body["model_stats"][0]
        assert stats["inference_stats"]["fail"]["count"] == 1
        assert stats["inference_stats"]["success"]["count"] == 0

    serve(asking, test)


def test_a_model_that_answers_with_another_kind_than_its_task_is_the_servers_fault() -> None:
    asking = FakeAsking(detector("local"))
    asking.answers["local"] = lambda *_: Text("no boxes")

    async def test(ask: Ask) -> None:
        body = request_of()
        answer = await ask("POST", "/v2/models/local/infer", data=body.data, headers=headers_of(body))
        assert answer.status == 500

    serve(asking, test)


def test_pictures_with_different_numbers_of_objects_share_one_answer() -> None:
    asking = FakeAsking(detector("local", "coco/9"))
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), NAMES)
    asking.answers["local"] = lambda picture, _: found() if picture.size.width > 32 else nothing

    async def test(ask: Ask) -> None:
        outputs = await infer(ask, request_of([picture_file(64, 48), picture_file(16, 16)]))
        assert outputs["num_detections"]["data"] == [2, 0]
        assert outputs["classes"]["data"] == [0, 1, -1, -1]
        assert outputs["labels"]["data"] == ["person", "bus", "", ""]
        outputs = await infer(ask, request_of([picture_file(16, 16)]))
        assert outputs["boxes"]["shape"] == [1, 0, 4]
        assert outputs["boxes"]["data"] == []

    serve(asking, test)


def test_statistics_count_requests_and_pictures() -> None:
    asking = FakeAsking(detector("local", "coco/9"), detector("idle"))

    async def test(ask: Ask) -> None:
        await infer(ask, request_of(np.stack([PICTURE, PICTURE])))
        await infer(ask, request_of())
        first, second = (await ask("GET", "/v2/models/stats")).body["model_stats"]
        assert (first["name"], first["inference_count"], first["execution_count"]) == ("local", 3, 2)
        assert first["inference_stats"]["success"]["count"] == 2
        assert first["inference_stats"]["compute_infer"]["ns"] == 37_500_000
        assert first["last_inference"] > 0
        assert (second["name"], second["inference_count"], second["last_inference"]) == ("idle", 0, 0)
        (same,) = (await ask("GET", "/v2/models/coco/9/stats")).body["model_stats"]
        assert same == {**first, "name": "coco/9"}

    serve(asking, test)


def test_the_repository_lists_loads_and_unloads() -> None:
    asking = FakeAsking(detector("local", "coco/9"), detector("fixed", removable=False))

    async def test(ask: Ask) -> None:
        entries = (await ask("POST", "/v2/repository/index")).body
        assert [entry["name"] for entry in entries] == ["coco/9", "local", "fixed"]
        assert {entry["state"] for entry in entries} == {"READY"}
        body = {"parameters": {"unload_dependents": False}}
        answer = await ask("POST", "/v2/repository/models/coco/9/unload", json=body)
        assert (answer.status, answer.text) == (200, "")
        entries = (await ask("POST", "/v2/repository/index", json={"ready": True})).body
        assert [entry["name"] for entry in entries] == ["fixed"]
        entries = (await ask("POST", "/v2/repository/index", json={})).body
        assert entries[0] == {"name": "coco/9", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
        assert (await infer_status(ask, "local")) == 503
        assert (await ask("POST", "/v2/repository/models/local/load", json={})).status == 200
        assert (await infer_status(ask, "local")) == 200
        assert (await ask("POST", "/v2/repository/models/fixed/unload")).status == 501

    async def infer_status(ask: Ask, name: str) -> int:
        body = request_of()
        return (await ask("POST", f"/v2/models/{name}/infer", data=body.data, headers=headers_of(body))).status

    serve(asking, test)


@pytest.mark.parametrize(
    "body",
    [
        {"parameters": {"config": "{}"}},
        {"parameters": {"file:1/model.onnx": "AAAA"}},
        {"parameters": [1]},
        [],
    ],
)
def test_nobody_brings_a_model_of_their_own(body: object) -> None:
    async def test(ask: Ask) -> None:
        assert (await ask("POST", "/v2/repository/models/local/load", json=body)).status == 400

    serve(FakeAsking(detector("local", state="unloaded")), test)


def test_a_token_is_wanted_of_everything_but_health() -> None:
    async def test(ask: Ask) -> None:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert (await ask("GET", path)).status == 200
        for method, path in (("GET", "/v2"), ("POST", "/v2/models/local/infer"), ("GET", "/v2/models/local")):
            answer = await ask(method, path)
            assert answer.status == 401
            assert list(answer.body) == ["error"]

    serve(FakeAsking(detector("local")), test, access=Access([Token.of("t", "secret", ["infer"])]))


def test_requests_at_once_do_not_mix_their_answers() -> None:
    asking = FakeAsking(model("any", "classification", "coco/9"))
    asking.answers["any"] = lambda picture, _: Classification(
        np.array([picture.size.width / 1000], np.float32), ("wide",)
    )

    async def test(ask: Ask) -> None:
        widths = range(10, 40)
        answers = await asyncio.gather(
            *(infer(ask, request_of(np.zeros((8, width, 3), np.uint8), id=str(width))) for width in widths)
        )
        for width, outputs in zip(widths, answers, strict=True):
            assert outputs["answer"]["id"] == str(width)
            assert outputs["scores"]["data"] == [pytest.approx(width / 1000)]

    serve(asking, test)
