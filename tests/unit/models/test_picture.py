import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace
from media import as_format, bars, corners

from pipeline.contracts.frame import ColorMatrix, Size
from pipeline.models.picture import RotationDeg, VideoPicture, from_rgb

# What 8 bits of YCbCr, chroma of half the size and swscale's fast paths may cost in levels.
TOLERANCE = 4


def assert_corners(rgb: np.ndarray, expected: np.ndarray | None = None, tolerance: int = TOLERANCE) -> None:
    difference = np.abs(np.subtract(corners(rgb), corners(bars() if expected is None else expected)))
    assert difference.max() <= tolerance, corners(rgb)


def as_rgb(planes: np.ndarray) -> np.ndarray:
    return np.stack([planes[2], planes[0], planes[1]], axis=-1) * 255


@pytest.mark.parametrize("size", [(64, 48), (65, 49)])
@pytest.mark.parametrize(
    ("pix_fmt", "matrix", "full_range"),
    [
        ("yuv420p", Colorspace.ITU601, False),
        ("yuv420p", Colorspace.ITU709, False),
        ("yuv420p", Colorspace.ITU709, True),
        ("yuv420p", Colorspace.BT2020, False),
        ("yuvj420p", Colorspace.ITU601, True),
        ("yuv422p", Colorspace.ITU709, False),
        ("yuv444p", Colorspace.ITU709, True),
        ("yuv420p10le", Colorspace.ITU709, False),
        ("yuv444p12le", Colorspace.BT2020, True),
        ("nv12", Colorspace.ITU709, False),
        ("p010le", Colorspace.BT2020, False),
        ("yuva420p", Colorspace.ITU601, False),
        ("rgb24", Colorspace.ITU601, True),
        ("rgba", Colorspace.ITU601, True),
        ("gbrp", Colorspace.ITU601, True),
        ("rgb48le", Colorspace.ITU601, True),
    ],
)
def test_every_format_matrix_and_range_comes_out_in_its_true_colours(
    pix_fmt: str, matrix: Colorspace, full_range: bool, size: tuple[int, int]
) -> None:
    picture = VideoPicture(as_format(bars(*size), pix_fmt, matrix, full_range))
    assert picture.size == size
    assert_corners(picture.rgb())
    assert_corners(picture.bgr()[..., ::-1])
    assert_corners(picture.rgb(32, 24))
    assert_corners(picture.rgb(130, 100))
    assert_corners(as_rgb(picture.gbr_planes(32, 24)))
    assert picture.rgb().shape == (size[1], size[0], 3)
    assert picture.gbr_planes(33, 17).shape == (3, 17, 33)


def test_an_untagged_picture_is_bt601_of_limited_range() -> None:
    frame = as_format(bars(), "yuv420p")
    frame.colorspace, frame.color_range = 2, 0
    picture = VideoPicture(frame)
    assert_corners(picture.rgb())
    assert (picture.yuv420p().matrix, picture.yuv420p().full_range) == ("bt601", False)


@pytest.mark.parametrize(("color_range", "black", "white"), [(0, 0, 255), (1, 16, 235), (2, 0, 255)])
@pytest.mark.parametrize("pix_fmt", ["gray", "ya8", "gray10le"])
def test_grey_uses_its_range(pix_fmt: str, color_range: int, black: int, white: int) -> None:
    grey = np.full((48, 64), black, np.uint8)
    grey[:, 32:] = white
    frame = av.VideoFrame.from_ndarray(grey, "gray").reformat(format=pix_fmt)
    frame.color_range = color_range
    picture = VideoPicture(frame)
    assert picture.rgb()[24, 10].tolist() == pytest.approx([0, 0, 0], abs=1)
    assert picture.rgb()[24, 50].tolist() == pytest.approx([255, 255, 255], abs=1)
    planes = picture.gbr_planes(32, 24)
    assert planes.dtype == np.float32
    assert planes[:, 12, 5] == pytest.approx(0, abs=0.01)
    assert planes[:, 12, 25] == pytest.approx(1, abs=0.01)


def test_a_smaller_picture_lies_where_the_picture_does() -> None:
    # A bright column right of the middle: a scaler that shifts moves its centre of gravity.
    rgb = np.zeros((240, 400, 3), np.uint8)
    rgb[:, 240:280] = 255
    for pix_fmt in ("yuv420p", "rgb24", "nv12", "yuv444p", "gray"):
        picture = VideoPicture(as_format(rgb, pix_fmt, full_range=True))
        for green in (picture.gbr_planes(100, 60)[0], picture.rgb(100, 60)[..., 1], picture.bgr(101, 60)[..., 1]):
            weights = green.mean(axis=0)
            columns = green.shape[1]
            centre = float((weights * (np.arange(columns) + 0.5)).sum() / weights.sum())
            assert centre == pytest.approx(0.65 * columns, abs=0.15), pix_fmt


