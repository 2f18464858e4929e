"""Roboflow's core models: CLIP, OCR, gazes, answers about pictures; and clear words for those that are not here."""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from aiohttp import web

from pipeline.contracts.backend import Task
from pipeline.contracts.frame import Wishes
from pipeline.contracts.result import Detections, Embedding, Text
from pipeline.runtime.asking import Served
from pipeline.server.inference._roboflow_answers import (
    RoboflowRefusedError,
    loaded,
    pictures_of,
    schema,
    seconds_since,
    timed,
)
from pipeline.server.inference._roboflow_gaze import gazes_of
from pipeline.server.inference.refusal import RefusedError
from pipeline.server.inference.service import Handler, InferenceRoute, Service, json_answer
from pipeline.wire.roboflow import (
    OCR_PATHS,
    ImageValue,
    PictureRequest,
    encode_embeddings,
    encode_gazes,
    encode_ocr,
    encode_similarity,
    parse_compare_request,
    parse_picture_request,
    parse_question_request,
    parse_text_request,
)

NOT_OFFERED: Final = (
    *("/perception_encoder/embed_image", "/perception_encoder/embed_text", "/perception_encoder/compare"),
    *("/grounding_dino/infer", "/yolo_world/infer", "/infer/action_recognition"),
    *("/infer/depth-estimation", "/infer/depth-estimation/{model_id:.+}"),
    *("/sam/embed_image", "/sam/segment_image", "/sam2/embed_image", "/sam2/segment_image"),
    *("/sam3/embed_image", "/sam3/concept_segment", "/sam3/visual_segment", "/sam3_3d/infer"),
    *("/initialise_webrtc_worker", "/inference_pipelines/initialise_webrtc"),
)
"""Paths of Roboflow's server for which there is nothing here: 501, and not whatever the legacy route would say."""

GAZE: Final = "gaze"
"""The alias of a model that finds gazes."""

COGVLM: Final = "cogvlm"
"""The alias of a model that answers questions about pictures."""

_GONE: Final = {
    "message": "gaze detection is not offered: no model here has the alias 'gaze'",
    "error_type": "FeatureDeprecatedError",
    "feature": "gaze_detection",
    "removal_release": None,
    "replacement": None,
    "reason": "there is no model for it",
}


