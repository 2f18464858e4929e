import gc
import threading
import weakref

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace
from fake_cuda import FakeDriver, HwFormat, fake_gpu, hw_frame
from media import as_format, bars

from pipeline.contracts.frame import ColorMatrix, Picture, Size
from pipeline.contracts.surface import OnDevice
from pipeline.devices.driver import DeviceError
from pipeline.devices.gpu import Gpu
from pipeline.models.device_picture import DevicePicture
from pipeline.models.picture import RotationDeg, VideoPicture


def pair(
    size: tuple[int, int] = (64, 48), planes: str = "nv12", rotation_deg: RotationDeg = 0, *, full_range: bool = False
) -> tuple[DevicePicture, VideoPicture, Gpu, FakeDriver]:
    """The same pixels on a device and on the host."""
    gpu, driver = fake_gpu()
    frame = as_format(bars(*size), planes, Colorspace.ITU709, full_range)
    on_device = DevicePicture(hw_frame(driver, frame, planes), gpu, rotation_deg)
    return on_device, VideoPicture(frame, rotation_deg), gpu, driver


@pytest.mark.parametrize("rotation_deg", [0, 90])
@pytest.mark.parametrize("planes", ["nv12", "p010le"])
@pytest.mark.parametrize("size", [(64, 48), (65, 49)])
def test_its_pixels_are_those_of_the_same_frame_on_the_host(
    size: tuple[int, int], planes: str, rotation_deg: RotationDeg
) -> None:
    there, here, _, _ = pair(size, planes, rotation_deg)
    assert there.size == here.size
    assert (there.rgb() == here.rgb()).all()
    assert (there.bgr(32, 24) == here.bgr(32, 24)).all()
    assert (there.gbr_planes(33, 17) == here.gbr_planes(33, 17)).all()
    assert (there.luma(64, 48) == here.luma(64, 48)).all()
    ours, theirs = there.yuv420p(), here.yuv420p()
    assert all((getattr(ours, name) == getattr(theirs, name)).all() for name in "yuv")
    assert (ours.matrix, ours.full_range, ours.tagged) == (theirs.matrix, theirs.full_range, theirs.tagged)


def test_it_is_copied_to_the_host_once_whoever_asks() -> None:
    picture, _, gpu, _ = pair()
    threads = [threading.Thread(target=picture.rgb, args=(16 + n, 12)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    picture.yuv420p()
    assert gpu.copied == (0, 64 * 48 * 3 // 2)


def test_nothing_is_copied_while_nobody_asks_for_pixels() -> None:
    picture, _, gpu, _ = pair()
    assert isinstance(picture, OnDevice)
    found: Picture = picture
    assert (found.size, found.nbytes) == (Size(64, 48), 256 * 72)
    assert picture.surface.device == 0
    assert gpu.copied == (0, 0)


def test_a_look_at_the_brightness_copies_few_rows() -> None:
    gpu, driver = fake_gpu()
    gradient = np.repeat(np.linspace(20, 230, 1080).astype(np.uint8)[:, None], 1920, axis=1)
    frame = as_format(np.repeat(gradient[:, :, None], 3, axis=2), "nv12", Colorspace.ITU709, full_range=True)
    picture, here = DevicePicture(hw_frame(driver, frame), gpu), VideoPicture(frame)
    found, expected = picture.luma(96, 54).astype(int), here.luma(96, 54).astype(int)
    assert found.shape == (54, 96)
    assert np.abs(found - expected).max() <= 1
    assert gpu.copied.to_host == 1920 * 216
    turned = DevicePicture(hw_frame(driver, frame), gpu, 90).luma(54, 96).astype(int)
    assert np.abs(turned - VideoPicture(frame, 90).luma(54, 96)).max() <= 1
    picture.rgb()
    copied = gpu.copied.to_host
    assert (picture.luma(96, 54) == expected).all()  # from the copy that is there now
    assert gpu.copied.to_host == copied


@pytest.mark.parametrize("planes", ["p010le"])
def test_the_brightness_of_deep_pictures_is_that_of_eight_bits(planes: str) -> None:
    there, here, _, _ = pair((640, 480), planes)
    assert np.abs(there.luma(40, 30).astype(int) - here.luma(40, 30)).max() <= 1


def test_the_surface_lives_as_long_as_the_picture() -> None:
    picture, here, _, driver = pair()
    gc.collect()
    surface = weakref.ref(picture.surface.holder)
    assert (picture.rgb() == here.rgb()).all()
    assert surface() is not None
    del picture
    gc.collect()
    assert surface() is None
    assert driver.alive_bytes == 0


@pytest.mark.parametrize(
    ("tag", "matrix"), [(1, "bt709"), (2, "bt601"), (5, "bt601"), (6, "bt601"), (7, "bt709"), (9, "bt2020")]
)
def test_colours_are_told_by_the_tags(tag: int, matrix: ColorMatrix) -> None:
    gpu, driver = fake_gpu()
    frame = av.VideoFrame(16, 16, "nv12")
    frame.colorspace, frame.color_range = tag, 2
    surface = DevicePicture(hw_frame(driver, frame), gpu).surface
    assert (surface.matrix, surface.full_range) == (matrix, True)
    assert VideoPicture(frame).yuv420p().matrix == matrix
    frame.color_range = 1
    assert not DevicePicture(hw_frame(driver, frame), gpu).surface.full_range


def test_planes_that_lie_otherwise_are_refused() -> None:
    gpu, driver = fake_gpu()
    software = av.VideoFrame(16, 16, "nv12")
    with pytest.raises(ValueError, match="on no CUDA device"):
        DevicePicture(software, gpu)
    frame = hw_frame(driver, software)
    frame.sw_format = HwFormat("yuv444p")
    with pytest.raises(ValueError, match="only 4:2:0"):
        DevicePicture(frame, gpu)


def test_a_device_that_is_gone_is_an_error_and_no_black_picture() -> None:
    picture, here, _, driver = pair()
    driver.refuse["copy"] = "CUDA_ERROR_ILLEGAL_ADDRESS"
    with pytest.raises(DeviceError, match="ILLEGAL_ADDRESS"):
        picture.rgb()
    driver.refuse.clear()
    assert (picture.rgb() == here.rgb()).all()