def test_shrinking_takes_all_pixels_into_account() -> None:
    rgb = np.zeros((120, 160, 3), np.uint8)
    rgb[:, ::2] = 255
    picture = VideoPicture(as_format(rgb, "yuv420p", full_range=True))
    assert picture.gbr_planes(80, 60)[0, 5:-5, 5:-5] == pytest.approx(0.5, abs=0.02)
    assert picture.rgb(80, 60)[5:-5, 5:-5, 1] == pytest.approx(128, abs=4)


@pytest.mark.parametrize(
    ("rotation_deg", "turns"),
    [(0, 0), (90, -1), (180, 2), (270, 1)],
)
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "rgb24"])
def test_a_turned_picture_is_upright_in_every_form(pix_fmt: str, rotation_deg: RotationDeg, turns: int) -> None:
    upright = np.rot90(bars(66, 48), turns)
    picture = VideoPicture(as_format(bars(66, 48), pix_fmt), rotation_deg)
    height, width = upright.shape[:2]
    assert picture.size == Size(width, height)
    assert picture.rgb().shape == upright.shape
    assert_corners(picture.rgb(), upright)
    assert picture.rgb(30, 20).shape == (20, 30, 3)
    assert_corners(picture.bgr(30, 20)[..., ::-1], upright)
    assert picture.gbr_planes(30, 20).shape == (3, 20, 30)
    assert_corners(as_rgb(picture.gbr_planes(30, 20)), upright)
    planes = picture.yuv420p()
    assert planes.y.shape == (height, width)
    assert planes.u.shape == planes.v.shape == ((height + 1) // 2, (width + 1) // 2)
    again = av.VideoFrame(width, height, "yuv420p")
    for plane, values in zip(again.planes, (planes.y, planes.u, planes.v), strict=True):
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[:, : plane.width] = values
        plane.update(padded.tobytes())
    assert_corners(VideoPicture(again).rgb(), upright)


@pytest.mark.parametrize(
    ("pix_fmt", "matrix", "full_range", "expected"),
    [
        ("yuv420p", Colorspace.ITU709, False, ("bt709", False)),
        ("yuvj420p", Colorspace.ITU601, True, ("bt601", True)),
        ("yuv420p10le", Colorspace.BT2020, False, ("bt2020", False)),
        ("yuv444p", Colorspace.ITU709, True, ("bt709", True)),
        ("rgb24", Colorspace.ITU709, True, ("bt601", False)),
    ],
)
def test_planes_say_their_matrix_and_range_and_hold_those_values(
    pix_fmt: str, matrix: Colorspace, full_range: bool, expected: tuple[ColorMatrix, bool]
) -> None:
    white = np.full((49, 65, 3), 255, np.uint8)
    planes = VideoPicture(as_format(white, pix_fmt, matrix, full_range)).yuv420p()
    assert (planes.matrix, planes.full_range) == expected
    assert planes.y.shape == (49, 65)
    assert planes.u.shape == planes.v.shape == (25, 33)
    assert int(planes.y[20, 20]) == pytest.approx(255 if planes.full_range else 235, abs=1)
    assert int(planes.u[10, 10]) == pytest.approx(128, abs=1)


def test_planes_of_an_upright_420_frame_are_the_decoders_own_memory() -> None:
    frame = as_format(bars(), "yuv420p")
    planes = VideoPicture(frame).yuv420p()
    assert planes.y.ctypes.data == frame.planes[0].buffer_ptr
    assert planes.v.ctypes.data == frame.planes[2].buffer_ptr


def test_no_array_can_be_written_into() -> None:
    turns: tuple[RotationDeg, ...] = (0, 90)
    for rotation_deg in turns:
        picture = VideoPicture(as_format(bars(), "yuv420p"), rotation_deg)
        planes = picture.yuv420p()
        for array in (picture.rgb(), picture.bgr(10, 10), planes.y, planes.u, picture.gbr_planes(32, 24)):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


def test_rgb_is_converted_once_per_size_and_is_contiguous() -> None:
    picture = VideoPicture(as_format(bars(65, 49), "yuv420p"))
    assert picture.rgb() is picture.rgb(65, 49)
    assert picture.rgb(30, 20) is picture.rgb(30, 20)
    assert picture.rgb() is not picture.bgr()
    assert picture.rgb().flags.c_contiguous
    assert picture.rgb(31, 21).flags.c_contiguous


def test_bytes_held_are_those_of_the_planes_and_do_not_change() -> None:
    picture = VideoPicture(as_format(bars(640, 480), "yuv420p"))
    before = picture.nbytes
    assert 640 * 480 * 3 // 2 <= before <= 640 * 480 * 2
    picture.rgb()
    assert picture.nbytes == before


def test_planes_outlive_their_picture() -> None:
    planes = VideoPicture(as_format(bars(), "yuv420p")).gbr_planes(320, 240)
    copy = planes.copy()
    gc.collect()
    churn = [VideoPicture(as_format(bars(), "yuv420p")).gbr_planes(320, 240) for _ in range(8)]
    assert np.array_equal(planes, copy)
    assert len(churn) == 8


def test_a_picture_from_rgb_is_a_copy_with_the_same_pixels() -> None:
    rgb = bars(65, 49)
    picture = from_rgb(rgb[:, ::-1])
    expected = rgb[:, ::-1].copy()
    rgb[:] = 0
    assert np.array_equal(picture.rgb(), expected)


def test_one_picture_serves_many_threads_at_once() -> None:
    picture = VideoPicture(as_format(bars(320, 240), "yuv420p", Colorspace.ITU709))
    expected = picture.gbr_planes(160, 120).copy()
    barrier = threading.Barrier(8)

    def use(number: int) -> bool:
        barrier.wait()
        for size in range(100 + number, 110 + number):
            assert_corners(picture.rgb(size, size))
        return np.array_equal(picture.gbr_planes(160, 120), expected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(8)))


