"""What `type = "roboflow"` may be told, and which of it goes together."""

import json
import re
from abc import ABC
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from pipeline.backends._http_config import HttpBackendConfig
from pipeline.contracts.component import FrozenModel
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.paths import ConfigPath
from pipeline.wire.document import loads
from pipeline.wire.roboflow import BODY_FIELDS, LEGACY_FIELDS, MaskDecodeMode, MaskFormat, Options

HOSTED = tuple(
    f"https://{name}"
    for name in (
        *(f"{kind}.roboflow.com" for kind in ("detect", "outline", "classify", "infer", "serverless", "asyncinfer")),
        *("serverless.roboflow.one", "serverless.roboflow.eu", "serverless.roboflow-eu.one", "asyncinfer.roboflow.one"),
    )
)
"""Where `api_version = "auto"` means v0; the list of Roboflow's own client. Anywhere else it means v1."""

MAX_SPECIFICATION_BYTES = 4 << 20

ModelTask = Literal[
    "object-detection",
    "instance-segmentation",
    "keypoint-detection",
    "classification",
    "multi-label-classification",
    "semantic-segmentation",
]
CoreTask = Literal["clip", "clip_compare", "ocr", "gaze", "lmm"]

ModelId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*){0,3}$", max_length=200),
]
Slug = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=200)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
Short = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ValueError("holds what JSON has no word for, such as a date") from None
    return value


Document = Annotated[dict[str, Any], AfterValidator(_plain)]


class AskedOptions(FrozenModel):
    """What is asked of the model, under the names of Roboflow's documents. What is not said is left to the server."""

    confidence: float | None = Field(default=None, ge=0, le=1, description="leave out what is less sure, 0 to 1")
    keypoint_confidence: float | None = Field(default=None, ge=0, le=1, description="the same for keypoints, 0 to 1")
    iou_threshold: float | None = Field(default=None, ge=0, le=1, description="boxes that overlap more are one object")
    max_detections: int | None = Field(default=None, ge=1, le=100_000, description="objects at the most")
    max_candidates: int | None = Field(default=None, ge=1, le=1_000_000, description="boxes that NMS looks at (v1)")
    class_filter: tuple[Short, ...] | None = Field(default=None, description="names of the classes that count")
    class_agnostic_nms: bool | None = Field(default=None, description="boxes of all classes suppress each other (v1)")
    fix_batch_size: bool | None = Field(default=None, description="the server fills its batches up (v1)")
    mask_decode_mode: MaskDecodeMode | None = Field(default=None, description="accurate, tradeoff or fast")
    tradeoff_factor: float | None = Field(default=None, ge=0, le=1, description="0 fast to 1 accurate, for tradeoff")
    allow_reduced_mask_resolution: bool | None = Field(default=None, description="masks may come smaller")
    response_mask_format: MaskFormat | None = Field(
        default=None, description="polygon, or rle: exact, with holes; the server's default is polygon"
    )
    disable_preproc_auto_orient: bool | None = Field(default=None, description="do not turn pictures by EXIF")
    disable_preproc_contrast: bool | None = Field(default=None, description="leave out the model's contrast step")
    disable_preproc_grayscale: bool | None = Field(default=None, description="leave out the model's greyscale step")
    disable_preproc_static_crop: bool | None = Field(default=None, description="leave out the model's crop step")
    disable_active_learning: bool | None = Field(default=None, description="pictures are not kept for training")
    active_learning_target_dataset: Short | None = Field(default=None, description="the data set they are kept in")
    source: Short | None = Field(default=None, description="who asks, for the server's statistics")
    source_info: Short | None = Field(default=None, description="more about who asks")
    count_inference: bool | None = Field(default=None, description="false, with service_secret: not billed")
    service_secret: SecretStr | None = Field(default=None, description="goes with count_inference")


