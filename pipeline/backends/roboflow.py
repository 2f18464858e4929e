"""The `roboflow` backend: a model, a core model or a workflow on a Roboflow inference server, hosted or one's own."""

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

from pipeline.backends._http import Client, Sent
from pipeline.backends._http_backend import HttpBackend
from pipeline.backends._roboflow_asking import Asker
from pipeline.backends._roboflow_config import RoboflowKeys
from pipeline.backends._roboflow_core import CoreAsker
from pipeline.backends._roboflow_model import LegacyAsker, ModelAsker
from pipeline.backends._roboflow_workflow import WorkflowAsker
from pipeline.contracts.backend import ModelInfo
from pipeline.contracts.component import Context
from pipeline.contracts.result import Prediction


class RoboflowBackendConfig(RoboflowKeys):
    """A model, a core model or a workflow on a Roboflow inference server."""

    type: Literal["roboflow"] = "roboflow"

    def build(self, ctx: Context) -> HttpBackend:
        """Make the backend; asks nobody.

        Raises:
            ConfigError: key `specification`.
        """
        return HttpBackend(self, ctx, RoboflowDialect(self, ctx))


class RoboflowDialect:
    """The protocol of one backend. Made by its config; its coroutines run on the main loop."""

    def __init__(self, config: RoboflowBackendConfig, ctx: Context) -> None:
        self._where, self._how = config.where, config.version if config.task is None else str(config.task)
        self._asker = _asker(config, ctx)
        self.model, self.max_batch = self._asker.model, self._asker.max_batch

    async def open(self, client: Client) -> ModelInfo | None:
        """Ask the server about the model.

        Raises:
            TransientError: it is not there yet.
            ConfigError: with the key to blame.
        """
        return await self._asker.open(client)

    async def infer(self, client: Client, pictures: Sequence[Sent], deadline: float | None) -> Sequence[Prediction]:
        """A prediction for each picture. What is wished for single pictures makes requests of their own."""
        found: list[Prediction] = []
        for wishes, group in groupby(pictures, lambda sent: sent.frame.wishes):
            found += await self._asker.infer(client, list(group), wishes, deadline)
        return found

    def describe(self) -> str:
        """Which model where."""
        return f"{self.model} at {self._where} ({self._how})"

    async def close(self, client: Client) -> None:
        """Nothing is under way, and the model stays: others may use it."""


def _asker(config: RoboflowBackendConfig, ctx: Context) -> Asker:
    if config.is_workflow:
        return WorkflowAsker(config, config.workflow())
    if config.is_core:
        return CoreAsker(config)
    if config.version == "v0":
        return LegacyAsker(config, config.model_id or "")
    return ModelAsker(config, config.model_id or "", ctx.warn)
