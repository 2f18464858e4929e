"""What the served models are in the eyes of Hugging Face's clients: their tasks, tags and listings."""

from collections.abc import Sequence
from typing import Any

from pipeline.contracts.backend import Task, TextsAre
from pipeline.runtime.asking import Served
from pipeline.server.inference.service import RefusedError

FRAMEWORK = "transformers"
"""Clients look for models by framework: this is where they find those on pictures."""
TEXT_FRAMEWORK = "sentence-transformers"
"""And here those that take texts."""

# The task by which a model is known, and the others that it can do.
_TASKS_OF: dict[Task, tuple[str, ...]] = {
    "object-detection": ("object-detection",),
    "instance-segmentation": ("image-segmentation", "object-detection"),
    "keypoint-detection": ("object-detection",),
    "classification": ("image-classification",),
    "multi-label-classification": ("image-classification",),
    "semantic-segmentation": ("image-segmentation",),
    "embedding": ("image-feature-extraction", "feature-extraction"),
    "text": ("image-to-text",),
}
_TASKS_WITH_TEXTS = (
    "zero-shot-image-classification",
    "feature-extraction",
    "image-feature-extraction",
    "sentence-similarity",
)
# What comes first where the texts of a request matter to the model.
_TASKS_ASKED: dict[tuple[Task, TextsAre | None], tuple[str, ...]] = {
    ("classification", "labels"): ("zero-shot-image-classification",),
    ("multi-label-classification", "labels"): ("zero-shot-image-classification",),
    ("classification", "question"): ("visual-question-answering",),
    ("text", "question"): ("visual-question-answering", "document-question-answering"),
}


def tasks_of(served: Served) -> tuple[str, ...]:
    """All tasks that the model does, the main one first; () while it is not known."""
    if served.info is None:
        return ()
    info = served.info
    if served.texts and info.task == "embedding":
        return _TASKS_WITH_TEXTS
    return (*_TASKS_ASKED.get((info.task, info.texts), ()), *_TASKS_OF[info.task])


def main_task(served: Served) -> str:
    """The task by which the model, which was ready once, is known."""
    return tasks_of(served)[0]


def models_for(task: str, models: Sequence[Served]) -> list[Served]:
    """The models that do it, those that are ready first."""
    return sorted((one for one in models if task in tasks_of(one)), key=lambda one: one.state != "ready")


def listed(models: Sequence[Served], framework: str) -> list[dict[str, Any]]:
    """The models that a client finds under this framework; none under most."""
    if framework == FRAMEWORK:
        found = [(one, task) for one in models for task in tasks_of(one)[:1]]
    elif framework == TEXT_FRAMEWORK:
        found = [(one, "feature-extraction") for one in models if "sentence-similarity" in tasks_of(one)]
    else:
        found = []
    return [{"model_id": name, "task": task} for one, task in found for name in one.ids]


def about(served: Served, name: str) -> dict[str, Any]:
    """What the hub would say about a model."""
    document: dict[str, Any] = {
        "_id": served.name,
        "id": name,
        "modelId": name,
        "private": False,
        "tags": list(tasks_of(served)),
        "library_name": FRAMEWORK,
        "inference": "warm" if served.state == "ready" else "cold",
    }
    if tasks_of(served):
        live = {"status": "live", "providerId": name, "task": main_task(served)}
        document |= {"pipeline_tag": main_task(served), "inferenceProviderMapping": {"hf-inference": live}}
    return document


def status(served: Served) -> dict[str, Any]:
    """Whether it is loaded. On what it computes is not told."""
    states = {"ready": "Loaded", "loading": "Loadable", "unloaded": "Loadable", "failed": "error"}
    return {
        "loaded": served.state == "ready",
        "state": states[served.state],
        "compute_type": None,
        "framework": FRAMEWORK,
    }


def not_ready(served: Served, retry_after_s: float | None = None) -> RefusedError:
    """503: the model is loading, or was taken out."""
    if served.state == "loading":
        message = f"Model {served.ids[0]} is currently loading"
        return RefusedError(503, message, retry_after_s=retry_after_s or 1.0, kind="loading")
    return RefusedError(503, f"Model {served.ids[0]} is not loaded", retry_after_s=retry_after_s or 1.0)


def not_done(task: str, models: Sequence[Served], asked: Served | None = None) -> RefusedError:
    """400: not by this model; 501: by none."""
    offers = ", ".join(sorted({offered for one in models for offered in tasks_of(one)})) or "nothing yet"
    if asked is not None:
        done = ", ".join(tasks_of(asked))
        return RefusedError(400, f"Model {asked.ids[0]} does not do {task}; it does {done}", kind="task")
    return RefusedError(501, f"no model here does {task}; served are: {offers}", kind="task")
