"""`describe`: all that is decided about a detection model before it runs, for the backend and `penstock inspect`."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.frame import Size
from pipeline.models import labels as label_sets
from pipeline.models.families import Choice, choose
from pipeline.models.heads import YOLOX_STRIDES_PX
from pipeline.models.onnx_file import OnnxFile, TensorInfo
from pipeline.models.preprocess import Preprocess, PreprocessConfig

DEFAULT_SIDE_PX = 640
DEFAULT_STRIDE_PX = 32
MIN_SIDE_PX = 32
MAX_SIDE_PX = 8192

_INPUT_TYPES = ("float32", "float16", "uint8")
_MAX_PIXELS = 64_000_000

Shapes = Mapping[str, Sequence[int]]
"""The true shape of each output, by name."""


@dataclass(frozen=True, slots=True)
class DetectorOptions:
    """What a user may settle about a model; None leaves it to the model.

    Attributes:
        family: "auto" or a name of `families.FAMILIES`.
        labels: the names themselves, or a file of them.
        input_size: for a model whose input is dynamic.
        preprocess: what is different from the family's usual preprocessing.
    """

    family: str = "auto"
    labels: Path | tuple[str, ...] | None = None
    input_size: Size | None = None
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A model as it will be used. Made by `describe`; pure data, for the backend and for people.

    Attributes:
        file: the graph's outside.
        image: the input that takes the picture.
        channels_last: True for NHWC.
        input_size: width and height that it is fed.
        dynamic_size: True where the graph leaves width and height open.
        fixed_batch: the batch size that the graph insists on, or None.
        stride_px: a dynamic input's sides are multiples of it.
        choice: family and output; None while only a trial run can tell.
        preprocess: how it is fed.
        raw_grid: YOLOX whose output still has to be put on the grid.
        labels: the class names, () where nobody says.
        labels_from: where they come from: "config", "file", "metadata", "COCO-80" or "none".
        classes: how many classes it has; None where neither output nor labels say.
        task: what the metadata calls the model's task.
    """

    file: OnnxFile
    image: TensorInfo
    channels_last: bool
    input_size: Size
    dynamic_size: bool
    fixed_batch: int | None
    stride_px: int
    choice: Choice | None
    preprocess: Preprocess
    raw_grid: bool
    labels: tuple[str, ...]
    labels_from: str
    classes: int | None
    task: str

    @property
    def name(self) -> str:
        """What the backend calls the model: its file's name without the ending."""
        return self.file.path.stem

    @property
    def why(self) -> str:
        """What the family was recognised by, in one line."""
        if self.choice is None:
            return "the output's shape is dynamic: a trial run will tell"
        if self.choice.family.name != "yolox":
            return self.choice.why
        return f"{self.choice.why}; {'raw grid (no Exp in the graph)' if self.raw_grid else 'grid decoded inside'}"


def describe(file: OnnxFile, options: DetectorOptions, shapes: Shapes | None = None) -> ModelDescription:
    """Decide how a model is fed and read.

    Args:
        file: the model, from `read_onnx`.
        options: the user's wishes.
        shapes: the outputs' true shapes from a trial run, where the graph leaves them open.

    Raises:
        ConfigError: with the key to blame: `model`, `family`, `labels` or `input_size`.
    """
    if shapes is not None:
        outputs = (replace(o, shape=tuple(shapes[o.name])) if o.name in shapes else o for o in file.outputs)
        file = replace(file, outputs=tuple(outputs))
    image, channels_last = _image_input(file)
    batch, *rest = image.shape or ()
    height, width = rest[:2] if channels_last else rest[1:]
    stride_px = _stride(file.metadata)
    input_size = _input_size(file, (width, height), options.input_size, stride_px)
    names, names_from = _labels(file, options.labels)
    choice = _choose(
        file, input_size, len(names) or None, options.family, tried=shapes is not None, own=names_from == "metadata"
    )
    classes = choice.classes if choice is not None else None
    if classes is not None and names and len(names) != classes:
        raise ConfigError(
            f"{file.path}: the model has {classes} classes, but there are {len(names)} labels ({names_from})",
            key="labels",
        )
    if not names and classes == len(label_sets.COCO_80):
        names, names_from = label_sets.COCO_80, "COCO-80"
    return ModelDescription(
        file=file,
        image=image,
        channels_last=channels_last,
        input_size=input_size,
        dynamic_size=_open(width) and _open(height),
        fixed_batch=None if _open(batch) else int(batch),
        stride_px=stride_px,
        choice=choice,
        preprocess=_preprocess(image, choice).overridden(options.preprocess),
        raw_grid=_raw_grid(file, choice, input_size),
        labels=names,
        labels_from=names_from,
        classes=classes if classes is not None else (len(names) or None),
        task=file.metadata.get("task", "detect")[:40],
    )


