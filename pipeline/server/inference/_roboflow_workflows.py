"""The routes of Roboflow's workflows: run one that comes with the request, or one that is known by its name."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from pipeline.contracts.frame import Wishes
from pipeline.contracts.result import Prediction
from pipeline.runtime.asking import Served
from pipeline.server.inference._roboflow_answers import Bench, loaded, picture_of, schema, timed, together
from pipeline.server.inference._roboflow_definition import (
    BLOCKS,
    INPUTS,
    NEEDS,
    OUTPUTS,
    Definition,
    parse_definition,
    workflow_error,
)
from pipeline.server.inference._roboflow_engine import Outcome, run
from pipeline.server.inference._roboflow_steps import WorkflowImage
from pipeline.server.inference.refusal import RefusedError
from pipeline.server.inference.service import InferenceRoute, Service, json_answer
from pipeline.wire.roboflow import ImageValue, WorkflowRequest, encode_workflow_answer, parse_workflow_request

Find = Callable[[str, str], Mapping[str, Any] | None]
"""From workspace and id to the definition of a stored workflow."""

ENGINE_VERSIONS: Final = ("1.3.0",)
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_MAX_FILE_BYTES = 1 << 20
_MAX_NESTING = 4
_AT_ONCE = 16
"""So many crops of one workflow wait for a model at once: others have pictures, too."""
_MODEL_BLOCK_OF: Final = {
    "object-detection": "object_detection",
    "instance-segmentation": "instance_segmentation",
    "keypoint-detection": "keypoint_detection",
    "classification": "classification",
    "multi-label-classification": "multi_label_classification",
    "semantic-segmentation": "semantic_segmentation",
}


def stored_in(folder: Path | None) -> Find:
    """Finds workflows as files `WORKSPACE/ID.json` in a folder; None: there are none.

    The file is read anew for every run: what is edited takes effect, and there is nothing to be kept in step.
    """

    def find(workspace: str, workflow_id: str) -> Mapping[str, Any] | None:
        if folder is None or not (_PART.fullmatch(workspace) and _PART.fullmatch(workflow_id)):
            return None
        root = folder.resolve()
        path = (root / workspace / f"{workflow_id}.json").resolve()
        if not path.is_relative_to(root) or not path.is_file() or path.stat().st_size > _MAX_FILE_BYTES:
            return None
        try:
            document = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RefusedError(500, "the stored workflow cannot be read", kind="workflow") from error
        # As it is downloaded from Roboflow it may stand under "specification".
        found = document.get("specification", document) if isinstance(document, dict) else None
        return found if isinstance(found, dict) else None

    return find


class Workflows:
    """Made by the dialect, used on the main loop."""

    def __init__(self, service: Service, bench: Bench, find: Find) -> None:
        self._service = service
        self._bench = bench
        self._find = find

    def routes(self) -> list[InferenceRoute]:
        """Those that run a workflow, and those that tell what can be in one."""
        named, legacy = "/{workspace}/workflows/{workflow_id}", "/infer/workflows/{workspace}/{workflow_id}"
        given, known = "Run the workflow in the body", "Run a workflow by its name"
        return [
            InferenceRoute("POST", "/workflows/run", timed(self.run_given), given),
            InferenceRoute("POST", "/infer/workflows", timed(self.run_given), given),
            InferenceRoute("POST", legacy, timed(self.run_named), known),
            InferenceRoute("POST", "/workflows/validate", timed(self.validate), "Check a workflow"),
            InferenceRoute("POST", "/workflows/describe_interface", timed(self.describe), "Inputs and outputs"),
            InferenceRoute("GET", "/workflows/blocks/describe", timed(self.blocks), "Which blocks there are"),
            InferenceRoute("POST", "/workflows/blocks/describe", timed(self.blocks), "Which blocks there are"),
            InferenceRoute("GET", "/workflows/execution_engine/versions", timed(self.versions), "Engine versions"),
            InferenceRoute("POST", named, timed(self.run_named), known, last=True),
            InferenceRoute(
                "POST", f"{named}/describe_interface", timed(self.describe_named), "Its interface", last=True
            ),
        ]

    async def run_given(self, request: web.Request) -> web.StreamResponse:
        """The workflow in the body."""
        body = await self._service.json(request)
        with schema():
            asked = parse_workflow_request(body)
        return await self._run(asked, parse_definition(asked.specification))

    async def run_named(self, request: web.Request) -> web.StreamResponse:
        """A workflow by its name."""
        workspace, workflow_id = request.match_info["workspace"], request.match_info["workflow_id"]
        body = await self._service.json(request)
        with schema():
            asked = parse_workflow_request(body, workspace=workspace, workflow_id=workflow_id)
        response = await self._run(asked, parse_definition(self.named(workspace, workflow_id)))
        for name, value in (("X-Workspace-Id", workspace), ("X-Workflow-Id", workflow_id)):
            if _PART.fullmatch(value):  # it is the client's own text
                response.headers[name] = value
        return response

    def named(self, workspace: str, workflow_id: str) -> Mapping[str, Any]:
        """The definition of a workflow by its name: a stored one, or "use this model" where a model goes by that name.

        Raises:
            RefusedError: 404.
        """
        found = self._find(workspace, workflow_id)
        if found is not None:
            return found
        served = self._service.asking.find(workflow_id)
        if served is None or (served.info is not None and served.info.task not in _MODEL_BLOCK_OF):
            message = f"there is no workflow {workflow_id[:100]!a} in workspace {workspace[:100]!a}"
            raise RefusedError(404, message, kind="workflow")
        return model_workflow(served)

    async def validate(self, request: web.Request) -> web.StreamResponse:
        """Is it one that can be run here?"""
        body = await self._body(request)
        parse_definition(body.get("specification", body))
        return json_answer({"status": "ok"})

    async def describe(self, request: web.Request) -> web.StreamResponse:
        """What goes in and what comes out."""
        body = await self._body(request)
        return json_answer(_interface(parse_definition(body.get("specification", body))))

    async def describe_named(self, request: web.Request) -> web.StreamResponse:
        """What goes in and what comes out of a workflow by its name."""
        definition = self.named(request.match_info["workspace"], request.match_info["workflow_id"])
        return json_answer(_interface(parse_definition(definition)))

    async def blocks(self, _: web.Request) -> web.StreamResponse:
        """All blocks, each under all its names."""
        blocks = [
            {
                "manifest_type_identifier": name,
                "manifest_type_identifier_aliases": [
                    alias for alias in BLOCKS if BLOCKS[alias] == kind and alias != name
                ],
                "block_schema": {"type": "object", "required": ["name", "type", *NEEDS[kind]]},
                "outputs_manifest": [{"name": output, "kind": []} for output in OUTPUTS[kind]],
            }
            for name, kind in BLOCKS.items()
            if name.startswith("roboflow_core/")
        ]
        return json_answer({"blocks": blocks, "declared_kinds": [], "kinds_connections": {}})

    async def versions(self, _: web.Request) -> web.StreamResponse:
        """Of the definitions that are understood."""
        return json_answer({"versions": list(ENGINE_VERSIONS)})

    async def _body(self, request: web.Request) -> Mapping[str, Any]:
        body = await self._service.json(request)
        if not isinstance(body, dict):
            raise RefusedError(400, "the body must be a JSON object", kind="workflow")
        return body

    async def _run(self, asked: WorkflowRequest, definition: Definition) -> web.Response:
        given = await self.inputs(definition, asked.inputs)
        try:
            outcome = await self.carry_out(definition, given, asked.excluded_fields)
            trace = outcome.trace if asked.enable_profiling else []
            return json_answer(encode_workflow_answer(outcome.outputs, trace))
        except RecursionError as error:  # a parameter that is handed through
            raise workflow_error("the inputs are nested too deep", "RuntimeInputError", INPUTS) from error

    async def carry_out(
        self, definition: Definition, given: Mapping[str, Any], excluded: Sequence[str] = ()
    ) -> Outcome:
        """Run a workflow with our own models."""
        return await run(definition, given, self._ask, self._bench, excluded=excluded)

    async def inputs(self, definition: Definition, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs, with pictures in place of what names them.

        Raises:
            RefusedError: a picture is none, or there are too many.
        """
        values = dict(inputs)
        wanted = [item.name for item in definition.inputs if item.is_image and inputs.get(item.name) is not None]
        self._service.check_count(sum(_count(inputs[name], 0) for name in wanted))
        for name in wanted:
            values[name] = await self._images(inputs[name], name)
        return values

    async def _images(self, value: object, name: str) -> Any:
        if isinstance(value, list):
            return await together([self._images(one, f"{name}.[{index}]") for index, one in enumerate(value)])
        if not (isinstance(value, dict) and isinstance(value.get("type"), str) and isinstance(value.get("value"), str)):
            message = f"input {name[:100]!a} must be an image: an object with type and value"
            raise workflow_error(message, "RuntimeInputError", INPUTS)
        with schema():
            image = ImageValue(value["type"], value["value"])
        return WorkflowImage.root(await picture_of(self._service, image), name)

    async def _ask(self, model_id: str, images: Sequence[WorkflowImage], wishes: Wishes) -> list[Prediction]:
        await loaded(self._service, model_id)
        most = min(_AT_ONCE, self._service.max_pictures, self._service.limits.max_waiting)
        found: list[Prediction] = []
        for begin in range(0, len(images), most):  # crops may be more than a request may have pictures
            pictures = [image.picture for image in images[begin : begin + most]]
            found += [answer.prediction for answer in await self._service.infer(model_id, pictures, wishes)]
        return found


def model_workflow(served: Served) -> Mapping[str, Any]:
    """The workflow that uses one model: its image is `image`, its output `predictions`."""
    task = "object-detection" if served.info is None else served.info.task
    model = {
        "type": f"roboflow_core/roboflow_{_MODEL_BLOCK_OF[task]}_model@v1",
        "name": "model",
        "images": "$inputs.image",
        "model_id": served.name,
    }
    return {
        "version": "1.0",
        "inputs": [{"type": "WorkflowImage", "name": "image"}],
        "steps": [model],
        "outputs": [{"type": "JsonField", "name": "predictions", "selector": "$steps.model.predictions"}],
    }


def _count(value: object, depth: int) -> int:
    if depth > _MAX_NESTING:
        raise RefusedError(400, "the images are nested too deep", kind="workflow")
    return sum(_count(one, depth + 1) for one in value) if isinstance(value, list) else 1


def _interface(definition: Definition) -> dict[str, Any]:
    return {
        "inputs": {item.name: ["image"] if item.is_image else ["*"] for item in definition.inputs},
        "outputs": {output.name: ["*"] for output in definition.outputs},
        "typing_hints": {"image": "dict", "*": "Any"},
        "kinds_schemas": {},
    }