def test_pictures_leave_no_garbage_for_the_collector() -> None:
    frame = as_format(bars(), "yuv420p")
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            picture = VideoPicture(frame)
            picture.gbr_planes(32, 24)
            picture.yuv420p()
            picture.rgb(30, 20)
        del picture
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_the_colours_stay_what_they_are_while_another_thread_converts() -> None:
    frame = av.VideoFrame(320, 240, "yuv420p")
    frame.colorspace, frame.color_range = 1, 2  # BT.709, full range
    picture = VideoPicture(frame)
    stop = threading.Event()

    def convert() -> None:
        width = 16
        while not stop.is_set():
            width = 16 + (width + 2) % 200
            picture.gbr_planes(width, 16)

    other = threading.Thread(target=convert)
    other.start()
    seen = {(planes.matrix, planes.full_range, planes.tagged) for planes in (picture.yuv420p() for _ in range(3000))}
    stop.set()
    other.join(10)
    assert seen == {("bt709", True, True)}


# Grey levels of the four corners of `bars` as BT.601 luma of full range.
CORNERS_LUMA = [round(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in corners(bars())]


@pytest.mark.parametrize("size", [(64, 48), (65, 49), (322, 182)])
@pytest.mark.parametrize(
    ("pix_fmt", "full_range"),
    [
        *(("yuv420p", True), ("yuv420p", False), ("yuvj420p", True), ("yuv422p", True), ("yuv444p", False)),
        *(("nv12", True), ("yuyv422", True), ("uyvy422", False), ("yuv420p10le", True), ("yuv420p10be", True)),
        *(("p010le", True), ("yuv444p12le", False), ("gray", True), ("gray10le", True), ("ya8", True)),
        *(("rgb24", True), ("bgra", True), ("gbrp", True), ("rgb48le", True)),
    ],
)
def test_the_luma_of_every_format_is_what_is_stored(pix_fmt: str, full_range: bool, size: tuple[int, int]) -> None:
    luma = VideoPicture(as_format(bars(*size), pix_fmt, full_range=full_range)).luma(32, 24)
    assert luma.shape == (24, 32)
    assert luma.dtype == np.uint8
    assert not luma.flags.writeable
    full = full_range or pix_fmt.startswith(("gray", "ya8"))  # which the scaler that made them takes for full range
    expected = CORNERS_LUMA if full else [16 + value * 219 / 255 for value in CORNERS_LUMA]
    found = [int(luma[y, x]) for y, x in [(6, 8), (6, 24), (18, 8), (18, 24)]]
    assert found == pytest.approx(expected, abs=TOLERANCE), found


@pytest.mark.parametrize(("rotation_deg", "turns"), [(0, 0), (90, -1), (180, 2), (270, 1)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "rgb24"])
def test_the_luma_of_a_turned_picture_is_upright(pix_fmt: str, rotation_deg: RotationDeg, turns: int) -> None:
    picture = VideoPicture(as_format(bars(66, 48), pix_fmt, full_range=True), rotation_deg)
    upright = np.rot90(bars(66, 48), turns) @ np.array([0.299, 0.587, 0.114])
    luma = picture.luma(30, 20)
    assert luma.shape == (20, 30)
    assert not luma.flags.writeable
    for y, x in [(5, 7), (5, 22), (15, 7), (15, 22)]:
        expected = upright[y * upright.shape[0] // 20, x * upright.shape[1] // 30]
        assert luma[y, x] == pytest.approx(expected, abs=TOLERANCE)


def test_the_luma_is_never_larger_than_the_picture_and_exact_at_its_size() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (48, 64), dtype=np.uint8)
    picture = VideoPicture(av.VideoFrame.from_ndarray(noise, "gray"))
    assert np.array_equal(picture.luma(64, 48), noise)
    assert np.array_equal(picture.luma(1920, 1080), noise)
    assert VideoPicture(as_format(bars(8, 6), "rgb24")).luma(64, 48).shape == (6, 8)


def test_a_spot_of_luma_is_a_mean_and_not_one_pixel() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (720, 1280), dtype=np.uint8)
    spots = VideoPicture(av.VideoFrame.from_ndarray(noise, "gray")).luma(96, 54)
    assert spots.std() < noise.std() / 3