def _preprocess(image: TensorInfo, choice: Choice | None) -> Preprocess:
    """What the family usually wants; a model that takes bytes scales them itself, so it gets all of 0..255."""
    usual = choice.family.preprocess if choice else Preprocess()
    return replace(usual, value_range="0..255") if image.dtype == "uint8" else usual


def _image_input(file: OnnxFile) -> tuple[TensorInfo, bool]:
    """The one input, and whether its channels come last."""
    found = ", ".join(map(str, file.inputs[:8]))
    if len(file.inputs) != 1:
        raise ConfigError(f"{file.path}: one input is expected, the picture; found {found}", key="model")
    image = file.inputs[0]
    shape = image.shape or ()
    if len(shape) != 4 or (shape[1] != 3 and shape[3] != 3 and not _open(shape[1])):
        raise ConfigError(
            f"{file.path}: a picture of 3 channels is expected, [B, 3, H, W] or [B, H, W, 3]; found {found}",
            key="model",
        )
    if image.dtype not in _INPUT_TYPES:
        raise ConfigError(f"{file.path}: the input must be {' or '.join(_INPUT_TYPES)}; found {found}", key="model")
    return image, shape[1] != 3 and shape[3] == 3


def _open(side: int | str) -> bool:
    """Whether an axis is dynamic: a symbol, or a 0 or -1 as some exporters write."""
    return not isinstance(side, int) or side <= 0


def _stride(metadata: Mapping[str, str]) -> int:
    text = metadata.get("stride", "")
    stride = int(text) if re.fullmatch(r"\d{1,3}", text) else DEFAULT_STRIDE_PX
    return stride if 1 <= stride <= 256 else DEFAULT_STRIDE_PX


def _input_size(file: OnnxFile, sides: tuple[int | str, int | str], wanted: Size | None, stride_px: int) -> Size:
    fixed = [None if _open(side) else int(side) for side in sides]
    if all(fixed) and max(s or 0 for s in fixed) > MAX_SIDE_PX:
        raise ConfigError(f"{file.path}: an input of {sides[0]} x {sides[1]} pixels is too large", key="model")
    if wanted is not None:
        for side, allowed, name in zip(wanted, fixed, ("width", "height"), strict=True):
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
    default = wanted or _metadata_size(file.metadata, stride_px)
    width, height = (own or other for own, other in zip(fixed, default, strict=True))
    if width * height > _MAX_PIXELS:
        raise ConfigError(f"{file.path}: an input of {width} x {height} pixels is too large", key="model")
    return Size(width, height)


def _metadata_size(metadata: Mapping[str, str], stride_px: int) -> Size:
    """`imgsz` as ultralytics writes it: "[height, width]", or one number."""
    found = [int(n) for n in re.findall(r"\d{1,5}", metadata.get("imgsz", "")[:40])]
    height, width = (found * 2)[:2] if found else (DEFAULT_SIDE_PX, DEFAULT_SIDE_PX)
    if all(MIN_SIDE_PX <= side <= MAX_SIDE_PX and side % stride_px == 0 for side in (width, height)):
        return Size(width, height)
    side = -(-DEFAULT_SIDE_PX // stride_px) * stride_px
    return Size(side, side)


def _labels(file: OnnxFile, wanted: Path | tuple[str, ...] | None) -> tuple[tuple[str, ...], str]:
    if isinstance(wanted, Path):
        return label_sets.from_file(wanted), "file"
    if wanted:
        return wanted, "config"
    names = label_sets.from_metadata(file.metadata.get("names", ""))
    return (names, "metadata") if names else ((), "none")


def _choose(
    file: OnnxFile, input_size: Size, labels: int | None, wanted: str, *, tried: bool, own: bool
) -> Choice | None:
    try:
        return choose(file, input_size, labels, wanted, tried=tried)
    except ConfigError:
        if labels is None or own:
            raise
        # A user's wrong labels must not hide the family: without them it is found, and then they are to blame.
        with contextlib.suppress(ConfigError):
            return choose(file, input_size, None, wanted, tried=tried)
        raise


def _raw_grid(file: OnnxFile, choice: Choice | None, input_size: Size) -> bool:
    """YOLOX exported with `--decode_in_inference` takes the exponent of the sizes itself; nothing else in it does."""
    if choice is None or choice.family.name != "yolox" or "Exp" in file.operators:
        return False
    cells = sum((input_size.width // s) * (input_size.height // s) for s in YOLOX_STRIDES_PX)
    found = (choice.output.shape or (0, 0, 0))[1]
    if isinstance(found, int) and found > 0 and found != cells:
        raise ConfigError(
            f"{file.path}: a raw YOLOX output of {cells} rows (strides 8, 16, 32) is expected, found {choice.output}; "
            f"export it with --decode_in_inference",
            key="family",
        )
    return True
