"""`penstock serve`: models for clients, without any camera."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from daemon import Daemon, free_port
from makers import brightness_model
from observed import until

MODELS = """
    [models.bright]
    type = "onnx"
    model = "model.onnx"
    device = "cpu"
    aliases = ["bright/1"]
"""
CAMERA = """
    [sources.cam]
    type = "file"
    path = "no/such/file.mp4"
    backend = "bright"

    [sinks.lines]
    type = "jsonl"
    path = "out/{source}.jsonl"
"""


def serve(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "serve", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def ids(daemon: Daemon) -> list[str]:
    status, body = daemon.request("/model/registry")
    assert status == 200, body
    return sorted(part for part in body.replace('"', " ").split() if part in ("bright", "bright/1"))


@pytest.mark.parametrize("command", ["serve", "run"])
def test_a_file_with_models_alone_is_served_until_it_is_told_to_stop(tmp_path: Path, command: str) -> None:
    with Daemon(tmp_path, MODELS, command=command) as daemon:
        daemon.ready()
        assert "bright/1" in ids(daemon)
        daemon.stop(10)
    assert "every frame and every result is accounted for" in daemon.log()


def test_serve_leaves_sources_and_sinks_of_the_file_alone(tmp_path: Path) -> None:
    with Daemon(tmp_path, MODELS + CAMERA, command="serve") as daemon:
        daemon.ready()
        assert daemon.request("/api/v1/sources")[1].count('"name"') == 0
        daemon.stop(10)
    assert not (tmp_path / "out").exists()


def test_a_reload_of_what_is_served_stays_without_sources(tmp_path: Path) -> None:
    with Daemon(tmp_path, MODELS + CAMERA, command="serve") as daemon:
        daemon.ready()
        daemon.write((MODELS + CAMERA).replace("bright/1", "bright/2"))
        assert daemon.reload()
        assert daemon.request("/api/v1/sources")[1].count('"name"') == 0
        assert "bright/2" in daemon.request("/model/registry")[1]
        daemon.stop(10)


@pytest.mark.parametrize("listen", ['"off"', '"127.0.0.1:1"'])
def test_what_was_said_with_listen_goes_before_the_file_at_a_reload_too(tmp_path: Path, listen: str) -> None:
    port = free_port()
    daemon = Daemon(tmp_path, MODELS, command="serve", arguments=["--listen", f"127.0.0.1:{port}", "pipeline.toml"])
    daemon.url, daemon.server = f"http://127.0.0.1:{port}", f"\n[server]\nlisten = {listen}\n"
    daemon.write(MODELS)
    with daemon:
        daemon.ready()
        daemon.write(MODELS.replace("bright/1", "bright/2"))
        assert daemon.reload()
        assert "bright/2" in daemon.request("/model/registry")[1]
        assert "takes effect at the next start" not in daemon.log()
        daemon.stop(10)


def test_a_model_elsewhere_among_the_models_is_offered_unless_it_says_not(tmp_path: Path) -> None:
    elsewhere = """
    [models.{name}]
    type = "kserve"
    url = "http://127.0.0.1:1"
    model_name = "x"
    fallback = "bright"
    """
    unsaid, hidden = elsewhere.format(name="cloud"), elsewhere.format(name="hidden") + "serve = false\n"
    with Daemon(tmp_path, MODELS + unsaid + hidden, command="serve") as daemon:
        daemon.ready()
        registry = daemon.request("/model/registry")[1]
        assert '"cloud"' in registry
        assert '"hidden"' not in registry
        daemon.stop(10)


def test_model_files_are_served_by_their_names(tmp_path: Path) -> None:
    brightness_model(tmp_path / "Bright Spots.onnx")
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "serve", "Bright Spots.onnx", "--listen", f"127.0.0.1:{port}"],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
    try:

        def registry() -> str:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/model/registry", timeout=5) as answer:
                    body: str = answer.read().decode()
                    return body
            except OSError:
                return ""

        until("the model is in the registry", lambda: "Bright-Spots/1" in registry(), 30)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(15) == 0, (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.onnx",), "models.none.model: "),
        (("model.onnx", "--listen", "127.0.0.1"), "server.listen"),
        (("model.onnx", "--listen", "0.0.0.0:9001"), "needs a token"),
        (("model.onnx", "other/model.onnx"), "two models are called model"),
        (("pipeline.toml", "model.onnx"), "either one configuration or model files"),
        (("off.toml",), 'off.toml:2: server.listen: nothing can be served: listen is "off"'),
        (("off.toml", "--listen", "nowhere"), "--listen nowhere: must be"),
        (("not_enabled.toml",), "server.inference.enabled: nothing can be served"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exit_78(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    brightness_model(tmp_path / "model.onnx")
    table = '[models.bright]\ntype = "onnx"\nmodel = "model.onnx"\n'
    (tmp_path / "off.toml").write_text(f'[server]\nlisten = "off"\n{table}')
    (tmp_path / "not_enabled.toml").write_text(f"[server.inference]\nenabled = false\n{table}")
    done = serve(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (78, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
