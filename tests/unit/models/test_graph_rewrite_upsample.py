"""A convolution of single pixels comes before a map is enlarged, where that is the same and less work."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from toy_graphs import Toy, answers, operators, stays

from pipeline.models.graph_rewrite import rewrite

NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
SMALL, LARGE = 16, 8


def inputs(toy: Toy) -> tuple[str, str]:
    return toy.input("small", ("b", SMALL, "h", "w")), toy.input("large", ("b", LARGE, "H", "W"))


def enlarge(toy: Toy, value: str, scales: tuple[float, ...] = (1, 1, 2, 2), **attributes: Any) -> str:
    scale = toy.weight(np.array(scales, np.float32))
    return toy.add("Resize", value, toy.weight(np.zeros(0, np.float32)), scale, **{**NEAREST, **attributes})


def maps(factor: int = 2) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {
        "small": rng.normal(size=(2, SMALL, 5, 6)).astype(np.float32),
        "large": rng.normal(size=(2, LARGE, 5 * factor, 6 * factor)).astype(np.float32),
    }


def check(data: bytes, feeds: dict[str, Any]) -> list[str]:
    """It is done once, and the answers are the same; gives the operators."""
    found = rewrite(data)
    assert found.done == ("1 map enlarged after its convolution",)
    for old, new in zip(*(answers(d, feeds) for d in (data, found.data)), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)
    return operators(found.data)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("order", [1, -1])
def test_the_enlarged_map_may_come_first_or_last(opset: int, order: int) -> None:
    toy = Toy(opset)
    small, large = inputs(toy)
    toy.conv(toy.add("Concat", *[enlarge(toy, small), large][::order], axis=1), (6, SMALL + LARGE, 1, 1), to="out")
    assert sorted(check(toy.data("out"), maps())) == ["Add", "Conv", "Conv", "Resize"]


def test_two_convolutions_of_both_maps_are_each_done_first() -> None:
    toy = Toy()
    small, large = inputs(toy)
    both = toy.add("Concat", enlarge(toy, small), large, axis=1)
    outputs = [toy.conv(both, (8, SMALL + LARGE, 1, 1), to=name) for name in ("left", "right")]
    assert sorted(check(toy.data(*outputs), maps())) == ["Add"] * 2 + ["Conv"] * 4 + ["Resize"] * 2


def test_several_maps_may_lie_beside_it() -> None:
    toy = Toy()
    small, large = inputs(toy)
    all_maps = toy.add("Concat", enlarge(toy, small), large, toy.add("Relu", large), axis=-3)
    toy.conv(all_maps, (6, SMALL + 2 * LARGE, 1, 1), to="out", bias=False)
    assert "Concat" in check(toy.data("out"), maps())


@pytest.mark.parametrize("mode", ["half_pixel", "align_corners", "asymmetric"])
def test_means_of_pixels_are_no_different_from_copies(mode: str) -> None:
    toy = Toy()
    small, large = inputs(toy)
    larger = enlarge(toy, small, (1, 1, 3, 3), mode="linear", coordinate_transformation_mode=mode)
    toy.conv(toy.add("Concat", larger, large, axis=1), (6, SMALL + LARGE, 1, 1), to="out")
    check(toy.data("out"), maps(3))


def test_how_many_channels_a_map_has_is_known_from_the_convolution_before_it() -> None:
    toy = Toy()
    small, large = inputs(toy)
    value = toy.add("MaxPool", toy.silu(toy.conv(small, (12, SMALL, 1, 1))), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    toy.conv(toy.add("Concat", enlarge(toy, value), large, axis=1), (6, 12 + LARGE, 1, 1), to="out")
    check(toy.data("out"), maps())


def test_a_convolution_that_is_split_is_split_first() -> None:
    toy = Toy()
    small, large = inputs(toy)
    wide = toy.conv(small, (32, SMALL, 1, 1))
    made = toy.silu(toy.conv(toy.add("Concat", enlarge(toy, wide), large, axis=1), (32, 32 + LARGE, 1, 1)))
    toy.split(made, (16, 16), ("left", "right"))
    data = toy.data("left", "right")
    found = rewrite(data)
    assert found.done == ("1 convolution split", "1 map enlarged after its convolution")
    for old, new in zip(*(answers(d, maps()) for d in (data, found.data)), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-4)


def joined(toy: Toy, larger: str, channels: int, made: int = 6) -> None:
    toy.conv(toy.add("Concat", larger, "large", axis=1), (made, channels + LARGE, 1, 1), to="out")


def _of_pixels_around(toy: Toy) -> None:
    small, large = inputs(toy)
    toy.conv(toy.add("Concat", enlarge(toy, small), large, axis=1), (6, SMALL + LARGE, 3, 3), to="out")


def _cropped(toy: Toy) -> None:
    small, large = inputs(toy)
    larger = enlarge(toy, small, coordinate_transformation_mode="tf_crop_and_resize")
    toy.conv(toy.add("Concat", larger, large, axis=1), (6, SMALL + LARGE, 1, 1), to="out")


def _by_cubes(toy: Toy) -> None:
    joined(toy, enlarge(toy, inputs(toy)[0], mode="cubic", coordinate_transformation_mode="half_pixel"), SMALL)


def _made_smaller(toy: Toy) -> None:
    joined(toy, enlarge(toy, inputs(toy)[0], (1, 1, 0.5, 0.5)), SMALL)


def _made_wider_and_lower(toy: Toy) -> None:
    joined(toy, enlarge(toy, inputs(toy)[0], (1, 1, 0.5, 4)), SMALL)


def _of_more_channels_than_before(toy: Toy) -> None:
    joined(toy, enlarge(toy, inputs(toy)[0]), SMALL, made=SMALL + 1)


def _used_elsewhere(toy: Toy) -> None:
    larger = enlarge(toy, inputs(toy)[0])
    both = toy.conv(toy.add("Concat", larger, "large", axis=1), (SMALL, SMALL + LARGE, 1, 1))
    toy.add("Add", both, larger, to="out")


def _not_only_convolved(toy: Toy) -> None:
    both = toy.add("Concat", enlarge(toy, inputs(toy)[0]), "large", axis=1)
    toy.add("Add", toy.conv(both, (1, SMALL + LARGE, 1, 1)), both, to="out")


def _of_unknown_channels(toy: Toy) -> None:
    toy.input("large", ("b", LARGE, "H", "W"))
    joined(toy, enlarge(toy, toy.input("small", ("b", "c", "h", "w"))), SMALL)


def _between_others(toy: Toy) -> None:
    small, large = inputs(toy)
    both = toy.add("Concat", large, enlarge(toy, small), large, axis=1)
    toy.conv(both, (6, SMALL + 2 * LARGE, 1, 1), to="out")


def _beside_very_many(toy: Toy) -> None:
    small, _ = inputs(toy)
    ones = toy.input("ones", ("b", 1, "H", "W"))
    joined_to = toy.add("Concat", enlarge(toy, small), *[ones] * 16, axis=1)
    toy.conv(joined_to, (SMALL, SMALL + 16, 1, 1), to="out")


def _to_a_size(toy: Toy) -> None:
    small, _ = inputs(toy)
    none = toy.weight(np.zeros(0, np.float32))
    joined(toy, toy.add("Resize", small, none, none, toy.whole(2, SMALL, 10, 12), **NEAREST), SMALL)


@pytest.mark.parametrize(
    "build",
    [
        _of_pixels_around, _cropped, _by_cubes, _made_smaller, _made_wider_and_lower, _of_more_channels_than_before,
        _used_elsewhere, _not_only_convolved, _of_unknown_channels, _between_others, _to_a_size,
        _beside_very_many,
    ],
)  # fmt: skip
def test_what_is_not_quite_that_stays(build: Callable[[Toy], None]) -> None:
    toy = Toy()
    build(toy)
    assert stays(toy.data("out"))


def test_weights_that_nobody_uses_any_more_are_gone() -> None:
    toy = Toy()
    small, large = inputs(toy)
    toy.weight(np.zeros(3, np.float32), "never_used")
    toy.conv(toy.add("Concat", enlarge(toy, small), large, axis=1), (6, SMALL + LARGE, 1, 1), to="out")
    left = onnx.load_from_string(rewrite(toy.data("out")).data).graph.initializer
    assert {numpy_helper.to_array(tensor).shape for tensor in left} == {(0,), (4,), (6,), (3,)}
