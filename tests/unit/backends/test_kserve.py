"""The backend against a Triton and a Penstock: found out from metadata, sent as tensors, read with our own heads."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from asking import NAMES, NODES, found, masked, model, posed
from looped import LoopedContext
from misbehaving_server import HTML, Asked, MisbehavingServer, Reply, json_body, status
from model_files import detector, yolov8_output
from PIL import Image
from pydantic import ValidationError

from pipeline.backends._http_backend import HttpBackend
from pipeline.backends.kserve import KserveBackendConfig
from pipeline.backends.onnx import OnnxBackendConfig
from pipeline.contracts.backend import ModelInfo, Task
from pipeline.contracts.errors import BackendErrorCode, ConfigError, TransientError
from pipeline.contracts.frame import Frame, Size, Wishes
from pipeline.contracts.result import Classification, Detections, Prediction, Text
from pipeline.server.inference._kserve_models import config_of, metadata_of
from pipeline.testing import PluginContext, frame
from pipeline.wire.kserve import HEADER, InferRequest, InferResponse, decode_request, encode_response, header_length
from pipeline.wire.kserve_results import to_tensors
from pipeline.wire.kserve_tensors import Tensor, tensor

QUICK = {"retries": {"max_attempts": 2, "min_s": 0.001, "max_s": 0.002}, "timeout_s": 5.0}
METADATA = {
    "name": "yolo",
    "versions": ["1"],
    "platform": "onnxruntime_onnx",
    "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 64, 64]}],
    "outputs": [{"name": "output0", "datatype": "FP32", "shape": [-1, 6, 84]}],
}
CONFIG = {"name": "yolo", "max_batch_size": 4, "parameters": {"names": {"string_value": "['thing', 'other']"}}}
OUTPUT = yolov8_output((32, 32, 16, 24, 1, 0.9), (12, 20, 8, 8, 0, 0.6), (13, 20, 8, 8, 0, 0.5))


def packed(response: InferResponse, binary: Sequence[str]) -> Reply:
    body = encode_response(response, binary)
    headers = {"Content-Type": body.media_type}
    if body.header_length is not None:
        headers[HEADER] = str(body.header_length)
    return Reply(body=body.data, headers=headers)


def request_in(asked: Asked) -> InferRequest:
    return decode_request(asked.body, header_length(asked.headers.get(HEADER.lower())))


Outputs = Callable[[InferRequest], Sequence[Tensor]]


def triton(outputs: Outputs, metadata: Any = METADATA, config: Any = CONFIG) -> Callable[[Asked], Any]:
    """A model by this metadata, that answers with these outputs."""

    def answer(asked: Asked) -> Any:
        if asked.path.endswith("/infer"):
            request = request_in(asked)
            made = outputs(request)
            names = [one.name for one in made] if request.binary_output else []
            return packed(InferResponse("yolo", "1", tuple(made)), names)
        if asked.path.endswith("/config"):
            return config
        return metadata

    return answer


def yolo(request: InferRequest) -> list[Tensor]:
    """The same boxes for every picture."""
    rows = len(request.inputs[0].array)
    return [tensor("output0", np.repeat(OUTPUT[None], rows, 0))]


@contextmanager
def remote(
    tmp_path: Path, answer: Callable[[Asked], Any], *, opened: bool = True, **keys: Any
) -> Iterator[tuple[HttpBackend, MisbehavingServer]]:
    with MisbehavingServer(answer) as server, LoopedContext("cloud", tmp_path) as ctx:
        config = KserveBackendConfig.model_validate({**QUICK, "url": server.url, "model_name": "yolo", **keys})
        backend = config.build(ctx)
        try:
            if opened:
                backend.open()
            yield backend, server
        finally:
            backend.close()


def same(one: Prediction, other: Prediction, *, atol: float = 1e-4) -> None:
    assert type(one) is type(other)
    for name in type(one).__slots__:
        mine, its = getattr(one, name), getattr(other, name)
        if isinstance(mine, np.ndarray):
            np.testing.assert_allclose(np.asarray(its, np.float64), np.asarray(mine, np.float64), atol=atol)
        elif name != "timings":
            assert mine == its


# A model that takes and gives numbers


@pytest.mark.parametrize("binary", [True, False])
def test_a_bare_model_is_fed_and_read_like_the_same_model_here(tmp_path: Path, binary: bool) -> None:
    pictures = [frame(width=200, height=100), replace(frame(1), wishes=Wishes(confidence=0.55)), frame(2)]
    local = OnnxBackendConfig(
        model=detector(
            tmp_path / "m.onnx", {"output0": OUTPUT}, image=("n", 3, 64, 64), shapes={"output0": ("n", 6, 84)}
        ),
        device="cpu",
        labels=("thing", "other"),
        max_batch=4,
        workers=1,
    ).build(PluginContext("local", tmp_path))
    local.open()
    expected = local.infer(pictures)
    local.close()
    with remote(tmp_path, triton(yolo), max_batch_size=8, binary=binary) as (backend, server):
        assert backend.max_batch == 4
        assert backend.info().labels == ("thing", "other")
        assert backend.info().input_size == Size(64, 64)
        assert "yolov8" in backend.describe()
        answers = backend.infer(pictures)
    for mine, its in zip(expected, answers, strict=True):
        same(mine, its)
    assert [len(one.class_id) for one in answers if isinstance(one, Detections)] == [2, 2, 2]
    (asked,) = [each for each in server.asked if each.path.endswith("/infer")]
    request = request_in(asked)
    assert (HEADER.lower() in asked.headers) == binary
    assert [output.name for output in request.outputs] == ["output0"]
    assert request.inputs[0].shape == [3, 3, 64, 64]
    # Nothing was encoded as a file on the way: grey 128 in the middle, letterbox grey beyond it.
    assert request.inputs[0].array[0, 0, 32, 32] == pytest.approx(128 / 255, abs=0.01)
    assert request.inputs[0].array[0, 0, 0, 0] == pytest.approx(114 / 255, abs=0.01)


def test_a_wish_for_one_picture_counts_for_that_picture(tmp_path: Path) -> None:
    with remote(tmp_path, triton(yolo), max_batch_size=2) as (backend, _):
        first, second = backend.infer([frame(), replace(frame(1), wishes=Wishes(confidence=0.8))])
    assert isinstance(first, Detections)
    assert isinstance(second, Detections)
    assert (len(first), len(second)) == (2, 1)


def test_the_keys_of_the_config_settle_what_is_kept(tmp_path: Path) -> None:
    with remote(tmp_path, triton(yolo), labels=["a", "b"], classes=["A"], confidence=0.1, iou_threshold=1.0) as (
        one,
        _,
    ):
        (answer,) = one.infer([frame()])
    assert isinstance(answer, Detections)
    assert [answer.label(index) for index in range(len(answer))] == ["a", "a"]


def test_a_bare_model_is_fed_of_the_frame_itself_whatever_the_size_of_files_would_be(tmp_path: Path) -> None:
    with remote(tmp_path, triton(yolo), max_size=16) as (small, _):
        (found_small,) = small.infer([frame(width=200, height=100)])
    with remote(tmp_path, triton(yolo)) as (usual, _):
        (found_usual,) = usual.infer([frame(width=200, height=100)])
    same(found_usual, found_small)


def test_a_version_is_asked_for_in_the_path(tmp_path: Path) -> None:
    with remote(tmp_path, triton(yolo), model_version="3") as (backend, server):
        backend.infer([frame()])
    assert [asked.path for asked in server.asked] == [
        "/v2/models/yolo/versions/3",
        "/v2/models/yolo/versions/3/config",
        "/v2/models/yolo/versions/3/infer",
    ]


def test_a_model_with_open_shapes_is_run_once_on_an_empty_picture(tmp_path: Path) -> None:
    metadata = {**METADATA, "outputs": [{"name": "output0", "datatype": "FP32", "shape": [-1, -1, -1]}]}
    with remote(tmp_path, triton(yolo, metadata), labels=["a", "b"]) as (backend, server):
        assert len(server.asked) == 3
        assert not request_in(server.asked[-1]).inputs[0].array.any()
        (answer,) = backend.infer([frame()])
    assert isinstance(answer, Detections)
    assert len(answer) == 2


def test_a_server_without_configurations_is_served_as_well(tmp_path: Path) -> None:
    good = triton(yolo)

    def answer(asked: Asked) -> Any:
        return status(404) if asked.path.endswith("/config") else good(asked)

    with remote(tmp_path, answer, labels=["a", "b"]) as (backend, _):
        assert len(backend.infer([frame()])) == 1


def test_a_model_of_a_fixed_batch_gets_whole_batches(tmp_path: Path) -> None:
    metadata = json.loads(json.dumps(METADATA).replace("-1", "2"))
    with remote(tmp_path, triton(yolo, metadata, {"max_batch_size": 0}), labels=["a", "b"], max_batch_size=8) as (
        one,
        server,
    ):
        assert one.max_batch == 2
        assert len(one.infer([frame()])) == 1
    assert request_in(server.asked[-1]).inputs[0].shape == [2, 3, 64, 64]


@pytest.mark.parametrize("dtype", ["FP16", "UINT8"])
def test_half_floats_and_bytes_are_sent_as_such(tmp_path: Path, dtype: str) -> None:
    metadata = json.loads(
        json.dumps(METADATA).replace('"images", "datatype": "FP32"', f'"images", "datatype": "{dtype}"')
    )
    with remote(tmp_path, triton(yolo, metadata), labels=["a", "b"]) as (backend, server):
        backend.infer([frame()])
    (given,) = request_in(server.asked[-1]).inputs
    assert given.datatype == dtype
    assert float(given.array[0, 0, 32, 32]) == pytest.approx(128 if dtype == "UINT8" else 128 / 255, abs=1)


def wrong(values: npt.NDArray[Any], name: str = "output0") -> Outputs:
    return lambda _: [tensor(name, values)]


@pytest.mark.parametrize(
    "outputs",
    [
        wrong(OUTPUT[None], "other"),
        wrong(np.repeat(OUTPUT[None], 2, 0)),
        wrong(OUTPUT[None, :, :80]),
        wrong(OUTPUT[None].astype(np.bool_)),
        lambda _: [tensor("output0", [b"x"])],
        lambda _: [],
    ],
    ids=["name", "batch", "shape", "type", "strings", "nothing"],
)
def test_an_answer_that_does_not_fit_the_model_is_a_bad_answer(tmp_path: Path, outputs: Outputs) -> None:
    with remote(tmp_path, triton(outputs)) as (backend, _):
        with pytest.raises(TransientError) as raised:
            backend.infer([frame()])
        assert raised.value.code is BackendErrorCode.BAD_ANSWER


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (HTML, BackendErrorCode.BAD_ANSWER),
        (json_body({"error": "no model"}), BackendErrorCode.BAD_ANSWER),
        (json_body([]), BackendErrorCode.BAD_ANSWER),
        (
            json_body({"outputs": [{"name": "output0", "shape": [10**9] * 9, "datatype": "FP32", "data": [1]}]}),
            BackendErrorCode.BAD_ANSWER,
        ),
        (Reply(body=b"{}", headers={HEADER: "9999"}), BackendErrorCode.BAD_ANSWER),
        (Reply(body=b"{}", headers={HEADER: "x"}), BackendErrorCode.BAD_ANSWER),
        (status(400), BackendErrorCode.REJECTED),
        (status(404), BackendErrorCode.NOT_FOUND),
        (status(500), BackendErrorCode.SERVER_ERROR),
    ],
)
def test_a_server_that_fails_is_a_named_error(tmp_path: Path, reply: Reply, code: BackendErrorCode) -> None:
    with remote(tmp_path, triton(yolo)) as (backend, server):
        server.always(reply)
        with pytest.raises(TransientError) as raised:
            backend.infer([frame()])
        assert raised.value.code is code
        server.always(Reply())
        assert len(backend.infer([frame()])) == 1


@pytest.mark.parametrize(("row", "value"), [(0, np.nan), (4, np.nan), (0, np.inf), (4, np.inf)])
def test_what_is_no_number_among_the_outputs_is_no_empty_picture_but_a_bad_answer(
    tmp_path: Path, row: int, value: float
) -> None:
    output = OUTPUT.copy()
    output[row, 0] = value
    with remote(tmp_path, triton(wrong(output[None]))) as (backend, _):
        with pytest.raises(TransientError) as raised:
            backend.infer([frame()])
        assert raised.value.code is BackendErrorCode.BAD_ANSWER


@pytest.mark.parametrize(
    ("keys", "metadata", "key"),
    [
        ({"labels": ["one"]}, METADATA, "labels"),
        ({"labels": ["a", "b"], "classes": ["c"]}, METADATA, "classes"),
        ({"input_size": 128}, METADATA, "input_size"),
        ({}, {**METADATA, "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 7]}]}, "model_name"),
        ({}, {**METADATA, "inputs": [{"name": "x", "datatype": "BYTES", "shape": [-1, 3, 64, 64]}]}, "model_name"),
    ],
)
def test_keys_that_do_not_fit_the_model_are_blamed(
    tmp_path: Path, keys: dict[str, Any], metadata: Any, key: str
) -> None:
    with (
        remote(tmp_path, triton(yolo, metadata), opened=False, **keys) as (backend, _),
        pytest.raises(ConfigError) as raised,
    ):
        backend.open()
    assert raised.value.key == key


@pytest.mark.parametrize("metadata", [[], {}, {"name": 1, "inputs": [], "outputs": []}, {"name": "x", "inputs": {}}])
def test_metadata_that_make_no_sense_are_tried_again_later(tmp_path: Path, metadata: Any) -> None:
    with remote(tmp_path, triton(yolo, metadata), opened=False) as (backend, _):
        with pytest.raises(TransientError) as raised:
            backend.open()
        assert raised.value.code is BackendErrorCode.BAD_ANSWER


# A model behind another Penstock


def penstock(task: Task, predict: Callable[[Size, InferRequest], Prediction], **changes: Any) -> Callable[[Asked], Any]:
    """What our own server says and does; `changes` go into the `Served`."""
    served = model("any", task, **changes)
    assert served.info is not None
    info = served.info

    def outputs(request: InferRequest) -> Sequence[Tensor]:
        assert request.inputs[0].name == "image"
        sizes = [Size(*Image.open(io.BytesIO(data)).size) for data in request.inputs[0].array.tolist()]
        said = [predict(size, request) for size in sizes]
        compared = "texts" in request.parameters and info.texts != "question"
        return to_tensors(said, replace(info, task="classification") if compared else info)

    return triton(outputs, metadata_of(served, "yolo"), config_of(served, "yolo", 16))


def big(seq: int = 0, **changes: Any) -> Frame:
    return replace(frame(seq, width=320, height=240), **changes)


@pytest.mark.parametrize(
    ("task", "predict"),
    [
        ("object-detection", lambda size, _: found()),
        ("instance-segmentation", lambda size, _: masked(size)),
        ("keypoint-detection", lambda size, _: posed()),
        (
            "multi-label-classification",
            lambda size, _: Classification(np.array([0.875, 0.75, 0.125], np.float32), NAMES, multi_label=True),
        ),
    ],
)
def test_a_penstock_gets_files_and_gives_what_its_model_said(
    tmp_path: Path, task: Task, predict: Callable[[Size, InferRequest], Prediction]
) -> None:
    with remote(tmp_path, penstock(task, predict), max_batch_size=4) as (backend, _):
        assert backend.info().task == task
        assert backend.info().labels == NAMES
        assert backend.info().keypoints == (NODES if task == "keypoint-detection" else ())
        for answer in backend.infer([big(), big(1)]):
            same(predict(Size(320, 240), InferRequest(())), answer)


def test_a_smaller_picture_is_sent_and_its_boxes_come_back_in_pixels_of_the_frame(tmp_path: Path) -> None:
    box = Detections(
        np.array([[10, 20, 40, 50]], np.float32), np.array([0.5], np.float32), np.array([1], np.int32), NAMES
    )
    sizes: list[Size] = []

    def predict(size: Size, _: InferRequest) -> Prediction:
        sizes.append(size)
        return box

    with remote(tmp_path, penstock("object-detection", predict), max_size=160) as (backend, _):
        (answer,) = backend.infer([big()])
    assert sizes == [Size(160, 120)]
    assert isinstance(answer, Detections)
    assert answer.xyxy.tolist() == [[20, 40, 80, 100]]


def test_masks_of_a_smaller_picture_come_back_in_the_size_of_the_frame(tmp_path: Path) -> None:
    answer = penstock("instance-segmentation", lambda size, _: masked(size))
    with remote(tmp_path, answer, max_size=160) as (backend, _):
        (found_again,) = backend.infer([big()])
    assert isinstance(found_again, Detections)
    assert found_again.masks is not None
    assert found_again.masks.shape == (2, 240, 320)
    # The first box of the picture that was sent, at twice its size.
    assert found_again.masks[0, 40:240, 20:220].all()
    assert not found_again.masks[0, :40].any()


def test_what_the_config_and_the_frame_ask_for_goes_along_the_frames_own_wish_first(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"confidence": 0.3, "max_detections": 7, "classes": ["BUS", 0], "max_batch_size": 3}
    with remote(tmp_path, penstock("object-detection", lambda *_: found()), **keys) as (backend, server):
        wishes = Wishes(confidence=0.6, class_agnostic_nms=True, classes=("dog",))
        backend.infer([big(), big(1), big(2, wishes=wishes)])
    first, second = [request_in(asked) for asked in server.asked if asked.path.endswith("/infer")]
    assert first.parameters == {"confidence": 0.3, "max_detections": 7, "classes": "person,bus"}
    assert len(first.inputs[0].array) == 2
    assert second.parameters == {"confidence": 0.6, "max_detections": 7, "class_agnostic_nms": True, "classes": "dog"}


def test_texts_make_a_classification_of_an_embedding(tmp_path: Path) -> None:
    scores = Classification(np.array([0.25, 0.75], np.float32), ("cat", "dog"))
    with remote(tmp_path, penstock("embedding", lambda *_: scores)) as (backend, _):
        (answer,) = backend.infer([big(wishes=Wishes(texts=("cat", "dog")))])
        same(scores, answer)
        with pytest.raises(TransientError, match="comma"):
            backend.infer([big(wishes=Wishes(texts=("a cat, sitting", "dog")))])


def test_a_question_goes_along_whole_and_alone(tmp_path: Path) -> None:
    rules = penstock(
        "text", lambda _, request: Text(str(request.parameters["texts"])), info=ModelInfo("text", texts="question")
    )
    with remote(tmp_path, rules) as (backend, _):
        assert backend.info().texts == "question"
        (answer,) = backend.infer([big(wishes=Wishes(texts=("how many, all in all?",)))])
        assert isinstance(answer, Text)
        assert answer.text == "how many, all in all?"
        with pytest.raises(TransientError, match="not what was said before"):
            backend.infer([big(wishes=Wishes(texts=("how many?", "what?", "buses")))])


def test_labels_of_one_picture_go_before_those_of_the_model(tmp_path: Path) -> None:
    scores = Classification(np.array([0.25, 0.75], np.float32), ("cat", "dog"))
    info = ModelInfo("classification", NAMES, texts="labels")
    with remote(tmp_path, penstock("classification", lambda *_: scores, info=info)) as (backend, _):
        (answer,) = backend.infer([big(wishes=Wishes(texts=("cat", "dog")))])
        same(scores, answer)


@pytest.mark.parametrize(("keys", "key"), [({"task": "classification"}, "task"), ({"classes": ["cat"]}, "classes")])
def test_keys_that_do_not_fit_a_penstocks_model_are_blamed(tmp_path: Path, keys: dict[str, Any], key: str) -> None:
    answer = penstock("object-detection", lambda *_: found())
    with remote(tmp_path, answer, opened=False, **keys) as (backend, _), pytest.raises(ConfigError) as raised:
        backend.open()
    assert raised.value.key == key


@pytest.mark.parametrize("model_name", ["", "a b", "a?b", "../x", "a/../b", "/a", "ä", "x" * 201])
def test_a_name_that_no_server_has_is_refused(model_name: str) -> None:
    with pytest.raises(ValidationError):
        KserveBackendConfig.model_validate({"url": "http://127.0.0.1:1", "model_name": model_name})


def test_labels_that_cannot_be_read_are_found_before_the_start(tmp_path: Path) -> None:
    config = KserveBackendConfig.model_validate(
        {"url": "http://127.0.0.1:1", "model_name": "m", "labels": str(tmp_path / "none.txt")}
    )
    with pytest.raises(ConfigError) as raised:
        config.check()
    assert raised.value.key == "labels"
