"""Our backend and Supervisely's own serving apps, whose models say the same of every picture."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import answering
import numpy as np
import pytest
from asking import ANSWERS
from looped import LoopedContext
from makers import clip
from workplace import Workplace

from pipeline.backends._http_backend import HttpBackend
from pipeline.backends.supervisely import SuperviselyBackendConfig
from pipeline.contracts.errors import BackendErrorCode, TransientError
from pipeline.contracts.frame import Frame
from pipeline.contracts.result import Classification, Detections, SemanticMask
from pipeline.testing import frame
from tests.conformance.harness import Ours, vendor_server

APPS = """
import os, warnings
warnings.simplefilter("ignore")
os.environ |= {"SLY_APP_DATA_DIR": os.path.join(os.getcwd(), "data"), "API_TOKEN": "a" * 128}
os.environ["SERVER_ADDRESS"] = "http://127.0.0.1:1"  # the app wants a platform, and asks it nothing
import numpy as np, uvicorn
import supervisely as sly
from supervisely.geometry.graph import KeypointsTemplate
from supervisely.nn.inference import InstanceSegmentation, ObjectDetection, PoseEstimation, SemanticSegmentation
from supervisely.nn.prediction_dto import PredictionBBox, PredictionKeypoints, PredictionMask, PredictionSegmentation

def height_and_width(image_path):
    return sly.image.read(image_path).shape[:2]

