import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contracts.backend import Task
from pipeline.contracts.frame import Size, Wishes
from pipeline.wire.roboflow import (
    BODY_FIELDS,
    LEGACY_FIELDS,
    ImageValue,
    InferRequest,
    InvalidRequestError,
    LegacyQuery,
    ModelOrder,
    Options,
    RegistryModel,
    ServerInfo,
    encode_registry,
    parse_error,
    parse_infer_request,
    parse_legacy_query,
    parse_model_order,
    parse_registry,
    parse_server_info,
)

RATIO = st.none() | st.floats(0, 1)
FLAG = st.none() | st.booleans()
WORD = st.none() | st.text("abc xyz-_.é", min_size=1, max_size=9).filter(lambda text: text == text.strip() != "")
NAME = st.text("abcxyz ", min_size=1, max_size=9).map(str.strip).filter(bool)
OPTIONS = st.builds(
    Options,
    confidence=st.none() | st.floats(0, 1, exclude_max=True),
    keypoint_confidence=RATIO,
    iou_threshold=st.none() | st.floats(0, 1, exclude_max=True),
    max_detections=st.none() | st.integers(0, 1000),
    max_candidates=st.none() | st.integers(0, 1000),
    class_filter=st.none() | st.lists(NAME, min_size=1, max_size=3).map(tuple),
    class_agnostic_nms=FLAG,
    fix_batch_size=FLAG,
    format=st.none() | st.sampled_from(["json", "image", "image_and_json"]),
    visualize_predictions=FLAG,
    visualize_labels=FLAG,
    stroke_width=st.none() | st.integers(1, 9),
    mask_decode_mode=st.none() | st.sampled_from(["accurate", "tradeoff", "fast"]),
    tradeoff_factor=RATIO,
    allow_reduced_mask_resolution=FLAG,
    response_mask_format=st.none() | st.sampled_from(["polygon", "rle"]),
    include_anomaly_map=FLAG,
    disable_preproc_auto_orient=FLAG,
    disable_preproc_contrast=FLAG,
    disable_preproc_grayscale=FLAG,
    disable_preproc_static_crop=FLAG,
    disable_active_learning=FLAG,
    active_learning_target_dataset=WORD,
    source=WORD,
    source_info=WORD,
    count_inference=FLAG,
    service_secret=WORD,
)
TASKS = st.sampled_from(sorted(BODY_FIELDS))


def only(options: Options, names: frozenset[str]) -> Options:
    return Options(**{name: getattr(options, name) for name in names})


@settings(deadline=None)
@given(OPTIONS)
def test_a_query_comes_back_as_far_as_the_legacy_route_knows_it(options: Options) -> None:
    query = LegacyQuery(only(options, LEGACY_FIELDS), "key", "http://a/b.jpg")
    assert parse_legacy_query(query.to_query()) == query


@settings(deadline=None)
@given(OPTIONS, TASKS, st.integers(1, 3))
def test_a_body_comes_back_as_far_as_the_task_knows_it(options: Options, task: Task, count: int) -> None:
    known = only(options, BODY_FIELDS[task] | {"count_inference", "service_secret"})
    images = tuple(ImageValue.of(bytes([index])) for index in range(count))
    request = InferRequest("det/1", images, count > 1, known, "key")
    assert parse_infer_request(task, request.to_json(task), known.to_body_query()) == request


def test_the_recorded_requests_of_the_real_client_are_read() -> None:
    query = parse_legacy_query(
        [("api_key", "KEY"), ("allow_reduced_mask_resolution", "False"), ("disable_active_learning", "False")]
    )
    assert query.api_key == "KEY"
    assert query.options == Options(allow_reduced_mask_resolution=False, disable_active_learning=False)
    body = {
        "api_key": "KEY",
        "model_id": "det/1",
        "visualize_predictions": False,
        "disable_active_learning": False,
        "image": [{"type": "base64", "value": "AA=="}, {"type": "base64", "value": "AQ=="}],
    }
    request = parse_infer_request("object-detection", body, [("service_secret", "sec"), ("countinference", "False")])
    assert (request.model_id, request.many, len(request.images)) == ("det/1", True, 2)
    assert (request.options.service_secret, request.options.count_inference) == ("sec", False)


@pytest.mark.parametrize(
    ("query", "wishes"),
    [
        ({"confidence": "40", "overlap": "30"}, Wishes(confidence=0.4, iou_threshold=0.3)),  # the `roboflow` package
        ({"confidence": "0.4"}, Wishes(confidence=0.4)),
        ({"confidence": "1"}, Wishes(confidence=0.01)),
        ({"confidence": "100"}, Wishes(confidence=1.0)),
        ({"confidence": "best"}, Wishes()),
        ({"confidence": "default"}, Wishes()),
        ({"confidence": ""}, Wishes()),
        ({"keypoint_confidence": "1"}, Wishes(keypoint_confidence=1.0)),
        ({"max_detections": "7"}, Wishes(max_detections=7)),
        ({"class_filter": "cat, dog,,"}, Wishes(classes=("cat", "dog"))),
        ({"class_filter": ","}, Wishes()),
        ({"unknown": "x", "format": "bmp"}, Wishes()),
    ],
)
def test_values_of_the_legacy_query_are_read_as_its_clients_mean_them(query: dict[str, str], wishes: Wishes) -> None:
    assert parse_legacy_query(query.items()).options.wishes() == wishes


