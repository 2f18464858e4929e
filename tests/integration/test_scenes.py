"""What the pictures show, and pictures that come by themselves, in the real process."""

import re
import signal
import subprocess
from pathlib import Path

from PIL import Image
from workplace import Workplace

CAMERAS = """
    [sources.moving]
    type = "synthetic"
    width = 320
    height = 180
    fps = 20
    motion = { keepalive_s = 1000, hold_s = 0 }

    [sources.still]
    type = "synthetic"
    width = 320
    height = 180
    fps = 20
    pattern = "static"
    motion = { keepalive_s = 1000, hold_s = 0 }
    liveness = { frozen_after_s = 2 }

    [backends.local]
    type = "onnx"
    model = "model.onnx"

    [sinks.lines]
    type = "jsonl"
    path = "out/{source}.jsonl"

    [server]
    listen = "off"
"""

FOLDER = """
    data_dir = "data"

    [sources.box]
    type = "directory"
    path = "in"
    watch = true

    [backends.local]
    type = "onnx"
    model = "model.onnx"

    [sinks.lines]
    type = "stdout"

    [server]
    listen = "off"
"""


def _read_log_until(process: subprocess.Popen[str], words: str) -> str:
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f"{words!r} never came:\n{seen}")


def _stopped(process: subprocess.Popen[str]) -> str:
    """The log after SIGTERM; every frame and every result must be accounted for."""
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "every frame and every result is accounted for" in err
    return err


def test_what_does_not_move_is_gated_and_counted_and_a_frozen_camera_is_told(workplace: Workplace) -> None:
    workplace.write(CAMERAS)
    process = workplace.start("run")
    _read_log_until(process, "source still: the picture is frozen")
    err = _stopped(process)
    still = re.search(r"source still: (\d+) decoded = 1 inferred \+ (\d+) gated", err)
    moving = re.search(r"source moving: (\d+) decoded = (\d+) inferred", err)
    assert still is not None, err
    assert int(still[1]) == 1 + int(still[2]) > 40
    assert moving is not None, err
    assert int(moving[2]) > 0.9 * int(moving[1])
    assert len(workplace.lines("out/still.jsonl")) == 1


def _put(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", (64, 48), (200,) * 3).save(folder / f".{name}", format="PNG")
        (folder / f".{name}").rename(folder / name)


def _results_until(process: subprocess.Popen[str], name: str) -> list[str]:
    assert process.stdout is not None
    found = []
    for line in process.stdout:
        found += re.findall(r"(\w+\.png)", line)[:1]
        if found[-1:] == [name]:
            return found
    raise AssertionError(f"{name} never came, only {found}")


def test_a_watched_folder_gives_each_picture_once_and_goes_on_after_a_restart(workplace: Workplace) -> None:
    workplace.write(FOLDER)
    _put(workplace.folder / "in", "a.png", "b.png")
    process = workplace.start("run")
    assert sorted(_results_until(process, "b.png")) == ["a.png", "b.png"]
    _put(workplace.folder / "in", "c.png")
    assert _results_until(process, "c.png") == ["c.png"]
    assert "source box: 3 decoded = 3 inferred" in _stopped(process)
    process = workplace.start("run")
    _read_log_until(process, "backend local: ready")
    _put(workplace.folder / "in", "d.png")
    assert _results_until(process, "d.png") == ["d.png"]
    assert "source box: 1 decoded = 1 inferred" in _stopped(process)
