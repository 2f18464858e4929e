from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from media import as_format, moving, video

from pipeline.contracts.frame import Size
from pipeline.models.picture import VideoPicture
from pipeline.models.scalers import Geometry, PlaneScaler

PICTURE = moving(3, 320, 240)
TO = Size(113, 65)


class Reformatting:
    """PyAV's own scaler, which counts how often it was asked."""

    def __init__(
        self,
        matrix: Colorspace,
        full_range: bool,
        to_size: Size,
        interpolation: Interpolation = Interpolation.FAST_BILINEAR,
    ) -> None:
        self.calls = 0
        self._interpolation = interpolation
        self._matrix, self._full_range, self._to_size = matrix, full_range, to_size
        self._scaler = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        self.calls += 1
        return self._scaler.reformat(
            frame,
            width=self._to_size.width,
            height=self._to_size.height,
            format="gbrpf32le",
            src_colorspace=self._matrix,
            dst_colorspace=self._matrix,
            src_color_range=ColorRange.JPEG if self._full_range else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=self._interpolation,
            threads=1,
        )


def _scalers(
    frame: av.VideoFrame, matrix: Colorspace = Colorspace.ITU709, full_range: bool = False, to_size: Size = TO
) -> tuple[PlaneScaler, Reformatting]:
    from_size = Size(frame.width, frame.height)
    geometry = Geometry(frame.format.name, from_size, "gbrpf32le", to_size, int(matrix), full_range)
    return PlaneScaler(geometry), Reformatting(matrix, full_range, to_size)


def _values(frame: av.VideoFrame) -> np.ndarray:
    planes = [np.frombuffer(memoryview(plane), np.float32).reshape(plane.height, -1) for plane in frame.planes]
    return np.stack([plane[:, : frame.width] for plane in planes])


@pytest.mark.parametrize("to_size", [Size(113, 65), Size(320, 240), Size(400, 301)])
@pytest.mark.parametrize(
    ("pix_fmt", "matrix", "full_range"),
    [
        ("yuv420p", Colorspace.ITU601, False),
        ("yuv420p", Colorspace.ITU709, True),
        ("yuv420p", Colorspace.BT2020, False),
        ("yuv420p", Colorspace.SMPTE240M, False),
        ("yuv420p", Colorspace.FCC, False),
        ("yuvj420p", Colorspace.ITU601, True),
        ("nv12", Colorspace.ITU709, False),
        ("yuv422p", Colorspace.ITU709, False),
        ("yuyv422", Colorspace.ITU601, False),
        ("yuv444p", Colorspace.ITU709, True),
        ("yuv420p10le", Colorspace.BT2020, False),
        ("p010le", Colorspace.BT2020, False),
        ("gray", Colorspace.ITU601, True),
        ("gray", Colorspace.ITU601, False),
        ("rgb24", Colorspace.ITU601, True),
        ("bgra", Colorspace.ITU601, True),
    ],
)
def test_the_third_picture_comes_from_the_pool_with_the_same_values(
    pix_fmt: str, matrix: Colorspace, full_range: bool, to_size: Size
) -> None:
    frame = as_format(PICTURE, pix_fmt, matrix, full_range)
    scaler, reformat = _scalers(frame, matrix, full_range, to_size)
    first, _, third = (_values(scaler.scale(frame, reformat)) for _ in range(3))
    assert np.array_equal(third, first)
    assert reformat.calls == 2


def test_what_the_filter_scales_otherwise_stays_with_the_reformatter() -> None:
    frame = as_format(PICTURE, "yuv420p")
    scaler, _ = _scalers(frame)
    reformat = Reformatting(Colorspace.ITU709, False, TO, Interpolation.POINT)
    first, *_, last = (_values(scaler.scale(frame, reformat)) for _ in range(4))
    assert np.array_equal(last, first)
    assert reformat.calls == 4


@pytest.mark.parametrize("chroma_location", range(6))
def test_chroma_lies_where_the_video_says(tmp_path: Path, chroma_location: int) -> None:
    path = tmp_path / "clip.mp4"
    video(path, [PICTURE] * 4, options={"x264-params": f"chromaloc={chroma_location}"})
    with av.open(path) as container:
        frames = list(container.decode(video=0))
    scaler, reformat = _scalers(frames[0])
    scaled = [_values(scaler.scale(frame, reformat)) for frame in frames]
    for frame, values in zip(frames, scaled, strict=True):
        assert np.array_equal(values, _values(reformat(frame)))


def test_memory_is_used_again_but_never_while_somebody_looks_at_it() -> None:
    frames = [as_format(moving(number, 320, 240), "yuv420p", Colorspace.ITU709) for number in range(20)]
    scaler, reformat = _scalers(frames[0])
    where = {scaler.scale(frame, reformat).planes[0].buffer_ptr for frame in frames}
    assert len(where) < 8

    held = VideoPicture(frames[0]).gbr_planes(*TO)
    before = held.copy()
    for frame in frames:
        VideoPicture(frame).gbr_planes(*TO)
    held_from_the_pool = VideoPicture(frames[5]).gbr_planes(*TO)
    after = held_from_the_pool.copy()
    for frame in frames:
        VideoPicture(frame).gbr_planes(*TO)
    assert np.array_equal(held, before)
    assert np.array_equal(held_from_the_pool, after)


def test_tags_that_change_from_frame_to_frame_change_nothing_and_are_no_news(capfd: pytest.CaptureFixture[str]) -> None:
    frame = as_format(PICTURE, "yuv420p", Colorspace.ITU709)
    scaler, reformat = _scalers(frame)
    expected = _values(reformat(frame))
    for colorspace, color_range in ((1, 1), (2, 0), (9, 2), (5, 1)):
        frame.colorspace, frame.color_range = colorspace, color_range
        assert np.array_equal(_values(scaler.scale(frame, reformat)), expected)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "nv12", "yuv422p"])
def test_pictures_without_colours_at_the_start_do_not_decide_where_the_chroma_lies(pix_fmt: str) -> None:
    colours = as_format(PICTURE, pix_fmt)
    planes, usual = _scalers(colours)
    grey = as_format(np.full_like(PICTURE, 90), pix_fmt)
    for _ in range(3):
        planes.scale(grey, usual)
    for _ in range(6):
        assert np.array_equal(_values(planes.scale(colours, usual)), _values(usual(colours)))