@pytest.mark.parametrize("yes", ["True", "true", "1", "on", "yes", "TRUE", " true "])
@pytest.mark.parametrize("no", ["False", "false", "0", "off", "no"])
def test_booleans_come_in_any_spelling(yes: str, no: str) -> None:
    options = parse_legacy_query([("labels", yes), ("disable_preproc_contrast", no), ("countinference", "")]).options
    assert (options.visualize_labels, options.disable_preproc_contrast, options.count_inference) == (True, False, None)


def test_an_unknown_format_means_json_and_of_two_values_the_last_one_counts() -> None:
    assert parse_legacy_query([("format", "bmp")]).options.format == "json"
    assert parse_legacy_query([("stroke", "2"), ("stroke", "5")]).options.stroke_width == 5


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("confidence", "lots", "float_parsing"),
        ("confidence", "nan", "finite_number"),
        ("confidence", "inf", "finite_number"),
        ("confidence", "-1", "greater_than_equal"),
        ("confidence", "101", "less_than_equal"),
        ("max_detections", "1.5", "int_parsing"),
        ("max_detections", "-1", "greater_than_equal"),
        ("labels", "maybe", "bool_parsing"),
        ("mask_decode_mode", "quick", "literal_error"),
        ("tradeoff_factor", "2", "less_than_equal"),
        ("stroke", "0", "greater_than_equal"),
        ("image_type", "png", "literal_error"),
        ("countinference", "x", "bool_parsing"),
        ("source", "x" * 5000, "string_too_long"),
    ],
)
def test_a_query_that_breaks_the_schema_names_the_parameter_in_the_servers_own_form(
    name: str, value: str, kind: str
) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        parse_legacy_query([(name, value)])
    (problem,) = raised.value.body()["detail"]
    assert (problem["type"], problem["loc"]) == (kind, ["query", name])
    assert set(problem) == {"type", "loc", "msg", "input"}
    assert len(str(problem)) < 400
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_secret_is_not_said_again_in_an_error() -> None:
    with pytest.raises(InvalidRequestError) as raised:
        parse_legacy_query([("service_secret", "hidden" * 1000)])
    assert "hidden" not in str(raised.value.body()) + str(raised.value)
    assert "hidden" not in repr(parse_legacy_query([("service_secret", "hidden"), ("api_key", "hidden")]))


IMAGE = {"type": "base64", "value": "AA=="}


@pytest.mark.parametrize(
    ("body", "loc", "kind"),
    [
        ([], ["body"], "model_attributes_type"),
        ("x", ["body"], "model_attributes_type"),
        ({"image": IMAGE}, ["body", "model_id"], "missing"),
        ({"model_id": "a/1"}, ["body", "image"], "missing"),
        ({"model_id": 5, "image": IMAGE}, ["body", "model_id"], "string_type"),
        ({"model_id": "x" * 999, "image": IMAGE}, ["body", "model_id"], "string_too_long"),
        ({"model_id": "a\ud800", "image": IMAGE}, ["body", "model_id"], "string_type"),
        ({"model_id": "a/1", "image": "AA=="}, ["body", "image"], "model_type"),
        ({"model_id": "a/1", "image": []}, ["body", "image"], "too_short"),
        ({"model_id": "a/1", "image": [IMAGE] * 1001}, ["body", "image"], "too_long"),
        ({"model_id": "a/1", "image": [IMAGE, 5]}, ["body", "image", 1], "model_type"),
        ({"model_id": "a/1", "image": {"type": "base64"}}, ["body", "image", "value"], "missing"),
        ({"model_id": "a/1", "image": {"type": 5, "value": ""}}, ["body", "image", "type"], "string_type"),
        ({"model_id": "a/1", "image": IMAGE, "api_key": 5}, ["body", "api_key"], "string_type"),
        ({"model_id": "a/1", "image": IMAGE, "confidence": "x"}, ["body", "confidence"], "float_parsing"),
        ({"model_id": "a/1", "image": IMAGE, "confidence": 40}, ["body", "confidence"], "less_than_equal"),
        ({"model_id": "a/1", "image": IMAGE, "max_detections": []}, ["body", "max_detections"], "int_type"),
        ({"model_id": "a/1", "image": IMAGE, "class_filter": 5}, ["body", "class_filter"], "tuple_type"),
        ({"model_id": "a/1", "image": IMAGE, "class_filter": [5]}, ["body", "class_filter", 0], "string_type"),
        (
            {"model_id": "a/1", "image": IMAGE, "visualization_stroke_width": "x"},
            ["body", "visualization_stroke_width"],
            "int_parsing",
        ),
    ],
)
def test_a_body_that_breaks_the_schema_names_the_field_in_the_servers_own_form(
    body: object, loc: list[str | int], kind: str
) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        parse_infer_request("object-detection", body)
    (problem,) = raised.value.body()["detail"]
    assert (problem["type"], problem["loc"]) == (kind, loc)


