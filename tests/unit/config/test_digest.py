from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.loader import load
from pipeline.config.settings import Settings
from pipeline.registry import Registry

Load = Callable[..., Settings]

CAMERA = """\
[sources.cam]
type = "camera"
url = "rtsp://admin:hunter22@10.0.0.5/ch1"
password = "swordfish"
token = 5
api_key = "abc"
"""


def test_the_same_folder_elsewhere_has_the_same_hash(tmp_path: Path, registry: Registry, minimal: str) -> None:
    hashes = set()
    for name in ("one", "two"):
        path = tmp_path / name / "pipeline.toml"
        path.parent.mkdir()
        path.write_text(minimal)
        hashes.add(load(path, registry=registry, environ={}).config_hash)
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"rtsp://admin:hunter22@', '"rtsp://other:secret@'),
        ('"swordfish"', '"tuna"'),
        ('"abc"', '"def"'),
        ("token = 5", "token = 6"),
        ("[sources.cam]", "# a comment\n[sources.cam]"),
        ("[sources.cam]", '[log]\nlevel = "debug"\n[server]\nlinger_s = 5\n[sources.cam]'),
        ('type = "camera"', 'type = "camera"\nstride = 1'),
        ("[sources.cam]", 'data_dir = "/elsewhere"\n[sources.cam]'),
    ],
)
def test_secrets_comments_logs_and_written_defaults_have_no_part_in_the_hash(
    load_text: Load, minimal: str, old: str, new: str
) -> None:
    assert old in CAMERA
    before = load_text(CAMERA + minimal).config_hash
    assert load_text(CAMERA.replace(old, new) + minimal).config_hash == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("10.0.0.5", "10.0.0.6"),
        ("/ch1", "/ch2"),
        ("in.mp4", "other.mp4"),
        ("m.onnx", "n.onnx"),
        ("[sinks.events]", "[sinks.others]"),
        ('type = "camera"', 'type = "camera"\ntcp = false'),
    ],
)
def test_what_changes_a_result_changes_the_hash(load_text: Load, minimal: str, old: str, new: str) -> None:
    text = CAMERA + minimal
    assert old in text
    assert load_text(text.replace(old, new)).config_hash != load_text(text).config_hash


def test_an_override_changes_the_hash(load_text: Load, minimal: str) -> None:
    assert load_text(minimal, {"PENSTOCK_SOURCES__GATE__STRIDE": "2"}).config_hash != load_text(minimal).config_hash


def test_equal_files_are_equal_settings_and_a_changed_source_is_not(load_text: Load, minimal: str) -> None:
    before = load_text(minimal)
    assert load_text("# moved by one line\n" + minimal) == before
    after = load_text(minimal.replace("in.mp4", "other.mp4"))
    assert after != before
    assert after.sources != before.sources
    assert after.sinks == before.sinks


def test_settings_show_no_secret(load_text: Load, minimal: str) -> None:
    text = CAMERA.replace('"swordfish"', '"${PW}"').replace("admin:hunter22@", "") + minimal
    assert "swordfish" not in repr(load_text(text, {"PW": "swordfish"}))


def test_the_password_in_a_secret_url_has_no_part_in_the_hash_and_the_rest_of_the_url_has(
    load_text: Load, minimal: str
) -> None:
    def hash_of(url: str) -> str:
        return load_text(CAMERA + f'secret_url = "{url}"\n' + minimal).config_hash

    first = hash_of("rtsp://me:one@10.0.0.5/ch1")
    assert hash_of("rtsp://me:two@10.0.0.5/ch1") == first
    assert hash_of("rtsp://me:one@10.0.0.5/ch2") != first
    assert hash_of("rtsp://me:one@10.0.0.6/ch1") != first
