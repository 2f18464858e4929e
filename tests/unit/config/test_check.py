import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.check import check
from pipeline.config.problems import ConfigProblems
from pipeline.config.settings import Settings
from pipeline.contracts.errors import ConfigError

Load = Callable[..., Settings]


def test_what_components_find_is_reported_with_its_line_and_all_at_once(
    load_text: Load, minimal: str, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = load_text(f'{minimal}[server]\nlisten = "127.0.0.1:{port}"\n')
        with pytest.raises(ConfigProblems) as caught:
            check(settings)
    assert str(caught.value).replace(f"{tmp_path}/", "").split("\n") == [
        "pipeline.toml:7: backends.local.model: there is no file m.onnx",
        f"pipeline.toml:13: server.listen: cannot listen on 127.0.0.1 port {port}: another program listens there",
    ]


def test_the_port_of_a_penstock_that_runs_is_no_fault_but_to_run_on(
    load_text: Load, minimal: str, tmp_path: Path
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(5)
        settings = load_text(f'{minimal}[server]\nlisten = "127.0.0.1:{listening.getsockname()[1]}"\n')

        def answer(text: bytes) -> None:
            with contextlib.suppress(TimeoutError):  # nobody asked
                client, _ = listening.accept()
                with client:
                    client.recv(4096)
                    client.sendall(text)

        for says, is_fault in ((b"Server: penstock", False), (b"Server: nginx", True)):
            thread = threading.Thread(target=answer, args=(b"HTTP/1.0 200 OK\r\n" + says + b"\r\n\r\n",))
            thread.start()
            try:
                with pytest.raises(ConfigProblems) if is_fault else contextlib.nullcontext():
                    check(settings)
            finally:
                thread.join(10)
        with pytest.raises(ConfigProblems, match="another program listens there"):
            check(settings, to_run=True)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "off"])
def test_a_sound_configuration_passes(load_text: Load, minimal: str, tmp_path: Path, listen: str) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    check(load_text(f'{minimal}[server]\nlisten = "{listen}"\n'))


def test_an_error_that_turns_up_later_finds_its_line(load_text: Load, minimal: str, tmp_path: Path) -> None:
    settings = load_text(minimal)
    found = settings.blame("sink", "events", ConfigError("the folder cannot be written", key="path"))
    assert str(found) == f"{tmp_path}/pipeline.toml:11: sinks.events.path: the folder cannot be written"
    found = settings.blame("backend", "local", ConfigError("nothing fits\nhere"))
    assert str(found) == f"{tmp_path}/pipeline.toml:5: backends.local: nothing fits; here"


def test_an_error_that_turns_up_later_shows_no_secret(load_text: Load, minimal: str) -> None:
    text = '[sources.cam]\ntype = "camera"\nurl = "rtsp://u:${CAM_PASS}@h/"\n' + minimal
    settings = load_text(text, {"CAM_PASS": "p%40ss-word"})
    for leaked in ("p%40ss-word", "p@ss-word"):
        found = settings.blame("source", "cam", ConfigError(f"no route to rtsp://u:{leaked}@h/", key="url"))
        assert found.message == "no route to rtsp://u:${CAM_PASS}@h/"


def test_an_error_of_an_overridden_key_names_the_variable(load_text: Load, minimal: str) -> None:
    settings = load_text(minimal, {"PENSTOCK_BACKENDS__LOCAL__MODEL": "/n.onnx"})
    found = settings.blame("backend", "local", ConfigError("there is no file /n.onnx", key="model"))
    assert str(found) == "PENSTOCK_BACKENDS__LOCAL__MODEL: backends.local.model: there is no file /n.onnx"
