"""What a model takes: which of its inputs is the picture, how it lies in memory, and how large it is."""

import re
from collections.abc import Mapping

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.frame import Size
from pipeline.models.choice import fixed
from pipeline.models.onnx_file import OnnxFile, TensorInfo

MIN_SIDE_PX = 32
MAX_SIDE_PX = 8192
_INPUT_TYPES = ("float32", "float16", "uint8")
_MAX_PIXELS = 64_000_000


def inputs(file: OnnxFile) -> tuple[TensorInfo, TensorInfo | None, bool]:
    """The picture's input, that of its size if there is one, and whether the channels come last."""
    images = [i for i in file.inputs if i.shape is not None and len(i.shape) == 4]
    sizes = [i for i in file.inputs if "int" in i.dtype and i.shape is not None and i.shape[1:] == (2,)]
    if len(file.inputs) != 1 and (len(file.inputs), len(images), len(sizes)) != (2, 1, 1):
        raise one_input(file)
    image = (images or file.inputs)[0]
    found = ", ".join(map(str, file.inputs[:8]))
    shape = image.shape or ()
    if len(shape) != 4 or (shape[1] != 3 and shape[3] != 3 and fixed(shape[1]) is not None):
        raise ConfigError(
            f"{file.path}: a picture of 3 channels is expected, [B, 3, H, W] or [B, H, W, 3]; found {found}",
            key="model",
        )
    if image.dtype not in _INPUT_TYPES:
        raise ConfigError(f"{file.path}: the input must be {' or '.join(_INPUT_TYPES)}; found {found}", key="model")
    return image, sizes[0] if sizes else None, shape[1] != 3 and shape[3] == 3


def one_input(file: OnnxFile) -> ConfigError:
    """It takes more, or other, than one picture."""
    found = ", ".join(map(str, file.inputs[:8]))
    return ConfigError(f"{file.path}: one input is expected, the picture; found {found}", key="model")


def stride_of(metadata: Mapping[str, str], usual_px: int) -> int:
    """A dynamic input's sides are multiples of it."""
    text = metadata.get("stride", "")
    stride = int(text) if re.fullmatch(r"\d{1,3}", text) else usual_px
    return stride if 1 <= stride <= 256 else usual_px


def size_of(
    file: OnnxFile, sides: tuple[int | str, int | str], wanted: Size | None, stride_px: int, usual_px: int
) -> Size:
    """Width and height that the model is fed: its own, the user's, the metadata's, or the usual square."""
    own = [fixed(side) for side in sides]
    if all(own) and max(s or 0 for s in own) > MAX_SIDE_PX:
        raise ConfigError(f"{file.path}: an input of {sides[0]} x {sides[1]} pixels is too large", key="model")
    if wanted is not None:
        for side, allowed, name in zip(wanted, own, ("width", "height"), strict=True):
            if allowed is not None and side != allowed:
                raise ConfigError(
                    f"the model's input {name} is fixed at {allowed} pixels, not {side}", key="input_size"
                )
            if allowed is None and side % stride_px:
                near = max(stride_px, round(side / stride_px) * stride_px)
                raise ConfigError(
                    f"the input {name} {side} is not a multiple of {stride_px}, the model's stride; {near} is",
                    key="input_size",
                )
    default = wanted or _metadata_size(file.metadata, stride_px, usual_px)
    width, height = (side or other for side, other in zip(own, default, strict=True))
    if width * height > _MAX_PIXELS:
        raise ConfigError(f"{file.path}: an input of {width} x {height} pixels is too large", key="model")
    return Size(width, height)


def _metadata_size(metadata: Mapping[str, str], stride_px: int, usual_px: int) -> Size:
    """`imgsz` as ultralytics writes it: "[height, width]", or one number."""
    found = [int(n) for n in re.findall(r"\d{1,5}", metadata.get("imgsz", "")[:40])]
    height, width = (found * 2)[:2] if found else (usual_px, usual_px)
    if all(MIN_SIDE_PX <= side <= MAX_SIDE_PX and side % stride_px == 0 for side in (width, height)):
        return Size(width, height)
    side = -(-usual_px // stride_px) * stride_px
    return Size(side, side)
