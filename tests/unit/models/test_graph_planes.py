"""Colours, size, place and range as ONNX nodes: the same tensor as by the plain path, on every provider's terms."""

import itertools
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from pipeline.contracts.frame import ColorMatrix, Size
from pipeline.models.graph_bytes import PIXELS, bytes_buffer, bytes_graph
from pipeline.models.graph_nodes import CannotComposeError
from pipeline.models.graph_planes import SLOT, PlanesFormat, PlanesIn, SlotOut, planes_graph
from pipeline.models.picture import VideoPicture
from pipeline.models.preprocess import InputBuffer, Preprocess

STEP = 1 / 255
TAGS: dict[ColorMatrix, int] = {"bt601": 5, "bt709": 1, "bt2020": 9}
PIXEL_FORMATS: dict[PlanesFormat, str] = {"nv12": "nv12", "p010": "p010le", "i420": "yuv420p"}
FORMATS: tuple[PlanesFormat, ...] = ("nv12", "p010", "i420")
MATRICES: tuple[ColorMatrix, ...] = ("bt601", "bt709", "bt2020")
ROTATIONS: tuple[Literal[0, 90, 180, 270], ...] = (0, 90, 180, 270)
INPUT = Size(96, 64)
PLAIN = Preprocess()

# What onnxruntime's CUDA provider has a kernel for: `Pad` and `Resize` only where the values are floats.
WITH_CUDA_KERNELS = {
    *("Add", "Cast", "Clip", "Constant", "Gather", "Identity", "Max", "Min", "Mul", "Pad", "Resize", "Slice"),
    "Transpose",
}


def waves(height: int, width: int, by: float) -> npt.NDArray[np.float64]:
    y, x = np.mgrid[0:height, 0:width]
    found: npt.NDArray[np.float64] = 0.5 + 0.5 * np.sin(x / width * by) * np.cos(y / height * by * 0.8)
    return found


