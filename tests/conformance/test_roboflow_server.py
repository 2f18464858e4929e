"""Our backend against the real Roboflow inference server, whose models are stubs that really look at the picture."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from looped import LoopedContext

from pipeline.backends._http_backend import HttpBackend
from pipeline.backends.roboflow import RoboflowBackendConfig
from pipeline.contracts.errors import BackendErrorCode, TransientError
from pipeline.contracts.frame import Frame
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask, Text
from pipeline.models.picture import from_rgb
from pipeline.testing import frame
from tests.conformance.harness import vendor_server

# The protocol is all the server's own: routes, schemas, decoding of pictures, serialisation. The models are not: they
# find the one bright rectangle of a picture, and answer in the server's own response classes.
SERVER = """
import os
import numpy as np
import uvicorn
from inference.core.entities.responses.clip import ClipCompareResponse, ClipEmbeddingResponse
from inference.core.entities.responses.inference import (
    ClassificationInferenceResponse, ClassificationPrediction, InferenceResponseImage,
    InstanceSegmentationInferenceResponse, InstanceSegmentationPrediction, Keypoint,
    KeypointsDetectionInferenceResponse, KeypointsPrediction, MultiLabelClassificationInferenceResponse,
    MultiLabelClassificationPrediction, ObjectDetectionInferenceResponse, ObjectDetectionPrediction, Point,
    SemanticSegmentationInferenceResponse, SemanticSegmentationPrediction, StubResponse,
)
from inference.core.exceptions import RoboflowAPINotNotFoundError
from inference.core.interfaces.http.http_api import HttpInterface
from inference.core.managers.base import ModelManager
from inference.core.models.base import Model
from inference.core.utils.image_utils import load_image_bgr

ASKED = {}

class Stub(Model):
    task_type, batch_size, img_size_w, img_size_h = "object-detection", 4, 640, 480

    def __init__(self, model_id, api_key, **kwargs):
        super().__init__()
        self.model_id, self.api_key = model_id, api_key
        self.metrics = {"num_inferences": 0, "avg_inference_time": 0.0}

    def infer_from_request(self, request):
        images = request.image if isinstance(request.image, list) else [request.image]
        answers = [self.look(load_image_bgr(image).mean(axis=2) > 128, request) for image in images]
        return answers if isinstance(request.image, list) else answers[0]

    def box(self, bright):
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        return {"x": (left + right) / 2, "y": (top + bottom) / 2, "width": float(right - left),
                "height": float(bottom - top), "confidence": 0.75, "class": "light", "class_id": 1}

    def image(self, bright):
        return InferenceResponseImage(width=bright.shape[1], height=bright.shape[0])

    def look(self, bright, request):
        found = [ObjectDetectionPrediction(**self.box(bright))] if bright.any() else []
        found = [one for one in found if one.confidence >= (request.confidence or 0)]
        return ObjectDetectionInferenceResponse(predictions=found, image=self.image(bright))

class Masks(Stub):
    task_type = "instance-segmentation"
    def look(self, bright, request):
        box = self.box(bright)
        left, top = box["x"] - box["width"] / 2, box["y"] - box["height"] / 2
        right, bottom = left + box["width"] - 1, top + box["height"] - 1
        points = [Point(x=x, y=y) for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))]
        one = InstanceSegmentationPrediction(points=points, **box)
        return InstanceSegmentationInferenceResponse(predictions=[one], image=self.image(bright))

class Points(Stub):
    task_type = "keypoint-detection"
    def look(self, bright, request):
        box = self.box(bright)
        names = ("middle", "right")
        places = ((box["x"], box["y"]), (box["x"] + box["width"] / 2, box["y"]))
        points = [Keypoint(x=x, y=y, confidence=0.5, class_id=place, **{"class": name})
                  for place, (name, (x, y)) in enumerate(zip(names, places))]
        one = KeypointsPrediction(keypoints=points, **box)
        return KeypointsDetectionInferenceResponse(predictions=[one], image=self.image(bright))

class Classes(Stub):
    task_type = "classification"
    def look(self, bright, request):
        share = round(float(bright.mean()), 3)
        both = [ClassificationPrediction(**{"class": name, "class_id": number, "confidence": score})
                for number, (name, score) in enumerate((("dark", 1 - share), ("light", share)))]
        both.sort(key=lambda one: -one.confidence)
        return ClassificationInferenceResponse(
            predictions=both, top=both[0].class_name, confidence=both[0].confidence, image=self.image(bright))

