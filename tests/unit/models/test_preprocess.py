"""The input tensor: order of channels, range, padding, types, and that a buffer used again forgets what was in it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.contracts.frame import Size, YuvPlanes
from pipeline.models.preprocess import InputBuffer, Preprocess, PreprocessConfig

GREY = 114 / 255


class Plain:
    """A picture of one colour, as R, G, B in 0..1."""

    def __init__(self, width: int, height: int, rgb: tuple[float, float, float] = (0.25, 0.5, 0.75)) -> None:
        self.size = Size(width, height)
        self.nbytes = 0
        self._rgb = rgb

    def gbr_planes(self, width: int, height: int) -> npt.NDArray[np.float32]:
        red, green, blue = self._rgb
        planes = np.empty((3, height, width), np.float32)
        planes[:] = np.array((green, blue, red), np.float32)[:, None, None]
        return planes

    def rgb(self, width: int | None = None, height: int | None = None) -> npt.NDArray[np.uint8]:
        raise NotImplementedError

    def bgr(self, width: int | None = None, height: int | None = None) -> npt.NDArray[np.uint8]:
        raise NotImplementedError

    def yuv420p(self) -> YuvPlanes:
        raise NotImplementedError

    def luma(self, width: int, height: int) -> npt.NDArray[np.uint8]:
        raise NotImplementedError


def filled(
    preprocess: Preprocess, *pictures: Plain, dtype: npt.DTypeLike = np.float32, channels_last: bool = False
) -> npt.NDArray[np.generic]:
    """The NCHW tensor after the pictures went through row 0 one after the other."""
    size = Size(64, 64)
    buffer = InputBuffer(preprocess, size, dtype, channels_last=channels_last, batch=2)
    for picture in pictures:
        buffer.put(0, picture, preprocess.place(picture.size, size))
    return buffer.tensor.transpose(0, 3, 1, 2) if channels_last else buffer.tensor


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("preprocess", "inside", "padding"),
    [
        (Preprocess(), (0.25, 0.5, 0.75), (GREY,) * 3),
        (Preprocess(channels="bgr"), (0.75, 0.5, 0.25), (GREY,) * 3),
        (Preprocess(value_range="0..255", pad=0), (63.75, 127.5, 191.25), (0, 0, 0)),
        (
            Preprocess(mean=(0.5, 0.5, 0.25), std=(0.5, 1, 2)),
            (-0.5, 0, 0.25),
            (2 * GREY - 1, GREY - 0.5, GREY / 2 - 0.125),
        ),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_picture_and_padding_are_normalised_alike(
    preprocess: Preprocess, inside: tuple[float, ...], padding: tuple[float, ...], dtype: type[Any], channels_last: bool
) -> None:
    tensor = filled(preprocess, Plain(32, 16), dtype=dtype, channels_last=channels_last)
    assert tensor.dtype == dtype
    assert tensor.shape == (2, 3, 64, 64)
    tolerance = 1e-6 if dtype is np.float32 else 1e-3
    for values, wanted in ((tensor[0, :, 16:48], inside), (tensor[0, :, :16], padding), (tensor[0, :, 48:], padding)):
        expected = np.broadcast_to(np.array(wanted)[:, None, None], values.shape)
        np.testing.assert_allclose(values.astype(np.float64), expected, rtol=tolerance, atol=tolerance)


def test_bytes_are_rounded_to_the_nearest() -> None:
    tensor = filled(Preprocess(value_range="0..255"), Plain(64, 64, (0.25, 0.5, 1.0)), dtype=np.uint8)
    assert tensor[0, :, 0, 0].tolist() == [64, 128, 255]


@given(
    sizes=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=2, max_size=5),
    align=st.sampled_from(["centre", "top_left"]),
)
def test_a_buffer_used_again_is_as_good_as_a_new_one(sizes: list[tuple[int, int]], align: Any) -> None:
    preprocess = Preprocess(align=align)
    pictures = [Plain(*size, rgb=(i / 10, i / 20, i / 30)) for i, size in enumerate(sizes)]
    np.testing.assert_array_equal(filled(preprocess, *pictures)[0], filled(preprocess, pictures[-1])[0])


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    preprocess, size = Preprocess(), Size(64, 64)
    buffer = InputBuffer(preprocess, size, np.float32, channels_last=False, batch=2)
    buffer.put(0, Plain(64, 64, (0, 0, 0)), preprocess.place(Size(64, 64), size))
    before = buffer.tensor[0].copy()
    buffer.put(1, Plain(64, 32, (1, 1, 1)), preprocess.place(Size(64, 32), size))
    np.testing.assert_array_equal(buffer.tensor[0], before)
    assert buffer.tensor[1, 0, 32, 32] == 1


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50))
def test_the_cheap_way_to_half_floats_is_right_to_the_last_bit_but_for_ties(values: list[float]) -> None:
    source = np.array(values, np.float32)

    class Values(Plain):
        def gbr_planes(self, width: int, height: int) -> npt.NDArray[np.float32]:
            return np.broadcast_to(source[:width], (3, height, width)).copy()

    size = Size(len(values), 1)
    buffer = InputBuffer(Preprocess(), size, np.float16, channels_last=False, batch=1)
    buffer.put(0, Values(*size), Preprocess().place(size, size))
    got, wanted = (
        buffer.tensor[0, 0, 0].view(np.uint16).astype(int),
        source.astype(np.float16).view(np.uint16).astype(int),
    )
    assert np.abs(got - wanted).max() <= 1
    half_step = np.maximum(source * 2.0**-11, 2.0**-25)
    assert (np.abs(buffer.tensor[0, 0, 0].astype(np.float64) - source) <= half_step).all()


def test_the_config_overrides_only_what_it_says() -> None:
    family = Preprocess(channels="bgr", value_range="0..255", align="top_left")
    config = PreprocessConfig(range="0..1", pad=0)
    assert family.overridden(config) == Preprocess(channels="bgr", value_range="0..1", align="top_left", pad=0)
    assert family.overridden(PreprocessConfig()) == family


@pytest.mark.parametrize("keys", [{"std": (0, 1, 1)}, {"mean": (float("nan"), 0, 0)}, {"pad": 256}, {"channel": "rgb"}])
def test_a_preprocessing_that_cannot_be_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PreprocessConfig(**keys)


def test_the_description_says_what_a_model_is_fed() -> None:
    assert str(Preprocess()) == "RGB 0..1, letterbox centre, padding 114"
    assert str(Preprocess(mean=(0.5, 0.5, 0.5))).endswith("mean (0.5, 0.5, 0.5), std (1.0, 1.0, 1.0)")


class Bands(Plain):
    """Its left half is black, its right half white; says what it was asked for."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__(width, height)
        self.asked: list[tuple[int, int]] = []

    def gbr_planes(self, width: int, height: int) -> npt.NDArray[np.float32]:
        self.asked.append((width, height))
        planes = np.zeros((3, height, width), np.float32)
        planes[:, :, width // 2 :] = 1
        return planes

    def rgb(self, width: int | None = None, height: int | None = None) -> npt.NDArray[np.uint8]:
        self.asked.append((0, 0))
        pixels = np.zeros((self.size.height, self.size.width, 3), np.uint8)
        pixels[:, self.size.width // 2 :] = 255
        return pixels


def test_a_stretched_picture_fills_the_input() -> None:
    tensor = filled(Preprocess(resize="stretch"), Bands(200, 20))
    assert (tensor[0, :, :, :32] == 0).all()
    assert (tensor[0, :, :, 32:] == 1).all()


def test_the_middle_of_a_picture_is_cut_out() -> None:
    picture = Bands(128, 64)
    tensor = filled(Preprocess(resize="crop", crop_ratio=0.8), Plain(64, 60), picture)
    assert picture.asked == [(160, 80)]
    assert (tensor[0, :, :, :32] == 0).all()
    assert (tensor[0, :, :, 32:] == 1).all()


def test_a_picture_like_a_ribbon_is_cut_before_it_is_resized() -> None:
    picture = Bands(30_000, 4)
    tensor = filled(Preprocess(resize="crop"), picture)
    assert picture.asked == [(0, 0)], "resized as a whole it would have 480,000 columns"
    assert tensor[0, :, :, :20].max() < 0.1
    assert tensor[0, :, :, 44:].min() > 0.9


def test_the_description_says_how_a_picture_is_fitted_in() -> None:
    assert str(Preprocess(resize="stretch")) == "RGB 0..1, stretched"
    assert str(Preprocess(resize="crop", crop_ratio=0.875)) == "RGB 0..1, centre crop, 0.875 of the shorter side"
    assert Preprocess().overridden(PreprocessConfig(resize="crop", crop_ratio=0.5)).crop_ratio == 0.5
