"""Runs a Roboflow workflow: each step for all pictures of the request, and for all crops of a picture, at once."""

import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.contracts.frame import Wishes
from pipeline.contracts.result import Prediction
from pipeline.server.inference._roboflow_answers import Bench
from pipeline.server.inference._roboflow_definition import (
    EXECUTION,
    INPUTS,
    OUTPUTS,
    Definition,
    Input,
    Output,
    Step,
    is_selector,
    resolved_field,
    workflow_error,
)
from pipeline.server.inference._roboflow_steps import (
    STEPS,
    Allowance,
    Many,
    WorkflowImage,
    found_of,
    image_in,
    to_json,
    wishes_of,
    wrong_value,
)
from pipeline.server.inference.refusal import RefusedError

MAX_CALLS = 4096
"""So many times one step is carried out in one run: pictures times crops."""

Ask = Callable[[str, Sequence[WorkflowImage], Wishes], Awaitable[list[Prediction]]]
"""Asks a model (by its id) about images."""


class Outcome(NamedTuple):
    """What a run gave.

    Attributes:
        outputs: for each picture of the request, in order.
        trace: what each step took, as Chrome's trace format has it.
    """

    outputs: list[dict[str, Any]]
    trace: list[dict[str, Any]]


class _Call(NamedTuple):
    """One step for one image: the fields with their values, and where its outputs will stand."""

    fields: Mapping[str, Any]
    outputs: dict[str, Any]


async def run(
    definition: Definition,
    given: Mapping[str, Any],
    ask: Ask,
    bench: Bench,
    *,
    excluded: Sequence[str] = (),
) -> Outcome:
    """Carry out a workflow.

    Args:
        definition: what to do.
        given: the inputs by name: a `WorkflowImage`, or a list of them, or the value of a parameter.
        ask: asks the models.
        bench: where pictures are made.
        excluded: outputs that nobody wants.

    Raises:
        RefusedError: in Roboflow's form: an input that is missing or of the wrong kind, or a step that failed.
    """
    values, count = _inputs(definition, given)
    allowance, trace = Allowance(), []
    for step in definition.steps:
        start_s = time.monotonic()
        calls: list[_Call] = []
        tree = _spread(step, {key: _resolve(value, values) for key, value in step.fields.items()}, calls)
        if step.kind == "model":
            await _ask_models(step, calls, ask)
        else:
            work = STEPS[step.kind]
            await bench.do(lambda work=work, step=step, calls=calls: _carry_out(work, step, calls, allowance))  # type: ignore[misc]
        for name in OUTPUTS[step.kind]:
            values[f"$steps.{step.name}.{name}"] = _gather(tree, name)
        took_us = (time.monotonic() - start_s) * 1e6
        trace.append(
            {"name": step.name, "cat": step.type, "ph": "X", "ts": start_s * 1e6, "dur": took_us, "pid": 0, "tid": 0}
        )
    wanted = [output for output in definition.outputs if output.name not in excluded]
    return Outcome(await bench.do(lambda: _outputs(definition, wanted, values, count)), trace)


