"""The table of detector families: how each is recognised, fed and decoded. A new family is a new row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.frame import Size
from pipeline.models import heads
from pipeline.models.heads import Decode, Layout
from pipeline.models.onnx_file import OnnxFile, TensorInfo
from pipeline.models.preprocess import Preprocess

FamilyName = Literal["yolov5", "yolov8", "yolox", "end2end"]

_GRIDS_PX = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64), (16, 32))
"""The strides of usual detectors: P3 to P5, with P2, with P6, and the two levels of "tiny" ones."""


class Evidence(NamedTuple):
    """What is known of one output of rank 3, `(batch, first, second)`.

    Attributes:
        first: its second axis; None where dynamic.
        second: its third axis; None where dynamic.
        grids: how many cells the usual grids have at the input's size.
        labels: how many labels the metadata or the config gives; None without.
        ultralytics: the metadata says that ultralytics wrote it.
        end2end: the metadata says that the model suppresses overlaps itself.
        operators: all node types of the graph.
    """

    first: int | None
    second: int | None
    grids: frozenset[int]
    labels: int | None
    ultralytics: bool
    end2end: bool
    operators: frozenset[str]

    def classes_fit(self, channels: int, others: int) -> bool:
        """Whether `channels` can be `others` values and the classes that the labels name."""
        return channels > others and self.labels in {None, channels - others}


class Match(NamedTuple):
    """A family fits: why, how the output lies, and whether that is sure or only possible."""

    why: str
    layout: Layout = "rows"
    sure: bool = True


Recognise = Callable[[Evidence], Match | None]


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table.

    Attributes:
        name: the value of `family` in the config.
        title: what a person calls it.
        recognise: says whether an output is of this family.
        preprocess: what such models are fed.
        decode: from one frame's output to candidates.
        needs_nms: False where the model suppresses overlaps itself.
        box_values: values in front of the class scores; None where there are no class scores.
    """

    name: FamilyName
    title: str
    recognise: Recognise
    preprocess: Preprocess
    decode: Decode
    needs_nms: bool
    box_values: int | None


def _is_yolov8(e: Evidence) -> Match | None:
    if e.end2end:
        return None
    first, second = e.first, e.second
    if first is not None and e.classes_fit(first, 4):
        on_grid = second in e.grids and not (first in e.grids and second < first)
        if on_grid or (first not in e.grids and (second is None or second > max(64, first))):
            return Match(f"[B, 4 + {first - 4} classes, {second or 'any number of'} cells]", "columns")
    if second is not None and e.classes_fit(second, 4) and (first is None or first in e.grids):
        known = e.labels is not None or e.ultralytics or (e.first is not None and "Softmax" in e.operators)
        if first is not None and known:
            return Match(f"[B, {first} grid cells, 4 + {second - 4} classes]", "rows")
        if first is None or second == 84:
            return Match(f"[B, cells, 4 + {second - 4} classes]", "rows", sure=first is not None)
    return None


def _is_yolov5(e: Evidence) -> Match | None:
    first, second = e.first, e.second
    if second is None or e.ultralytics or e.end2end or not e.classes_fit(second, 5):
        return None
    if first is None:
        return Match(f"[B, any, 5 + {second - 5} classes]", sure=False)
    if first % 3 == 0 and first // 3 in e.grids:
        return Match(f"[B, 3 anchors x {first // 3} grid cells, 5 + {second - 5} classes]")
    return None


def _is_yolox(e: Evidence) -> Match | None:
    first, second = e.first, e.second
    if second is None or e.ultralytics or e.end2end or not e.classes_fit(second, 5):
        return None
    if first is None:
        return Match(f"[B, any, 5 + {second - 5} classes]", sure=False)
    # Without labels [B, cells, M] may be a transposed YOLOv8: its box regression ends in a Softmax, YOLOX has none.
    told = e.labels is not None or second == 85 or (second != 84 and "Softmax" not in e.operators)
    if first in e.grids and told:
        return Match(f"[B, {first} grid cells, 5 + {second - 5} classes], one anchor per cell")
    return None


