"""The open inference protocol: what is written is read again, and no stranger's body gets further than a ValueError."""

import contextlib
import json
import math
import re
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline.wire.kserve import (
    InferRequest,
    InferResponse,
    RequestedOutput,
    decode_error,
    decode_request,
    decode_response,
    encode_error,
    encode_request,
    encode_response,
    header_length,
)
from pipeline.wire.kserve_models import TensorSpec, decode_metadata
from pipeline.wire.kserve_results import classified
from pipeline.wire.kserve_tensors import BINARY_ONLY, DATATYPES, Tensor, from_buffer, tensor, to_buffer

NUMPY = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
names = st.text(min_size=1, max_size=8).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))
shapes = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@st.composite
def tensors(draw: st.DrawFn, name: str = "x", *, json_too: bool = False) -> Tensor:
    kinds = [datatype for datatype in DATATYPES if not (json_too and datatype in BINARY_ONLY)]
    datatype = draw(st.sampled_from(kinds))
    shape = draw(shapes)
    if datatype == "BYTES":
        one = st.text(max_size=5).map(str.encode) if json_too else st.binary(max_size=5)
        count = math.prod(shape)
        flat = np.empty(count, object)
        flat[:] = draw(st.lists(one, min_size=count, max_size=count))
        return Tensor(name, "BYTES", flat.reshape(shape))
    if datatype == "BF16":
        bits = draw(npst.arrays(np.uint16, shape))
        return Tensor(name, "BF16", (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(shape))
    dtype = np.dtype(NUMPY[datatype])
    elements: Any = None
    if json_too and dtype.kind == "f":
        elements = npst.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    return Tensor(name, datatype, draw(npst.arrays(dtype, shape, elements=elements)))


def same(one: Tensor, other: Tensor) -> None:
    assert (one.name, one.datatype, one.shape) == (other.name, other.datatype, other.shape)
    if one.array.dtype.kind == "f":
        np.testing.assert_array_equal(one.array, other.array)  # NaN equals NaN here
    else:
        assert one.array.ravel().tolist() == other.array.ravel().tolist()


parameters = st.dictionaries(
    names.filter(lambda key: key != "binary_data_output"),
    st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | names,
    max_size=3,
)


@given(st.data(), st.booleans(), parameters, st.none() | names)
def test_a_request_comes_back_as_it_was(data: st.DataObject, binary: bool, extra: Any, request_id: str | None) -> None:
    inputs = tuple(
        data.draw(tensors(f"in{index}", json_too=not binary)) for index in range(data.draw(st.integers(0, 3)))
    )
    outputs = (RequestedOutput("a"), RequestedOutput("b", binary=True), RequestedOutput("c", False, classification=3))
    request = InferRequest(inputs, outputs, request_id, extra, binary_output=binary)
    body = encode_request(request, binary=binary)
    found = decode_request(body.data, body.header_length)
    for one, other in zip(request.inputs, found.inputs, strict=True):
        same(one, other)
    assert (found.outputs, found.id, found.parameters, found.binary_output) == (outputs, request_id, extra, binary)


@given(st.data(), parameters)
def test_an_answer_comes_back_with_raw_buffers_and_json_side_by_side(data: st.DataObject, extra: Any) -> None:
    outputs, binary = [], set()
    for index in range(data.draw(st.integers(0, 4))):
        is_binary = data.draw(st.booleans())
        outputs.append(data.draw(tensors(f"out{index}", json_too=not is_binary)))
        if is_binary:
            binary.add(f"out{index}")
    answer = InferResponse("m", "1", tuple(outputs), "7", extra)
    body = encode_response(answer, binary)
    assert (body.header_length is None) == (not binary)
    found = decode_response(body.data, body.header_length)
    assert (found.model_name, found.model_version, found.id, found.parameters) == ("m", "1", "7", extra)
    for one, other in zip(outputs, found.outputs, strict=True):
        same(one, other)


def test_the_golden_request_of_the_real_client_is_read() -> None:
    head = (
        b'{"inputs":[{"name":"IN","shape":[2,3],"datatype":"FP32","parameters":{"binary_data_size":24}}],'
        b'"parameters":{"binary_data_output":true}}'
    )
    assert len(head) == 136
    values = np.arange(6, dtype="<f4").reshape(2, 3)
    found = decode_request(head + values.tobytes(), 136)
    assert found.binary_output
    assert found.inputs[0].name == "IN"
    np.testing.assert_array_equal(found.inputs[0].array, values)


def test_json_data_may_be_flat_or_nested_and_whole_numbers_are_numbers_too() -> None:
    for data in ([1, 2.5, 3, 4], [[1, 2.5], [3, 4]]):
        body = json.dumps({"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": data}]})
        found = decode_request(body.encode(), None).inputs[0].array
        assert found.dtype == np.float32
        assert found.tolist() == [[1, 2.5], [3, 4]]


