"""`choose`: which family a model is of and what it does, told from its outside: shapes, metadata, operators."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.frame import Size
from pipeline.models.choice import NO_POINTS, Asked, Choice, Points, fixed, shown, unknown
from pipeline.models.families import FAMILIES, Evidence, Family, Match
from pipeline.models.onnx_file import OnnxFile, TensorInfo
from pipeline.models.recognition_many import by_all_outputs

_GRIDS_PX = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64), (16, 32))
"""The strides of usual detectors: P3 to P5, with P2, with P6, and the two levels of "tiny" ones."""


def choose(file: OnnxFile, input_size: Size, asked: Asked, *, tried: bool = False) -> Choice | None:
    """Find the family and the task of a model; None where only a trial run can tell, because a shape is dynamic.

    Args:
        file: the model, with static output shapes where they are known.
        input_size: the size that it is fed.
        asked: what config and metadata say.
        tried: the outputs' shapes come from a trial run with an empty picture.

    Raises:
        ConfigError: with key `family`, `task` or `model`: nothing fits, or more than one does; says what was found.
    """
    found = by_all_outputs(file, asked)
    if found is not None:
        return found
    prototypes, points = _prototypes(file, asked), _points(file, asked)
    if prototypes is None and asked.task == "instance-segmentation":
        return None
    if prototypes is not None:
        asked = replace(asked, task="instance-segmentation")
    elif asked.task is None:
        asked = replace(asked, task="object-detection")
    extras = (fixed((prototypes.shape or (0, 0))[1]) or 0) if prototypes is not None else points.extras
    rest = () if prototypes is None else (prototypes,)
    vectors = tuple(output for output in file.outputs if output is not prototypes)
    choice = _by_one_output(replace(file, outputs=vectors), input_size, asked, extras, tried=tried)
    if choice is None:
        return None
    return choice._replace(outputs=(*choice.outputs, *rest), points=points)


def _prototypes(file: OnnxFile, asked: Asked) -> TensorInfo | None:
    """The maps [B, M, h, w] of which masks are made, where the model is for instance segmentation.

    Raises:
        ConfigError: it shall be, and no output can be those maps.
    """
    maps = [o for o in file.outputs if o.shape is not None and len(o.shape) == 4 and (fixed(o.shape[1]) or 0) > 1]
    vectors = [o for o in file.outputs if o.shape is not None and len(o.shape) == 3]
    told = asked.task == "instance-segmentation"
    looks = asked.task is None and len(file.outputs) == 2 and len(vectors) == 1
    if len(maps) == 1 and vectors and (told or (looks and (maps[0].shape or (0, 0))[1] == 32)):
        return maps[0]
    unclear = any(o.shape is None or (len(o.shape) == 4 and fixed(o.shape[1]) is None) for o in file.outputs)
    if told and not unclear:
        raise ConfigError(
            f"{file.path}: an output [B, M, h, w] of mask prototypes is expected for instance segmentation; found "
            f"{shown(file.outputs)}",
            key="task" if asked.by_config else "model",
        )
    return None


def _points(file: OnnxFile, asked: Asked) -> Points:
    """The keypoints in each row, where the model is for them.

    Raises:
        ConfigError: it is, and nobody says how many there are.
    """
    if asked.task != "keypoint-detection":
        return NO_POINTS
    if asked.points is not None:
        return asked.points
    sides = [fixed(s) for o in file.outputs for s in (o.shape or ())[1:] if len(o.shape or ()) == 3]
    if 56 in sides:  # one class and the 17 points of COCO
        return Points(17, 3)
    raise ConfigError(
        f"{file.path}: how many keypoints an object has is not in the metadata (kpt_shape); set `keypoints`; found "
        f"{shown(file.outputs)}",
        key="keypoints",
    )


def _by_one_output(file: OnnxFile, input_size: Size, asked: Asked, extras: int, *, tried: bool) -> Choice | None:
    rows = [f for f in FAMILIES if f.recognise is not None and asked.family in {"auto", f.name}]
    possible: list[Choice] = []
    unsure = False
    # An output of four values a row is boxes by themselves: then no other output has boxes and scores together.
    apart = any(o.shape is not None and len(o.shape) in {2, 3} and o.shape[-1] == 4 for o in file.outputs)
    for output in () if apart else file.outputs:
        if output.shape is None or len(output.shape) != 3 or "float" not in output.dtype:
            unsure |= output.shape is None
            continue
        evidence = _evidence(file, output.shape, input_size, asked.labels, extras)
        if tried and output.shape[1] == 0:
            evidence = evidence._replace(first=0)
        matches = [(family, family.recognise(evidence)) for family in rows if family.recognise is not None]
        found = [(family, match) for family, match in matches if match is not None]
        possible += [_choice(f, output, m, evidence, asked) for f, m in found if m.sure]
        unsure |= any(not m.sure for _, m in found) or evidence.first is None or evidence.second is None
    names = {choice.family.name for choice in possible}
    if len(names) == 1:
        return possible[0]
    if len(names) > 1:
        found_text = "; ".join(f"{c.family.name}: {c.why}" for c in possible)
        raise ConfigError(f"{file.path}: more than one family fits ({found_text}); set `family`", key="family")
    if asked.family != "auto":
        return _forced(file, rows[0], input_size, asked, extras)
    if unsure:
        return None
    raise unknown(file)


def _evidence(
    file: OnnxFile, shape: Sequence[int | str], input_size: Size, labels: int | None, extras: int
) -> Evidence:
    first, second = (fixed(side) for side in shape[1:])
    cells = {sum((input_size.width // s) * (input_size.height // s) for s in strides) for strides in _GRIDS_PX}
    meta = file.metadata
    return Evidence(
        first=first,
        second=second,
        grids=frozenset(cells),
        labels=labels,
        ultralytics="ultralytics" in meta.get("author", "").casefold() and "task" in meta,
        end2end=meta.get("end2end", "").casefold() == "true" or "'nms': True" in meta.get("args", ""),
        operators=file.operators,
        extras=extras,
    )


def _choice(family: Family, output: TensorInfo, match: Match, evidence: Evidence, asked: Asked) -> Choice:
    channels = evidence.first if match.layout == "columns" else evidence.second
    return Choice(
        family,
        (output,),
        f"output {output.label} is {match.why}",
        asked.task or "object-detection",
        family.preprocess,
        match.layout,
        None if family.box_values is None or channels is None else evidence.classes(channels, family.box_values),
        evidence.extras,
    )


def _forced(file: OnnxFile, family: Family, input_size: Size, asked: Asked, extras: int) -> Choice | None:
    """The user's word against the look of the output: taken wherever the numbers can work out at all."""
    for output in file.outputs:
        if output.shape is None or len(output.shape) != 3 or "float" not in output.dtype:
            continue
        evidence = _evidence(file, output.shape, input_size, asked.labels, extras)
        first, second = evidence.first, evidence.second
        if first is None or second is None:
            return None
        columns = family.name == "yolov8" and first < second
        channels = first if columns else second
        if channels == 6 + extras if family.box_values is None else evidence.classes_fit(channels, family.box_values):
            match = Match(f"[B, {first}, {second}], and the config says so", "columns" if columns else "rows")
            return _choice(family, output, match, evidence, asked)
    fits = "end with 6 values" if family.box_values is None else f"hold {family.box_values} values and the classes"
    raise ConfigError(
        f'{file.path}: family = "{family.name}" does not fit: no output [B, N, M] that could {fits}'
        f" ({asked.labels} labels); found {shown(file.outputs)}",
        key="family",
    )
