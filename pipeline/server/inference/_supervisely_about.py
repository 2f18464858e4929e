"""What a Supervisely client asks about a model before and beside inference."""

import os
from typing import Any

from aiohttp import web

from pipeline.server.inference._supervisely_request import Requests
from pipeline.server.inference._supervisely_sessions import Sessions
from pipeline.server.inference.service import RefusedError, Service, json_answer
from pipeline.wire.supervisely import encode_session_info
from pipeline.wire.supervisely_meta import encode_meta, task_type
from pipeline.wire.supervisely_state import SETTINGS


class About:
    """The handlers of it. Made with the dialect; called on the main loop.

    Args:
        service: the models.
        requests: reads what is asked.
        sessions: all of them.
        batch: pictures that go into one run at the most.
    """

    def __init__(self, service: Service, requests: Requests, sessions: Sessions, batch: int) -> None:
        self._service = service
        self._requests = requests
        self._sessions = sessions
        self._batch = batch

    async def session_info(self, request: web.Request) -> web.Response:
        """POST /get_session_info."""
        served, info = self._requests.known(request)
        return json_answer(encode_session_info(served.name, info, self._batch))

    async def meta(self, request: web.Request) -> web.Response:
        """POST /get_model_meta."""
        return json_answer(encode_meta(self._requests.known(request)[1]))

    async def settings(self, request: web.Request) -> web.Response:
        """POST /get_custom_inference_settings."""
        return json_answer({"settings": SETTINGS})

    async def tracking_settings(self, request: web.Request) -> web.Response:
        """POST /get_tracking_settings."""
        return json_answer({"botsort": {}})

    async def deploy_info(self, request: web.Request) -> web.Response:
        """POST /get_deploy_info."""
        served, info = self._requests.known(request)
        return json_answer(
            {
                "checkpoint_name": served.name,
                "model_name": served.ids[0],
                "architecture": None,
                "checkpoint_url": None,
                "custom_checkpoint_path": None,
                "model_source": "Custom models",
                "task_type": task_type(info.task),
                "device": None,
                "runtime": served.type,
                "model_precision": None,
                "hardware": None,
                "deploy_params": {},
            }
        )

    async def deploy_settings(self, request: web.Request) -> web.Response:
        """POST /get_deploy_settings."""
        return json_answer([])

    async def list_models(self, request: web.Request) -> web.Response:
        """POST /list_pretrained_models."""
        return json_answer([served.ids[0] for served in self._requests.fitting()])

    async def list_model_infos(self, request: web.Request) -> web.Response:
        """POST /list_pretrained_model_infos."""
        infos = [
            {
                "model_name": served.ids[0],
                "task type": None if served.info is None else task_type(served.info.task),
                "meta": {"task_type": None if served.info is None else task_type(served.info.task)},
            }
            for served in self._requests.fitting()
        ]
        return json_answer(infos)

    async def deploy(self, request: web.Request) -> web.Response:
        """POST /deploy_from_api."""
        state = await self._requests.state(request)
        name = state.values.get("model_name")
        if not isinstance(name, str):
            raise RefusedError(400, "model_name names no model; those in list_pretrained_models can be loaded")
        served = self._service.model(name)
        if served.state != "ready":
            await self._service.load(name)
        return json_answer({"result": "model was successfully deployed", "model_name": name})

    async def is_deployed(self, request: web.Request) -> web.Response:
        """POST /is_deployed."""
        deployed = self._requests.is_ready(request)
        text = "Model is ready to receive requests" if deployed else "Model is not ready"
        return json_answer({"deployed": deployed, "description:": text})

    async def is_ready(self, request: web.Request) -> web.Response:
        """POST and GET /is_ready, GET /readyz."""
        if not self._requests.is_ready(request):
            raise RefusedError(503, "Service not ready", retry_after_s=1.0)
        return json_answer({"status": "ready"})

    async def is_alive(self, request: web.Request) -> web.Response:
        """POST /is_running, GET /livez, GET /is_alive."""
        return json_answer({"running": True, "mode": "production"})

    async def status(self, request: web.Request) -> web.Response:
        """POST /get_status."""
        current, total = self._sessions.current
        message = "Inferring model..." if total else "Ready"
        progress = {"message": message, "current": current, "total": total or 1}
        return json_answer({"is_deployed": self._requests.is_ready(request), "progress": progress, **memory()})

    async def freeze(self, request: web.Request) -> web.Response:
        """POST /freeze_model."""
        return json_answer({"message": "The model stays loaded: the configuration decides that."})


def memory() -> dict[str, Any]:
    """The machine's memory in bytes; nothing is told about a GPU's."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    return {
        "gpu_memory": {"allocated": None, "total": None},
        "ram_memory": {"allocated": total - free, "total": total},
    }
