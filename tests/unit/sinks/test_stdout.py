import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from pipeline.contracts.result import Classification, Prediction, Text
from pipeline.testing import PluginContext, detections, frame, result
from sinks.stdout import StdoutSinkConfig, to_text


def text_of(prediction: Prediction) -> str:
    return to_text(replace(result(frame(3, source="gate")), prediction=prediction))


def test_json_lines_come_out_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    sink = StdoutSinkConfig().build(PluginContext())
    sink.open()
    sink.write([result(frame(0)), result(frame(1))])
    assert [json.loads(line)["frame_id"] for line in capsys.readouterr().out.splitlines()] == [0, 1]
    sink.close()


def test_text_counts_what_was_found() -> None:
    two = replace(
        detections((0, 0, 1, 1), (0, 0, 1, 1), (0, 0, 1, 1), names=("car", "dog")),
        class_id=np.array([0, 1, 0], np.int32),
    )
    assert text_of(two) == "gate 3 0.120s 2 car, 1 dog"
    assert text_of(detections()) == "gate 3 0.120s nothing"
    assert text_of(Classification(np.array([0.2, 0.8], np.float32), ("car", "dog"))) == "gate 3 0.120s dog 0.80"


def test_text_out_of_a_model_cannot_steer_the_terminal() -> None:
    assert text_of(Text("a\x1b[2Jb\nc")) == "gate 3 0.120s a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}c"


CLOSED = """
import sys
from pipeline.contracts.errors import FatalError
from pipeline.testing import PluginContext, frame, result
from sinks.stdout import StdoutSinkConfig

sink = StdoutSinkConfig().build(PluginContext())
sys.stdin.read()  # until the reader of our output is gone
try:
    sink.write([result(frame(0))])
except FatalError as error:
    print(error, file=sys.stderr)
sink.close()
print("the end")  # by the rest of the program
"""


def test_a_reader_that_has_seen_enough_is_one_clear_error_and_no_noise() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CLOSED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stderr is not None
    child.stdout.close()
    child.stdin.close()
    with child.stderr as stderr:
        errors = stderr.read()
    assert child.wait(50) == 0
    assert errors == "standard output was closed by its reader\n"


LATIN = """
from dataclasses import replace
from pipeline.testing import PluginContext, detections, frame, result
from sinks.stdout import StdoutSinkConfig
found = detections((0, 0, 1, 1), names=("\\u732b",))
StdoutSinkConfig(format="text").build(PluginContext()).write([result(frame(0), found)])
"""


def test_a_label_that_the_terminal_cannot_show_stops_nothing() -> None:
    run = subprocess.run(
        [sys.executable, "-c", LATIN], capture_output=True, check=True, timeout=50, env={"PYTHONIOENCODING": "latin-1"}
    )
    assert run.stdout == b"test 0 0.000s 1 ?\n"
