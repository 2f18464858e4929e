import json
import warnings
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.contracts.analysis import Scene
from pipeline.contracts.event import Best, DaemonEvent, ObjectEvent, SourceEvent
from pipeline.contracts.frame import NoPicture, Size
from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, Result, SemanticMask, Text
from pipeline.testing import detections, frame, result
from pipeline.wire.results import event_line, rfc3339, to_dict, to_line

GOLDEN = (
    '{"schema":"penstock.result/1","id":"00000000000000000000000000000007","source":"gate","frame_id":7,"pts_s":0.28,'
    '"captured_at":"2023-11-14T22:13:20.280Z","time_source":"pts","path":"in/street.mp4","backend":"local",'
    '"model":"fake","config_hash":"000000000000","latency_s":0.02,"time":0.015,"image":{"width":64,"height":48},'
    '"predictions":[{"x":15.25,"y":16.0,"width":18.5,"height":16.0,"confidence":0.9,"class":"car","class_id":0,'
    '"detection_id":"00000000000000000000000000000007.0","tracker_id":3}]}'
)


@pytest.fixture(scope="module")
def sv() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # supervision without OpenCV says that it is slow
        import supervision
    return supervision


def of(prediction: Prediction, width: int = 64, height: int = 48) -> Result:
    plain = result(frame())
    return replace(plain, prediction=prediction, frame=replace(plain.frame, picture=NoPicture(Size(width, height))))


def test_a_line_is_exactly_the_documented_format() -> None:
    found = replace(detections((6, 8, 24.5, 24), names=("car",)), tracker_id=np.array([3], np.int32))
    line = to_line(result(replace(frame(7, source="gate"), path="in/street.mp4"), found))
    assert line == GOLDEN


def test_a_damaged_frame_is_flagged_and_no_other() -> None:
    plain = result(frame())
    assert to_dict(replace(plain, frame=replace(plain.frame, corrupt=True)))["corrupt"] is True
    assert "corrupt" not in to_dict(plain)


def test_an_event_is_exactly_the_documented_format() -> None:
    event = SourceEvent("ab" * 16, "gate", "state", "reconnecting", "TIMEOUT", "no answer", 1_700_000_000.28)
    assert event_line(event) == (
        '{"schema":"penstock.event/1","id":"abababababababababababababababab","event":"state","source":"gate",'
        '"value":"reconnecting","code":"TIMEOUT","detail":"no answer","at":"2023-11-14T22:13:20.280Z"}'
    )


def _object_event(**changes: object) -> ObjectEvent:
    best = Best("cd" * 16, 5, 0.2, 1_700_000_000.2, 0.95, (6.0, 8.0, 24.5, 24.0))
    event = ObjectEvent(
        id="ab" * 16,
        event_id="ef" * 16,
        phase="update",
        kind="zone",
        source="gate",
        class_name="person",
        tracker_id=3,
        began_at=1_700_000_000.0,
        at=1_700_000_000.28,
        frame=replace(frame(7), captured_at=1_700_000_000.28),
        confidence=0.9,
        xyxy=(6.0, 8.0, 24.5, 24.0),
        best=best,
        zone="door",
        zones=("door", "yard"),
    )
    return replace(event, **changes)  # type: ignore[arg-type]


def test_an_event_of_an_object_is_exactly_the_documented_format() -> None:
    assert event_line(_object_event()) == (
        '{"schema":"penstock.event/1","id":"abababababababababababababababab","event":"zone",'
        '"event_id":"efefefefefefefefefefefefefefefef","phase":"update","source":"gate","class":"person","tracker_id":3,'
        '"began_at":"2023-11-14T22:13:20.000Z","at":"2023-11-14T22:13:20.280Z","duration_s":0.28,"frame_id":7,'
        '"pts_s":0.28,"image":{"width":64,"height":48},"confidence":0.9,"x":15.25,"y":16.0,"width":18.5,"height":16.0,'
        '"best":{"result_id":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd","frame_id":5,"pts_s":0.2,'
        '"captured_at":"2023-11-14T22:13:20.200Z","confidence":0.95,"x":15.25,"y":16.0,"width":18.5,"height":16.0},'
        '"zones":["door","yard"],"zone":"door"}'
    )