class Detector(ObjectDetection):
    def get_classes(self):
        return ["person", "bus"]

    def predict(self, image_path, settings):
        height, width = height_and_width(image_path)
        least = settings.get("conf", 0)
        if settings.get("fails"):
            raise RuntimeError("the model is out of memory")
        found = [("person", [2, 1, 11, 21], 0.875), ("bus", [0, 0, height // 2 - 1, width - 1], 0.25)]
        return [PredictionBBox(name, box, score) for name, box, score in found if score >= least]

class Segmenter(InstanceSegmentation):
    def get_classes(self):
        return ["person", "bus"]

    def predict(self, image_path, settings):
        height, width = height_and_width(image_path)
        left, holed = np.zeros((height, width), bool), np.zeros((height, width), bool)
        left[:, : width // 2] = True
        holed[5:20, 10:30] = True
        holed[8:12, 15:20] = False
        return [PredictionMask("bus", left, 0.5), PredictionMask("person", holed, 0.75)]

class Poser(PoseEstimation):
    def get_classes(self):
        return ["person"]

    def predict(self, image_path, settings):
        return [PredictionKeypoints("person", ["nose", "tail"], [[10, 20], [30, 40]])]

class Painter(SemanticSegmentation):
    def get_classes(self):
        return ["road", "sky", "background"]

    def predict(self, image_path, settings):
        height, width = height_and_width(image_path)
        classes = np.full((height, width), 2, np.uint8)
        classes[: height // 3] = 1
        classes[-height // 3 :] = 0
        return [PredictionSegmentation(classes)]

template = KeypointsTemplate()
template.add_point("tail", 5, 5)
template.add_point("nose", 1, 1)
options = {"keypoints_template": template} if args.kind == "Poser" else {}
app = {"Detector": Detector, "Segmenter": Segmenter, "Poser": Poser, "Painter": Painter}[args.kind](**options)
app._model_served = True
app.serve()
if args.kind == "Poser":  # which is asked about an object that somebody has outlined
    app._inference_image_path = PoseEstimation._inference_image_path.__wrapped__.__get__(app)
uvicorn.run(app._app.get_server(), host="127.0.0.1", port=args.port, log_level="error")
"""
QUICK: dict[str, Any] = {"timeout_s": 20.0}


@pytest.fixture(scope="module")
def apps() -> Iterator[dict[str, str]]:
    """The URLs of the serving apps that are started so far."""
    with ExitStack() as running:

        class Started(dict[str, str]):
            def __missing__(self, kind: str) -> str:
                server = vendor_server("sly", APPS, ready="/is_ready", kind=kind, environment={"LOG_LEVEL": "ERROR"})
                self[kind] = running.enter_context(server)
                return self[kind]

        yield Started()


@contextmanager
def opened(url: str, folder: Path, **keys: Any) -> Iterator[HttpBackend]:
    """Our backend, open."""
    with LoopedContext("cloud", folder) as ctx:
        backend = SuperviselyBackendConfig.model_validate({"url": url, **QUICK, **keys}).build(ctx)
        try:
            backend.open()
            yield backend
        finally:
            backend.close()


def pictures(count: int, first_width: int = 64) -> list[Frame]:
    """Each wider than the one before."""
    return [frame(number, width=first_width + 16 * number, height=48) for number in range(count)]


@pytest.mark.parametrize("session", [False, True], ids=["at once", "in a session"])
def test_boxes_arrive_in_order_alone_and_in_batches(apps: dict[str, str], tmp_path: Path, session: bool) -> None:
    with opened(apps["Detector"], tmp_path, session=session, max_batch_size=8) as backend:
        info = backend.info()
        assert (info.task, info.labels) == ("object-detection", ("person", "bus"))
        for batch in (pictures(1), pictures(5)):
            found = backend.infer(batch)
            assert len(found) == len(batch)
            for each, asked in zip(found, batch, strict=True):
                assert isinstance(each, Detections)
                assert each.xyxy.tolist() == [[1, 2, 22, 12], [0, 0, asked.picture.size.width, 24]]
                assert each.confidence.tolist() == [0.875, 0.25]
                assert [each.label(row) for row in range(2)] == ["person", "bus"]


def test_settings_reach_the_model(apps: dict[str, str], tmp_path: Path) -> None:
    with opened(apps["Detector"], tmp_path, conf=0.5) as backend:
        (found,) = backend.infer(pictures(1))
        assert isinstance(found, Detections)
        assert len(found) == 1
    with opened(apps["Detector"], tmp_path, classes=["bus"]) as backend:
        (found,) = backend.infer(pictures(1))
        assert isinstance(found, Detections)
        assert [found.label(row) for row in range(len(found))] == ["bus"]


@pytest.mark.parametrize("session", [False, True], ids=["at once", "in a session"])
def test_a_model_that_fails_is_a_named_error(apps: dict[str, str], tmp_path: Path, session: bool) -> None:
    keys: dict[str, Any] = {"session": session, "settings": {"fails": True}}
    with opened(apps["Detector"], tmp_path, **keys) as backend, pytest.raises(TransientError) as caught:
        backend.infer(pictures(1))
    assert caught.value.code is BackendErrorCode.SERVER_ERROR
    assert "\n" not in str(caught.value)


def test_masks_arrive_with_their_holes(apps: dict[str, str], tmp_path: Path) -> None:
    with opened(apps["Segmenter"], tmp_path) as backend:
        assert backend.info().task == "instance-segmentation"
        (found,) = backend.infer([frame(width=64, height=48)])
    assert isinstance(found, Detections)
    assert found.masks is not None
    assert [found.label(row) for row in range(2)] == ["person", "bus"]
    holed = np.zeros((48, 64), bool)
    holed[5:20, 10:30] = True
    holed[8:12, 15:20] = False
    np.testing.assert_array_equal(found.masks[0], holed)
    np.testing.assert_array_equal(found.masks[1], np.arange(64)[None].repeat(48, 0) < 32)
    assert found.xyxy.tolist() == [[10, 5, 30, 20], [0, 0, 32, 48]]


def test_keypoints_arrive_in_the_order_of_the_template(apps: dict[str, str], tmp_path: Path) -> None:
    with opened(apps["Poser"], tmp_path) as backend:
        info = backend.info()
        assert (info.task, info.keypoints) == ("keypoint-detection", ("tail", "nose"))
        (found,) = backend.infer([frame(width=64, height=48)])
    assert isinstance(found, Detections)
    assert found.keypoints is not None
    assert found.keypoints.tolist() == [[[30, 40, 1], [10, 20, 1]]]
    assert found.xyxy.tolist() == [[10, 20, 31, 41]]


def test_every_pixel_gets_its_class(apps: dict[str, str], tmp_path: Path) -> None:
    with opened(apps["Painter"], tmp_path) as backend:
        assert backend.info().task == "semantic-segmentation"
        (found,) = backend.infer([frame(width=64, height=48)])
    assert isinstance(found, SemanticMask)
    assert found.names[:3] == ("road", "sky", "background")
    assert found.class_map[:, 5].tolist() == [1] * 16 + [2] * 16 + [0] * 16


CHAINED = """
    [models.cut]
    type = "answering"
    task = "instance-segmentation"

    [models.pose]
    type = "answering"
    task = "keypoint-detection"

    [models.tags]
    type = "answering"
    task = "multi-label-classification"

    [models.map]
    type = "answering"
    task = "semantic-segmentation"
"""


def test_a_penstock_behind_a_penstock_loses_nothing(tmp_path: Path) -> None:
    answering.install(tmp_path)
    asked = frame(width=320, height=240)
    with Ours(tmp_path, CHAINED) as ours:
        ours.ready()
        for name, session in itertools.product(("cut", "pose", "tags", "map"), (False, True)):
            with opened(f"{ours.url}/sly/{name}", tmp_path, session=session) as backend:
                (found,) = backend.infer([asked])
                task = backend.info().task
            expected = ANSWERS[task](asked.picture, None)
            assert type(found) is type(expected)
            if isinstance(found, Detections) and isinstance(expected, Detections):
                np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=0.01)
                np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-4)
                assert found.names == expected.names
                if expected.masks is not None:
                    np.testing.assert_array_equal(found.masks, expected.masks)
                if expected.keypoints is not None and found.keypoints is not None:
                    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=0.5)
                    assert found.keypoint_names == expected.keypoint_names
            if isinstance(found, SemanticMask) and isinstance(expected, SemanticMask):
                np.testing.assert_array_equal(found.class_map, expected.class_map)
            if isinstance(found, Classification) and isinstance(expected, Classification):
                assert (found.scores.tolist(), found.multi_label) == (expected.scores.tolist(), True)


def test_a_pipeline_of_frames_goes_through_it_and_the_ledger_balances(apps: dict[str, str], tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    clip(tmp_path / "clip.mp4", range(40, 240, 5))
    place.write(
        f"""
        [sources.cam]
        type = "file"
        path = "clip.mp4"

        [backends.cloud]
        type = "supervisely"
        url = "{apps["Detector"]}"
        max_batch_size = 4
        max_concurrent_requests = 4
        timeout_s = 30

        [sinks.lines]
        type = "jsonl"
        path = "out/{{source}}.jsonl"

        [server]
        listen = "off"
        """
    )
    code, _, err = place.penstock("run")
    assert code == 0, err
    lines = place.lines("out/cam.jsonl")
    assert [line["frame_id"] for line in lines] == list(range(40))
    assert all(line["predictions"][0]["class"] == "person" for line in lines)
    assert all(line["backend"] == "cloud" for line in lines)
    assert "source cam: 40 decoded = 40 inferred" in err
    assert "every frame and every result is accounted for" in err
