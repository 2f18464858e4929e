"""Roboflow's stream manager, `/inference_pipelines/*`: the daemon's own sources under that protocol's names.

A pipeline is a source: its id is the source's name. `initialise` puts a source (where `server.sources_by_api` allows
that) and taps its results; the model step of the workflow is the source's backend, the other steps are carried out
when a result is consumed. Sources of the configuration are there as well: they can be looked at, paused and consumed.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from pipeline.contracts.frame import NoPicture, Wishes
from pipeline.contracts.result import Prediction, Result
from pipeline.runtime.control import Control
from pipeline.runtime.tapping import Tap
from pipeline.server.inference._roboflow_answers import Bench, schema, timed
from pipeline.server.inference._roboflow_definition import Definition, is_selector, parse_definition
from pipeline.server.inference._roboflow_engine import run
from pipeline.server.inference._roboflow_sources import (
    check,
    fault,
    narrowed,
    report,
    source_table,
    success,
    takes_input,
)
from pipeline.server.inference._roboflow_steps import WorkflowImage
from pipeline.server.inference._roboflow_workflows import Workflows, model_workflow
from pipeline.server.inference.refusal import RefusedError
from pipeline.server.inference.service import InferenceRoute, Service
from pipeline.server.inference.streams import Streams
from pipeline.wire.roboflow import InitialisePipeline, parse_initialise

MAX_TAPS = 64
MAX_BUFFER = 1024
MAX_BUFFER_WITH_PICTURES = 16
DEFAULT_BUFFER = 64


@dataclass(slots=True)
class _Pipeline:
    """One source that somebody listens to."""

    tap: Tap
    definition: Definition
    image_input: str
    parameters: Mapping[str, Any]
    pictures: bool

    def next(self) -> Result | None:
        """The next result; without those that were under way, their pixels gone, before somebody listened."""
        while (result := self.tap.take()) is not None:
            if not (self.pictures and isinstance(result.frame.picture, NoPicture)):
                return result
        return None


class Pipelines:
    """Made by the dialect, used on the main loop."""

    def __init__(self, service: Service, workflows: Workflows, bench: Bench, streams: Streams) -> None:
        self._service = service
        self._workflows = workflows
        self._bench = bench
        self._streams = streams
        self._pipelines: dict[str, _Pipeline] = {}

    def routes(self) -> list[InferenceRoute]:
        """Those that change something need the scope for orders, those that look the one for reading."""
        base, one = "/inference_pipelines", "/inference_pipelines/{pipeline_id}"
        return [
            InferenceRoute("POST", f"{base}/initialise", timed(self.initialise), "Add a source", "control"),
            InferenceRoute("GET", f"{base}/list", timed(self.index), "All sources", "read"),
            InferenceRoute("GET", f"{one}/status", timed(self.status), "One source", "read"),
            InferenceRoute("POST", f"{one}/pause", timed(self.pause), "Stop reading a source", "control"),
            InferenceRoute("POST", f"{one}/resume", timed(self.resume), "Read a paused source again", "control"),
            InferenceRoute("POST", f"{one}/terminate", timed(self.terminate), "Remove a source", "control"),
            InferenceRoute("GET", f"{one}/consume", timed(self.consume), "The next result of a source", "read"),
        ]

    async def close(self) -> None:
        """Let go of all taps."""
        for pipeline in self._pipelines.values():
            pipeline.tap.close()
        self._pipelines.clear()

    # Orders

    async def initialise(self, request: web.Request) -> web.StreamResponse:
        """Add a source that is read as the workflow says."""
        body = await self._service.json(request)
        with schema():
            asked = parse_initialise(body)
        control = self._control()
        if not self._streams.sources_by_api:
            message = "sources cannot be added over HTTP: server.sources_by_api is off"
            raise fault(403, message, "authorisation_error")
        self._make_room()
        definition = self._definition(asked)
        table = source_table(asked, self._backend(definition))
        if self._streams.taps is None:
            raise fault(501, "results cannot be listened to here", "operation_error")
        name = "pipeline_" + uuid.uuid4().hex[:12]
        check(await control.put_source(name, table, None))
        try:
            self._listen(name, definition, asked.image_input, asked.parameters, asked.buffer_results)
        except RefusedError:
            await control.delete_source(name, None)  # nobody would know of it
            raise
        return success(name)

    async def pause(self, request: web.Request) -> web.StreamResponse:
        """Stop reading."""
        name = self._source(request)["name"]
        self._control().pause(name)
        return success(name)

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """Go on."""
        name = self._source(request)["name"]
        self._control().resume(name)
        return success(name)

    async def terminate(self, request: web.Request) -> web.StreamResponse:
        """Remove the source; one of the configuration only where sources may be changed over HTTP."""
        name, control = self._source(request)["name"], self._control()
        if not self._streams.sources_by_api:
            message = "sources cannot be removed over HTTP: server.sources_by_api is off"
            raise fault(403, message, "authorisation_error")
        outcome = await control.delete_source(name, None)
        if outcome is not None:
            check(outcome)
        self._forget(name)
        return success(name)

    # What is to be seen

    async def index(self, _: web.Request) -> web.StreamResponse:
        """The ids of all."""
        self._prune()
        names = [source["name"] for source in self._streams.status()["sources"]]
        return success(None, pipelines=names)

    async def status(self, request: web.Request) -> web.StreamResponse:
        """What the source is doing."""
        source = self._source(request)
        return success(source["name"], report=report(source))

    async def consume(self, request: web.Request) -> web.StreamResponse:
        """The oldest result that nobody has taken yet; nothing where there is none.

        A source of the configuration is listened to from the first time on.
        """
        name = self._source(request)["name"]
        body = await self._body(request)
        excluded = body.get("excluded_fields") or []
        if not isinstance(excluded, list) or not all(isinstance(one, str) for one in excluded):
            raise fault(400, "excluded_fields must be a list of names", "invalid_payload")
        pipeline = self._pipelines.get(name) or self._listen_to_configured(name)
        result = pipeline.next()
        if result is None:
            return success(name, outputs=[], frames_metadata=[])
        outputs = await self._outputs(pipeline, result, excluded)
        frame = result.frame
        metadata = {
            "frame_timestamp": datetime.fromtimestamp(frame.captured_at, UTC).isoformat(),
            "frame_id": frame.seq,
            "source_id": 0,
        }
        return success(name, outputs=outputs, frames_metadata=[metadata])

    async def _outputs(self, pipeline: _Pipeline, result: Result, excluded: Sequence[str]) -> list[dict[str, Any]]:
        async def said(_: str, __: object, wishes: Wishes) -> list[Prediction]:
            return [narrowed(result.prediction, wishes)]

        given = {
            **pipeline.parameters,
            pipeline.image_input: WorkflowImage.root(result.frame.picture, pipeline.image_input),
        }
        outcome = await run(pipeline.definition, given, said, self._bench, excluded=excluded)
        return outcome.outputs

    # What they have in common

    async def _body(self, request: web.Request) -> Mapping[str, Any]:
        if not request.can_read_body:
            return {}
        body = await self._service.json(request)
        if not isinstance(body, dict):
            raise fault(400, "the body must be a JSON object", "invalid_payload")
        return body

    def _control(self) -> Control:
        if self._streams.control is None:
            raise fault(501, "this run takes no orders", "operation_error")
        return self._streams.control

    def _source(self, request: web.Request) -> Mapping[str, Any]:
        name = request.match_info["pipeline_id"]
        for source in self._streams.status()["sources"]:
            if source["name"] == name:
                return dict(source)
        self._forget(name)
        raise fault(404, f"there is no pipeline {name[:64]!a}", "not_found")

    def _definition(self, asked: InitialisePipeline) -> Definition:
        given = asked.specification
        if given is None:
            if asked.workspace is None or asked.workflow_id is None:
                message = "workflow_specification, or workspace_name and workflow_id, are needed"
                raise fault(400, message, "invalid_payload")
            given = self._workflows.named(asked.workspace, asked.workflow_id)
        return parse_definition(given)

    def _backend(self, definition: Definition) -> str:
        """The backend of a source that is read for this workflow.

        Raises:
            RoboflowRefusedError: 400: it has not exactly one model step, or that step does not take the whole picture.
        """
        models = [step for step in definition.steps if step.kind == "model"]
        if len(models) != 1:
            raise fault(400, "the workflow of a pipeline must have one model step", "invalid_payload")
        if not takes_input(models[0], definition):
            raise fault(400, "the model step of a pipeline must take the input image", "invalid_payload")
        model_id = models[0].fields.get("model_id")
        if not isinstance(model_id, str) or is_selector(model_id):
            raise fault(400, "the model_id of a pipeline must be a text", "invalid_payload")
        return self._service.model(model_id).name

    def _listen_to_configured(self, name: str) -> _Pipeline:
        self._make_room()
        backend = next((s.get("backend") for s in self._streams.status()["sources"] if s["name"] == name), None)
        served = None if backend is None else self._service.asking.find(str(backend))
        if served is None:
            raise fault(500, "the model of this source is not known", "internal_error")
        return self._listen(name, parse_definition(model_workflow(served)), "image", {}, DEFAULT_BUFFER)

    def _listen(
        self, name: str, definition: Definition, image_input: str, parameters: Mapping[str, Any], size: int
    ) -> _Pipeline:
        pictures = any(step.kind not in ("model", "filter", "property") for step in definition.steps)
        pictures = pictures or any(output.selector.startswith("$inputs.") for output in definition.outputs)
        most = MAX_BUFFER_WITH_PICTURES if pictures else MAX_BUFFER
        taps = self._streams.taps
        tap = None if taps is None else taps.tap(name, size=min(size, most), pictures=pictures)
        if tap is None:
            raise fault(501, "results cannot be listened to here", "operation_error")
        pipeline = self._pipelines[name] = _Pipeline(tap, definition, image_input, parameters, pictures)
        return pipeline

    def _make_room(self) -> None:
        self._prune()
        if len(self._pipelines) >= MAX_TAPS:
            raise fault(429, f"{MAX_TAPS} sources are listened to already", "operation_error")

    def _prune(self) -> None:
        """Forget the sources that are gone."""
        there = {source["name"] for source in self._streams.status()["sources"]}
        for name in [name for name in self._pipelines if name not in there]:
            self._forget(name)

    def _forget(self, name: str) -> None:
        pipeline = self._pipelines.pop(name, None)
        if pipeline is not None:
            pipeline.tap.close()