class Labels(Stub):
    task_type = "classification"
    def look(self, bright, request):
        share = round(float(bright.mean()), 3)
        scores = {"light": MultiLabelClassificationPrediction(confidence=share, class_id=1)}
        return MultiLabelClassificationInferenceResponse(
            predictions=scores, predicted_classes=["light"], image=self.image(bright))

class Regions(Stub):
    task_type = "semantic-segmentation"
    def look(self, bright, request):
        one = SemanticSegmentationPrediction(
            segmentation_mask=bright.astype(np.uint8), confidence_mask=np.full(bright.shape, 200, np.uint8),
            class_map={"0": "dark", "1": "light"})
        from inference.core.entities.responses.inference import _mask_to_base64_png as png
        one.segmentation_mask, one.confidence_mask = png(one.segmentation_mask), png(one.confidence_mask)
        return SemanticSegmentationInferenceResponse(predictions=one, image=self.image(bright))

class Untrained(Stub):
    def look(self, bright, request):
        return StubResponse(is_stub=True, model_id=self.model_id, task_type=self.task_type)

class Clip(Stub):
    task_type = "embedding"
    def infer_from_request(self, request):
        if hasattr(request, "subject"):
            prompts = request.prompt if isinstance(request.prompt, list) else [request.prompt]
            return ClipCompareResponse(similarity=[0.2 + 0.01 * len(prompt) for prompt in prompts])
        images = request.image if isinstance(request.image, list) else [request.image]
        shares = [float((load_image_bgr(image).mean(axis=2) > 128).mean()) for image in images]
        return ClipEmbeddingResponse(embeddings=[[share, 1.0] for share in shares])

MODELS = {"boxes/1": Stub, "masks/1": Masks, "points/1": Points, "classes/1": Classes, "labels/1": Labels,
          "regions/1": Regions, "untrained/1": Untrained}

class Registry:
    def get_model(self, model_id, api_key, **kwargs):
        if model_id.startswith("clip/"):
            return Clip
        if model_id not in MODELS:
            raise RoboflowAPINotNotFoundError(f"no {model_id}")
        return MODELS[model_id]

for folder in ("static", "_next/static"):  # its landing page is no part of the package
    os.makedirs(f"inference/landing/out/{folder}")
