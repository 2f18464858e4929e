"""Families that are known by all of a model's outputs: by their names, or because they are no boxes at all."""

from pipeline.contracts.errors import ConfigError
from pipeline.models.choice import Asked, Choice, Points, fixed, shown, unknown
from pipeline.models.families import family_of
from pipeline.models.heads_many import YUNET_OUTPUTS, YUNET_POINTS
from pipeline.models.onnx_ends import OutputEnd
from pipeline.models.onnx_file import OnnxFile, TensorInfo
from pipeline.models.preprocess import Preprocess
from pipeline.models.scores import Meaning, Values

_RTDETR_OUTPUTS = ("labels", "boxes", "scores")
_RFDETR_OUTPUTS = ("dets", "labels")
_IMAGENET_CLASSES = (1000, 1001, 21841)
_SCORES = {"Softmax": "probabilities", "LogSoftmax": "logits", "Sigmoid": "independent"}


def by_all_outputs(file: OnnxFile, asked: Asked) -> Choice | None:
    """The choice where all outputs together tell it; None where they do not.

    Raises:
        ConfigError: with key `family` or `task`: the config's word does not fit the outputs.
    """
    wanted = asked.family
    for name, recognise in (("rtdetr", _rtdetr), ("rfdetr", _rfdetr), ("yunet", _yunet)):
        if wanted in {"auto", name} and (found := recognise(file)) is not None:
            return found
        if wanted == name:
            raise ConfigError(f'{file.path}: family = "{name}" does not fit; found {shown(file.outputs)}', key="family")
    if wanted == "classifier" or (wanted == "auto" and asked.task in {"classification", "multi-label-classification"}):
        return _classifier(file, asked, sure=False)
    if wanted == "semantic" or (wanted == "auto" and asked.task == "semantic-segmentation"):
        return _semantic(file, asked)
    if wanted == "embedder" or (wanted == "auto" and asked.task == "embedding"):
        return _embedder(file, asked)
    if wanted == "auto" and asked.task is None and len(file.outputs) == 1:
        return _classifier(file, asked, sure=True)
    return None


def _rtdetr(file: OnnxFile) -> Choice | None:
    """Three outputs by name, and the sizes of the pictures as a second input."""
    by_name = {output.name.casefold(): output for output in file.outputs}
    if set(by_name) != set(_RTDETR_OUTPUTS) or len(file.inputs) != 2:
        return None
    family = family_of("rtdetr")
    outputs = tuple(by_name[name] for name in _RTDETR_OUTPUTS)
    if any(o.shape is not None and len(o.shape) != rank for o, rank in zip(outputs, (2, 3, 2), strict=True)):
        return None
    return Choice(family, outputs, "outputs are labels, boxes and scores", "object-detection", family.preprocess)


def _rfdetr(file: OnnxFile) -> Choice | None:
    """Two outputs by name: boxes, and a number for each class."""
    by_name = {output.name.casefold(): output for output in file.outputs}
    if set(by_name) != set(_RFDETR_OUTPUTS):
        return None
    family = family_of("rfdetr")
    outputs = tuple(by_name[name] for name in _RFDETR_OUTPUTS)
    if any(o.shape is None or len(o.shape) != 3 for o in outputs) or fixed((outputs[0].shape or (0,))[-1]) not in {
        None,
        4,
    }:
        return None
    classes = fixed((outputs[1].shape or (0,))[-1])
    why = "outputs are dets and labels"
    return Choice(family, outputs, why, "object-detection", family.preprocess, classes=classes)


def _yunet(file: OnnxFile) -> Choice | None:
    by_name = {output.name: output for output in file.outputs}
    if set(by_name) != set(YUNET_OUTPUTS):
        return None
    family = family_of("yunet")
    outputs = tuple(by_name[name] for name in YUNET_OUTPUTS)
    why = "outputs are class, objectness, box and landmarks on three grids"
    points = Points(YUNET_POINTS, 2)
    return Choice(
        family, outputs, why, "keypoint-detection", family.preprocess, classes=1, extras=points.extras, points=points
    )


