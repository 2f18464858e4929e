"""What the benchmark tells Penstock and the rivals: configurations that are valid, the same job for all."""

from pathlib import Path

import pytest

from pipeline.config.loader import load
from pipeline.config.settings import Settings
from pipeline.registry import Registry
from tests.bench import setup
from tests.bench.jobs import JOBS, Job, ModelFile, config, models
from tests.bench.subjects import RIVALS, SUBJECTS, Task, command, why_not

NANO = ModelFile("yolox", Path("nano.onnx"), 416, 416, None, family="yolox")
RECTANGLE = ModelFile("yolo11n", Path("yolo11n.onnx"), 384, 640, 640)


def loaded(text: str, folder: Path) -> Settings:
    file = folder / "bench.toml"
    file.write_text(text)
    return load(file, registry=Registry.load(), environ={})


def test_every_jobs_configuration_is_valid(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.touch()
    for job in JOBS:
        model = models()[job.model]
        film = tmp_path / "film.mp4" if job.does == "video" else None
        server = "http://127.0.0.1:1" if job.does == "remote" else None
        loaded(config(model, [clip], tmp_path / "x.jsonl", data_dir=tmp_path, film=film, server=server), tmp_path)


def test_cameras_with_the_motion_gate_are_a_valid_configuration(tmp_path: Path) -> None:
    urls = [f"rtsp://127.0.0.1:1/cam{number}" for number in range(16)]
    text = config(
        models()["small"],
        urls,
        tmp_path / "x_{source}.jsonl",
        data_dir=tmp_path,
        max_fps=5.0,
        motion="keyframes",
        port=19464,
    )

    loaded(text, tmp_path)
    assert text.count("max_fps = 5.0") == text.count('decode = "keyframes"') == 16


def test_the_square_is_asked_for_by_name_and_the_rectangle_is_not(tmp_path: Path) -> None:
    of = models()

    assert 'input_shape = "square"' in config(of["square"], [tmp_path], tmp_path, data_dir=tmp_path)
    assert "input_shape" not in config(of["heavy"], [tmp_path], tmp_path, data_dir=tmp_path)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_everybody_gets_the_same_model_and_clip(subject: str, tmp_path: Path) -> None:
    words = command(subject, Task(RECTANGLE, [Path("clip.mp4")], tmp_path / f"{subject}.jsonl"), tmp_path)
    told = " ".join(words)
    if subject == "penstock":
        told = (tmp_path / "bench.toml").read_text()

    assert "yolo11n.onnx" in told
    assert "clip.mp4" in told


def test_the_naive_loop_feeds_the_square_and_the_limit_the_rectangle(tmp_path: Path) -> None:
    task = Task(RECTANGLE, [Path("clip.mp4")], tmp_path / "x.jsonl")

    assert "--input 640 640" in " ".join(command("naive", task, tmp_path))
    assert "--input 384 640" in " ".join(command("limit", task, tmp_path))


def test_ultralytics_is_not_asked_for_what_it_cannot_do() -> None:
    assert why_not("ultralytics", Job("B", "light", "1080", 60), NANO) == "does not read YOLOX"
    assert why_not("ultralytics", Job("F", "heavy", "720", 60, "remote"), RECTANGLE) == "asks no other machine"


def test_a_rival_that_is_not_installed_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    job = Job("A", "heavy", "1080", 60)

    assert why_not("naive", job, RECTANGLE) == "not installed here: run `just bench-setup`"
    assert why_not("limit", job, RECTANGLE) is None


def test_a_rival_that_could_not_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    setup.RIVALS.home.mkdir(parents=True)
    (setup.RIVALS.home / "ultralytics.failed").write_text("no wheel for this machine\n")

    assert setup.RIVALS.missing("ultralytics") == "not installed here: no wheel for this machine"


def test_every_rival_has_an_environment() -> None:
    assert set(setup.RIVALS.names) == set(RIVALS)
