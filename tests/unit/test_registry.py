import re
from importlib.metadata import EntryPoint, version
from pathlib import Path
from typing import Literal

import pytest

from pipeline import registry as registry_module
from pipeline.contracts.component import ComponentConfig, Context
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.sink import Sink, SinkConfig
from pipeline.contracts.source import Source, SourceConfig
from pipeline.registry import NOTHING_INSTALLED, Plugin, Registry

PLUGIN = """\
from typing import Literal
from pipeline.contracts.source import SourceConfig

class Config(SourceConfig):
    type: Literal["stranger"]
    def build(self, ctx):
        raise NotImplementedError
"""


class CameraConfig(SourceConfig):
    type: Literal["camera"]

    def build(self, ctx: Context) -> Source:
        raise NotImplementedError


class LinesConfig(SinkConfig):
    type: Literal["lines"]

    def build(self, ctx: Context) -> Sink:
        raise NotImplementedError


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """What the installed distributions announce, instead of the real ones."""
    found: list[EntryPoint] = []
    monkeypatch.setattr(
        registry_module, "entry_points", lambda group: [entry for entry in found if entry.group == group]
    )
    return found


def test_a_config_class_is_found_by_kind_and_type() -> None:
    registry = Registry.of(CameraConfig, LinesConfig)
    assert registry.config_class("source", "camera") is CameraConfig
    assert registry.config_class("sink", "lines") is LinesConfig
    assert registry.types("source") == ("camera",)
    assert registry.types("backend") == ()


def test_the_installed_plugins_are_found_with_their_distribution() -> None:
    found = {(plugin.kind, plugin.type): plugin for plugin in Registry.load().plugins()}
    assert found["source", "file"].origin == f"penstock {version('penstock')}"
    assert {kind for kind, _ in found} == {"source", "backend", "sink"}


def test_a_strangers_plugin_is_imported_when_it_is_first_asked_for(
    entry_points: list[EntryPoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "penstock_stranger_plugin.py").write_text(PLUGIN)
    entry_points.append(EntryPoint("stranger", "penstock_stranger_plugin:Config", "penstock.sources"))
    registry = Registry.load()
    assert registry.types("source") == ("stranger",)
    monkeypatch.syspath_prepend(tmp_path)  # only now it can be imported at all
    found = registry.config_class("source", "stranger")
    assert found.__module__ == "penstock_stranger_plugin"
    assert registry.config_class("source", "stranger") is found


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module_here:X", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("pipeline.registry:NoSuchClass", "AttributeError: module 'pipeline.registry' has no attribute 'NoSuchClass'"),
        ("penstock_broken_plugin:X", "RuntimeError: no driver; call the vendor"),
        ("pipeline.registry:Registry", "pipeline.registry:Registry is no subclass of SourceConfig"),
        ("pipeline.registry:load", "AttributeError"),
        ("pipeline.contracts.source:SourceConfig", "its class says type = None, and its entry point 'x'"),
        ("penstock_other_plugin:Config", "its class says type = 'stranger', and its entry point 'x'"),
    ],
)
def test_a_plugin_that_does_not_load_is_a_status_and_an_error_only_when_it_is_used(
    entry_points: list[EntryPoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, reason: str
) -> None:
    (tmp_path / "penstock_broken_plugin.py").write_text("raise RuntimeError('no driver;\\n  call the vendor')")
    (tmp_path / "penstock_other_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    entry_points.append(EntryPoint("x", target, "penstock.sources"))
    registry = Registry.load()
    (status,) = registry.plugins()
    assert (status.kind, status.type, status.origin) == ("source", "x", "unknown")
    assert status.error is not None
    assert reason in status.error
    with pytest.raises(ConfigError, match="source type 'x' of unknown cannot be") as caught:
        registry.config_class("source", "x")
    assert caught.value.key == "type"


def test_one_broken_plugin_leaves_the_others_alone() -> None:
    registry = Registry(
        [Plugin("source", "bad", "no_such_module_here:X", "bad 1.0"), Plugin("source", "camera", CameraConfig, "x 1.0")]
    )
    assert [status.error is None for status in registry.plugins()] == [False, True]
    assert registry.config_class("source", "camera") is CameraConfig


def test_a_type_that_two_packages_offer_is_refused_instead_of_chosen_by_chance() -> None:
    registry = Registry(Plugin("source", "camera", CameraConfig, origin) for origin in ("a 1.0", "b 2.0"))
    with pytest.raises(ConfigError, match=r"offered by two packages, a 1\.0 and b 2\.0: uninstall one of them"):
        registry.config_class("source", "camera")


def test_an_unknown_type_names_the_nearest_or_all() -> None:
    registry = Registry.of(CameraConfig, LinesConfig)
    with pytest.raises(ConfigError, match=r"^there is no source type 'camra'; did you mean camera\?$"):
        registry.config_class("source", "camra")
    with pytest.raises(ConfigError, match=r"^there is no source type 'x'; installed are camera$"):
        registry.config_class("source", "x")
    with pytest.raises(ConfigError, match=r"^no backend is installed at all$"):
        registry.config_class("backend", "x")


def test_nothing_installed_says_how_to_install(entry_points: list[EntryPoint]) -> None:
    assert entry_points == []
    with pytest.raises(ConfigError, match=re.escape(NOTHING_INSTALLED)):
        Registry.load().config_class("source", "file")


def test_a_class_without_a_type_of_its_own_cannot_be_registered() -> None:
    class Nameless(SourceConfig):
        def build(self, ctx: Context) -> Source:
            raise NotImplementedError

    assert issubclass(Nameless, ComponentConfig)
    (status,) = Registry.of(Nameless).plugins()
    assert status.error is not None
