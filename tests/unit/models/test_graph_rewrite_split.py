"""A convolution whose channels are split is one for each part: to the last bit, and only where nobody else looks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from toy_graphs import Toy, answers, operators, stays

from pipeline.models.graph_rewrite import rewrite

NAMES = ("left", "right")


def image(toy: Toy, channels: int = 8) -> str:
    return toy.input("image", ("b", channels, "h", "w"))


def picture(channels: int = 8) -> dict[str, Any]:
    return {"image": np.random.default_rng(4).normal(size=(2, channels, 12, 10)).astype(np.float32)}


def check(data: bytes, parts: int = 2) -> None:
    found = rewrite(data)
    assert found.done == ("1 convolution split",)
    left = operators(found.data)
    assert "Split" not in left
    assert left.count("Conv") == parts
    for old, new in zip(*(answers(d, picture()) for d in (data, found.data)), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6, atol=1e-6)


def _nothing(toy: Toy, value: str) -> str:
    return value


def _silu(toy: Toy, value: str) -> str:
    return toy.silu(value)


def _silu_the_other_way_round(toy: Toy, value: str) -> str:
    return toy.add("Mul", toy.add("Sigmoid", value), value)


def _relu(toy: Toy, value: str) -> str:
    return toy.add("Relu", value)


def _leaky(toy: Toy, value: str) -> str:
    return toy.add("LeakyRelu", value, alpha=0.3)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("activation", [_nothing, _silu, _silu_the_other_way_round, _relu, _leaky])
def test_the_activation_is_done_for_each_part(opset: int, activation: Callable[[Toy, str], str]) -> None:
    toy = Toy(opset)
    toy.split(activation(toy, toy.conv(image(toy), (48, 8, 3, 3), pads=[1, 1, 1, 1])), (32, 16), NAMES)
    check(toy.data(*NAMES))


def test_three_parts_of_a_convolution_with_strides_and_without_bias() -> None:
    toy = Toy()
    made = toy.conv(image(toy), (64, 8, 3, 3), bias=False, strides=[2, 2], dilations=[2, 2])
    toy.split(made, (16, 32, 16), ("a", "b", "c"), axis=-3)
    check(toy.data("a", "b", "c"), 3)


@pytest.mark.parametrize(("opset", "attributes"), [(11, {}), (13, {}), (18, {"num_outputs": 2})])
def test_parts_of_the_same_size_need_no_sizes(opset: int, attributes: dict[str, Any]) -> None:
    toy = Toy(opset)
    made = toy.conv(image(toy), (32, 8, 1, 1))
    toy.nodes.append(helper.make_node("Split", [made], list(NAMES), axis=1, **attributes))
    check(toy.data(*NAMES))


def test_a_part_may_be_used_as_often_as_before() -> None:
    toy = Toy()
    toy.split(toy.silu(toy.conv(image(toy), (32, 8, 1, 1))), (16, 16), NAMES)
    toy.add("Concat", "left", "right", toy.conv("right", (16, 16, 3, 3), pads=[1, 1, 1, 1]), to="out", axis=1)
    data = toy.data("out")
    found = rewrite(data)
    assert found.done == ("1 convolution split",)
    np.testing.assert_allclose(answers(found.data, picture())[0], answers(data, picture())[0], rtol=1e-5, atol=1e-5)


def test_half_precision_is_split_as_well_for_no_sum_changes() -> None:
    toy = Toy()
    weight = toy.weight(toy.rng.normal(size=(32, 8, 1, 1)).astype(np.float16))
    toy.split(toy.add("Conv", toy.input("image", (1, 8, 4, 4), TensorProto.FLOAT16), weight), (16, 16), NAMES)
    data = toy.data(*NAMES, element=TensorProto.FLOAT16)
    found = rewrite(data)
    assert operators(found.data) == ["Conv", "Conv"]
    feeds = {"image": toy.rng.normal(size=(1, 8, 4, 4)).astype(np.float16)}
    for old, new in zip(*(answers(d, feeds) for d in (data, found.data)), strict=True):
        np.testing.assert_array_equal(new, old)


def _along_another_axis(toy: Toy) -> None:
    made = toy.conv(toy.input("image", (1, 8, 32, 32)), (32, 8, 1, 1))
    toy.split(made, (16, 16), NAMES, axis=2)


def _too_narrow_for_blocks(toy: Toy) -> None:
    toy.split(toy.conv(image(toy), (32, 8, 1, 1)), (24, 8), NAMES)


def _in_groups(toy: Toy) -> None:
    toy.split(toy.conv(image(toy), (32, 4, 1, 1), group=2), (16, 16), NAMES)


def _used_before_the_activation(toy: Toy) -> None:
    made = toy.conv(image(toy), (32, 8, 1, 1))
    toy.split(toy.add("Relu", made), (16, 16), ("left", "half"))
    toy.split(made, (16, 16), ("other", "right"))


def _whose_sigmoid_is_used_elsewhere(toy: Toy) -> None:
    made = toy.conv(image(toy), (32, 8, 1, 1))
    sigmoid = toy.add("Sigmoid", made)
    toy.split(toy.add("Mul", made, sigmoid), (16, 16), ("left", "half"))
    toy.add("Relu", sigmoid, to="right")


def _whose_values_before_it_are_used_elsewhere(toy: Toy) -> None:
    made = toy.conv(image(toy), (32, 8, 1, 1))
    toy.split(toy.silu(made), (16, 16), ("left", "half"))
    toy.add("Relu", made, to="right")


def _times_the_sigmoid_of_something_else(toy: Toy) -> None:
    made, other = (toy.conv(value, (32, 8, 1, 1)) for value in [image(toy)] * 2)
    toy.split(toy.add("Mul", made, toy.add("Sigmoid", other)), (16, 16), NAMES)


def _with_weights_that_are_fed(toy: Toy) -> None:
    toy.split(toy.add("Conv", image(toy), toy.input("kernel", (32, 8, 1, 1))), (16, 16), NAMES)


def _with_weights_that_may_be_fed(toy: Toy) -> None:
    kernel = toy.weight(toy.rng.normal(size=(32, 8, 1, 1)).astype(np.float32))
    toy.split(toy.add("Conv", image(toy), toy.input(kernel, (32, 8, 1, 1))), (16, 16), NAMES)


def _with_weights_of_two(toy: Toy) -> None:
    kernel = toy.weight(toy.rng.normal(size=(64, 8, 3, 3)).astype(np.float32))
    toy.split(toy.add("Conv", image(toy), kernel), (32, 32), ("left", "half"))
    toy.add("Conv", "image", kernel, to="right")


@pytest.mark.parametrize(
    "build",
    [
        _along_another_axis, _too_narrow_for_blocks, _in_groups, _used_before_the_activation,
        _whose_sigmoid_is_used_elsewhere, _whose_values_before_it_are_used_elsewhere,
        _times_the_sigmoid_of_something_else, _with_weights_that_are_fed, _with_weights_that_may_be_fed,
        _with_weights_of_two,
    ],
)  # fmt: skip
def test_what_is_not_quite_that_stays(build: Callable[[Toy], None]) -> None:
    toy = Toy()
    build(toy)
    assert stays(toy.data(*NAMES))


def test_what_an_inner_graph_looks_at_stays() -> None:
    toy = Toy()
    made = toy.conv(image(toy), (32, 8, 1, 1), to="made")
    toy.split(toy.add("Relu", made), (16, 16), NAMES)
    inner = [
        helper.make_graph([helper.make_node(op, ["made"], ["seen"])], op, [],
                          [helper.make_tensor_value_info("seen", TensorProto.FLOAT, None)])
        for op in ("Abs", "Neg")
    ]  # fmt: skip
    toy.input("which", (), TensorProto.BOOL)
    toy.add("If", "which", to="out", then_branch=inner[0], else_branch=inner[1])
    assert stays(toy.data(*NAMES, "out"))