class Core:
    """Made by the dialect, used on the main loop."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[InferenceRoute]:
        """CLIP, OCR, embeddings, texts; and those that are not offered."""
        return [
            InferenceRoute("POST", "/clip/embed_image", timed(self.embed_image), "Pictures to vectors"),
            InferenceRoute("POST", "/clip/embed_text", timed(self.embed_text), "Texts to vectors"),
            InferenceRoute("POST", "/clip/compare", timed(self.compare), "How like are they?"),
            InferenceRoute("POST", "/infer/embeddings", timed(self.embeddings), "Pictures to vectors, any model"),
            *(InferenceRoute("POST", path, timed(self._ocr(name)), "Read a text") for name, path in OCR_PATHS.items()),
            InferenceRoute("POST", "/infer/lmm", timed(self.describe), "A text about a picture"),
            InferenceRoute("POST", "/infer/lmm/{model_id:.+}", timed(self.describe), "A text about a picture"),
            InferenceRoute("POST", "/llm/cogvlm", timed(self.answer), "An answer to a question about a picture"),
            InferenceRoute("POST", "/gaze/gaze_detection", timed(self.gazes), "Faces, and where they look"),
            *(InferenceRoute("POST", path, timed(_not_offered), "Not offered here") for path in NOT_OFFERED),
        ]

    # CLIP

    async def embed_image(self, request: web.Request) -> web.StreamResponse:
        """A vector for each picture."""
        body = await self._service.json(request)
        with schema():
            asked = parse_picture_request(body)
        vectors = await self._vectors(self._clip(asked.version_id), asked.images)
        return json_answer(encode_embeddings(vectors, seconds_since(request)))

    async def embed_text(self, request: web.Request) -> web.StreamResponse:
        """A vector for each text."""
        body = await self._service.json(request)
        with schema():
            asked = parse_text_request(body)
        vectors = await self._vectors(self._clip(asked.version_id), asked.texts)
        return json_answer(encode_embeddings(vectors, seconds_since(request)))

    async def compare(self, request: web.Request) -> web.StreamResponse:
        """The cosine of the angle between the subject and each prompt."""
        body = await self._service.json(request)
        with schema():
            asked = parse_compare_request(body)
        model = self._clip(asked.version_id)
        self._service.check_texts([part for part in (asked.subject, *asked.prompts) if isinstance(part, str)])
        (subject,) = await self._vectors(model, [asked.subject])
        prompts = await self._vectors(model, asked.prompts)
        similar = [_cosine(subject, prompt) for prompt in prompts]
        return json_answer(encode_similarity(similar, seconds_since(request), asked.keys))

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """A vector for each picture, by the model that is named."""
        asked = await self._pictures_asked(request)
        vectors = await self._vectors(self._service.model(asked.model_id or ""), asked.images)
        return json_answer(encode_embeddings(vectors, seconds_since(request)))

    def _clip(self, version_id: str | None) -> Served:
        """The CLIP model of that version; without one, the first there is.

        Raises:
            RefusedError: 404 for a version that is not there, 501 where there is none at all.
        """
        models = [served for served in self._service.asking.served() if served.texts and _is(served, "embedding")]
        if not models:
            raise RefusedError(501, "no CLIP model is configured here", kind="unsupported")
        if version_id is None:
            return models[0]
        wanted = (version_id, f"clip/{version_id}")
        found = next((served for served in models for name in wanted if name in served.ids), None)
        if found is None:
            # Clients send their own default version: it is meant for the only model where there is no choice.
            if len(models) == 1:
                return models[0]
            raise RefusedError(404, f"there is no CLIP {version_id[:100]!a} here", kind="unknown")
        return found

    async def _vectors(self, model: Served, parts: Sequence[ImageValue | str]) -> list[np.ndarray]:
        """A vector for each part, whatever they are; in their order."""
        texts = [part for part in parts if isinstance(part, str)]
        images = [part for part in parts if not isinstance(part, str)]
        pictures = await pictures_of(self._service, images)
        await loaded(self._service, model.name)
        answers = await self._service.infer(model.name, pictures)
        seen = iter([_vector(answer.prediction) for answer in answers])
        read = iter([embedding.vector for embedding in await self._service.embed_texts(model.name, texts)])
        return [next(read) if isinstance(part, str) else next(seen) for part in parts]

    # Texts

    def _ocr(self, name: str) -> Handler:
        async def read(request: web.Request) -> web.StreamResponse:
            body = await self._service.json(request)
            with schema():
                asked = parse_picture_request(body, f"{name}_version_id")
            found = [
                self._service.asking.find(model_id)
                for model_id in (name, *((asked.version_id, f"{name}/{asked.version_id}") if asked.version_id else ()))
            ]
            served = next((one for one in reversed(found) if one is not None), None)
            if served is None:
                message = f"no model for OCR is configured here; one with the alias {name!r} would answer"
                raise RefusedError(501, message, kind="unsupported")
            answers = [encode_ocr(text, seconds_since(request)) for text in await self._texts(served, asked)]
            return json_answer(answers if asked.many else answers[0])

        return read

    async def describe(self, request: web.Request) -> web.StreamResponse:
        """A text about each picture, or an answer to a question about it."""
        asked = await self._pictures_asked(request)
        served = self._service.model(request.match_info.get("model_id") or asked.model_id or "")
        return await self._described(request, served, asked)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """An answer to a question about each picture, by the model that goes by the name of Roboflow's.

        Raises:
            RefusedError: 501 where there is none.
        """
        body = await self._service.json(request)
        with schema():
            asked = parse_question_request(body)
        served = self._service.asking.find(COGVLM)
        if served is None:
            message = f"no model for questions is configured here; one with the alias {COGVLM!r} would answer"
            raise RefusedError(501, message, kind="unsupported")
        return await self._described(request, served, asked)

    async def _described(self, request: web.Request, served: Served, asked: PictureRequest) -> web.StreamResponse:
        said = (asked.prompt, *(text for turn in asked.history for text in turn)) if asked.prompt else ()
        texts = await self._texts(served, asked, said)
        answers = [{"response": text, "time": round(seconds_since(request), 6)} for text in texts]
        return json_answer(answers if asked.many else answers[0])

    async def gazes(self, request: web.Request) -> web.StreamResponse:
        """Faces, and where they look; where no model for it goes by its name, the feature is gone.

        Raises:
            RoboflowRefusedError: 410, as Roboflow's own server answers since it dropped the model.
        """
        served = self._service.asking.find(GAZE)
        if served is None:
            raise RoboflowRefusedError(410, _GONE)
        asked = await self._pictures_asked(request)
        pictures = await pictures_of(self._service, asked.images)
        await loaded(self._service, served.name)
        bodies = []
        for picture, answer in zip(pictures, await self._service.infer(served.name, pictures), strict=True):
            found = answer.prediction
            gazes = gazes_of(found, picture.size) if isinstance(found, Detections) else None
            if gazes is None:
                raise RefusedError(501, "this model finds no gazes", kind="unsupported")
            bodies.append(without_nan(encode_gazes(gazes, seconds_since(request))))
        return json_answer(bodies if asked.many else bodies[0])

    async def _pictures_asked(self, request: web.Request) -> PictureRequest:
        body = await self._service.json(request)
        with schema():
            return parse_picture_request(body)

    async def _texts(self, served: Served, asked: PictureRequest, said: Sequence[str] = ()) -> list[str]:
        wishes = Wishes(texts=tuple(said)) if said else None
        self._service.check_texts(said)
        pictures = await pictures_of(self._service, asked.images)
        served = await loaded(self._service, served.name)
        # An answer from a model that has not seen the question would be none.
        if said and served.info is not None and served.info.texts != "question":
            raise RefusedError(501, "the model takes no prompt; leave it out", kind="unsupported")
        texts = []
        for answer in await self._service.infer(served.name, pictures, wishes):
            if not isinstance(answer.prediction, Text):
                raise RefusedError(501, "this model gives no texts", kind="unsupported")
            texts.append(answer.prediction.text)
        return texts


async def _not_offered(_: web.Request) -> web.StreamResponse:
    raise RefusedError(501, "this model is not offered here", kind="unsupported")


def without_nan(value: Any) -> Any:
    """JSON with null in place of what is not known."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is(served: Served, task: Task) -> bool:
    return served.info is None or served.info.task == task


def _vector(prediction: object) -> np.ndarray:
    if not isinstance(prediction, Embedding):
        raise RefusedError(501, "this model gives no vectors", kind="unsupported")
    return prediction.vector


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    product = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / product if product else 0.0
