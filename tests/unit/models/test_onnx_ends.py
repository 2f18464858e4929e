"""How a graph's outputs come about, read off small graphs."""

import numpy as np
import onnx
import pytest
from model_files import external
from onnx import TensorProto, helper, numpy_helper

from pipeline.models.onnx_ends import OutputEnd, ends_of

SCALE = numpy_helper.from_array(np.array(0.25, np.float32), "scale")
ZERO = numpy_helper.from_array(np.array(3, np.uint8), "zero")


def end(*operators: str, stored: tuple[onnx.TensorProto, ...] = (SCALE, ZERO)) -> OutputEnd:
    """The end of a chain of these operators."""
    nodes, name = [], "in"
    for index, operator in enumerate(operators):
        parameters = ["scale", "zero"] if "Linear" in operator else []
        nodes.append(helper.make_node(operator, [name, *parameters], [f"t{index}"]))
        name = f"t{index}"
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
    return ends_of(helper.make_graph(nodes, "g", [], [value], list(stored)))[name]


@pytest.mark.parametrize(
    ("operators", "expected"),
    [
        (("Conv", "Softmax"), OutputEnd("Softmax")),
        (("Gemm",), OutputEnd("Gemm")),
        (("Softmax", "Cast", "Reshape", "Identity"), OutputEnd("Softmax")),
        (("Sigmoid", "QuantizeLinear"), OutputEnd("Sigmoid", 0.25, 3)),
        ((), OutputEnd()),
        (("Identity",) * 30, OutputEnd()),
    ],
)
def test_the_last_operator_that_changes_values_is_found(operators: tuple[str, ...], expected: OutputEnd) -> None:
    assert end(*operators) == expected


@pytest.mark.parametrize(
    "stored",
    [
        (),
        (SCALE,),
        (numpy_helper.from_array(np.array([0.25, 0.5], np.float32), "scale"), ZERO),
        (numpy_helper.from_array(np.array(np.nan, np.float32), "scale"), ZERO),
        (numpy_helper.from_array(np.array(-1, np.float32), "scale"), ZERO),
        (TensorProto(name="scale", data_type=TensorProto.FLOAT, dims=[9], raw_data=b"abc"), ZERO),
        (TensorProto(name="scale", data_type=99, dims=[1]), ZERO),
        (TensorProto(name="scale", data_type=TensorProto.FLOAT, dims=[-1]), ZERO),
        (SCALE, numpy_helper.from_array(np.array(np.inf, np.float32), "zero")),
    ],
)
def test_a_quantisation_that_cannot_be_read_is_unknown(stored: tuple[onnx.TensorProto, ...]) -> None:
    assert end("Softmax", "QuantizeLinear", stored=stored) == OutputEnd("Softmax")


def test_parameters_in_another_file_are_not_read() -> None:
    tensor = external("../secret", length=4)
    tensor.name = "scale"
    assert end("Softmax", "QuantizeLinear", stored=(tensor, ZERO)) == OutputEnd("Softmax")


def test_a_graph_that_feeds_itself_ends() -> None:
    nodes = [helper.make_node("Identity", ["a"], ["b"]), helper.make_node("Identity", ["b"], ["a"])]
    value = helper.make_tensor_value_info("a", TensorProto.FLOAT, [1])
    assert ends_of(helper.make_graph(nodes, "g", [], [value])) == {"a": OutputEnd()}
