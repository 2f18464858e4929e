"""A backend plugin with a model of any task that says the same about every picture, and notes what it was asked."""

import dataclasses
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from asking import ANSWERS, NAMES, NODES

from pipeline.contracts.backend import BackendConfig, ModelInfo, Task
from pipeline.contracts.component import Context
from pipeline.contracts.frame import Frame, Size, Wishes
from pipeline.contracts.paths import ConfigPath
from pipeline.contracts.result import Detections, Embedding, Prediction
from pipeline.wire.roboflow import Gaze, gaze_detections

NAME = "penstock_answering-0"
INPUT = Size(640, 480)
FACE = Gaze((100, 80, 140, 130), 0.875, ((110, 95), (130, 95)), yaw=0.5, pitch=0.25)


def install(folder: Path) -> None:
    """Make the plugin known to a program that runs in `folder` with the environment of `rig_plugins.plugin_path`."""
    metadata = folder / "plugins" / f"{NAME}.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: penstock-answering\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("[penstock.backends]\nanswering = answering:AnsweringBackendConfig\n")


class AnsweringBackendConfig(BackendConfig):
    """A model of `task` answers as the fake one of that task in the unit tests does; `asked` notes each picture."""

    type: Literal["answering"] = "answering"
    task: Task = "object-detection"
    asked: ConfigPath | None = None
    gazes: bool = False
    """It finds a face that looks to the left, and nothing else."""
    questions: bool = False
    """Its texts answer questions: the answer begins with the question."""

    def build(self, ctx: Context) -> "AnsweringBackend":
        return EmbeddingBackend(self) if self.task == "embedding" else AnsweringBackend(self)


class AnsweringBackend:
    """Made by its config; used by one thread of its runner, and by those who borrow it."""

    concurrency = 1
    max_batch = 4

    def __init__(self, config: AnsweringBackendConfig) -> None:
        self.model: str = config.task
        self._task: Task = config.task
        self._asked = config.asked
        self._gazes = config.gazes
        self._questions = config.questions
        self._lock = threading.Lock()

    def open(self) -> None:
        """Nothing to load."""

    def info(self) -> ModelInfo:
        """See `Servable`."""
        if self._questions:
            return ModelInfo(self._task, (), INPUT, texts="question")
        labels = () if self._task in ("embedding", "text") else NAMES
        return ModelInfo(self._task, labels, INPUT, NODES if self._task == "keypoint-detection" else ())

    def infer(self, batch: Sequence[Frame]) -> Sequence[Prediction]:
        """What the task's model says, less what is not wished."""
        if self._asked is not None:
            with self._lock, self._asked.open("a") as notes:
                for frame in batch:
                    wishes = None if frame.wishes is None else dataclasses.asdict(frame.wishes)
                    notes.write(json.dumps({"wishes": wishes, "size": frame.picture.size}) + "\n")
        if self._gazes:
            return [gaze_detections([FACE], frame.picture.size) for frame in batch]
        return [_wished(ANSWERS[self._task](frame.picture, frame.wishes), frame.wishes) for frame in batch]

    def describe(self) -> str:
        """For the log."""
        return f"answers: {self._task}"

    def close(self) -> None:
        """Nothing to let go."""


class EmbeddingBackend(AnsweringBackend):
    """The same, and a `TextEncoder`."""

    def embed_texts(self, texts: Sequence[str]) -> Sequence[Embedding]:
        """See `TextEncoder`."""
        return [Embedding(np.array([0.0, 1.0, 0.0, float(len(text))], np.float32)) for text in texts]


def _wished(prediction: Prediction, wishes: Wishes | None) -> Prediction:
    if wishes is None or not isinstance(prediction, Detections):
        return prediction
    kept = prediction.confidence >= (wishes.confidence or 0)
    if wishes.classes is not None:
        kept &= np.array([prediction.label(row) in wishes.classes for row in range(len(prediction))])
    rows = np.flatnonzero(kept)[: wishes.max_detections]
    return dataclasses.replace(
        prediction,
        xyxy=prediction.xyxy[rows],
        confidence=prediction.confidence[rows],
        class_id=prediction.class_id[rows],
        masks=None if prediction.masks is None else prediction.masks[rows],
        keypoints=None if prediction.keypoints is None else prediction.keypoints[rows],
    )