def test_what_a_task_does_not_know_is_ignored_and_null_is_not_said() -> None:
    body = {"model_id": "a/1", "image": IMAGE, "overlap": "?", "iou_threshold": "?", "confidence": None, "id": 5}
    assert parse_infer_request("classification", body).options == Options()
    with pytest.raises(InvalidRequestError):
        parse_infer_request("object-detection", body)


def test_a_model_may_be_named_by_the_path() -> None:
    assert parse_infer_request("text", {"image": IMAGE, "model_id": "other"}, model_id="a/1").model_id == "a/1"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["model_id", "image", "type", "value", *sorted(Options.model_fields)]), inner)
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=200)
@given(JSON, TASKS)
def test_any_body_is_a_request_or_an_invalid_one(body: object, task: Task) -> None:
    whole = {"model_id": "a/1", "image": IMAGE, **body} if isinstance(body, dict) else body
    for given_body in (body, whole):
        with contextlib.suppress(InvalidRequestError):
            parse_infer_request(task, given_body)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["image", "image_type", *sorted(LEGACY_FIELDS), "overlap"]), st.text())))
def test_any_query_is_a_request_or_an_invalid_one(query: list[tuple[str, str]]) -> None:
    with contextlib.suppress(InvalidRequestError):
        parse_legacy_query(query)


# Registry, info, errors

MODELS = st.builds(
    RegistryModel,
    st.text("abc/1", min_size=1),
    st.sampled_from(["object-detection", "classification"]),
    st.none() | st.integers(1, 64) | st.just("N"),
    st.none() | st.builds(Size, st.integers(1, 2000), st.integers(1, 2000)),
)


@settings(deadline=None)
@given(st.lists(MODELS, max_size=4))
def test_a_registry_comes_back(models: list[RegistryModel]) -> None:
    assert parse_registry(encode_registry(models)) == models


@pytest.mark.parametrize("size", [0, -5, "640", None, True, 1e9])
def test_a_model_of_any_size_has_none(size: Any) -> None:
    model = {"model_id": "a/1", "task_type": "object-detection", "input_height": size, "input_width": 640}
    assert parse_registry({"models": [model | {"vram_bytes": 5}]}) == [RegistryModel("a/1", "object-detection")]


@pytest.mark.parametrize(
    "bad", [[], {}, {"models": {}}, {"models": [5]}, {"models": [{"model_id": "a/1"}]}, {"models": None}]
)
def test_what_is_no_registry_is_a_value_error(bad: object) -> None:
    with pytest.raises(ValueError, match="registry"):
        parse_registry(bad)


def test_orders_and_the_servers_info_come_back() -> None:
    order = ModelOrder("a/1", "key")
    assert parse_model_order(order.to_json()) == order
    info = ServerInfo("penstock", "1.0", "ab-cd")
    assert parse_server_info(info.to_json()) == info
    with pytest.raises(InvalidRequestError):
        parse_model_order({})
    with pytest.raises(ValueError, match="uuid"):
        parse_server_info({"name": "a", "version": "b"})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"message": "no such model"}', "no such model"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"message": "step failed", "inner_error_message": "no key"}', "step failed: no key"),
        (b'{"detail": [{"loc": ["body", "image"], "msg": "Field required"}]}', "body.image Field required"),
        (b'{"detail": [5, {"loc": 5}]}', "; "),
        (b'{"message": {"a": 1}}', ""),
        (b'"just text"', "just text"),
        (b"[1, 2]", ""),
        (b"<html>\n<b>Bad\tGateway</b>", "<html> <b>Bad Gateway</b>"),
        (b"\xff\x00\x1b[31m", "\\ufffd\\x00\\x1b[31m"),
        (b"", ""),
    ],
)
def test_what_a_server_says_about_its_failure_is_one_short_printable_line(body: bytes, said: str) -> None:
    assert parse_error(body).strip() == said.strip()


@settings(deadline=None)
@given(st.binary())
def test_any_body_of_an_error_gives_a_short_line(body: bytes) -> None:
    said = parse_error(body + b"x" * 1000)
    assert said.isascii()
    assert len(said) <= 200 * 10
    assert "\n" not in said
