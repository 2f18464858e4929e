"""One box leans on another: the `roboflow` backend asks a second Penstock, by v0 and v1, for every task."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import answering
import numpy as np
import pytest
from asking import ANSWERS
from daemon import Daemon
from looped import LoopedContext

from pipeline.backends._http_backend import HttpBackend
from pipeline.backends.roboflow import RoboflowBackendConfig
from pipeline.contracts.backend import Task
from pipeline.contracts.errors import BackendErrorCode, TransientError
from pipeline.contracts.frame import Frame
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask, Text
from pipeline.testing import frame
from pipeline.wire.roboflow import encode_prediction

MODELS: dict[Task, str] = {
    "object-detection": "det/1",
    "instance-segmentation": "seg/1",
    "keypoint-detection": "pose/1",
    "classification": "cls/1",
    "multi-label-classification": "mlc/1",
    "semantic-segmentation": "sem/1",
}
TABLES = "".join(
    f'[models.m{index}]\ntype = "answering"\ntask = "{task}"\naliases = ["{alias}"]\n\n'
    for index, (task, alias) in enumerate({**MODELS, "embedding": "clip/ViT-B-16", "text": "doctr"}.items())
)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a second Penstock with a model of every task."""
    folder = tmp_path_factory.mktemp("other")
    answering.install(folder)
    with Daemon(folder, TABLES, command="serve") as daemon:
        daemon.ready()
        yield daemon.url


@contextmanager
def backend(url: str, tmp_path: Path, **keys: Any) -> Iterator[HttpBackend]:
    with LoopedContext("cloud", tmp_path) as ctx:
        made = RoboflowBackendConfig.model_validate({"url": url, **keys}).build(ctx)
        try:
            made.open()
            yield made
        finally:
            made.close()


def picture() -> Frame:
    return frame(width=200, height=160)


def alike(found: Prediction, task: Task) -> None:
    """What the other's model says, as far as the format carries it."""
    said = ANSWERS[task](picture().picture, None)
    assert type(found) is type(said)
    # Class 0 of a class map without a name of its own, and the like, do not count: what is written does.
    assert encode_prediction(found) == encode_prediction(said)


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("task", MODELS)
def test_an_answer_of_any_task_comes_through_whole(other: str, tmp_path: Path, task: Task, version: str) -> None:
    keys: dict[str, Any] = {"response_mask_format": "rle"} if task == "instance-segmentation" else {}
    with backend(other, tmp_path, model_id=MODELS[task], task=task, api_version=version, **keys) as remote:
        (found,) = remote.infer([picture()])
    alike(found, task)


def test_the_registry_of_the_other_names_task_and_size(other: str, tmp_path: Path) -> None:
    for task, model_id in MODELS.items():
        with backend(other, tmp_path, model_id=model_id) as remote:
            kind = "classification" if task == "multi-label-classification" else task
            assert remote.info().task == kind
            assert remote.info().input_size == (640, 480)


def test_outlines_of_masks_come_through(other: str, tmp_path: Path) -> None:
    with backend(other, tmp_path, model_id="seg/1", response_mask_format="polygon") as remote:
        (found,) = remote.infer([picture()])
    said = ANSWERS["instance-segmentation"](picture().picture, None)
    assert isinstance(found, Detections)
    assert isinstance(said, Detections)
    np.testing.assert_array_equal(found.masks, said.masks)


def test_a_batch_comes_through_in_one_request(other: str, tmp_path: Path) -> None:
    with backend(other, tmp_path, model_id="det/1", max_batch_size=4) as remote:
        found = remote.infer([picture()] * 4)
        for one in found:
            alike(one, "object-detection")
        assert remote.read().requests["ok"] == 2  # the registry, and the batch


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_what_is_asked_for_is_heard(other: str, tmp_path: Path, version: str) -> None:
    keys = {"model_id": "det/1", "api_version": version}
    said = ANSWERS["object-detection"](picture().picture, None)
    assert isinstance(said, Detections)
    with backend(other, tmp_path, **keys, class_filter=["bus"]) as remote:
        (found,) = remote.infer([picture()])
        assert [found.label(row) for row in range(len(found))] == ["bus"]  # type: ignore[union-attr,arg-type]
    with backend(other, tmp_path, **keys, confidence=0.8) as remote:
        (found,) = remote.infer([picture()])
        assert len(found) == int((said.confidence >= 0.8).sum()) < len(said)  # type: ignore[arg-type]


def test_clip_and_reading_come_through(other: str, tmp_path: Path) -> None:
    with backend(other, tmp_path, task="clip", clip_version_id="ViT-B-16") as remote:
        (vector,) = remote.infer([picture()])
    assert isinstance(vector, Embedding)
    assert vector.vector.tolist() == [1, 0, 0, 0]
    with backend(other, tmp_path, task="clip_compare", prompt=["a", "b"], clip_version_id="ViT-B-16") as remote:
        (compared,) = remote.infer([picture()])
    assert isinstance(compared, Classification)
    assert float(compared.scores.sum()) == pytest.approx(1)
    with backend(other, tmp_path, task="ocr") as remote:
        (read,) = remote.infer([picture()])
    assert isinstance(read, Text)
    assert read.text == "a bus in a street"


def test_a_workflow_runs_on_the_other(other: str, tmp_path: Path) -> None:
    step = {"type": "roboflow_core/roboflow_object_detection_model@v2", "name": "found", "images": "$inputs.image"}
    workflow = {
        "version": "1.0",
        "inputs": [{"type": "WorkflowImage", "name": "image"}],
        "steps": [{**step, "model_id": "det/1"}],
        "outputs": [{"type": "JsonField", "name": "boxes", "selector": "$steps.found.predictions"}],
    }
    with backend(other, tmp_path, specification=workflow, max_batch_size=2) as remote:
        found = remote.infer([picture(), picture()])
    said = ANSWERS["object-detection"](picture().picture, None)
    assert isinstance(said, Detections)
    for one in found:
        assert isinstance(one, Detections)
        np.testing.assert_allclose(one.xyxy, said.xyxy, atol=0.01)
        assert [one.label(row) for row in range(len(one))] == [said.label(row) for row in range(len(said))]


def test_a_model_that_the_other_does_not_have_is_named(other: str, tmp_path: Path) -> None:
    for version in ("v0", "v1"):
        with pytest.raises(TransientError) as caught, backend(other, tmp_path, model_id="no/1", api_version=version):
            pass
        assert caught.value.code is BackendErrorCode.NOT_FOUND


def test_class_maps_keep_their_confidence(other: str, tmp_path: Path) -> None:
    with backend(other, tmp_path, model_id="sem/1") as remote:
        (found,) = remote.infer([picture()])
    assert isinstance(found, SemanticMask)
    assert found.confidence is not None
    assert set(found.confidence.ravel().tolist()) == {204}
