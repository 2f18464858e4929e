"""`describe`: all that is decided about a model before it runs, for backends and `penstock inspect`."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts.backend import Task
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.frame import Size
from pipeline.models import labels as label_sets
from pipeline.models.choice import Asked, Choice, Points, asked, fixed
from pipeline.models.heads import YOLOX_STRIDES_PX
from pipeline.models.input_shape import inputs, one_input, size_of, stride_of
from pipeline.models.onnx_file import OnnxFile, TensorInfo
from pipeline.models.preprocess import Preprocess, PreprocessConfig
from pipeline.models.recognition import choose

DEFAULT_SIDE_PX = 640
CLASSIFIER_SIDE_PX = 224
DEFAULT_STRIDE_PX = 32


Shapes = Mapping[str, Sequence[int]]
"""The true shape of each output, by name."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What a user may settle about a model; None leaves it to the model.

    Attributes:
        family: "auto" or a name of `families.FAMILIES`.
        task: what the model does.
        labels: the names themselves, or a file of them.
        keypoints: names of the keypoints.
        input_size: for a model whose input is dynamic.
        preprocess: what is different from the family's usual preprocessing.
    """

    family: str = "auto"
    task: Task | None = None
    labels: Path | tuple[str, ...] | None = None
    keypoints: tuple[str, ...] | None = None
    input_size: Size | None = None
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A model as it will be used. Made by `describe`; pure data, for the backend and for people.

    Attributes:
        file: the graph's outside.
        image: the input that takes the picture.
        sizes: the input that takes the pictures' sizes, int (B, 2) width and height; None where there is none.
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
        task: what the model does; "object-detection" while only a trial run can tell.
        keypoints: names of the keypoints, () where nobody says.
    """

    file: OnnxFile
    image: TensorInfo
    sizes: TensorInfo | None
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
    task: Task
    keypoints: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the backend calls the model: its file's name without the ending."""
        return self.file.path.stem

    def feeds(self, tensor: npt.NDArray[Any], input_size: Size) -> dict[str, npt.NDArray[Any]]:
        """All inputs of the model by name, when `tensor` holds the pictures in an input of this size."""
        found = {self.image.name: tensor}
        if self.sizes is not None:
            # With the input's own size for the picture's, boxes come in pixels of the input, as from all others.
            found[self.sizes.name] = np.tile(np.array(input_size, self.sizes.dtype), (len(tensor), 1))
        return found

    @property
    def whole_input(self) -> str | None:
        """Why the input cannot be cut to the frame's shape, or None where it can."""
        if not self.dynamic_size:
            return f"a dynamic input; the model takes {self.image}"
        if self.preprocess.resize != "letterbox":
            return f"letterboxed pictures; the model is fed {self.preprocess}"
        return None

    @property
    def why(self) -> str:
        """What the family was recognised by, in one line."""
        if self.choice is None:
            return "the output's shape is dynamic: a trial run will tell"
        if self.choice.family.name != "yolox":
            return self.choice.why
        return f"{self.choice.why}; {'raw grid (no Exp in the graph)' if self.raw_grid else 'grid decoded inside'}"


