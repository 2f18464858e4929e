"""Our server and Roboflow's clients: every field of a request, the legacy route, every shape of an answer."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.wire.masks import decode_rle
from tests.conformance.roboflow_rig import Clients, Rig, is_person, same_boxes

clients = Clients()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Iterator[Rig]:
    """Our server, and what the clients below said to it."""
    with Rig(tmp_path_factory.mktemp("roboflow"), shared_data, clients) as made:
        yield made


# Every field

COMMON = """
    visualize_predictions=True, confidence_threshold=0.2, stroke_width=3, disable_preproc_auto_orientation=True,
    disable_preproc_contrast=True, disable_preproc_grayscale=True, disable_preproc_static_crop=True,
    disable_active_learning=True, active_learning_target_dataset="other", source="test", source_info="row",
"""
OBJECTS = (
    COMMON
    + """
    visualize_labels=True, class_filter=["person"], class_agnostic_nms=True, fix_batch_size=True, iou_threshold=0.35,
    max_detections=17, max_candidates=99,
"""
)
SEEN = {
    "confidence": 0.2,
    "classes": ["person"],
    "class_agnostic_nms": True,
    "iou_threshold": 0.35,
    "max_detections": 17,
}

clients.by(
    "sdk",
    "a27",
    """
    found = {}
    for name in ("json", "image", "image_and_json"):
        http = client(
            mode="v0", confidence_threshold=0.15, keypoint_confidence_threshold=0.25, format=name,
            visualize_labels=True, mask_decode_mode="tradeoff",
            tradeoff_factor=0.5, max_detections=13, iou_threshold=0.45, stroke_width=4,
            count_inference=True, service_secret="secret", disable_preproc_auto_orientation=True,
            disable_preproc_contrast=True, disable_preproc_grayscale=True, disable_preproc_static_crop=True,
            disable_active_learning=True, source="test", source_info="row", active_learning_target_dataset="other",
        )
        found[name] = http.infer(args.small, model_id="det/1")
    return found
    """,
)


def test_a27_every_field_of_the_legacy_route_is_taken(rig: Rig) -> None:
    found = rig.said("a27")
    is_person(found["json"])
    assert "visualization" not in found["json"]
    assert list(found["image"]) == ["visualization"]
    is_person(found["image_and_json"])
    assert found["image_and_json"]["visualization"]
    assert rig.asked("boxes", confidence=0.15, keypoint_confidence=0.25, max_detections=13, iou_threshold=0.45), (
        "what was asked for did not reach the model"
    )


clients.by("sdk", "a28", f'return client({COMMON}).infer(args.small, model_id="cls/1")')


def test_a28_every_field_of_classification_is_taken(rig: Rig) -> None:
    found = rig.said("a28")
    assert found["top"] == "bus"
    assert found["visualization"]
    assert rig.asked("tags", confidence=0.2)


clients.by("sdk", "a29", f'return client({OBJECTS}).infer(args.small, model_id="det/1")')


def test_a29_every_field_of_object_detection_is_taken(rig: Rig) -> None:
    found = rig.said("a29")
    assert [item["class"] for item in found["predictions"]] == ["person"]
    assert found["visualization"]
    assert rig.asked("boxes", **SEEN)


clients.by(
    "sdk", "a30", f'return client({OBJECTS} keypoint_confidence_threshold=0.3).infer(args.small, model_id="pose/1")'
)


def test_a30_every_field_of_keypoints_is_taken(rig: Rig) -> None:
    found = rig.said("a30")
    (person,) = found["predictions"]
    assert [point["class"] for point in person["keypoints"]] == ["nose", "left_eye"]
    assert person["keypoints"][0]["x"] == 20
    assert found["visualization"]
    assert rig.asked("pose", **SEEN, keypoint_confidence=0.3)


clients.by(
    "sdk",
    "a31",
    f'return client({OBJECTS} mask_decode_mode="tradeoff", tradeoff_factor=0.5).infer(args.small, model_id="seg/1")',
)


def test_a31_every_field_of_instance_segmentation_is_taken(rig: Rig) -> None:
    found = rig.said("a31")
    (person,) = found["predictions"]
    xs, ys = ([point[axis] for point in person["points"]] for axis in "xy")
    assert (min(xs), max(xs)) == (pytest.approx(10, abs=1), pytest.approx(110, abs=1))
    assert (min(ys), max(ys)) == (pytest.approx(20, abs=1), pytest.approx(120, abs=1))
    assert found["visualization"]
    assert rig.asked("cut", **SEEN)


clients.by(
    "sdk",
    "a32",
    """
    found = {}
    for form in ("BASE64", "NUMPY", "PILLOW"):
        wanted = getattr(VisualisationResponseFormat, form)
        http = client(visualize_predictions=True, output_visualisation_format=wanted)
        drawn = http.infer(args.small, model_id="det/1")["visualization"]
        size = getattr(drawn, "size" if form == "PILLOW" else "shape", None)
        found[form] = [type(drawn).__name__, size]
    return found
    """,
)


def test_a32_the_drawn_picture_comes_in_every_form(rig: Rig) -> None:
    found = rig.said("a32")
    assert found["BASE64"][0] == "str"
    assert found["NUMPY"] == ["ndarray", [240, 320, 3]]
    assert found["PILLOW"][1] == [320, 240]


clients.by(
    "sdk",
    "a34",
    """
    found = {"off": client(client_downsizing_disabled=True).infer(args.bus, model_id="det/1")}
    found["registry"] = client(client_downsizing_disabled=False).infer(args.bus, model_id="det/1")
    small = client(mode="v0", client_downsizing_disabled=False, default_max_input_size=270)
    found["default"] = small.infer(args.bus, model_id="det/1")
    return found
    """,
)


def test_a34_pictures_that_the_client_shrinks_are_scaled_back(rig: Rig) -> None:
    found = rig.said("a34")
    is_person(found["off"])
    for kind, ratio in (("registry", 480 / 1080), ("default", 270 / 1080)):
        answer = found[kind]
        assert answer["image"] == {"width": pytest.approx(810, abs=2), "height": pytest.approx(1080, abs=2)}
        assert answer["predictions"][0]["x"] == pytest.approx(60 / ratio, rel=0.01)
    sizes = [note["size"] for note in rig.notes("boxes")]
    assert [360, 480] in sizes, "the registry's size was not heeded"
    assert any(size[1] == 270 for size in sizes)


clients.by(
    "sdk",
    "a35",
    """
    return [
        InferenceHTTPClient(api_url=url, api_key="K").client_mode.name for url in (args.url, "https://detect.roboflow.com")
    ]
    """,
)


def test_a35_a_local_url_means_version_1(rig: Rig) -> None:
    assert rig.said("a35") == ["V1", "V0"]


clients.by("sdk", "a36", 'return failure(lambda: client(mode="v0").list_loaded_models())')


def test_a36_the_registry_is_not_asked_in_version_0(rig: Rig) -> None:
    assert rig.said("a36")["type"] == "WrongClientModeError"


clients.by(
    "sdk",
    "a38",
    """
    http = client(mode="v0")
    names = ("cls/1", "det/1", "seg/1", "pose/1", "mlc/1", "sem/1", "det/0")
    return {name: http.infer(args.small, model_id=name) for name in names}
    """,
)


def test_a38_every_task_answers_on_the_legacy_route(rig: Rig) -> None:
    found = rig.said("a38")
    assert (found["cls/1"]["top"], found["cls/1"]["confidence"]) == ("bus", 0.75)
    for name in ("det/1", "seg/1", "pose/1"):
        is_person(found[name])
    assert found["seg/1"]["predictions"][0]["points"]
    assert found["pose/1"]["predictions"][0]["keypoints"]


clients.by(
    "sdk",
    "outlines",
    """
    new, old = client(), client(mode="v0", response_mask_format="rle")
    return [new.infer(args.bus, model_id="street/2"), old.infer(args.bus, model_id="street/2")]
    """,
)


def test_outlines_are_those_of_predict(rig: Rig) -> None:
    polygons, runs = rig.said("outlines")
    expected = rig.predicted("outlines")
    same_boxes(polygons, expected)
    same_boxes(runs, expected)
    for polygon, run, one in zip(polygons["predictions"], runs["predictions"], expected, strict=True):
        assert run["rle"] == one["rle"]
        wanted = decode_rle(one["rle"]["counts"], 1080, 810)
        scene = Image.new("1", (810, 1080))
        ImageDraw.Draw(scene).polygon([(point["x"], point["y"]) for point in polygon["points"]], fill=1, outline=1)
        drawn = np.asarray(scene)
        # A polygon is one outline: what lies apart, and holes, it cannot say.
        assert (drawn & wanted).sum() / (drawn | wanted).sum() > 0.9


# The legacy route by itself

clients.by(
    "sdk",
    "b1",
    """
    http = client(mode="v0")
    return {
        "both": http.infer(args.small, model_id="det/1"),
        "dataset": failure(lambda: http.infer(args.small, model_id="none/1")),
        "version": failure(lambda: http.infer(args.small, model_id="det/2")),
    }
    """,
)


def test_b1_dataset_and_version_name_the_model(rig: Rig) -> None:
    found = rig.said("b1")
    is_person(found["both"])
    assert found["dataset"]["status"] == found["version"]["status"] == 404


def test_b2_every_query_parameter_is_taken(rig: Rig) -> None:
    test_a27_every_field_of_the_legacy_route_is_taken(rig)


clients.by(
    "roboflow",
    "b3",
    """
    model = ObjectDetectionModel("KEY", "ws/det/1", name="det", version="1", local=args.url + "/")
    return model.predict(args.small_url, hosted=True, confidence=20, overlap=30).json()
    """,
)


def test_b3_a_picture_by_url_in_the_query(rig: Rig) -> None:
    is_person(rig.said("b3"))
    assert rig.asked("boxes", confidence=0.2, iou_threshold=0.3)


clients.by(
    "sdk",
    "b4",
    """
    text = base64.b64encode(open(args.small, "rb").read())
    headers = {"Content-Type": "application/json"}
    def post(kind):
        answer = requests.post(args.url + "/det/1?image_type=" + kind, data=text, headers=headers)
        return [answer.status_code, answer.json()]
    return {kind: post(kind) for kind in ("base64", "numpy", "other")}
    """,
)


def test_b4_image_type_is_base64_and_never_a_pickle(rig: Rig) -> None:
    found = rig.said("b4")
    assert found["base64"][0] == 200
    is_person(found["base64"][1])
    assert found["numpy"][0] == 400
    assert "pickle" in found["numpy"][1]["message"]
    assert found["other"][0] == 422


def test_b5_every_answer_has_the_shape_of_its_schema(rig: Rig, shared_data: Path) -> None:
    from jsonschema import Draft202012Validator

    text = (shared_data.parent / "reference" / "roboflow_serverless_openapi.md").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith('{"openapi"'))
    components = json.loads(line)["components"]
    shapes = {
        "cls/1": "ClassificationInferenceResponse",
        "det/1": "ObjectDetectionInferenceResponse",
        "seg/1": "InstanceSegmentationInferenceResponse",
        "pose/1": "KeypointsDetectionInferenceResponse",
        "mlc/1": "MultiLabelClassificationInferenceResponse",
        "sem/1": "SemanticSegmentationInferenceResponse",
        "det/0": "StubResponse",
    }
    found = rig.said("a38")
    for model_id, shape in shapes.items():
        schema = {"$ref": f"#/components/schemas/{shape}", "components": components}
        Draft202012Validator(schema).validate(found[model_id])
    assert found["mlc/1"]["predicted_classes"] == ["person", "bus"]
    assert found["sem/1"]["predictions"]["class_map"] == {"0": "person", "1": "bus"}
    assert found["det/0"]["is_stub"] is True


clients.by(
    "sdk",
    "b6",
    """
    drawn = client(mode="v0", format="image").infer(args.small, model_id="det/1")["visualization"]
    text = base64.b64encode(open(args.small, "rb").read())
    raw = requests.post(args.url + "/det/1?format=image", data=text, headers={"Content-Type": "application/json"})
    return [base64.b64decode(drawn)[:3].hex(), raw.headers["Content-Type"], raw.content[:3].hex()]
    """,
)


def test_b6_a_drawn_picture_is_a_jpeg(rig: Rig) -> None:
    assert rig.said("b6") == ["ffd8ff", "image/jpeg", "ffd8ff"]


clients.by(
    "sdk", "b7", 'return failure(lambda: client(mode="v0", stroke_width="thick").infer(args.small, model_id="det/1"))'
)


def test_b7_a_wrong_query_is_a_422_whose_detail_the_client_shows(rig: Rig) -> None:
    found = rig.said("b7")
    assert (found["type"], found["status"]) == ("HTTPCallErrorError", 422)
    assert "stroke" in str(found["message"])


clients.by(
    "roboflow",
    "b9",
    """
    det = ObjectDetectionModel("KEY", "ws/det/1", name="det", version="1", local=args.url + "/")
    seg = InstanceSegmentationModel("KEY", "ws/seg/1", local=args.url)
    cls = ClassificationModel("KEY", "ws/cls/1", name="cls", version="1", local=args.url + "/")
    pose = KeypointDetectionModel("KEY", "ws/pose/1", name="pose", version="1", local=args.url + "/")
    return {
        "form": det.predict(args.small).json(),
        "multipart": seg.predict(args.small).json(),
        "class": cls.predict(args.small).json(),
        "pose": pose.predict(args.small).json(),
        "url": det.predict(args.small_url, hosted=True).json(),
    }
    """,
)


def test_b9_every_form_of_the_body_is_understood(rig: Rig) -> None:
    found = rig.said("b9")
    for kind in ("form", "multipart", "url"):
        is_person(found[kind])
    assert found["multipart"]["predictions"][0]["points"]
    assert found["class"]["predictions"][0]["top"] == "bus"
    assert found["pose"]["predictions"][0]["keypoints"]
    is_person(rig.said("b1")["both"])  # base64 as application/json: the other client's