def test_a_header_of_zero_makes_the_body_the_only_input() -> None:
    fixed = TensorSpec("x", "INT16", (2, 2))
    raw = np.arange(4, dtype="<i2").reshape(2, 2)
    found = decode_request(raw.tobytes(), 0, fixed)
    np.testing.assert_array_equal(found.inputs[0].array, raw)
    assert found.binary_output
    with pytest.raises(ValueError, match="7 bytes, but INT16"):
        decode_request(raw.tobytes()[:7], 0, fixed)
    with pytest.raises(ValueError, match="not fixed"):
        decode_request(raw.tobytes(), 0, TensorSpec("x", "INT16", (-1, 2)))
    with pytest.raises(ValueError, match="bare buffer"):
        decode_request(raw.tobytes(), 0)


def test_a_bare_file_and_one_with_its_length_in_front_are_the_same_input() -> None:
    spec = TensorSpec("image", "BYTES", (-1,))
    for body in (b"\xff\xd8file", struct.pack("<I", 6) + b"\xff\xd8file"):
        assert decode_request(body, 0, spec).inputs[0].array.tolist() == [b"\xff\xd8file"]


def test_bfloat16_is_rounded_to_the_nearest_and_nan_stays_nan() -> None:
    values = np.array([1.0, 1.00390625, 1.0117188, -0.0, np.inf, np.nan, 3.3895314e38], np.float32)
    one = Tensor("x", "BF16", values)
    found = from_buffer(memoryview(to_buffer(one)), "BF16", (7,), "x")
    assert found[:5].tolist() == [1.0, 1.0, 1.015625, 0.0, math.inf]
    assert math.isnan(found[5])
    assert found[6] == pytest.approx(3.3895314e38)


def test_half_floats_are_binary_even_where_json_was_asked_for() -> None:
    answer = InferResponse("m", "1", (tensor("h", np.ones(2, np.float16)), tensor("f", np.ones(2, np.float32))))
    body = encode_response(answer)
    head = json.loads(body.data[: body.header_length])
    assert "data" not in head["outputs"][0]
    assert head["outputs"][1]["data"] == [1.0, 1.0]


def test_what_json_cannot_hold_is_refused_and_not_written_wrongly() -> None:
    with pytest.raises(ValueError, match="no finite number"):
        encode_response(InferResponse("m", "1", (tensor("x", np.array([np.nan], np.float32)),)))
    with pytest.raises(ValueError, match="no text"):
        encode_response(InferResponse("m", "1", (tensor("x", [b"\xff"]),)))
    with pytest.raises(ValueError, match="no datatype"):
        tensor("x", np.zeros(1, np.complex64))


def test_big_endian_arrays_go_out_little_endian() -> None:
    one = tensor("x", np.array([1, 256], ">u2"))
    assert to_buffer(one) == b"\x01\x00\x00\x01"


# What strangers send


def request_of(size: object = 4, shape: object = (1,), datatype: object = "FP32", **more: object) -> bytes:
    entry = {"name": "x", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}, **more}
    return json.dumps({"inputs": [entry]}).encode()