def describe(file: OnnxFile, options: ModelOptions, shapes: Shapes | None = None) -> ModelDescription:
    """Decide how a model is fed and read.

    Args:
        file: the model, from `read_onnx`; or what a server says of a model elsewhere.
        options: the user's wishes.
        shapes: the outputs' true shapes from a trial run, where the graph leaves them open.

    Raises:
        ConfigError: with the key to blame: `model`, `family`, `task`, `labels`, `keypoints` or `input_size`.
    """
    if shapes is not None:
        outputs = (replace(o, shape=tuple(shapes[o.name])) if o.name in shapes else o for o in file.outputs)
        file = replace(file, outputs=tuple(outputs))
    image, sizes, channels_last = inputs(file)
    batch, *rest = image.shape or ()
    sides = (rest[1], rest[0]) if channels_last else (rest[2], rest[1])
    names, names_from = _labels(file, options.labels)
    told = asked(
        file,
        family=options.family,
        task=options.task,
        labels=len(names) or None,
        keypoints=len(options.keypoints or ()),
    )
    # Which sides will do, and which is usual, depends on the family; the family hardly on the exact size.
    about = size_of(file, sides, options.input_size, 1, DEFAULT_SIDE_PX)
    choice = _choose(file, about, told, tried=shapes is not None, own=names_from == "metadata")
    whole = choice is not None and choice.family.kind in {"scores", "vector"}
    stride_px = stride_of(file.metadata, 1 if whole else DEFAULT_STRIDE_PX)
    input_size = size_of(file, sides, options.input_size, stride_px, CLASSIFIER_SIDE_PX if whole else DEFAULT_SIDE_PX)
    if choice is not None and sizes is not None and choice.family.name != "rtdetr":
        raise one_input(file)
    classes = choice.classes if choice is not None else None
    if classes is not None and names and len(names) != classes:
        raise ConfigError(
            f"{file.path}: the model has {classes} classes, but there are {len(names)} labels ({names_from})",
            key="labels",
        )
    if not names:
        names, names_from = _usual_labels(choice)
    return ModelDescription(
        file=file,
        image=image,
        sizes=sizes,
        channels_last=channels_last,
        input_size=input_size,
        dynamic_size=all(fixed(side) is None for side in sides),
        fixed_batch=fixed(batch),
        stride_px=stride_px,
        choice=choice,
        preprocess=_preprocess(image, choice).overridden(options.preprocess),
        raw_grid=_raw_grid(file, choice, input_size),
        labels=names,
        labels_from=names_from,
        classes=classes if classes is not None else (len(names) or None),
        task=choice.task if choice is not None else told.task or "object-detection",
        keypoints=_keypoints(file, options.keypoints, choice, names),
    )


def _preprocess(image: TensorInfo, choice: Choice | None) -> Preprocess:
    """What the family usually wants; a model that takes bytes scales them itself, so it gets all of 0..255."""
    usual = choice.preprocess if choice else Preprocess()
    if image.dtype != "uint8":
        return usual
    return replace(usual, value_range="0..255", mean=Preprocess().mean, std=Preprocess().std)


def _labels(file: OnnxFile, wanted: Path | tuple[str, ...] | None) -> tuple[tuple[str, ...], str]:
    if isinstance(wanted, Path):
        return label_sets.from_file(wanted), "file"
    if wanted:
        return wanted, "config"
    names = label_sets.from_metadata(file.metadata.get("names", ""))
    return (names, "metadata") if names else ((), "none")


def _usual_labels(choice: Choice | None) -> tuple[tuple[str, ...], str]:
    """Names that everybody means who gives none."""
    if choice is None or choice.family.kind != "boxes":
        return (), "none"
    if choice.classes == len(label_sets.COCO_80):
        return label_sets.COCO_80, "COCO-80"
    return (("face",), "family") if choice.family.name == "yunet" else ((), "none")


def _keypoints(
    file: OnnxFile, wanted: tuple[str, ...] | None, choice: Choice | None, labels: tuple[str, ...]
) -> tuple[str, ...]:
    """Names of the keypoints: the config's, the metadata's, or the usual ones of faces and of COCO's persons."""
    points = Points(0, 0) if choice is None else choice.points
    if wanted:
        if choice is not None and len(wanted) != points.number:
            raise ConfigError(
                f"{file.path}: the model has {points.number} keypoints, but there are {len(wanted)} names",
                key="keypoints",
            )
        return wanted
    names = label_sets.keypoints_from_metadata(file.metadata.get("kpt_names", ""))
    if names and len(names) == points.number:
        return names
    if choice is not None and choice.family.name == "yunet":
        return label_sets.FACE_POINTS
    coco = points.number == len(label_sets.COCO_KEYPOINTS) and labels in {(), ("person",)}
    return label_sets.COCO_KEYPOINTS if coco else ()


def _choose(file: OnnxFile, input_size: Size, told: Asked, *, tried: bool, own: bool) -> Choice | None:
    try:
        return choose(file, input_size, told, tried=tried)
    except ConfigError:
        if told.labels is None or own:
            raise
        # A user's wrong labels must not hide the family: without them it is found, and then they are to blame.
        with contextlib.suppress(ConfigError):
            return choose(file, input_size, replace(told, labels=None), tried=tried)
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
