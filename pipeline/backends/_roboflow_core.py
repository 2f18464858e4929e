"""Asking a core model of a Roboflow server about frames: CLIP, OCR, gaze, a language model."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.backends._http import Client, Request, Sent
from pipeline.backends._roboflow_asking import SAMPLE_SIZE, Key, read, sample
from pipeline.backends._roboflow_config import RoboflowKeys
from pipeline.contracts.backend import ModelInfo, Task, TextsAre
from pipeline.contracts.errors import BackendErrorCode, TransientError
from pipeline.contracts.frame import Size, Wishes
from pipeline.contracts.result import Classification, Embedding, Prediction
from pipeline.wire.document import items
from pipeline.wire.roboflow import (
    LANDMARKS,
    OCR_PATHS,
    CompareRequest,
    ImageValue,
    PictureRequest,
    decode_embeddings,
    decode_gazes,
    decode_prediction,
    decode_similarity,
    gaze_detections,
)

_LOGIT_SCALE = 100.0
"""What CLIP's cosines are multiplied by before the softmax. Source: the CLIP paper, 2.5; where its training ended."""

_TASKS: Mapping[str, Task] = {
    "clip": "embedding",
    "clip_compare": "classification",
    "ocr": "text",
    "gaze": "keypoint-detection",
    "lmm": "text",
}

_TEXTS: Mapping[str, TextsAre] = {"clip_compare": "labels", "lmm": "question"}


class CoreAsker:
    """One core model. Made by the dialect."""

    def __init__(self, config: RoboflowKeys) -> None:
        task = config.task or "clip"
        self._config = config
        self._task: str = task
        self._options = config.options()
        self._key = Key(config, "query" if config.version == "v0" else "body")
        self.model = {"ocr": config.ocr_model, "gaze": "gaze", "lmm": config.model_id or "lmm"}.get(task, "clip")
        # Only CLIP's embeddings and gaze come for several pictures at once.
        self.max_batch = 64 if task == "clip" else 1

    async def open(self, client: Client) -> ModelInfo:
        """Ask about a grey picture, so that the server loads the model."""
        if self._config.probe:
            data = await asyncio.to_thread(sample)
            await self._ask(client, [data], [SAMPLE_SIZE], self._config.prompts, None)
        names = self._config.prompts if self._task == "clip_compare" else ("face",) if self._task == "gaze" else ()
        points = (*LANDMARKS, "gaze") if self._task == "gaze" else ()
        return ModelInfo(_TASKS[self._task], names, keypoints=points, texts=_TEXTS.get(self._task))

    async def infer(
        self, client: Client, pictures: Sequence[Sent], wishes: Wishes | None, deadline: float | None
    ) -> Sequence[Prediction]:
        """What it says about each picture; its own texts go before those of the config.

        Raises:
            TransientError: the path has no place for what was said before the question.
        """
        prompts = wishes.texts if wishes is not None and wishes.texts else self._config.prompts
        if self._task == "lmm" and len(prompts) > 1:
            message = f"{self.model} takes a question, and not what was said before it"
            raise TransientError(message, code=BackendErrorCode.REJECTED)
        data, sizes = [sent.data for sent in pictures], [sent.size for sent in pictures]
        return await self._ask(client, data, sizes, prompts, deadline)

    async def _ask(
        self,
        client: Client,
        data: Sequence[bytes],
        sizes: Sequence[Size],
        prompts: Sequence[str],
        deadline: float | None,
    ) -> Sequence[Prediction]:
        images = tuple(ImageValue.of(one) for one in data)
        version = self._config.clip_version_id
        if self._task == "clip_compare":
            body = CompareRequest(images[0], tuple(prompts), None, version, self._key.body).to_json()
            path = "/clip/compare"
        else:
            path, version_key = self._path()
            prompt = prompts[0] if prompts and self._task == "lmm" else None
            pictures = PictureRequest(
                images,
                version_id=version if self._task == "clip" else None,
                prompt=prompt,
                model_id=self._config.model_id if self._task == "lmm" else None,
                api_key=self._key.body,
            )
            body = pictures.to_json(version_key)
        response = await client.send(self._request(path, body), deadline=deadline)
        return await read(response, partial(self._read, sizes=sizes, prompts=tuple(prompts)))

    def _path(self) -> tuple[str, str]:
        """Where it is asked, and what the version of the model is called there."""
        if self._task == "clip":
            return "/clip/embed_image", "clip_version_id"
        if self._task == "ocr":
            return OCR_PATHS[self._config.ocr_model], f"{self._config.ocr_model}_version_id"
        return ("/gaze/gaze_detection", "gaze_version_id") if self._task == "gaze" else ("/infer/lmm", "version_id")

    def _request(self, path: str, body: Mapping[str, Any]) -> Request:
        options = self._options
        metering = {"source": options.source, "source_info": options.source_info}
        whole = {name: value for name, value in {**body, **metering}.items() if value is not None}
        query = [*self._key.body_query, *options.to_body_query()]
        return Request("POST", path, query=query, headers=self._key.headers, json=whole)

    def _read(self, document: object, sizes: Sequence[Size], prompts: tuple[str, ...]) -> list[Prediction]:
        """The answer. From any thread. Raises ValueError."""
        # Some of these answer to one picture with an array of one.
        one = items(document, "the answer", 1)[0] if isinstance(document, list) and len(document) == 1 else document
        if self._task == "clip":
            return [Embedding(vector) for vector in decode_embeddings(one, len(sizes))]
        if self._task == "clip_compare":
            return [self._compared(decode_similarity(one, len(prompts)), prompts)]
        if self._task == "gaze":
            return [gaze_detections(decode_gazes(one), sizes[0])]
        return [decode_prediction(one, sizes[0], task="text")]

    def _compared(self, similarity: npt.NDArray[np.float32], prompts: tuple[str, ...]) -> Classification:
        if self._config.clip_scores == "similarity":
            return Classification(np.clip(similarity, 0, 1), prompts, multi_label=True)
        raised = np.exp(_LOGIT_SCALE * (similarity.astype(np.float64) - similarity.max()))
        return Classification((raised / raised.sum()).astype(np.float32), prompts)
