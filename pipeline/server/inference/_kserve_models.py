"""What the KServe routes say about the models."""

import contextlib
import json
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any, Final

from pipeline.contracts.backend import ModelInfo
from pipeline.runtime.asking import Served
from pipeline.server.inference.refusal import RefusedError
from pipeline.wire.kserve_models import TensorSpec
from pipeline.wire.kserve_results import outputs_of
from pipeline.wire.kserve_tensors import BYTES

VERSION: Final = "1"
"""The only version of every model."""

EXTENSIONS: Final = (
    *("classification", "model_repository", "model_configuration", "binary_tensor_data", "parameters", "statistics"),
)

IMAGE: Final = TensorSpec("image", "UINT8", (-1, -1, -1, 3))
"""Pictures as they are; under the same name come whole files, as BYTES."""

TEXT: Final = TensorSpec("text", BYTES, (-1,))
"""For a model that puts texts into the same space as pictures."""

_STATES: Final = {"ready": "READY", "loading": "LOADING", "failed": "UNAVAILABLE", "unloaded": "UNAVAILABLE"}
_REASONS: Final = {"failed": "it could not be loaded", "unloaded": "unloaded"}
_PLATFORM: Final = "penstock"


def server_metadata() -> dict[str, Any]:
    """What `GET /v2` says."""
    version = ""
    with contextlib.suppress(PackageNotFoundError):  # run from a folder that is not installed
        version = version_of("penstock")
    return {"name": "penstock", "version": version, "extensions": list(EXTENSIONS)}


def metadata_of(served: Served, name: str) -> dict[str, Any]:
    """What `GET /v2/models/NAME` says: by the name that the client calls it.

    Raises:
        RefusedError: 503, as `inputs_of`.
    """
    inputs, info = inputs_of(served)
    return {
        "name": name,
        "versions": [VERSION],
        "platform": _PLATFORM,
        "inputs": [spec.to_dict() for spec in inputs],
        "outputs": [spec.to_dict() for spec in outputs_of(info.task)],
    }


def config_of(served: Served, name: str, max_batch_size: int) -> dict[str, Any]:
    """What `GET .../config` says, in Triton's form: sides without the batch. Task and names are in `parameters`.

    Raises:
        RefusedError: 503, as `inputs_of`.
    """
    inputs, info = inputs_of(served)
    said = {
        "task": info.task,
        "labels": json.dumps(info.labels),
        "keypoints": json.dumps(info.keypoints),
        "texts": info.texts or "",
        "input_size": "" if info.input_size is None else f"{info.input_size.width}x{info.input_size.height}",
    }
    return {
        "name": name,
        "platform": _PLATFORM,
        "backend": "penstock",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": max_batch_size,
        "input": [_config_tensor(spec) for spec in inputs],
        "output": [_config_tensor(spec) for spec in outputs_of(info.task)],
        "parameters": {key: {"string_value": value} for key, value in said.items() if value},
    }


def entry_of(served: Served, name: str) -> dict[str, Any]:
    """A model in the repository's index."""
    reason = _REASONS.get(served.state, "")
    return {"name": name, "version": VERSION, "state": _STATES[served.state], "reason": reason}


def inputs_of(served: Served) -> tuple[tuple[TensorSpec, ...], ModelInfo]:
    """The inputs of a model, and what is known of it.

    Raises:
        RefusedError: 503: nothing is known of a model that has never been loaded.
    """
    if served.info is None:
        raise RefusedError(503, f"the model is {served.state}", retry_after_s=1.0, kind=served.state)
    return (IMAGE, TEXT) if served.texts else (IMAGE,), served.info


def _config_tensor(spec: TensorSpec) -> dict[str, Any]:
    data_type = "TYPE_STRING" if spec.datatype == BYTES else f"TYPE_{spec.datatype}"
    return {"name": spec.name, "data_type": data_type, "dims": list(spec.shape[1:]) or [1]}