def smooth_frame(of: PlanesFormat, size: Size, matrix: ColorMatrix, *, full_range: bool) -> av.VideoFrame:
    """A picture without edges, whose rows are followed by noise: what fills up a row is nobody's pixels."""
    frame = av.VideoFrame(size.width, size.height, PIXEL_FORMATS[of])
    chroma = Size(-(-size.width // 2), -(-size.height // 2))
    luma = 16 + 219 * waves(size.height, size.width, 5.0)
    u, v = (128 + 80 * (waves(chroma.height, chroma.width, by) - 0.5) for by in (4.0, 6.0))
    planes = [luma, u, v] if of == "i420" else [luma, np.stack((u, v), axis=-1).reshape(chroma.height, -1)]
    noise = np.random.default_rng(0)
    for plane, values in zip(frame.planes, planes, strict=True):
        deep = of == "p010"
        stored = np.frombuffer(memoryview(plane), np.uint16 if deep else np.uint8)
        stored = stored.reshape(-1, abs(plane.line_size) // stored.itemsize)
        stored[...] = noise.integers(0, 256, stored.shape)
        stored[: len(values), : values.shape[1]] = np.rint(values * 4).astype(int) << 6 if deep else np.rint(values)
    frame.colorspace = TAGS[matrix]
    frame.color_range = 2 if full_range else 1
    return frame


def planes_of(frame: av.VideoFrame, planes: PlanesIn) -> dict[str, npt.NDArray[Any]]:
    """The frame's own memory, as the graph takes it: whole rows."""
    found = {}
    for spec, plane in zip(planes.tensors, frame.planes, strict=True):
        values = np.frombuffer(memoryview(plane), spec.dtype)
        shape = [int(side) for side in spec.shape]
        found[spec.name] = values[: int(np.prod(shape))].reshape(shape)
    return found


def geometry(
    frame: av.VideoFrame, of: PlanesFormat, matrix: ColorMatrix, *, full_range: bool, rotation_deg: Any = 0
) -> PlanesIn:
    pitches = frame.planes[0].line_size, frame.planes[1].line_size
    return PlanesIn(of, Size(frame.width, frame.height), *pitches, matrix, full_range, rotation_deg)


def run(model: bytes, feeds: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (found,) = session.run([SLOT], feeds)
    return np.asarray(found)


def plainly(
    picture: VideoPicture, preprocess: Preprocess, dtype: str = "float32", *, channels_last: bool = False
) -> npt.NDArray[Any]:
    buffer = InputBuffer(preprocess, INPUT, dtype, channels_last=channels_last, batch=1)
    buffer.put(0, picture, preprocess.place(picture.size, INPUT))
    return buffer.tensor


def by_graph(
    frame: av.VideoFrame,
    planes: PlanesIn,
    preprocess: Preprocess,
    dtype: str = "float32",
    *,
    channels_last: bool = False,
) -> npt.NDArray[Any]:
    size = planes.size[::-1] if planes.rotation_deg in {90, 270} else planes.size
    slot = SlotOut(preprocess, preprocess.place(Size(*size), INPUT), dtype, channels_last)
    found = run(planes_graph(planes, slot), planes_of(frame, planes))
    assert found.shape == slot.tensor.shape
    assert found.dtype == np.dtype(dtype)
    return found


@pytest.mark.parametrize(("of", "matrix"), list(itertools.product(FORMATS, MATRICES)))
@pytest.mark.parametrize("full_range", [False, True])
def test_every_format_matrix_range_and_rotation_is_as_by_the_plain_path(
    of: PlanesFormat, matrix: ColorMatrix, full_range: bool
) -> None:
    for size, rotation_deg in itertools.product((Size(160, 90), Size(101, 77)), ROTATIONS):
        frame = smooth_frame(of, size, matrix, full_range=full_range)
        planes = geometry(frame, of, matrix, full_range=full_range, rotation_deg=rotation_deg)
        wanted = plainly(VideoPicture(frame, rotation_deg), PLAIN)
        found = by_graph(frame, planes, PLAIN)
        assert np.abs(found - wanted).max() < 0.1 * STEP, (size, rotation_deg)
    assert np.ptp(wanted) > 0.5, "a picture in which there is nothing proves nothing"


PREPROCESS = {
    "BGR 0..255, top left": Preprocess(channels="bgr", value_range="0..255", align="top_left"),
    "mean and spread": Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize="stretch"),
    "padded, with a mean": Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "white padding": Preprocess(pad=255),
    "cropped": Preprocess(resize="crop", crop_ratio=0.875),
    "cropped, BGR": Preprocess(resize="crop", channels="bgr"),
}


@pytest.mark.parametrize("preprocess", list(PREPROCESS.values()), ids=list(PREPROCESS))
@pytest.mark.parametrize("size", [Size(160, 90), Size(60, 180), Size(40, 30)])
def test_every_way_to_feed_a_model_is_as_by_the_plain_path(preprocess: Preprocess, size: Size) -> None:
    frame = smooth_frame("nv12", size, "bt709", full_range=False)
    planes = geometry(frame, "nv12", "bt709", full_range=False)
    wanted, found = plainly(VideoPicture(frame), preprocess), by_graph(frame, planes, preprocess)
    largest = max(abs(gain) for gain, _ in preprocess.affine)
    assert np.abs(found - wanted).max() < 0.1 * STEP * largest


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 0.1), ("float16", 0.2), ("uint8", 1.0)])
def test_every_type_and_layout_of_an_input_is_as_by_the_plain_path(
    dtype: str, bound: float, channels_last: bool
) -> None:
    preprocess = Preprocess(value_range="0..255")
    frame = smooth_frame("nv12", Size(160, 90), "bt709", full_range=False)
    planes = geometry(frame, "nv12", "bt709", full_range=False)
    wanted = plainly(VideoPicture(frame), preprocess, dtype, channels_last=channels_last)
    found = by_graph(frame, planes, preprocess, dtype, channels_last=channels_last)
    assert np.abs(found.astype(float) - wanted.astype(float)).max() <= bound
    assert (found.astype(float) == wanted.astype(float)).mean() > (0.95 if dtype == "uint8" else 0.0)


def test_real_pictures_are_as_by_the_plain_path_but_for_where_colours_sit(shared_data: Path) -> None:
    clips = ["bikes.mp4", "bottle-detection.mp4", "highway_mpeg4.mp4", "vtest.avi", "webcam_mpeg2.mpeg"]
    for name in clips:
        with av.open(str(shared_data / "videos" / name)) as container:
            frame = next(itertools.islice(container.decode(video=0), 20, None))
        picture = VideoPicture(frame)
        yuv = picture.yuv420p()
        planes = geometry(frame, "i420", yuv.matrix, full_range=yuv.full_range)
        difference = by_graph(frame, planes, PLAIN) - plainly(picture, PLAIN)
        psnr_db = -10 * np.log10(np.mean(np.square(difference)))
        assert psnr_db > 45, name  # MPEG's colours sit left of the centre, which swscale knows and a Resize does not


