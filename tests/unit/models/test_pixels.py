"""One class for each pixel of the frame, out of a model's coarse map."""

import numpy as np
import pytest

from pipeline.contracts.frame import Size
from pipeline.contracts.result import NO_TIMINGS, SemanticMask
from pipeline.models.letterbox import place, stretch
from pipeline.models.pixels import semantic_mask
from pipeline.models.scores import Meaning, Values

INPUT = Size(64, 64)


def found(
    output: object, frame: Size, meaning: Meaning = "logits", *, letterboxed: bool = False, values: Values | None = None
) -> SemanticMask:
    placement = place(frame, INPUT, centred=True) if letterboxed else stretch(frame, INPUT)
    array = np.asarray(output)
    return semantic_mask(
        array, values or Values(meaning), ("ground", "sky"), placement=placement, frame=frame,
        timings=lambda: NO_TIMINGS,
    )  # fmt: skip


def logits_of(classes: np.ndarray, count: int = 2, height: float = 4.0) -> np.ndarray:
    """(C, h, w) with `height` at the class of each place."""
    logits: np.ndarray = (np.arange(count)[:, None, None] == classes).astype(np.float32) * np.float32(height)
    return logits


def test_the_border_between_two_classes_lies_where_the_model_puts_it() -> None:
    classes = np.zeros((16, 16), int)
    classes[:4] = 1  # a quarter of the picture is sky
    answer = found(logits_of(classes), Size(200, 100))
    assert (answer.class_map.shape, str(answer.class_map.dtype)) == ((100, 200), "int32")
    assert (answer.class_map[:24] == 1).all()
    assert (answer.class_map[26:] == 0).all()
    assert answer.names == ("ground", "sky")


def test_padding_is_no_part_of_the_answer() -> None:
    classes = np.full((16, 16), 1)
    classes[4:12] = 0  # what a frame twice as wide as high fills of the input
    answer = found(logits_of(classes), Size(128, 64), letterboxed=True)
    assert (answer.class_map[2:-2] == 0).all()


def test_confidence_is_the_best_classs_share() -> None:
    flat = np.zeros((2, 8, 8), np.float32)
    flat[1] = np.log(3)  # 3 : 1
    for meaning, output in (("logits", flat), ("probabilities", np.stack([flat[0] + 0.25, flat[0] + 0.75]))):
        answer = found(output, Size(32, 32), meaning)  # type: ignore[arg-type]
        assert answer.confidence is not None
        assert answer.confidence.dtype == np.uint8
        assert np.unique(answer.confidence).tolist() == [191]
        assert (answer.class_map == 1).all()
    assert found(flat, Size(32, 32), "unknown").confidence is None


@pytest.mark.parametrize(("meaning", "low", "high"), [("independent", 0.2, 0.8), ("independent-logits", -1.0, 1.0)])
def test_one_channel_is_a_class_against_the_rest(meaning: Meaning, low: float, high: float) -> None:
    output = np.full((1, 8, 8), low, np.float32)
    output[:, :, 4:] = high
    answer = found(output, Size(64, 64), meaning)
    assert (answer.class_map[:, :28] == 0).all()
    assert (answer.class_map[:, 36:] == 1).all()
    assert answer.confidence is not None
    assert answer.confidence.min() >= 127


@pytest.mark.parametrize("shape", [(16, 16), (1, 16, 16), (16, 16, 1)])
def test_class_numbers_are_taken_as_they_are(shape: tuple[int, ...]) -> None:
    ids = np.zeros((16, 16), np.int64)
    ids[8:, 8:] = 7
    answer = found(ids.reshape(shape), Size(320, 160), "ids")
    assert answer.class_map.shape == (160, 320)
    assert answer.confidence is None
    assert (answer.class_map[80:, 160:] == 7).all()
    assert (answer.class_map[:80] == 0).all()


def test_quantised_logits_are_read_by_their_scale() -> None:
    output = np.full((2, 4, 4), 128, np.uint8)
    output[1] = 138
    answer = found(output, Size(8, 8), values=Values("logits", 0.1, 128))
    assert answer.confidence is not None
    assert np.unique(answer.confidence).tolist() == [round(255 / (1 + np.exp(-1)))]


def test_many_classes_are_worked_on_in_strips_and_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    output = np.random.default_rng(1).normal(size=(5, 16, 16)).astype(np.float32)
    whole = found(output, Size(300, 200))
    monkeypatch.setattr("pipeline.models.pixels._STRIP_VALUES", 5 * 64 * 3)
    strips = found(output, Size(300, 200))
    np.testing.assert_array_equal(whole.class_map, strips.class_map)
    assert whole.confidence is not None
    assert strips.confidence is not None
    np.testing.assert_array_equal(whole.confidence, strips.confidence)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("meaning", ["logits", "probabilities", "independent-logits", "unknown"])
def test_numbers_that_are_none_do_no_harm(value: float, meaning: Meaning) -> None:
    output = np.zeros((3, 8, 8), np.float32)
    output[1, 2] = value
    answer = found(output, Size(20, 30), meaning)
    assert answer.class_map.min() >= 0
    assert answer.class_map.max() < 3


@pytest.mark.parametrize("frame", [Size(1, 1), Size(1, 500), Size(500, 1)])
def test_a_frame_of_any_shape_gets_its_map(frame: Size) -> None:
    assert found(np.zeros((2, 8, 8), np.float32), frame).class_map.shape == (frame.height, frame.width)
