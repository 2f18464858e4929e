"""The `kserve` backend: a model on a server of the open inference protocol (KServe v2): Triton, a Penstock, others."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline.backends._http import Client, Request, Sent
from pipeline.backends._http_backend import HttpBackend
from pipeline.backends._kserve_asking import Asker, Described, KserveKeys
from pipeline.backends._kserve_bare import bare
from pipeline.backends._kserve_penstock import PenstockAsker, is_penstock
from pipeline.contracts.backend import ModelInfo
from pipeline.contracts.component import Context
from pipeline.contracts.errors import BackendErrorCode, FatalError, TransientError
from pipeline.contracts.result import Prediction
from pipeline.models.labels import from_file
from pipeline.wire import document
from pipeline.wire.kserve_models import decode_metadata, read_document

_MAX_BATCH = 4096
_UNTOLD = frozenset({BackendErrorCode.NOT_FOUND, BackendErrorCode.REJECTED})


class KserveBackendConfig(KserveKeys):
    """A model on a server of the open inference protocol (KServe v2)."""

    type: Literal["kserve"] = "kserve"

    def check(self) -> None:
        """Find certificates and labels that cannot be read."""
        super().check()
        if isinstance(self.labels, Path):
            from_file(self.labels)

    def build(self, ctx: Context) -> HttpBackend:
        """Make the backend; asks nobody."""
        return HttpBackend(self, ctx, KserveDialect(self))


class KserveDialect:
    """The protocol of one backend. Made by its config; its coroutines run on the main loop."""

    def __init__(self, config: KserveKeys) -> None:
        self._config = config
        self._asker: Asker | None = None
        self.model = config.model_name
        self.max_batch = config.max_batch_size

    @property
    def sends_files(self) -> bool:
        """Pictures go out as files; a bare model is fed with numbers, which are made of the frame itself."""
        return self._asker is None or self._asker.sends_files

    async def open(self, client: Client) -> ModelInfo | None:
        """Ask the server about the model: its tensors, its names, and whether it is another Penstock's.

        Raises:
            TransientError: it is not there yet.
            ConfigError: with the key to blame.
        """
        described = await self._described(client)
        if is_penstock(described):
            self._asker = PenstockAsker(self._config, described)
        else:
            self._asker = await bare(client, self._config, described)
        self.max_batch = self._asker.max_batch
        return self._asker.info

    async def infer(self, client: Client, pictures: Sequence[Sent], deadline: float | None) -> Sequence[Prediction]:
        """A prediction for each picture."""
        if self._asker is None:
            raise FatalError("the backend is not open")
        return await self._asker.infer(client, pictures, deadline)

    def describe(self) -> str:
        """Which model where."""
        what = "" if self._asker is None else f" ({self._asker.describe()})"
        return f"{self._config.model_name} at {self._config.where}{what}"

    async def close(self, client: Client) -> None:
        """Nothing is under way, and the model stays: others may use it."""

    async def _described(self, client: Client) -> Described:
        path = self._config.path
        metadata = decode_metadata((await client.send(Request("GET", path))).body)
        try:
            answer = await client.send(Request("GET", f"{path}/config"))
        except TransientError as error:
            if error.code not in _UNTOLD:
                raise
            return Described(metadata, {}, None)  # an extension of Triton's, which others do not have
        said, max_batch = await asyncio.to_thread(_read_config, answer.body)
        return Described(metadata, said, max_batch)


def _read_config(body: bytes) -> tuple[Mapping[str, str], int | None]:
    """The texts among the parameters of a configuration in Triton's form, and the largest batch; None: any."""
    config = read_document(body, "the model's configuration")
    most = document.integer(config.get("max_batch_size", 0), "max_batch_size", 0, 2**31 - 1)
    parameters = document.mapping(config.get("parameters") or {}, "the parameters of the configuration")
    said = {name: _text_of(value) for name, value in parameters.items()}
    return {name: text for name, text in said.items() if text is not None}, min(most, _MAX_BATCH) or None


def _text_of(value: Any) -> str | None:
    text = value.get("string_value") if isinstance(value, dict) else None
    return text if isinstance(text, str) else None
