"""A registry of small plugins, and a folder to write configs into."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, SecretStr, field_validator

from pipeline.config.loader import load
from pipeline.config.problems import ConfigProblems
from pipeline.config.settings import Settings
from pipeline.contracts.backend import Backend, BackendConfig
from pipeline.contracts.component import Context, FrozenModel
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.paths import ConfigPath, ConfigPattern
from pipeline.contracts.secret import SecretUrl
from pipeline.contracts.sink import Sink, SinkConfig
from pipeline.contracts.source import Source, SourceConfig
from pipeline.registry import Registry


class CameraConfig(SourceConfig):
    type: Literal["camera"]
    url: str
    secret_url: SecretUrl | None = None
    password: SecretStr | None = None
    token: int | None = None
    api_key: str | None = None
    tcp: bool = True
    crop: tuple[int, int, int, int] | None = None

    def build(self, ctx: Context) -> Source:
        raise NotImplementedError


class FileConfig(SourceConfig):
    type: Literal["file"]
    path: ConfigPath

    def build(self, ctx: Context) -> Source:
        raise NotImplementedError

    def reads(self) -> Sequence[Path]:
        return (self.path,)


class Zone(FrozenModel):
    label: str
    points: tuple[tuple[float, float], ...]


class ModelConfig(BackendConfig):
    type: Literal["model"]
    model: ConfigPath
    device: Literal["cpu", "cuda"] = "cpu"
    classes: tuple[str, ...] | str | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    zones: tuple[Zone, ...] = ()

    @field_validator("classes")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        if value == ():
            raise ValueError("is empty; leave it out for all classes")
        return value

    def build(self, ctx: Context) -> Backend:
        raise NotImplementedError

    def check(self) -> None:
        if not self.model.exists():
            raise ConfigError(f"there is no file {self.model}", key="model")


class LinesConfig(SinkConfig):
    type: Literal["lines"]
    path: ConfigPattern

    @field_validator("path")
    @classmethod
    def _no_folder(cls, value: str) -> str:
        if value.endswith("x"):
            raise ConfigError("ends in x", key="path")
        return value

    def build(self, ctx: Context) -> Sink:
        raise NotImplementedError

    def writes(self, source: str) -> Sequence[Path]:
        if "{" in self.path.replace("{source}", ""):
            raise ConfigError("it can hold {source}, and no other braces", key="path")
        return (Path(self.path.replace("{source}", source)),)


class SilentConfig(SinkConfig):
    type: Literal["silent"]

    def build(self, ctx: Context) -> Sink:
        raise NotImplementedError


Load = Callable[..., Settings]
Faults = Callable[..., list[str]]

MINIMAL = """\
[sources.gate]
type = "file"
path = "in.mp4"

[backends.local]
type = "model"
model = "m.onnx"

[sinks.events]
type = "lines"
path = "out/{source}.jsonl"
"""


@pytest.fixture
def minimal() -> str:
    """The shortest valid file: one of each."""
    return MINIMAL


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry.of(CameraConfig, FileConfig, ModelConfig, LinesConfig, SilentConfig)


@pytest.fixture
def load_text(tmp_path: Path, registry: Registry) -> Load:
    """Writes a text into pipeline.toml and loads it, in an empty environment if none is given."""

    def load_it(text: str | bytes, environ: Mapping[str, str] | None = None) -> Settings:
        path = tmp_path / "pipeline.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load(path, registry=registry, environ=environ or {})

    return load_it


@pytest.fixture
def faults(load_text: Load, tmp_path: Path) -> Faults:
    """The lines of what is wrong with a text, without the folder in front; empty if nothing is."""

    def find(text: str | bytes, environ: Mapping[str, str] | None = None) -> list[str]:
        try:
            load_text(text, environ)
        except ConfigProblems as problems:
            return str(problems).replace(f"{tmp_path}/", "").split("\n")
        return []

    return find
