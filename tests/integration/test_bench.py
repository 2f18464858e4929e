"""`penstock bench`, as its user runs it: what it says is there, and nothing is written or sent."""

import json
import signal
from collections.abc import Callable

from makers import clip
from workplace import Workplace

from pipeline.benching.report import SCHEMA

SHORT = ("--seconds", "4")


def test_it_names_the_bottleneck_and_how_many_cameras_fit(workplace: Workplace) -> None:
    before = sorted(path.name for path in workplace.folder.iterdir())
    code, out, err = workplace.penstock("bench", *SHORT)
    assert code == 0, err
    for words in ("decode", "infer", "sink lines", "bottleneck", "this box carries", "measured on"):
        assert words in out, out
    assert "Traceback" not in err
    assert sorted(path.name for path in workplace.folder.iterdir()) == before, "something was written"


def test_as_json_it_is_for_programs(workplace: Workplace, edited: Callable[[str, str], str]) -> None:
    clip(workplace.folder / "clip.mp4", [200, 100] * 30)
    workplace.write(edited('path = "clip.mp4"', 'path = "clip.mp4"\n    max_fps = 5'))
    code, out, err = workplace.penstock("bench", *SHORT, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["schema"] == SCHEMA
    assert found["cameras"][0]["frames_per_s"] == 5
    (source,) = found["sources"]
    assert (source["width"], source["height"], source["fps"], source["inferred_fps"]) == (128, 64, 25, 5)
    assert found["checked"]


def test_cameras_that_are_away_have_a_stand_in_and_nothing_is_sent(workplace: Workplace) -> None:
    workplace.write(
        """
        [sources.gate]
        type = "rtsp"
        url = "rtsp://127.0.0.1:1/none"
        max_fps = 5

        [backends.local]
        type = "onnx"
        model = "model.onnx"

        [sinks.hook]
        type = "webhook"
        url = "http://127.0.0.1:1/hook"
        """
    )
    code, out, err = workplace.penstock("bench", *SHORT)
    assert code == 0, err
    assert "source gate: a made-up clip of 1920x1080" in out
    assert "sink hook (webhook) is left out" in out
    assert "as configured it needs" in out


def test_what_cannot_be_measured_is_one_line(workplace: Workplace) -> None:
    workplace.write(
        """
        [sources.cam]
        type = "file"
        path = "clip.mp4"

        [backends.far]
        type = "kserve"
        url = "http://127.0.0.1:1"
        model_name = "detector"

        [sinks.lines]
        type = "stdout"
        """,
        "far.toml",
    )
    for args, words in ((("gone.toml",), "gone.toml"), (("far.toml",), "all models are elsewhere")):
        code, _, err = workplace.penstock("bench", *args, *SHORT)
        assert code == 78, err
        assert words in err.splitlines()[-1]
        assert "Traceback" not in err


def test_ctrl_c_ends_it_at_once_and_leaves_nothing(workplace: Workplace) -> None:
    scratch = workplace.folder / "scratch"
    scratch.mkdir()
    process = workplace.start("bench", "--seconds", "60", TMPDIR=str(scratch))
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("measuring each stage"):
            assert list(scratch.iterdir())
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert not list(scratch.iterdir())


def test_ctrl_c_while_the_pipeline_runs_stops_it(workplace: Workplace) -> None:
    scratch = workplace.folder / "scratch"
    scratch.mkdir()
    process = workplace.start("bench", "--seconds", "8", TMPDIR=str(scratch))
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("running all of it"):
            process.send_signal(signal.SIGINT)
            break
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not list(scratch.iterdir())