class RoboflowKeys(AskedOptions, HttpBackendConfig, ABC):
    """All keys but `type`; `RoboflowBackendConfig` is made of it."""

    api_version: Literal["v0", "v1", "auto"] = Field(
        default="auto", description="v0: the legacy route; v1: /infer/...; auto: v0 on Roboflow's own hosts, else v1"
    )
    model_id: ModelId | None = Field(default=None, description="project/version, for example coco/9")
    api_key: SecretStr | None = Field(default=None, description="of the Roboflow workspace")
    api_key_transport: Literal["query", "body", "header"] | None = Field(
        default=None, description="where the key goes; as Roboflow's client does it if out: body, for v0 query"
    )
    task: ModelTask | CoreTask | None = Field(
        default=None, description="the model's, if the registry does not say; or clip, clip_compare, ocr, gaze, lmm"
    )
    labels: tuple[Short, ...] = Field(default=(), description="the classes in their order; others are added")
    probe: bool = Field(
        default=True, description="at the start, ask about a small grey picture (v0 and core models): one request"
    )
    prompt: Text | tuple[Text, ...] = Field(
        default=(), description="clip_compare: what the picture is compared with; lmm: the question"
    )
    clip_scores: Literal["softmax", "similarity"] = Field(
        default="softmax", description="clip_compare: shares that sum up to 1, or each prompt's cosine"
    )
    clip_version_id: Slug | None = Field(default=None, description="which CLIP, for example ViT-B-16")
    ocr_model: Literal["doctr", "trocr", "easy_ocr", "pp_ocr"] = Field(default="doctr", description="which one reads")
    workspace: Slug | None = Field(default=None, description="of the workflow")
    workflow_id: Slug | None = Field(default=None, description="the workflow's id there")
    workflow_version_id: Slug | None = Field(default=None, description="which version of it")
    specification: Document | ConfigPath | None = Field(
        default=None, description="the workflow itself: a table, or a JSON file"
    )
    parameters: Document = Field(default={}, description="of the workflow")
    image_input: Short = Field(default="image", description="the workflow's input that takes the picture")
    output: Short | None = Field(default=None, description="the workflow's output that counts; needed if several could")

    @property
    def version(self) -> Literal["v0", "v1"]:
        """What `auto` comes to here."""
        if self.api_version != "auto":
            return self.api_version
        return "v0" if self.url.reveal().startswith(HOSTED) and self._is_hosted() else "v1"

    def _is_hosted(self) -> bool:
        return f"https://{self.url.host}" in HOSTED

    @property
    def is_workflow(self) -> bool:
        """It is a workflow that is asked."""
        return self.workflow_id is not None or self.specification is not None

    @property
    def is_core(self) -> bool:
        """It is a core model that is asked."""
        return self.task in ("clip", "clip_compare", "ocr", "gaze", "lmm")

    @property
    def prompts(self) -> tuple[str, ...]:
        """`prompt` as a list."""
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt

    @model_validator(mode="after")
    def _one_thing_is_asked(self) -> Self:
        if (self.workspace is None) != (self.workflow_id is None):
            raise ValueError("workspace and workflow_id go together")
        if self.specification is not None and self.workflow_id is not None:
            raise ValueError("give the workflow's specification, or workspace and workflow_id, not both")
        needs_id = not self.is_workflow and self.task not in ("clip", "clip_compare", "ocr", "gaze")
        if self.model_id is None and needs_id:
            raise ValueError("model_id is missing (or workspace and workflow_id, or specification, or a core task)")
        if self.model_id is not None and not needs_id:
            raise ValueError("model_id is nothing that a workflow or this task has")
        if self.is_workflow and self.is_core:
            raise ValueError("a workflow's task is not that of a core model: leave task out")
        for key in ("workflow_version_id", "parameters", "output"):
            if getattr(self, key) and not self.is_workflow:
                raise ValueError(f"{key} is something of workflows only")
        return self

    @model_validator(mode="after")
    def _the_protocol_has_it(self) -> Self:
        v0, core = self.version == "v0", self.is_core or self.is_workflow
        if v0 and not core and (self.model_id or "").count("/") != 1:
            raise ValueError('with v0 a model_id has the form "project/version"')
        if v0 and not core and self.api_key_transport == "body":
            raise ValueError("v0 has no place for a key in the body: use query or header")
        known = _known_options(self)
        for key in AskedOptions.model_fields:
            if getattr(self, key) is not None and key not in known:
                raise ValueError(f"{key} is nothing that {_name(self)} can be asked")
        return self

    @model_validator(mode="after")
    def _prompts_fit(self) -> Self:
        if self.task == "clip_compare":
            if not self.prompts:
                raise ValueError('task = "clip_compare" needs a prompt: what to compare with')
            if len(self.prompts) == 1 and self.clip_scores == "softmax":
                raise ValueError('a single prompt has all of the share: give several, or clip_scores = "similarity"')
            if len(set(self.prompts)) != len(self.prompts):
                raise ValueError("two prompts are the same")
        elif self.task == "lmm":
            if len(self.prompts) > 1:
                raise ValueError("lmm takes one prompt")
        elif self.prompts:
            raise ValueError("prompt is something of clip_compare and lmm only")
        return self

    def check(self) -> None:
        """Find files that cannot be read.

        Raises:
            ConfigError: with the key to blame.
        """
        super().check()
        self.workflow()

    def workflow(self) -> dict[str, Any] | None:
        """The workflow itself, where the config holds it or names its file.

        Raises:
            ConfigError: key `specification`.
        """
        if self.specification is None or isinstance(self.specification, dict):
            return self.specification
        path = Path(self.specification)
        try:
            with path.open("rb") as file:
                content = file.read(MAX_SPECIFICATION_BYTES + 1)
            if len(content) > MAX_SPECIFICATION_BYTES:
                raise ConfigError(f"{path}: a workflow of more than 4 MiB", key="specification")
            document = loads(content)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}", key="specification") from error
        except ValueError as error:
            raise ConfigError(f"{path}: {error}", key="specification") from error
        if isinstance(document, dict) and isinstance(document.get("specification"), dict):
            document = document["specification"]  # as the web site hands it out
        if not isinstance(document, dict):
            raise ConfigError(f"{path}: holds no workflow (a JSON object)", key="specification")
        return document

    def options(self) -> Options:
        """What is asked, as the wire module takes it."""
        values = {key: getattr(self, key) for key in AskedOptions.model_fields}
        if self.service_secret is not None:
            values["service_secret"] = self.service_secret.get_secret_value()
        return Options.model_validate(values)


_METERING = frozenset({"source", "source_info", "count_inference", "service_secret"})


def _known_options(config: RoboflowKeys) -> frozenset[str]:
    if config.is_workflow:
        return frozenset()
    if config.is_core:
        return _METERING
    if config.version == "v0":
        return LEGACY_FIELDS
    if config.task is None:
        return frozenset(AskedOptions.model_fields)
    return BODY_FIELDS[config.task] | _METERING  # type: ignore[index]  # no core task: looked at above


def _name(config: RoboflowKeys) -> str:
    if config.is_workflow:
        return "a workflow"
    if config.version == "v0" and not config.is_core:
        return "v0"
    return re.sub(r"[-_]", " ", config.task or "the model")
