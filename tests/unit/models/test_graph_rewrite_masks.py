"""The last layers of masks are done before they are enlarged: the same to the picture's very edge."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from toy_graphs import Toy, answers, operators, stays

from pipeline.models.graph_rewrite import rewrite

SAME: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
GROWN: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}


def grown(toy: Toy, *, to: str = "", bias: bool = True, **attributes: Any) -> str:
    """Eight channels, enlarged to five."""
    small = toy.input("small", ("b", 8, "h", "w"))
    weights = [toy.weight(toy.rng.normal(size=(8, 5, 2, 2)).astype(np.float32))]
    weights += [toy.weight(toy.rng.normal(size=5).astype(np.float32) * 3)] if bias else []
    return toy.add("ConvTranspose", small, *weights, to=to, **{**GROWN, **attributes})


def rest(toy: Toy, value: str, **attributes: Any) -> None:
    """The layers behind."""
    mixed = toy.silu(toy.conv(value, (7, 5, 3, 3), **{**SAME, **attributes}))
    toy.silu(toy.conv(mixed, (4, 7, 1, 1), kernel_shape=[1, 1]), to="out")


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("shape", [(1, 8, 6, 5), (3, 8, 1, 1), (2, 8, 1, 4)])
def test_the_answers_are_the_same_to_the_edge(opset: int, shape: tuple[int, ...]) -> None:
    toy = Toy(opset)
    rest(toy, grown(toy))
    data = toy.data("out")
    found = rewrite(data)
    assert found.done == ("masks enlarged last",)
    assert "ConvTranspose" not in operators(found.data)
    fed = {"small": np.random.default_rng(8).normal(size=shape).astype(np.float32)}
    np.testing.assert_allclose(answers(found.data, fed)[0], answers(data, fed)[0], rtol=1e-4, atol=1e-4)


def _without_bias(toy: Toy) -> None:
    rest(toy, grown(toy, bias=False))


def _with_other_strides(toy: Toy) -> None:
    rest(toy, grown(toy, strides=[1, 1]))


def _with_more_pixels_at_the_end(toy: Toy) -> None:
    rest(toy, grown(toy, output_padding=[1, 1]))


def _mixed_without_padding(toy: Toy) -> None:
    rest(toy, grown(toy), pads=[0, 0, 0, 0])


def _mixed_from_afar(toy: Toy) -> None:
    rest(toy, grown(toy), dilations=[2, 2])


def _used_elsewhere(toy: Toy) -> None:
    value = grown(toy)
    rest(toy, value)
    toy.add("Relu", value, to="more")


def _with_an_activation_between(toy: Toy) -> None:
    rest(toy, toy.add("Relu", grown(toy)))


def _without_the_last_activation(toy: Toy) -> None:
    toy.conv(toy.silu(toy.conv(grown(toy), (7, 5, 3, 3), **SAME)), (4, 7, 1, 1), to="out", kernel_shape=[1, 1])


def _of_more_work_than_before(toy: Toy) -> None:
    small = toy.input("small", ("b", 300, "h", "w"))
    weights = [toy.weight(np.ones(shape, np.float32)) for shape in ((300, 1, 2, 2), (1,))]
    mixed = toy.silu(toy.conv(toy.add("ConvTranspose", small, *weights, **GROWN), (300, 1, 3, 3), **SAME))
    toy.silu(toy.conv(mixed, (4, 300, 1, 1), kernel_shape=[1, 1]), to="out")


@pytest.mark.parametrize(
    "build",
    [
        _without_bias, _with_other_strides, _with_more_pixels_at_the_end, _mixed_without_padding, _mixed_from_afar,
        _used_elsewhere, _with_an_activation_between, _without_the_last_activation,
        _of_more_work_than_before,
    ],
)  # fmt: skip
def test_what_is_not_quite_that_stays(build: Callable[[Toy], None]) -> None:
    toy = Toy()
    build(toy)
    assert stays(toy.data("out", *(["more"] if build is _used_elsewhere else [])))