HUGE = 10**9
BAD_BINARY: list[tuple[dict[str, Any], bytes]] = [
    ({"shape": [HUGE] * 16}, b"\0" * 4),
    ({"shape": [HUGE, HUGE], "datatype": "BYTES"}, b"\0" * 4),
    ({"shape": [2**31]}, b"\0" * 4),
    ({"shape": [2**70]}, b"\0" * 4),
    ({"shape": [1e400]}, b"\0" * 4),
    ({"shape": [1] * 17}, b"\0" * 4),
    ({"shape": [-1]}, b"\0" * 4),
    ({"shape": [1.5]}, b"\0" * 4),
    ({"shape": [True]}, b"\0" * 4),
    ({"shape": None}, b"\0" * 4),
    ({"shape": "1"}, b"\0" * 4),
    ({"size": -4}, b"\0" * 4),
    ({"size": HUGE}, b"\0" * 4),
    ({"size": 2**64}, b"\0" * 4),
    ({"size": "4"}, b"\0" * 4),
    ({"size": None, "datatype": "FP16", "data": [1]}, b""),
    ({"size": 3}, b"\0" * 4),
    ({"size": 8, "shape": [1]}, b"\0" * 8),
    ({"datatype": "FP8"}, b"\0" * 4),
    ({"datatype": ["FP32"]}, b"\0" * 4),
    ({"datatype": None}, b"\0" * 4),
    ({"datatype": "BOOL", "size": 1}, b"\x02"),
    ({"datatype": "BYTES"}, b"\xff\xff\xff\xff"),
    ({"datatype": "BYTES", "size": 3}, b"\0" * 3),
    ({"datatype": "BYTES", "size": 5}, b"\0" * 5),
    ({"datatype": "BYTES", "shape": [100_000], "size": 400_000}, b"\0" * 400_000),
    ({"data": [1.0]}, b"\0" * 4),
    ({"name": None}, b"\0" * 4),
    ({"name": "x" * 1000}, b"\0" * 4),
    ({"name": "\ud800"}, b"\0" * 4),
    ({}, b"\0" * 5),
    ({}, b"\0" * 3),
    ({}, b""),
]


@pytest.mark.parametrize(("fields", "rest"), BAD_BINARY)
def test_a_tensor_that_lies_about_its_buffer_is_refused_without_the_memory_it_asks_for(
    fields: dict[str, Any], rest: bytes
) -> None:
    head = request_of(**fields)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"\w"):
            decode_request(head + rest, len(head))
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", [2], [1]),
        ("FP32", [HUGE, HUGE], [1]),
        ("FP32", [1], None),
        ("FP32", [1], {"0": 1}),
        ("FP32", [1], ["1"]),
        ("FP32", [1], [None]),
        ("FP32", [1], [True]),
        ("FP32", [1], [1e300]),
        ("FP32", [1], [10**400]),
        ("FP64", [1], [10**400]),
        ("INT8", [1], [128]),
        ("UINT8", [1], [-1]),
        ("UINT64", [1], [2**64]),
        ("INT32", [1], [1.0]),
        ("BOOL", [1], [1]),
        ("BYTES", [1], [1]),
        ("BYTES", [1], ["\ud800"]),
        ("FP32", [2], [1, [2]]),
        ("FP32", [2], [[1], 2]),
        ("FP16", [1], [1.0]),
    ],
)
def test_json_data_of_another_kind_is_refused(datatype: str, shape: list[int], data: object) -> None:
    body = json.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}]}).encode()
    with pytest.raises(ValueError, match=r"\w"):
        decode_request(body, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"inputs":{}}',
        b'{"inputs":[1]}',
        b'{"inputs":[],"id":7}',
        b'{"inputs":[],"parameters":[]}',
        b'{"inputs":[],"parameters":{"a":[]}}',
        b'{"inputs":[],"parameters":{"binary_data_output":1}}',
        b'{"inputs":[],"outputs":{"a":1}}',
        b'{"inputs":[],"outputs":[{"name":"x","parameters":{"classification":-1}}]}',
        b'{"inputs":[],"outputs":[{"name":"x","parameters":{"classification":true}}]}',
        b'{"inputs":[],"outputs":[{"name":"x","parameters":{"binary_data":"yes"}}]}',
        b'{"inputs":[NaN]}',
        b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"inputs":[' + b"1," * 5_000_000 + b"1]}",
        b'{"inputs":[{"name":"x","shape":[0],"datatype":"FP32","data":[]},{"name":"x","shape":[0],"datatype":"FP32","data":[]}]}',
        b"x" * 10_000_000,
    ],
    ids=range(21),
)
def test_a_body_that_is_no_request_is_refused_in_one_line(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w") as refused:
        decode_request(body, None)
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)