@pytest.mark.parametrize("of", FORMATS)
@pytest.mark.parametrize("antialias", [False, True])
def test_every_operator_has_a_cuda_kernel_for_its_type(of: PlanesFormat, antialias: bool) -> None:
    for preprocess, dtype in itertools.product(PREPROCESS.values(), ("float32", "float16", "uint8")):
        planes = PlanesIn(of, Size(160, 90), 512, 512, rotation_deg=90)
        slot = SlotOut(preprocess, preprocess.place(Size(90, 160), INPUT), dtype, dtype == "uint8")
        model = onnx.load_from_string(planes_graph(planes, slot, antialias=antialias))
        onnx.checker.check_model(model, full_check=True)
        assert {node.op_type for node in model.graph.node} <= WITH_CUDA_KERNELS
        typed = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
        types = {v.name: v.type.tensor_type for v in (*typed.value_info, *typed.input, *typed.output)}
        for node in typed.node:
            if node.op_type in {"Pad", "Resize", "Clip", "Mul", "Max", "Min"}:
                assert types[node.output[0]].elem_type == onnx.TensorProto.FLOAT, node.op_type
            dims = types[node.output[0]].shape.dim
            assert all(dim.HasField("dim_value") for dim in dims), "a shape that is worked out is worked out on the CPU"


@pytest.mark.parametrize(
    ("planes", "why"),
    [
        (PlanesIn("nv12", Size(160, 90), 150, 160), "do not fit"),
        (PlanesIn("nv12", Size(160, 90), 160, 159), "do not fit"),
        (PlanesIn("p010", Size(160, 90), 320, 322), "do not fit"),
        (PlanesIn("p010", Size(160, 90), 160, 320), "do not fit"),
        (PlanesIn("i420", Size(160, 90), 160, 60), "do not fit"),
    ],
)
def test_rows_that_are_shorter_than_the_picture_are_refused(planes: PlanesIn, why: str) -> None:
    with pytest.raises(CannotComposeError, match=why):
        planes_graph(planes, SlotOut(PLAIN, PLAIN.place(planes.size, INPUT)))


def test_a_ribbon_of_which_nearly_all_is_cut_off_is_left_to_the_plain_path() -> None:
    crop, ribbon = Preprocess(resize="crop"), Size(8000, 20)
    with pytest.raises(CannotComposeError, match="cut off"):
        planes_graph(PlanesIn("nv12", ribbon, 8192, 8192), SlotOut(crop, crop.place(ribbon, INPUT)))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("preprocess", list(PREPROCESS.values()), ids=list(PREPROCESS))
def test_bytes_become_the_same_input(preprocess: Preprocess, dtype: str, channels_last: bool) -> None:
    if dtype == "uint8" and preprocess.value_range != "0..255":
        preprocess = Preprocess(value_range="0..255")
    picture = VideoPicture(smooth_frame("i420", Size(160, 90), "bt709", full_range=False))
    place = preprocess.place(picture.size, INPUT)
    buffer = bytes_buffer(preprocess, INPUT, batch=1)
    buffer.put(0, picture, place)
    found = run(bytes_graph(SlotOut(preprocess, place, dtype, channels_last)), {PIXELS: buffer.tensor})
    wanted = plainly(picture, preprocess, dtype, channels_last=channels_last)
    largest = max(abs(gain) for gain, _ in preprocess.affine)
    bound = 0.65 if dtype == "float16" else 0.51
    assert np.abs(found.astype(float) - wanted.astype(float)).max() <= bound * STEP * largest


def test_a_buffer_of_bytes_forgets_the_picture_before() -> None:
    wide, tall = (smooth_frame("i420", size, "bt709", full_range=False) for size in (Size(160, 40), Size(40, 160)))
    used, fresh = bytes_buffer(PLAIN, INPUT, batch=1), bytes_buffer(PLAIN, INPUT, batch=1)
    for frame in (wide, tall):
        picture = VideoPicture(frame)
        used.put(0, picture, PLAIN.place(picture.size, INPUT))
    picture = VideoPicture(tall)
    fresh.put(0, picture, PLAIN.place(picture.size, INPUT))
    assert np.array_equal(used.tensor, fresh.tensor)
