"""The mean of a distribution of distances is the same without turning the tensor, wherever it is rewritten."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from toy_graphs import Toy, answers, operators, stays

from pipeline.models.graph_rewrite import rewrite

SHAPE = ("b", 4, 16, "n")
NEW = ["ReduceMax", "Sub", "Exp", "Mul", "ReduceSum", "ReduceSum", "Div", "Transpose"]


def ramp(toy: Toy, value: str, to: str = "out", **attributes: Any) -> str:
    return toy.add("Conv", value, toy.weight(np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)), to=to, **attributes)


def logits(scale: float = 4.0) -> Any:
    return (np.random.default_rng(3).normal(size=(2, 4, 16, 50)) * scale).astype(np.float32)


def check(data: bytes, values: Any) -> None:
    found = rewrite(data)
    assert found.done == ("softmax without transposes",)
    assert sorted(operators(found.data)) == sorted(NEW)
    old, new = (answers(d, {"logits": values})[0] for d in (data, found.data))
    assert old.shape == new.shape == (2, 1, 4, 50) or old.shape == new.shape == (2, 1, 50, 4)
    assert np.isfinite(new).all()
    np.testing.assert_allclose(new, old, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_channels_first_as_yolov8_is_exported_now(opset: int) -> None:
    toy = Toy(opset)
    turned = toy.add("Transpose", toy.input("logits", SHAPE), perm=[0, 2, 1, 3])
    ramp(toy, toy.add("Softmax", turned, axis=1))
    check(toy.data("out"), logits())


@pytest.mark.parametrize("opset", [11, 12, 17])
@pytest.mark.parametrize("axis", [3, -1])
def test_channels_last_and_back_as_old_operator_sets_need_it(opset: int, axis: int) -> None:
    toy = Toy(opset)
    turned = toy.add("Transpose", toy.input("logits", SHAPE), perm=[0, 3, 1, 2])
    back = toy.add("Transpose", toy.add("Softmax", turned, axis=axis), perm=[0, 3, 2, 1])
    ramp(toy, back)
    check(toy.data("out"), logits())


def test_without_any_transpose_too() -> None:
    toy = Toy()
    ramp(toy, toy.add("Softmax", toy.input("logits", ("b", 16, 4, "n")), axis=-3))
    check(toy.data("out"), logits().transpose(0, 2, 1, 3))


def test_no_exponential_overflows() -> None:
    toy = Toy()
    turned = toy.add("Transpose", toy.input("logits", SHAPE), perm=[0, 2, 1, 3])
    ramp(toy, toy.add("Softmax", turned, axis=1))
    check(toy.data("out"), logits(scale=1000))
    check(toy.data("out"), logits() - 5000)


def turned(toy: Toy) -> str:
    return toy.add("Transpose", toy.input("logits", SHAPE), perm=[0, 2, 1, 3])


def _with_a_bias(toy: Toy) -> None:
    toy.conv(toy.add("Softmax", turned(toy), axis=1), (1, 16, 1, 1), to="out")


def _used_elsewhere(toy: Toy) -> None:
    found = toy.add("Softmax", turned(toy), axis=1)
    toy.add("Add", ramp(toy, found, "mean"), found, to="out")


def _of_pixels_around(toy: Toy) -> None:
    toy.conv(toy.add("Softmax", turned(toy), axis=1), (1, 16, 3, 3), to="out", bias=False)


def _of_several_sums(toy: Toy) -> None:
    toy.conv(toy.add("Softmax", turned(toy), axis=1), (2, 16, 1, 1), to="out", bias=False)


def _along_another_axis(toy: Toy) -> None:
    ramp(toy, toy.add("Softmax", turned(toy), axis=2))


def _along_the_last_axis_where_nothing_is_turned(toy: Toy) -> None:
    found = toy.add("Softmax", toy.input("logits", ("b", 4, "n", 16)), axis=-1)
    ramp(toy, toy.add("Transpose", found, perm=[0, 3, 1, 2]))


def _padded(toy: Toy) -> None:
    ramp(toy, toy.add("Softmax", turned(toy), axis=1), pads=[1, 1, 1, 1])


@pytest.mark.parametrize(
    "build",
    [
        _with_a_bias, _used_elsewhere, _of_pixels_around, _of_several_sums, _along_another_axis,
        _along_the_last_axis_where_nothing_is_turned, _padded,
    ],
)  # fmt: skip
def test_what_is_not_quite_that_stays(build: Callable[[Toy], None]) -> None:
    toy = Toy()
    build(toy)
    assert stays(toy.data("out"))


def test_an_old_softmax_is_over_all_axes_from_there_on() -> None:
    toy = Toy(12)
    ramp(toy, toy.add("Softmax", turned(toy), axis=1))
    assert stays(toy.data("out"))