def _is_end2end(e: Evidence) -> Match | None:
    if e.second != 6:
        return None
    if e.end2end:
        return Match("[B, boxes, 6], and the metadata says that overlaps are suppressed inside")
    if e.first is None:
        return Match("[B, any, 6]", sure=False)
    if e.first == 0:
        return Match("[B, boxes, 6], without any for an empty picture: overlaps are suppressed inside")
    if e.first not in e.grids and not (e.first % 3 == 0 and e.first // 3 in e.grids):
        return Match(f"[B, {e.first} boxes, x1 y1 x2 y2 score class]")
    return None


FAMILIES: tuple[Family, ...] = (
    Family("yolov5", "YOLOv5 and YOLOv7", _is_yolov5, Preprocess(), heads.yolov5, needs_nms=True, box_values=5),
    Family("yolov8", "YOLOv8, YOLO11 and alike", _is_yolov8, Preprocess(), heads.yolov8, needs_nms=True, box_values=4),
    Family(
        "yolox",
        "YOLOX",
        _is_yolox,
        Preprocess(channels="bgr", value_range="0..255", align="top_left"),
        heads.yolox,
        needs_nms=True,
        box_values=5,
    ),
    Family(
        "end2end",
        "end-to-end [B, N, 6]: YOLOv10, YOLO26, exports with NMS inside",
        _is_end2end,
        Preprocess(),
        heads.end2end,
        needs_nms=False,
        box_values=None,
    ),
)


class Choice(NamedTuple):
    """The family of a model, and which of its outputs to read.

    Attributes:
        family: the row of the table.
        output: the output to read.
        layout: how it lies in memory.
        why: what gave it away, for `penstock inspect`.
        classes: how many classes the model has; None where the output does not say.
    """

    family: Family
    output: TensorInfo
    layout: Layout
    why: str
    classes: int | None


def choose(
    file: OnnxFile, input_size: Size, labels: int | None, wanted: str = "auto", *, tried: bool = False
) -> Choice | None:
    """Find the family of a model; None where only a trial run can tell, because the output's shape is dynamic.

    Args:
        file: the model, with static output shapes where they are known.
        input_size: the size that it is fed.
        labels: how many labels there are, if any.
        wanted: "auto", or the one family to take.
        tried: the outputs' shapes come from a trial run with an empty picture.

    Raises:
        ConfigError: with key `family` or `model`: nothing fits, or more than one does; says what was found.
    """
    _refuse_other_tasks(file)
    rows = FAMILIES if wanted == "auto" else tuple(f for f in FAMILIES if f.name == wanted)
    possible: list[Choice] = []
    unsure = False
    # An output of four values a row is boxes by themselves: then no other output has boxes and scores together.
    apart = any(o.shape is not None and len(o.shape) in {2, 3} and o.shape[-1] == 4 for o in file.outputs)
    for output in () if apart else file.outputs:
        if output.shape is None or len(output.shape) != 3:
            unsure |= output.shape is None
            continue
        evidence = _evidence(file, output.shape, input_size, labels)
        if tried and output.shape[1] == 0:
            evidence = evidence._replace(first=0)
        matches = [(family, family.recognise(evidence)) for family in rows]
        found = [(family, match) for family, match in matches if match is not None]
        possible += [_choice(f, output, m, evidence) for f, m in found if m.sure]
        unsure |= any(not m.sure for _, m in found) or evidence.first is None or evidence.second is None
    names = {choice.family.name for choice in possible}
    if len(names) == 1:
        return possible[0]
    if len(names) > 1:
        found_text = "; ".join(f"{c.family.name}: {c.why}" for c in possible)
        raise ConfigError(f"{file.path}: more than one family fits ({found_text}); set `family`", key="family")
    if wanted != "auto":
        return _forced(file, rows[0], input_size, labels)
    if unsure:
        return None
    raise _unknown(file)


def _evidence(file: OnnxFile, shape: Sequence[int | str], input_size: Size, labels: int | None) -> Evidence:
    first, second = (d if isinstance(d, int) and d > 0 else None for d in shape[1:])
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
    )


def _choice(family: Family, output: TensorInfo, match: Match, evidence: Evidence) -> Choice:
    channels = evidence.first if match.layout == "columns" else evidence.second
    classes = None if family.box_values is None or channels is None else channels - family.box_values
    return Choice(family, output, match.layout, f"output {output.label} is {match.why}", classes)


def _forced(file: OnnxFile, family: Family, input_size: Size, labels: int | None) -> Choice | None:
    """The user's word against the look of the output: taken wherever the numbers can work out at all."""
    for output in file.outputs:
        if output.shape is None or len(output.shape) != 3:
            continue
        evidence = _evidence(file, output.shape, input_size, labels)
        first, second = evidence.first, evidence.second
        if first is None or second is None:
            return None
        columns = family.name == "yolov8" and first < second
        channels = first if columns else second
        if channels == 6 if family.box_values is None else evidence.classes_fit(channels, family.box_values):
            match = Match(f"[B, {first}, {second}], and the config says so", "columns" if columns else "rows")
            return _choice(family, output, match, evidence)
    fits = "end with 6 values" if family.box_values is None else f"hold {family.box_values} values and the classes"
    raise ConfigError(
        f'{file.path}: family = "{family.name}" does not fit: no output [B, N, M] that could {fits}'
        f" ({labels} labels); found {_shown(file.outputs)}",
        key="family",
    )


def _refuse_other_tasks(file: OnnxFile) -> None:
    task = file.metadata.get("task", "detect")
    prototypes = [o for o in file.outputs if o.shape and len(o.shape) == 4 and o.shape[1] == 32]
    vectors = [o for o in file.outputs if o.shape and len(o.shape) == 3]
    if task == "detect" and len(file.outputs) == 2 and prototypes and vectors:
        task = "segment"
    if task != "detect":
        raise ConfigError(
            f"{file.path}: is a model for the task {task[:40]!r}, which this version cannot decode: found outputs "
            f"{_shown(file.outputs)}; give a detection model (families: {_names()})",
            key="model",
        )


def _unknown(file: OnnxFile) -> ConfigError:
    return ConfigError(
        f"{file.path}: the family of the model is not known: found outputs {_shown(file.outputs)}; if it is one of "
        f"{_names()}, set `family`",
        key="family",
    )


def _shown(tensors: Sequence[TensorInfo]) -> str:
    more = f" and {len(tensors) - 8} more" if len(tensors) > 8 else ""
    return ", ".join(str(t)[:100] for t in tensors[:8]) + more


def _names() -> str:
    return ", ".join(family.name for family in FAMILIES)
