"""Focus and the convolution behind it are one convolution, wherever that is the same, and nowhere else."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from toy_graphs import Toy, answers, operators, stays

from pipeline.models.graph_rewrite import rewrite

YOLOX = ((0, 0), (1, 0), (0, 1), (1, 1))
TO_THE_END = 2**63 - 1


def part(toy: Toy, image: str, offset: tuple[int, int], step: int = 2, end: int = TO_THE_END) -> str:
    """Every `step`-th row and column, as PyTorch exports it."""
    rows = toy.add("Slice", image, toy.whole(offset[0]), toy.whole(end), toy.whole(2), toy.whole(step))
    return toy.add("Slice", rows, toy.whole(offset[1]), toy.whole(end), toy.whole(3), toy.whole(step))


def focus(toy: Toy, offsets: Any = YOLOX, step: int = 2) -> str:
    image = toy.input("image", (1, 3, 24, 36))
    return toy.add("Concat", *(part(toy, image, offset, step) for offset in offsets), axis=1)


def picture(*shape: int) -> Any:
    return np.random.default_rng(2).normal(size=shape or (1, 3, 24, 36)).astype(np.float32)


def check(data: bytes, feeds: Any) -> None:
    """It is one convolution, and answers what it did."""
    found = rewrite(data)
    assert found.done == ("focus as one convolution",)
    assert operators(found.data) == ["Conv"]
    np.testing.assert_allclose(answers(found.data, feeds)[0], answers(data, feeds)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("offsets", [YOLOX, YOLOX[::-1], ((0, 1), (1, 1), (0, 0), (1, 0))])
def test_the_parts_may_come_in_any_order(opset: int, offsets: Any) -> None:
    toy = Toy(opset)
    toy.conv(focus(toy, offsets), (8, 12, 3, 3), to="out", pads=[1, 1, 1, 1])
    check(toy.data("out"), {"image": picture()})


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("strides", [[1, 1], [2, 2], [2, 1]])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [2, 1, 0, 3]])
def test_kernel_stride_and_padding_are_those_of_pixels(kernel: int, strides: list[int], pads: list[int]) -> None:
    toy = Toy()
    toy.conv(focus(toy), (8, 12, kernel, kernel), to="out", strides=strides, pads=pads, bias=False)
    check(toy.data("out"), {"image": picture()})


def test_parts_of_three_by_three_are_folded_as_well() -> None:
    toy = Toy()
    toy.conv(focus(toy, tuple(product(range(3), range(3))), 3), (4, 27, 3, 3), to="out", pads=[1, 1, 1, 1])
    check(toy.data("out"), {"image": picture()})


def test_one_slice_may_take_rows_and_columns() -> None:
    toy = Toy()
    image = toy.input("image", ("b", 3, "h", "w"))
    parts = [
        toy.add("Slice", image, toy.whole(*offset), toy.whole(2**31 - 1, 2**31 - 1), toy.whole(-2, -1), toy.whole(2, 2))
        for offset in YOLOX
    ]
    toy.conv(toy.add("Concat", *parts, axis=-3), (8, 12, 3, 3), to="out", pads=[1, 1, 1, 1])
    check(toy.data("out"), {"image": picture(4, 3, 16, 8)})


def test_space_to_depth_is_the_same_in_one_operator() -> None:
    toy = Toy()
    sorted_pixels = toy.add("SpaceToDepth", toy.input("image", (1, 3, 24, 36)), blocksize=2)
    toy.conv(sorted_pixels, (8, 12, 3, 3), to="out", pads=[1, 1, 1, 1])
    check(toy.data("out"), {"image": picture()})


def test_an_end_that_is_the_pictures_side_is_the_end() -> None:
    toy = Toy()
    image = toy.input("image", (1, 3, 24, 24))
    parts = toy.add("Concat", *(part(toy, image, offset, end=24) for offset in YOLOX), axis=1)
    toy.conv(parts, (8, 12, 3, 3), to="out")
    check(toy.data("out"), {"image": picture(1, 3, 24, 24)})


def _twice_the_same_part(toy: Toy) -> None:
    toy.conv(focus(toy, (*YOLOX[:3], (0, 0))), (8, 12, 3, 3), to="out")


def _a_part_is_missing(toy: Toy) -> None:
    toy.conv(focus(toy, YOLOX[:3]), (8, 9, 3, 3), to="out")


def _of_two_pictures(toy: Toy) -> None:
    image, other = toy.input("image", (1, 3, 24, 36)), toy.input("other", (1, 3, 24, 36))
    parts = [part(toy, other if i == 3 else image, offset) for i, offset in enumerate(YOLOX)]
    toy.conv(toy.add("Concat", *parts, axis=1), (8, 12, 3, 3), to="out")


def _not_the_whole_picture(toy: Toy) -> None:
    image = toy.input("image", (1, 3, 24, 36))
    toy.conv(toy.add("Concat", *(part(toy, image, o, end=20) for o in YOLOX), axis=1), (8, 12, 3, 3), to="out")


def _dilated(toy: Toy) -> None:
    toy.conv(focus(toy), (8, 12, 3, 3), to="out", dilations=[2, 2])


def _in_groups(toy: Toy) -> None:
    toy.conv(focus(toy), (9, 4, 3, 3), to="out", group=3)


def _padded_by_itself(toy: Toy) -> None:
    toy.conv(focus(toy), (8, 12, 3, 3), to="out", auto_pad="SAME_UPPER")


def _used_elsewhere(toy: Toy) -> None:
    parts = focus(toy)
    toy.add("Add", toy.conv(parts, (12, 12, 3, 3), pads=[1, 1, 1, 1]), parts, to="out")


def _with_weights_that_are_fed(toy: Toy) -> None:
    toy.add("Conv", focus(toy), toy.input("kernel", (8, 12, 3, 3)), to="out")


@pytest.mark.parametrize(
    "build",
    [
        _twice_the_same_part, _a_part_is_missing, _of_two_pictures, _not_the_whole_picture, _dilated, _in_groups,
        _padded_by_itself, _used_elsewhere, _with_weights_that_are_fed,
    ],
)  # fmt: skip
def test_what_is_not_quite_that_stays(build: Callable[[Toy], None]) -> None:
    toy = Toy()
    build(toy)
    assert stays(toy.data("out"))


def test_half_precision_stays_for_its_sums_would_be_rounded_otherwise() -> None:
    toy = Toy()
    image = toy.input("image", (1, 3, 24, 36), TensorProto.FLOAT16)
    parts = toy.add("Concat", *(part(toy, image, offset) for offset in YOLOX), axis=1)
    toy.add("Conv", parts, toy.weight(np.ones((8, 12, 3, 3), np.float16)), to="out")
    assert stays(toy.data("out", element=TensorProto.FLOAT16))


def test_a_part_that_someone_else_uses_stays_for_them() -> None:
    toy = Toy()
    image = toy.input("image", (1, 3, 24, 36))
    parts = [part(toy, image, offset) for offset in YOLOX]
    toy.conv(toy.add("Concat", *parts, axis=1), (8, 12, 3, 3), to="out")
    data = toy.data("out", parts[1])
    found = rewrite(data)
    assert sorted(operators(found.data)) == ["Conv", "Slice", "Slice"]
    for old, new in zip(*(answers(d, {"image": picture()}) for d in (data, found.data)), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)
