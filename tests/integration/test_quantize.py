"""`penstock quantize`, as its user runs it."""

import json
from pathlib import Path

import onnx
import pytest
from conv_detector import conv_detector, pictures
from workplace import Workplace

from pipeline.models.quantized import KEY
from pipeline.quantize import judging
from pipeline.quantize.order import Order
from pipeline.quantize.quantizing import quantize


def test_the_twin_is_written_with_what_it_cost_and_says_so_when_inspected(workplace: Workplace) -> None:
    conv_detector(workplace.folder / "people.onnx")
    pictures(workplace.folder / "photos", 12)
    code, out, err = workplace.penstock("quantize", "people.onnx", "--calibrate", "photos", "--max-loss", "1")
    assert code == 0, err
    for words in ("8 pictures at 64x64", "4 held-out pictures", "ms a run on one core", "people_int8.onnx"):
        assert words in out, out
    written = onnx.load(workplace.folder / "people_int8.onnx")
    metadata = {each.key: each.value for each in written.metadata_props}
    assert json.loads(metadata[KEY])["measure"] == "agreement"
    assert metadata["names"] == "{0: 'thing', 1: 'other'}"
    assert "INT8 of people.onnx" in workplace.penstock("inspect", "people_int8.onnx")[1]
    code, out, err = workplace.penstock("predict", "clip.mp4", "-m", "people_int8.onnx", "-q", "--num-frames", "2")
    assert (code, len(out.splitlines())) == (0, 2), err


def test_what_lost_too_much_is_not_written_and_the_exit_code_says_so(workplace: Workplace) -> None:
    conv_detector(workplace.folder / "wild.onnx", wild=True)
    pictures(workplace.folder / "photos", 9)
    ask = ("quantize", "wild.onnx", "-c", "photos", "--max-loss", "0.0001", "--method", "minmax", "-o", "out.onnx")
    code, out, err = workplace.penstock(*ask)
    assert code == 1, out + err
    assert "NOT WRITTEN" in out
    assert not (workplace.folder / "out.onnx").exists()
    code, out, _ = workplace.penstock(*ask, "--accept-loss")
    assert code == 0
    assert "--accept-loss" in out.splitlines()[-1]
    assert (workplace.folder / "out.onnx").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("gone.onnx", "-c", "clip.mp4"), "no such model file"),
        (("people.onnx", "-c", "gone.mp4"), "gone.mp4"),
        (("people.onnx", "-c", "photos", "-o", "people.onnx"), "is the model itself"),
        (("people.onnx", "-c", "photos", "-o", "no/where.onnx"), "there is no folder"),
        (("model.onnx", "-c", "photos"), "no convolutions"),
        (("people.onnx", "-c", "photos/00.png"), "1 picture is too few"),
        (("people.onnx", "-c", "photos", "--labels", "pipeline.toml"), "neither COCO's JSON nor"),
        (("people.onnx",), "--calibrate"),
        (("people.onnx", "-c", "photos", "--family", "yolov99"), "known are yolov5"),
        (("people.onnx", "-c", "photos", "-o", "photos"), "is a folder"),
    ],
)
def test_a_mistake_is_one_line(workplace: Workplace, args: tuple[str, ...], words: str) -> None:
    conv_detector(workplace.folder / "people.onnx")
    pictures(workplace.folder / "photos", 6)
    code, _, err = workplace.penstock("quantize", *args)
    assert code == 78
    assert err.count("\n") == 1
    assert words in err


def test_where_nothing_is_found_nobody_knows_the_loss_and_nothing_is_written(workplace: Workplace) -> None:
    conv_detector(workplace.folder / "blind.onnx", blind=True)
    pictures(workplace.folder / "photos", 6)
    code, out, _ = workplace.penstock("quantize", "blind.onnx", "-c", "photos")
    assert code == 1
    assert "nothing is found in 2 held-out pictures" in out
    assert "nan" not in out
    assert "NOT WRITTEN nobody knows" in out


def test_what_labels_judge_is_not_calibrated_on_unless_there_is_nothing_else(workplace: Workplace) -> None:
    model = conv_detector(workplace.folder / "people.onnx")
    pictures(workplace.folder / "photos", 12)
    labels = workplace.folder / "labels.json"
    ask = ("quantize", model.name, "--calibrate", "photos", "--labels", labels.name, "--max-loss", "1")
    for labelled, words in (
        (range(0, 12, 3), "8 pictures at 64x64, percentile; 4 labelled ones judge it, none of these among them"),
        (
            range(12),
            "12 pictures at 64x64, percentile; 12 labelled ones judge it, these among them: there are no others",
        ),
        # Those without labels may be what nothing is in: no model is calibrated on a handful of these alone.
        (range(11), "12 pictures at 64x64, percentile; 11 labelled ones judge it, these among them: there are too few"),
    ):
        tree = {
            "images": [{"id": number, "file_name": f"{number:02}.png"} for number in labelled],
            "categories": [{"id": 1, "name": "thing"}],
            "annotations": [{"image_id": number, "category_id": 1, "bbox": [9, 9, 30, 30]} for number in labelled],
        }
        labels.write_text(json.dumps(tree))
        code, out, err = workplace.penstock(*ask)
        assert code == 0, out + err
        assert words in out


def test_a_real_detector_keeps_its_average_precision(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "RACE_S", 0.2)
    said: list[str] = []
    labelled = shared_data / "coco_val32"
    order = Order(
        model=str(shared_data / "models" / "yolox_nano_416.onnx"),
        pictures=(str(labelled / "images"),),
        out=tmp_path / "int8.onnx",
        labels=labelled / "instances.json",
    )
    outcome = quantize(order, said.append)
    assert outcome.written == order.out
    assert outcome.accuracy.measure == "AP"
    assert outcome.accuracy.before == pytest.approx(0.325, abs=0.01)
    assert outcome.accuracy.loss <= 0.02
    assert outcome.bytes_after < 0.5 * outcome.bytes_before
    assert any(line.startswith("tried") for line in said)