def test_a_document_of_millions_of_items_is_refused_before_it_is_read() -> None:
    body = b'{"inputs":[],"more":[' + b"[]," * 2_500_000 + b"[]]}"
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than 4000000 items"):
            decode_request(body, None)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("fields", "rest", "says"),
    [
        ({"size": 8}, b"\0" * 8, "has 8 bytes, but FP32 [1] takes 4"),
        ({"size": 3}, b"\0" * 3, "has 3 bytes, but FP32 [1] takes 4"),
        ({"size": 5, "datatype": "BYTES"}, b"\x02\0\0\0a", "ends within element 0"),
        ({"size": 6, "datatype": "BYTES"}, b"\x01\0\0\0ab", "1 bytes behind its last element"),
    ],
)
def test_the_reason_names_what_is_there_and_what_should_be(fields: dict[str, Any], rest: bytes, says: str) -> None:
    head = request_of(**fields)
    with pytest.raises(ValueError, match=re.escape(says)):
        decode_request(head + rest, len(head))


@settings(max_examples=300)
@given(
    st.binary(max_size=80) | st.text(alphabet='{}[]",:0123456789inputsaeflrx-.', max_size=80).map(str.encode), st.data()
)
def test_junk_is_a_value_error_and_nothing_else(body: bytes, data: st.DataObject) -> None:
    length = data.draw(st.none() | st.integers(0, 100))
    for decode in (
        lambda: decode_request(body, length, TensorSpec("x", "FP32", (2,))),
        lambda: decode_response(body, length),
        lambda: decode_metadata(body),
    ):
        with contextlib.suppress(ValueError):
            decode()
    decode_error(body)


@pytest.mark.parametrize("text", ["-1", "x", "1.5", "", "²", "9" * 19, " 1", "0x10"])
def test_a_header_that_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no number of bytes"):
        header_length(text)


def test_a_header_that_reaches_beyond_the_body_is_refused() -> None:
    assert header_length(None) is None
    assert header_length("12") == 12
    with pytest.raises(ValueError, match="is 99, but the request has 2 bytes"):
        decode_request(b"{}", 99)


def test_an_error_in_an_answer_of_200_is_no_answer() -> None:
    with pytest.raises(ValueError, match="the answer is an error: 'broken'"):
        decode_response(encode_error("broken"), None)
    assert decode_error(encode_error("broken")) == "broken"
    assert decode_error(b"<html>") is None
    assert decode_error(b'{"error":{}}') is None


# What servers say about models


def test_metadata_of_the_real_triton_are_read() -> None:
    found = decode_metadata(
        b'{"name":"echo","versions":["1"],"platform":"python","inputs":[{"name":"images","datatype":"FP32",'
        b'"shape":[-1,3,64,64]}],"outputs":[{"name":"output0","datatype":"FP32","shape":[-1,6,84]}]}'
    )
    assert found.inputs == (TensorSpec("images", "FP32", (-1, 3, 64, 64)),)
    assert found.outputs == (TensorSpec("output0", "FP32", (-1, 6, 84)),)
    assert (found.name, found.versions, found.platform) == ("echo", ("1",), "python")


@pytest.mark.parametrize("shape", [[-2], [1.5], None, "x", [2**40], [1] * 17])
def test_metadata_with_an_impossible_shape_are_refused(shape: object) -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": shape}
    with pytest.raises(ValueError, match=r"\w"):
        decode_metadata(json.dumps({"name": "m", "inputs": [entry], "outputs": []}).encode())


# The classification extension


def test_classification_lists_the_best_as_triton_does() -> None:
    values = np.zeros((1, 6, 14), np.float32)
    values[0, 0, 0], values[0, 1, 0] = 32.0, 31.5
    found = classified(tensor("output0", values), 2, ["a", "b"])
    assert found.datatype == "BYTES"
    assert found.shape == [1, 2]
    assert found.array.tolist() == [[b"32.000000:0:a", b"31.500000:14"]]


def test_classification_gives_no_more_than_there_is() -> None:
    found = classified(tensor("s", np.array([[1, 3, 2], [9, 8, 7]], np.int32)), 10**9, [])
    assert found.array.tolist() == [[b"3:1", b"2:2", b"1:0"], [b"9:0", b"8:1", b"7:2"]]
    assert classified(tensor("s", np.zeros((2, 0), np.float32)), 3, []).shape == [2, 0]
    for bad in (tensor("s", [b"a"]), tensor("s", np.zeros(3, np.float32)), tensor("s", np.zeros((1, 2), np.bool_))):
        with pytest.raises(ValueError, match="cannot be classified"):
            classified(bad, 1, [])