def _inputs(definition: Definition, given: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Every input by its selector; images as one `Many` of the same length, which comes along."""
    images: dict[str, list[Any]] = {}
    values: dict[str, Any] = {}
    for item in definition.inputs:
        value = _given(item, given)
        if item.is_image:
            images[item.name] = value if isinstance(value, list) else [value]
            if not images[item.name]:
                raise _wrong_input(item, "is an empty list")
        else:
            values[f"$inputs.{item.name}"] = value
    lengths = {len(batch) for batch in images.values()} - {1}
    if len(lengths) > 1:
        raise workflow_error("the images come in batches of different lengths", "RuntimeInputError", INPUTS)
    count = lengths.pop() if lengths else 1
    for name, batch in images.items():
        values[f"$inputs.{name}"] = Many(tuple(_nested(one) for one in (batch * count if len(batch) == 1 else batch)))
    return values, count


def _given(item: Input, given: Mapping[str, Any]) -> Any:
    if given.get(item.name) is not None:
        return given[item.name]
    if item.is_image or not item.has_default:
        raise _wrong_input(item, "is not given")
    return item.default


def _wrong_input(item: Input, what: str) -> RefusedError:
    return workflow_error(f"input {item.name!a} {what}", "RuntimeInputError", INPUTS)


def _nested(value: Any) -> Any:
    return Many(tuple(_nested(one) for one in value)) if isinstance(value, list) else value


def _resolve(value: Any, values: Mapping[str, Any]) -> Any:
    if is_selector(value):
        return values[value]
    if isinstance(value, dict) and any(is_selector(one) for one in value.values()):
        return _Fields({key: _resolve(one, values) for key, one in value.items()})
    if isinstance(value, list) and any(is_selector(one) for one in value):
        return [_resolve(one, values) for one in value]
    return value


class _Fields(dict[str, Any]):
    """A table of parameters with selectors in it: its values may be `Many`, too."""


def _spread(step: Step, fields: Mapping[str, Any], calls: list[_Call]) -> Any:
    """One call for each combination of values that belong together; the tree of the calls."""
    length = _length(step, fields)
    if length is None:
        if len(calls) >= MAX_CALLS:
            raise RefusedError(413, f"step {step.name!a} has more than {MAX_CALLS} images", kind="workflow")
        calls.append(_Call(fields, {}))
        return calls[-1]
    return Many(
        tuple(
            _spread(step, {key: _at(value, index) for key, value in fields.items()}, calls) for index in range(length)
        )
    )


def _length(step: Step, fields: Mapping[str, Any]) -> int | None:
    inner = [one for value in fields.values() if isinstance(value, _Fields) for one in value.values()]
    lengths = {len(value.values) for value in (*fields.values(), *inner) if isinstance(value, Many)}
    if len(lengths) > 1:
        message = f"step {step.name!a} is given lists of different lengths"
        raise workflow_error(message, "StepInputDimensionalityError", EXECUTION, step=step)
    return lengths.pop() if lengths else None


def _at(value: Any, index: int) -> Any:
    if isinstance(value, Many):
        return value.values[index]
    if isinstance(value, _Fields):
        return _Fields({key: _at(one, index) for key, one in value.items()})
    return value


def _carry_out(work: Callable[..., dict[str, Any]], step: Step, calls: Sequence[_Call], allowance: Allowance) -> None:
    for call in calls:
        call.outputs.update(work(step, call.fields, allowance))


async def _ask_models(step: Step, calls: Sequence[_Call], ask: Ask) -> None:
    """All images with the same wishes in one question."""
    groups: dict[tuple[str, Wishes], list[tuple[_Call, WorkflowImage]]] = {}
    for call in calls:
        model_id = resolved_field(call.fields, "model_id")
        if not isinstance(model_id, str):
            raise wrong_value(step, "model_id", "a text")
        key = model_id, wishes_of(step, call.fields)
        groups.setdefault(key, []).append((call, image_in(step, call.fields, "images")))
    for (model_id, wishes), members in groups.items():
        try:
            predictions = await ask(model_id, [image for _, image in members], wishes)
        except RefusedError as error:
            kind = "ClientCausedStepExecutionError" if error.status < 500 else "StepExecutionError"
            message = f"step {step.name!a}: {error.message}"
            failed = workflow_error(message, kind, EXECUTION, status=error.status, step=step)
            failed.retry_after_s = error.retry_after_s
            raise failed from error
        for (call, image), prediction in zip(members, predictions, strict=True):
            inference_id = str(uuid.uuid4())
            call.outputs["predictions"] = found_of(prediction, image, inference_id)
            call.outputs["inference_id"] = inference_id
            call.outputs["model_id"] = model_id


def _gather(tree: Any, name: str) -> Any:
    """One output of all calls, in the shape of the tree."""
    if isinstance(tree, Many):
        return Many(tuple(_gather(one, name) for one in tree.values))
    return tree.outputs[name]


def _outputs(
    definition: Definition, wanted: Sequence[Output], values: Mapping[str, Any], count: int
) -> list[dict[str, Any]]:
    kinds = {step.name: step.kind for step in definition.steps}

    def one(output: Output, index: int) -> Any:
        def at(selector: str) -> Any:
            value = values[selector]
            picked = value.values[index] if isinstance(value, Many) else value
            return to_json(picked, own_coordinates=output.own_coordinates)

        if output.selector.endswith(".*"):
            name = output.selector.split(".")[1]
            return {key: at(f"$steps.{name}.{key}") for key in OUTPUTS[kinds[name]]}
        return at(output.selector)

    return [{output.name: one(output, index) for output in wanted} for index in range(count)]
