"""`penstock predict`, as its user runs it, and the small commands."""

import json

import numpy as np
import pytest
from makers import brightness_model
from PIL import Image
from workplace import Workplace


def test_predict_prints_json_lines(workplace: Workplace) -> None:
    code, out, err = workplace.penstock("predict", "clip.mp4", "--model", "model.onnx", "--quiet")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 30
    assert json.loads(out.splitlines()[0])["predictions"][0]["class"] == "thing"


def test_a_model_that_takes_bytes_sees_the_same_picture(workplace: Workplace) -> None:
    brightness_model(workplace.folder / "bytes.onnx", takes_bytes=True)
    found = []
    for model in ("model.onnx", "bytes.onnx"):
        code, out, err = workplace.penstock("predict", "clip.mp4", "-m", model, "-q", "--num-frames", "1")
        assert code == 0, err
        found.append(json.loads(out)["predictions"][0])
    assert found[1]["confidence"] == pytest.approx(found[0]["confidence"], abs=0.01)
    assert "0..255" in workplace.penstock("inspect", "bytes.onnx")[1]


def test_a_class_may_be_named_by_its_number(workplace: Workplace) -> None:
    code, out, err = workplace.penstock("predict", "clip.mp4", "-m", "model.onnx", "-q", "--classes", "1")
    assert code == 0, err
    assert not any(json.loads(line)["predictions"] for line in out.splitlines())


def test_predict_writes_lines_and_video(workplace: Workplace) -> None:
    code, out, err = workplace.penstock(
        *("predict", "clip.mp4", "-m", "model.onnx", "-o", "a.jsonl", "-o", "b.mp4", "--classes", "thing"),
        *("--num-frames", "5", "--confidence", "0.1"),
    )
    assert code == 0, err
    assert len(workplace.lines("a.jsonl")) == 5
    assert (workplace.folder / "b.mp4").stat().st_size > 0
    assert out == ""


def test_predict_reads_pictures_and_folders(workplace: Workplace) -> None:
    (workplace.folder / "photos").mkdir()
    for index in range(3):
        Image.fromarray(np.full((40, 60, 3), 250, np.uint8)).save(workplace.folder / "photos" / f"{index}.png")
    for named in (["photos"], ["photos/*.png"], ["photos/0.png", "photos/1.png", "photos/2.png"]):
        code, out, err = workplace.penstock("predict", *named, "-m", "model.onnx", "-q")
        assert code == 0, err
        assert [json.loads(line)["path"].rpartition("/")[2] for line in out.splitlines()] == ["0.png", "1.png", "2.png"]


def test_predict_refuses_an_output_of_no_known_kind(workplace: Workplace) -> None:
    code, _, err = workplace.penstock("predict", "clip.mp4", "-m", "model.onnx", "-o", "out.xyz")
    assert code == 78
    assert err.count("\n") == 1
    assert ".jsonl" in err


def test_an_unknown_class_is_one_line_with_the_nearest(workplace: Workplace) -> None:
    code, _, err = workplace.penstock("predict", "clip.mp4", "-m", "model.onnx", "--classes", "thin")
    assert code == 78
    assert err.count("\n") == 1
    assert "thing" in err


def test_inspect_says_what_a_model_takes_and_gives(workplace: Workplace) -> None:
    code, out, err = workplace.penstock("inspect", "model.onnx")
    assert code == 0, err
    for expected in ("images", "output0", "yolov8", "64", "thing", "CPUExecutionProvider"):
        assert expected in out, out


def test_plugins_lists_what_is_installed(workplace: Workplace) -> None:
    code, out, _ = workplace.penstock("plugins")
    assert code == 0
    for expected in ("source", "file", "directory", "backend", "onnx", "sink", "jsonl", "video", "stdout"):
        assert expected in out.split()


def test_schema_is_json(workplace: Workplace) -> None:
    code, out, _ = workplace.penstock("schema")
    assert code == 0
    assert "sources" in json.loads(out)["properties"]


def test_doctor_finds_this_installation_well(workplace: Workplace) -> None:
    code, out, _ = workplace.penstock("doctor")
    assert code == 0, out
    assert "onnxruntime" in out


def test_completion_and_version(workplace: Workplace) -> None:
    assert "_PENSTOCK_COMPLETE" in workplace.penstock("completion", "bash")[1]
    assert workplace.penstock("--version")[1].startswith("penstock ")