def _classifier(file: OnnxFile, asked: Asked, *, sure: bool) -> Choice | None:
    """An output of one row for each picture; None where it may as well be an embedding (`sure`)."""
    rows = [output for output in file.outputs if _is_row(output)]
    if len(rows) > 1 and asked.labels:
        rows = [output for output in rows if (output.shape or ())[1] == asked.labels] or rows
    if len(rows) != 1:
        if sure or any(output.shape is None for output in file.outputs):
            return None
        raise _not(file, asked, "one output [B, classes] is expected")
    output = rows[0]
    classes = fixed((output.shape or (0, 0))[1])
    end = file.ends.get(output.name, OutputEnd())
    if sure and not (
        classes in {*_IMAGENET_CLASSES, asked.labels or 0} or (end.operator in _SCORES and (classes or 0) > 1)
    ):
        return None
    ultralytics = "ultralytics" in file.metadata.get("author", "").casefold()
    several = asked.task == "multi-label-classification" or (asked.task is None and end.operator == "Sigmoid")
    values = _values(output, end, several=several, probabilities=ultralytics)
    family = family_of("classifier")
    preprocess = Preprocess(resize="crop") if ultralytics else family.preprocess
    several = values.meaning.startswith("independent")
    what = f"[B, {classes if classes is not None else 'any number of'} classes], {values.meaning}"
    return Choice(
        family,
        (output,),
        f"output {output.label} is {what}",
        "multi-label-classification" if several else "classification",
        preprocess,
        classes=classes,
        values=values,
    )


def _embedder(file: OnnxFile, asked: Asked) -> Choice | None:
    """An output of one row for each picture: of several the one that is called so."""
    rows = [output for output in file.outputs if _is_row(output)]
    named = [output for output in rows if "embed" in output.name.casefold()]
    rows = named if len(named) == 1 else rows
    if len(rows) != 1:
        if any(output.shape is None for output in file.outputs):
            return None
        raise _not(file, asked, "one output [B, numbers] is expected")
    family = family_of("embedder")
    why = f"output {rows[0].label} is one vector for each picture"
    return Choice(family, (rows[0],), why, "embedding", family.preprocess)


def _is_row(output: TensorInfo) -> bool:
    shape = output.shape or ()
    return len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1))


def _values(output: TensorInfo, end: OutputEnd, *, several: bool, probabilities: bool) -> Values:
    """What the numbers are, from the graph's last operator; where that is not known, the numbers will tell."""
    meaning: Meaning
    if several:
        meaning = "independent" if end.operator == "Sigmoid" else "independent-logits"
        meaning = meaning if end.operator else "independent-unknown"
    elif probabilities or end.operator in {"Softmax", "Sigmoid"}:
        meaning = "probabilities"
    else:
        meaning = "logits" if end.operator else "unknown"
    if output.dtype not in {"uint8", "int8"}:
        return Values(meaning)
    if end.scale is None:  # TensorFlow Lite's convention for probabilities
        return Values(meaning, 1 / 256, 0 if output.dtype == "uint8" else -128)
    return Values(meaning, end.scale, end.zero_point)


def _semantic(file: OnnxFile, asked: Asked) -> Choice | None:
    """[B, C, H, W] numbers, or [B, H, W] class numbers; the first output of that kind."""
    family = family_of("semantic")
    for output in file.outputs:
        shape = output.shape
        if shape is None:
            return None
        whole = "int" in output.dtype
        end = file.ends.get(output.name, OutputEnd())
        if len(shape) == 3 or (len(shape) == 4 and whole and 1 in (shape[1], shape[3]) and end.scale is None):
            what, values, classes = "a class number for each place", Values("ids"), asked.labels
        elif len(shape) == 4:
            several = end.operator == "Sigmoid" or fixed(shape[1]) == 1
            values = _values(output, end, several=several, probabilities=False)
            classes = fixed(shape[1])
            what = f"{classes if classes is not None else 'any number of'} values for each place, {values.meaning}"
            classes = 2 if classes == 1 else classes  # the class and the rest
        else:
            continue
        why = f"output {output.label} is {what}"
        return Choice(
            family, (output,), why, "semantic-segmentation", family.preprocess, classes=classes, values=values
        )
    raise _not(file, asked, "an output [B, classes, H, W] or [B, H, W] is expected")


def _not(file: OnnxFile, asked: Asked, expected: str) -> ConfigError:
    if asked.family == "auto" and not asked.by_config:
        return unknown(file)
    key = "task" if asked.family == "auto" else "family"
    word = asked.task if asked.family == "auto" else asked.family
    return ConfigError(f'{file.path}: {key} = "{word}" does not fit: {expected}; found {shown(file.outputs)}', key=key)