def test_an_event_has_only_the_keys_that_are_about_it() -> None:
    crossing = json.loads(event_line(_object_event(kind="crossing", zone=None, line="kerb", direction="in", count=4)))
    assert [crossing[key] for key in ("event", "line", "direction", "count")] == ["crossing", "kerb", "in", 4]
    assert "zone" not in crossing
    presence = json.loads(event_line(_object_event(kind="presence", zone=None, tracker_id=None, count=2)))
    assert (presence["count"], presence["tracker_id"]) == (2, None)
    assert not {"zone", "line", "direction"} & set(presence)


def test_an_event_of_the_daemon_is_exactly_the_documented_format() -> None:
    event = DaemonEvent("ab" * 16, "sink far", "spool", "full", "256 MiB", 1_700_000_000.28)
    assert event_line(event) == (
        '{"schema":"penstock.event/1","id":"abababababababababababababababab","event":"spool","component":"sink far",'
        '"value":"full","detail":"256 MiB","at":"2023-11-14T22:13:20.280Z"}'
    )


def test_zones_and_lines_are_told_where_the_source_has_some_and_a_line_is_read_all_the_same(sv: ModuleType) -> None:
    plain = result(frame(), replace(detections((6, 8, 24, 24), (1, 1, 5, 5)), tracker_id=np.array([3, -1], np.int32)))
    scene = Scene(occupancy={"door": {"person": 2}, "yard": {}}, crossed={"kerb": {"in": {"person": 3}, "out": {}}})
    read = json.loads(to_line(replace(plain, scene=scene)))
    assert read["zones"] == {"door": {"person": 2}, "yard": {}}
    assert read["lines"] == {"kerb": {"in": {"person": 3}, "out": {}}}
    assert list(read)[-3:] == ["zones", "lines", "predictions"]
    assert sv.Detections.from_inference(read).tracker_id.tolist() == [3, -1]
    assert to_line(replace(plain, scene=Scene())) == to_line(plain)


def test_supervision_reads_a_line_as_it_is(sv: ModuleType) -> None:
    xyxy = np.array([[10.25, 20.5, 110.75, 220.25], [0, 0, 64, 48]], np.float32)
    names = ("person", "car", "traffic light")
    found = Detections(xyxy, np.array([0.91234, 0.5], np.float32), np.array([2, 0], np.int32), names)
    read = sv.Detections.from_inference(json.loads(to_line(of(replace(found, tracker_id=np.array([7, 9], np.int32))))))
    np.testing.assert_allclose(read.xyxy, xyxy, atol=0.011)
    np.testing.assert_allclose(read.confidence, [0.9123, 0.5])
    assert read.class_id.tolist() == [2, 0]
    assert read.data["class_name"].tolist() == ["traffic light", "person"]
    assert read.tracker_id.tolist() == [7, 9]


def test_supervision_reads_a_line_without_objects(sv: ModuleType) -> None:
    assert len(sv.Detections.from_inference(json.loads(to_line(of(detections()))))) == 0


def test_supervision_reads_masks_pixel_for_pixel(sv: ModuleType) -> None:
    masks = np.zeros((3, 48, 64), bool)
    masks[0, 10:20, 5:9] = True
    masks[1, ::2, 60:] = True  # touches top and right
    masks[2, 47, 63] = True  # the last pixel
    found = replace(detections((0, 0, 9, 9), (0, 0, 9, 9), (0, 0, 9, 9)), masks=masks)
    np.testing.assert_array_equal(sv.Detections.from_inference(json.loads(to_line(of(found)))).mask, masks)


def test_supervision_reads_keypoints_and_misses_those_that_are_no_numbers(sv: ModuleType) -> None:
    points = np.array([[[1, 2, 0.5], [np.nan, 4, 0.9], [5, 6, 0.25]]], np.float32)
    read = sv.KeyPoints.from_inference(json.loads(to_line(of(replace(detections((0, 0, 9, 9)), keypoints=points)))))
    assert read.xy[0].tolist() == [[1, 2], [0, 0], [5, 6]]
    assert read.keypoint_confidence[0].tolist() == [0.5, 0, 0.25]


FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(arrays(np.float32, (3, 4), elements=FLOATS), arrays(np.float32, 3, elements=FLOATS))
def test_a_line_is_strict_json_whatever_the_model_says(xyxy: np.ndarray, confidence: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        line = to_line(of(Detections(xyxy, confidence, np.array([0, -1, 99], np.int32), ("a",))))

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    read = json.loads(line, parse_constant=refuse)
    assert len(read["predictions"]) + read.get("invalid_predictions", 0) == 3
    assert "\n" not in line


def test_objects_that_are_no_numbers_are_left_out_and_counted() -> None:
    found = detections((0, 0, 10, 10), (0, np.nan, 10, 10), (5, 5, 15, 15))
    read = to_dict(of(found))
    assert [item["x"] for item in read["predictions"]] == [5, 10]
    assert read["invalid_predictions"] == 1


def test_a_class_without_a_name_gets_one_from_its_number() -> None:
    found = replace(detections((0, 0, 9, 9), names=("a",)), class_id=np.array([4], np.int32))
    assert to_dict(of(found))["predictions"][0]["class"] == "class_4"


def test_a_classification_is_written_best_first_and_ten_at_the_most() -> None:
    scores = np.linspace(0, 0.3, 1000, dtype=np.float32)
    read = to_dict(of(Classification(scores, tuple(f"n{index}" for index in range(1000)))))
    assert [item["class_id"] for item in read["predictions"]] == list(range(999, 989, -1))
    assert (read["top"], read["confidence"]) == ("n999", 0.3)


def test_a_multi_label_classification_names_every_class_that_it_says_yes_to() -> None:
    scores = np.array([0.9, 0.1] + [0.75] * 12, np.float32)
    read = to_dict(of(Classification(scores, tuple(f"n{index}" for index in range(14)), multi_label=True)))
    assert len(read["predicted_classes"]) == 13
    assert read["predictions"]["n0"] == {"confidence": 0.9, "class_id": 0}


@pytest.mark.parametrize(("top", "mode"), [(255, "L"), (300, "I;16")])
def test_a_class_map_is_a_png_of_class_numbers(top: int, mode: str) -> None:
    import base64
    import io

    from PIL import Image

    class_map = np.array([[0, 1], [1, top]], np.int32)
    read = json.loads(to_line(of(SemanticMask(class_map, ("sky", "road")))))["predictions"]
    image = Image.open(io.BytesIO(base64.b64decode(read["segmentation_mask"])))
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(image), class_map)
    assert read["class_map"] == {"0": "sky", "1": "road", str(top): f"class_{top}"}


def test_vectors_and_texts_are_written_beside_an_empty_list_of_objects() -> None:
    vector = to_dict(of(Embedding(np.array([0.5, np.nan], np.float32))))
    assert (vector["predictions"], vector["embeddings"]) == ([], [[0.5, None]])
    text = json.loads(to_line(of(Text("no\nparking"))))
    assert (text["predictions"], text["result"]) == ([], "no\nparking")


@pytest.mark.parametrize(
    ("unix_s", "text"),
    [
        (1_700_000_000.04, "2023-11-14T22:13:20.040Z"),  # 0.04 is a little less in binary
        (1_700_000_000.9996, "2023-11-14T22:13:21.000Z"),
        (-1.5, "1969-12-31T23:59:58.500Z"),
        (float("nan"), None),
        (1e18, None),
    ],
)
def test_times_are_rfc_3339_to_the_nearest_millisecond(unix_s: float, text: str | None) -> None:
    assert rfc3339(unix_s) == text


def test_a_path_that_is_no_unicode_does_not_break_the_line() -> None:
    line = to_line(result(replace(frame(), path="in/b\udcffd.mp4")))
    assert json.loads(line)["path"] == "in/b\N{REPLACEMENT CHARACTER}d.mp4"


def test_a_camera_has_no_path_and_may_have_no_timeline() -> None:
    read = to_dict(result(replace(frame(), pts_s=None)))
    assert "path" not in read
    assert read["pts_s"] is None