app = HttpInterface(ModelManager(Registry())).app
uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning")
"""

KEY = "rf_averysecretkey"
BOX = (20, 12, 52, 36)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with vendor_server("rfs", SERVER, ready="/info", limit_s=100.0) as running:
        yield running


@contextmanager
def backend(url: str, tmp_path: Path, **keys: Any) -> Iterator[HttpBackend]:
    table = {"url": url, "api_key": KEY, "jpeg_quality": 95, **keys}
    with LoopedContext("cloud", tmp_path) as ctx:
        made = RoboflowBackendConfig.model_validate(table).build(ctx)
        try:
            yield made
        finally:
            made.close()


def lit(box: tuple[int, int, int, int] = BOX, width: int = 96, height: int = 64) -> Frame:
    """A dark picture with one bright rectangle."""
    rgb = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = box
    rgb[top:bottom, left:right] = 255
    return replace(frame(width=width, height=height), picture=from_rgb(rgb))


def answer(url: str, tmp_path: Path, **keys: Any) -> Prediction:
    with backend(url, tmp_path, **keys) as asked:
        asked.open()
        (found,) = asked.infer([lit()])
    return found


VERSIONS = pytest.mark.parametrize("version", ["v0", "v1"])


@VERSIONS
def test_boxes_of_the_real_server(url: str, tmp_path: Path, version: str) -> None:
    found = answer(url, tmp_path, model_id="boxes/1", api_version=version)
    assert isinstance(found, Detections)
    np.testing.assert_allclose(found.xyxy, [BOX], atol=1)
    assert found.confidence.tolist() == [0.75]
    assert found.label(0) == "light"


@VERSIONS
def test_boxes_of_a_smaller_picture_come_back_in_the_frames_pixels(url: str, tmp_path: Path, version: str) -> None:
    found = answer(url, tmp_path, model_id="boxes/1", api_version=version, max_size=48)
    assert isinstance(found, Detections)
    np.testing.assert_allclose(found.xyxy, [BOX], atol=2)


@VERSIONS
def test_the_real_server_takes_every_option(url: str, tmp_path: Path, version: str) -> None:
    keys: dict[str, Any] = {
        "confidence": 0.5,
        "iou_threshold": 0.5,
        "max_detections": 7,
        "class_filter": ["light"],
        "disable_preproc_auto_orient": True,
        "disable_preproc_contrast": True,
        "disable_preproc_grayscale": True,
        "disable_preproc_static_crop": True,
        "disable_active_learning": True,
        "active_learning_target_dataset": "other",
        "source": "here",
        "source_info": "gate",
    }
    if version == "v1":
        keys |= {"max_candidates": 99, "class_agnostic_nms": True, "fix_batch_size": True}
    found = answer(url, tmp_path, model_id="boxes/1", api_version=version, **keys)
    assert isinstance(found, Detections)
    assert len(found) == 1
    found = answer(url, tmp_path, model_id="boxes/1", api_version=version, **{**keys, "confidence": 0.9})
    assert len(found) == 0  # type: ignore[arg-type]


@VERSIONS
def test_masks_of_the_real_server(url: str, tmp_path: Path, version: str) -> None:
    found = answer(
        url, tmp_path, model_id="masks/1", task="instance-segmentation", api_version=version, probe=False,
        mask_decode_mode="tradeoff", tradeoff_factor=0.5,
    )  # fmt: skip
    assert isinstance(found, Detections)
    assert found.masks is not None
    bright = lit().picture.rgb()[..., 0] > 128
    assert (found.masks[0] ^ bright).mean() < 0.02


@VERSIONS
def test_keypoints_of_the_real_server(url: str, tmp_path: Path, version: str) -> None:
    found = answer(
        url, tmp_path, model_id="points/1", task="keypoint-detection", api_version=version, probe=False,
        keypoint_confidence=0.1,
    )  # fmt: skip
    assert isinstance(found, Detections)
    assert found.keypoint_names == ("middle", "right")
    assert found.keypoints is not None
    np.testing.assert_allclose(found.keypoints[0], [[36, 24, 0.5], [52, 24, 0.5]], atol=1)


@VERSIONS
def test_classes_of_the_real_server(url: str, tmp_path: Path, version: str) -> None:
    one = answer(url, tmp_path, model_id="classes/1", api_version=version, task="classification")
    several = answer(url, tmp_path, model_id="labels/1", api_version=version, task="classification")
    share = 32 * 24 / (96 * 64)
    assert isinstance(one, Classification)
    assert one.names == ("dark", "light")
    np.testing.assert_allclose(one.scores, [1 - share, share], atol=0.02)
    assert isinstance(several, Classification)
    assert several.multi_label
    np.testing.assert_allclose(several.scores[1], share, atol=0.02)


@VERSIONS
def test_class_maps_of_the_real_server(url: str, tmp_path: Path, version: str) -> None:
    found = answer(url, tmp_path, model_id="regions/1", api_version=version, task="semantic-segmentation")
    assert isinstance(found, SemanticMask)
    assert found.names == ("dark", "light")
    bright = lit().picture.rgb()[..., 0] > 128
    assert ((found.class_map == 1) ^ bright).mean() < 0.02
    assert found.confidence is not None
    assert set(found.confidence.ravel().tolist()) == {200}


def test_the_registry_of_the_real_server_tells_what_the_model_does(url: str, tmp_path: Path) -> None:
    paths = {
        "boxes/1": "object-detection",
        "masks/1": "instance-segmentation",
        "points/1": "keypoint-detection",
        "classes/1": "classification",
        "regions/1": "semantic-segmentation",
    }
    for model_id, task in paths.items():
        with backend(url, tmp_path, model_id=model_id) as asked:
            asked.open()
            assert asked.info().task == task
            assert asked.info().input_size == (640, 480)
            assert len(asked.infer([lit()])) == 1


def test_a_batch_of_the_real_server_keeps_its_order(url: str, tmp_path: Path) -> None:
    boxes = [(10, 10, 20, 20), (40, 8, 80, 24), (4, 30, 12, 60)]
    with backend(url, tmp_path, model_id="boxes/1", max_batch_size=4) as asked:
        asked.open()
        found = asked.infer([lit(box) for box in boxes])
    for one, box in zip(found, boxes, strict=True):
        assert isinstance(one, Detections)
        np.testing.assert_allclose(one.xyxy, [box], atol=1)


@pytest.mark.parametrize("transport", ["query", "body", "header"])
def test_the_real_server_takes_the_key_wherever_it_stands(url: str, tmp_path: Path, transport: str) -> None:
    found = answer(url, tmp_path, model_id="boxes/1", api_key_transport=transport)
    assert len(found) == 1  # type: ignore[arg-type]


@VERSIONS
def test_a_model_that_the_real_server_does_not_have_is_not_opened(url: str, tmp_path: Path, version: str) -> None:
    with backend(url, tmp_path, model_id="nothing/1", api_version=version) as asked:
        with pytest.raises(TransientError) as caught:
            asked.open()
        assert caught.value.code is BackendErrorCode.NOT_FOUND
        assert KEY not in str(caught.value)


@VERSIONS
def test_a_project_without_a_model_is_no_result(url: str, tmp_path: Path, version: str) -> None:
    with backend(url, tmp_path, model_id="untrained/1", api_version=version, probe=False) as asked:
        asked.open()
        with pytest.raises(TransientError, match="stub") as caught:
            asked.infer([lit()])
    assert caught.value.code is BackendErrorCode.BAD_ANSWER


def test_clip_of_the_real_server(url: str, tmp_path: Path) -> None:
    with backend(url, tmp_path, task="clip", max_batch_size=2) as asked:
        asked.open()
        first, second = asked.infer([lit(), lit((0, 0, 96, 64))])
    assert isinstance(first, Embedding)
    assert isinstance(second, Embedding)
    assert first.vector.tolist() == pytest.approx([0.125, 1], abs=0.02)
    assert second.vector.tolist() == pytest.approx([1, 1], abs=0.02)
    found = answer(url, tmp_path, task="clip_compare", prompt=["fox", "hedgehog"], clip_scores="similarity")
    assert isinstance(found, Classification)
    assert found.scores.tolist() == pytest.approx([0.23, 0.28])


def test_gaze_is_gone_from_the_real_server(url: str, tmp_path: Path) -> None:
    with backend(url, tmp_path, task="gaze") as asked:
        with pytest.raises(TransientError) as caught:
            asked.open()
        assert caught.value.code is BackendErrorCode.NOT_FOUND


def flow(model_id: str = "boxes/1") -> dict[str, Any]:
    model = {
        "type": "roboflow_core/roboflow_object_detection_model@v2",
        "name": "detector",
        "images": "$inputs.image",
        "model_id": model_id,
    }
    outputs = [
        {"type": "JsonField", "name": "found", "selector": "$steps.detector.predictions"},
        {"type": "JsonField", "name": "note", "selector": "$inputs.note"},
    ]
    inputs = [{"type": "WorkflowImage", "name": "image"}, {"type": "WorkflowParameter", "name": "note"}]
    return {"version": "1.0", "inputs": inputs, "steps": [model], "outputs": outputs}


def test_a_workflow_runs_on_the_real_server(url: str, tmp_path: Path) -> None:
    boxes = [(10, 10, 20, 20), (40, 8, 80, 24)]
    keys = {"specification": flow(), "parameters": {"note": "gate"}, "max_batch_size": 2}
    with backend(url, tmp_path, **keys) as asked:
        asked.open()
        found = asked.infer([lit(box) for box in boxes])
        for one, box in zip(found, boxes, strict=True):
            assert isinstance(one, Detections)
            np.testing.assert_allclose(one.xyxy, [box], atol=1)
            assert one.label(0) == "light"
        (dark,) = asked.infer([lit((0, 0, 0, 0))])
        assert len(dark) == 0  # type: ignore[arg-type]
    with backend(url, tmp_path, **keys, output="note") as asked:
        asked.open()
        (said,) = asked.infer([lit()])
    assert isinstance(said, Text)
    assert said.text == "gate"


def test_a_workflow_that_the_real_server_cannot_run_is_rejected_with_its_words(url: str, tmp_path: Path) -> None:
    wrong = {"version": "1.0", "inputs": [], "steps": [{"type": "no_such_step", "name": "a"}], "outputs": []}
    with backend(url, tmp_path, specification=wrong) as asked:
        asked.open()
        with pytest.raises(TransientError, match="400") as caught:
            asked.infer([lit()])
    assert caught.value.code is BackendErrorCode.REJECTED
