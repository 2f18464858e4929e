"""`[models]`: backends that are there for clients, in a file with or without sources."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.settings import Settings

Load = Callable[..., Settings]
Faults = Callable[..., list[str]]

MODEL = """
[models.coco]
type = "model"
model = "m.onnx"
aliases = ["coco/9"]
"""


def test_a_file_with_models_alone_is_whole(load_text: Load) -> None:
    settings = load_text(MODEL)
    assert dict(settings.sources) == {} == dict(settings.sinks)
    assert list(settings.backends) == ["coco"]
    assert settings.models == {"coco"}


def test_a_model_is_no_backend_of_a_source_that_names_none(load_text: Load, minimal: str) -> None:
    settings = load_text(minimal + MODEL)
    assert settings.sources["gate"].backend == "local"
    assert list(settings.backends) == ["local", "coco"]


def test_a_source_may_name_a_model(load_text: Load, minimal: str) -> None:
    settings = load_text(minimal.replace('type = "file"', 'type = "file"\nbackend = "coco"', 1) + MODEL)
    assert settings.backend_of("gate") == "coco"


def test_a_model_changes_the_hash(load_text: Load, minimal: str) -> None:
    assert load_text(minimal).config_hash != load_text(minimal + MODEL).config_hash


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (MODEL + "[sources.gate]\ntype='camera'\nurl='x'\n", "sinks: there is no sink"),
        (
            MODEL + "[sources.gate]\ntype='camera'\nurl='x'\n",
            "sources.gate.backend: is missing; name one of the models",
        ),
        (MODEL.replace("model =", "modle ="), "models.coco.modle: "),
        (MODEL.replace('"coco/9"', '"two words"'), "models.coco.aliases"),
        (MODEL + MODEL.replace(".coco", ".other"), "models.other.aliases: 'coco/9' is what coco is called, too"),
        (MODEL + 'fallback = "coco"\n', "models.coco.fallback: it cannot be its own fallback"),
        (MODEL + 'fallback = "cocoa"\n', "models.coco.fallback: there is no backend 'cocoa'; did you mean coco?"),
        (
            MODEL.replace("models.", "backends."),
            "sources: there is no source; add a table [sources.NAME] with a type: camera or file; or rename [backends.",
        ),
    ],
)
def test_what_is_wrong_with_models_is_told_with_its_place(faults: Faults, text: str, fault: str) -> None:
    found = faults(text)
    assert any(f": {fault}" in line for line in found), found


def test_a_model_and_a_backend_have_different_names(faults: Faults, minimal: str) -> None:
    (found,) = faults(minimal + MODEL.replace(".coco", ".local"))
    assert "models.local: there is a backend 'local', too" in found


def test_the_file_in_the_clone_offers_its_model_under_the_names_in_the_readme() -> None:
    root = Path(__file__).parents[3]
    document = tomllib.loads((root / "pipeline.toml").read_text())
    assert document["backends"]["local"]["aliases"] == ["yolo11n", "yolo11n/1"]
    assert "as yolo11n and yolo11n/1" in (root / "README.md").read_text()
