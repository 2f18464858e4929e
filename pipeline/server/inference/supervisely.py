"""The Supervisely model protocol, served: what its clients ask a deployed model, at once and in sessions."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web

from pipeline.server.inference._supervisely_about import About
from pipeline.server.inference._supervisely_ids import ByIds
from pipeline.server.inference._supervisely_infer import Inferring
from pipeline.server.inference._supervisely_platform import PlatformAddress
from pipeline.server.inference._supervisely_request import Requests
from pipeline.server.inference._supervisely_sessions import SessionLimits, Sessions
from pipeline.server.inference._supervisely_work import Work
from pipeline.server.inference.service import Dialect, InferenceRoute, RefusedError, Service, json_answer
from pipeline.wire.supervisely import encode_error

_TOKEN_BODY_BYTES = 65_536
_ELSEWHERE: Final = ("tracking_by_detection", "run_speedtest", "smart_cache", "smart_cache_files")
_MODEL: Final = "{model:[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+){0,3}}"

Handler = Callable[[web.Request], Awaitable[web.Response]]


def dialect(service: Service, limits: SessionLimits | None = None, platform: PlatformAddress | None = None) -> Dialect:
    """The dialect around `service`; with a platform, clients may name what lies there by its ids."""
    this = Supervisely(service, limits, platform)
    about, endpoints = this.about, this.endpoints()
    probes = {"is_ready": about.is_ready, "readyz": about.is_ready, "livez": about.is_alive, "is_alive": about.is_alive}
    routes = [InferenceRoute("POST", f"/{name}", handler, summary) for name, (handler, summary) in endpoints.items()]
    routes += [InferenceRoute("GET", f"/{name}", probe, "whether a model answers") for name, probe in probes.items()]
    by_name = {name: handler for name, (handler, _) in endpoints.items()}

    async def of_model(request: web.Request) -> web.Response:
        return await by_name[request.match_info["endpoint"]](request)

    async def probe_of_model(request: web.Request) -> web.Response:
        return await probes[request.match_info["endpoint"]](request)

    routes += [
        InferenceRoute("POST", f"/{_MODEL}/{_one_of(by_name)}", of_model, "any of these, of one model"),
        InferenceRoute("GET", f"/{_MODEL}/{_one_of(probes)}", probe_of_model, "whether this model answers"),
    ]
    return Dialect("supervisely", tuple(routes), refuse, token=this.token, close=this.close)


def refuse(request: web.Request, error: RefusedError) -> web.Response:
    """A refusal as their servers write it."""
    return json_answer(encode_error(error.message), error.status)


class Supervisely:
    """The protocol as a whole. Made by `dialect`; used on the main loop.

    Attributes:
        about: what is asked about the model.
        inferring: what is asked of it.
        by_ids: the same, about what lies on the platform.
    """

    def __init__(
        self, service: Service, limits: SessionLimits | None = None, platform: PlatformAddress | None = None
    ) -> None:
        self._service = service
        self._sessions = Sessions(limits)
        self._work = Work(service)
        requests = Requests(service)
        self.about = About(service, requests, self._sessions, self._work.batch(None))
        self.inferring = Inferring(service, requests, self._sessions, self._work)
        self.by_ids = ByIds(service, requests, self._sessions, self._work, platform)

    def endpoints(self) -> dict[str, tuple[Handler, str]]:
        """All that is asked with POST: the handler, and what it does."""
        about, inferring, by_ids = self.about, self.inferring, self.by_ids
        elsewhere = dict.fromkeys(_ELSEWHERE, (_only_elsewhere, "not here"))
        return {
            "get_session_info": (about.session_info, "what the model is"),
            "get_model_meta": (about.meta, "its classes and tags"),
            "get_output_classes_and_tags": (about.meta, "its classes and tags"),
            "get_custom_inference_settings": (about.settings, "what can be set"),
            "get_tracking_settings": (about.tracking_settings, "nothing: objects are not followed"),
            "get_deploy_info": (about.deploy_info, "how it is deployed"),
            "get_deploy_settings": (about.deploy_settings, "nothing: the configuration says how"),
            "list_pretrained_models": (about.list_models, "the names of the models"),
            "list_pretrained_model_infos": (about.list_model_infos, "the models"),
            "deploy_from_api": (about.deploy, "load a model that was unloaded"),
            "is_deployed": (about.is_deployed, "whether a model answers"),
            "is_ready": (about.is_ready, "whether a model answers"),
            "is_running": (about.is_alive, "whether the server runs"),
            "get_status": (about.status, "how busy it is"),
            "freeze_model": (about.freeze, "nothing: the model stays loaded"),
            "inference_image": (inferring.image, "one picture"),
            "inference_image_url": (inferring.image_url, "one picture, by URL"),
            "inference_batch": (inferring.batch, "several pictures"),
            "inference_batch_async": (inferring.batch_async, "several pictures, in a session"),
            "inference_video_async": (inferring.video_async, "a video, in a session"),
            "get_inference_progress": (inferring.progress, "how far a session is"),
            "get_inference_status": (inferring.inference_status, "how far a session is, and the memory"),
            "pop_inference_results": (inferring.pop, "fetch the results that are there"),
            "get_inference_result": (inferring.result, "nothing: all results are fetched"),
            "get_preparing_progress": (inferring.preparing, "how far the upload is"),
            "stop_inference": (inferring.stop, "end a session"),
            "clear_inference_request": (inferring.clear, "end and forget a session"),
            "inference_image_id": (by_ids.image, "one picture of the platform"),
            "inference_batch_ids": (by_ids.batch, "several pictures of the platform"),
            "inference_video_id": (by_ids.video, "a video of the platform"),
            "inference_image_id_async": (by_ids.batch_async, "one picture of the platform, in a session"),
            "inference_batch_ids_async": (by_ids.batch_async, "several pictures of the platform, in a session"),
            "inference_project_id_async": (by_ids.project_async, "the pictures of a project, in a session"),
            "inference_video_id_async": (by_ids.video_async, "a video of the platform, in a session"),
            **elsewhere,
        }

    async def close(self) -> None:
        """End all sessions."""
        await self._sessions.close()
        await self.by_ids.close()
        await self._work.close()

    async def token(self, request: web.Request) -> str | None:
        """`api_token` in a JSON body; uploads have theirs in a header."""
        length = request.content_length
        if length is None or length > _TOKEN_BODY_BYTES or "json" not in request.headers.get("Content-Type", ""):
            return None
        body = await self._service.json(request)
        found = body.get("api_token") if isinstance(body, dict) else None
        return found if isinstance(found, str) else None


async def _only_elsewhere(request: web.Request) -> web.Response:
    """What only Supervisely's own servers do: trackers, caches and their measurements."""
    raise RefusedError(501, "only Supervisely's own servers do this")


def _one_of(names: Mapping[str, object]) -> str:
    return "{endpoint:(?:" + "|".join(names) + ")}"
