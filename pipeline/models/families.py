"""The table of model families: how each is recognised, fed and read. A new family is a new row."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from pipeline.models import heads, heads_many
from pipeline.models.heads import Decode, DecodeAll, Layout
from pipeline.models.preprocess import Preprocess

FamilyName = Literal[
    "yolov5", "yolov8", "yolox", "end2end", "rtdetr", "rfdetr", "yunet", "classifier", "semantic", "embedder"
]

IMAGENET = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""How most models are fed that were trained from ImageNet weights: torchvision, timm, Hugging Face."""


CLIP = Preprocess(
    mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711), resize="crop", crop_ratio=1.0
)
"""How CLIP is fed: `_transform` of OpenAI's CLIP."""


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
        extras: values of each box that are neither place nor class: mask coefficients, keypoints.
    """

    first: int | None
    second: int | None
    grids: frozenset[int]
    labels: int | None
    ultralytics: bool
    end2end: bool
    operators: frozenset[str]
    extras: int = 0

    def classes(self, channels: int, others: int) -> int:
        """How many of `channels` values are classes, if `others` are not, and the extras."""
        return channels - others - self.extras

    def classes_fit(self, channels: int, others: int) -> bool:
        """Whether `channels` can be `others` values, the classes that the labels name, and the extras."""
        classes = self.classes(channels, others)
        return classes > 0 and self.labels in {None, classes}

    def shown(self, channels: int, others: int) -> str:
        """What the values of a box are, for people."""
        return f"{others} + {self.classes(channels, others)} classes" + (f" + {self.extras}" if self.extras else "")


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
        preprocess: what such models are fed.
        kind: what comes out: boxes, one score for each class, one class for each pixel, or one vector.
        recognise: says whether an output of rank 3 is of this family; None: it is known by all of its outputs.
        decode: from one frame's output to candidates.
        decode_all: the same where there are several outputs.
        needs_nms: False where the model suppresses overlaps itself.
        box_values: values in front of the class scores; None where there are no class scores.
    """

    name: FamilyName
    title: str
    preprocess: Preprocess
    kind: Literal["boxes", "scores", "pixels", "vector"] = "boxes"
    recognise: Recognise | None = None
    decode: Decode | None = None
    decode_all: DecodeAll | None = None
    needs_nms: bool = True
    box_values: int | None = None


def _is_yolov8(e: Evidence) -> Match | None:
    if e.end2end:
        return None
    first, second = e.first, e.second
    if first is not None and e.classes_fit(first, 4):
        on_grid = second in e.grids and not (first in e.grids and second < first)
        if on_grid or (first not in e.grids and (second is None or second > max(64, first))):
            return Match(f"[B, {e.shown(first, 4)}, {second or 'any number of'} cells]", "columns")
    if second is not None and e.classes_fit(second, 4) and (first is None or first in e.grids):
        known = e.labels is not None or e.ultralytics or (e.first is not None and "Softmax" in e.operators)
        if first is not None and known:
            return Match(f"[B, {first} grid cells, {e.shown(second, 4)}]", "rows")
        if first is None or second - e.extras == 84:
            return Match(f"[B, cells, {e.shown(second, 4)}]", "rows", sure=first is not None)
    return None


def _is_yolov5(e: Evidence) -> Match | None:
    first, second = e.first, e.second
    if second is None or e.ultralytics or e.end2end or not e.classes_fit(second, 5):
        return None
    if first is None:
        return Match(f"[B, any, {e.shown(second, 5)}]", sure=False)
    if first % 3 == 0 and first // 3 in e.grids:
        return Match(f"[B, 3 anchors x {first // 3} grid cells, {e.shown(second, 5)}]")
    return None


def _is_yolox(e: Evidence) -> Match | None:
    first, second = e.first, e.second
    if second is None or e.ultralytics or e.end2end or not e.classes_fit(second, 5):
        return None
    if first is None:
        return Match(f"[B, any, {e.shown(second, 5)}]", sure=False)
    # Without labels [B, cells, M] may be a transposed YOLOv8: its box regression ends in a Softmax, YOLOX has none.
    told = e.labels is not None or second - e.extras == 85 or (second - e.extras != 84 and "Softmax" not in e.operators)
    if first in e.grids and told:
        return Match(f"[B, {first} grid cells, {e.shown(second, 5)}], one anchor per cell")
    return None


def _is_end2end(e: Evidence) -> Match | None:
    if e.second != 6 + e.extras:
        return None
    values = f"6 + {e.extras}" if e.extras else "6"
    if e.end2end:
        return Match(f"[B, boxes, {values}], and the metadata says that overlaps are suppressed inside")
    if e.first is None:
        return Match(f"[B, any, {values}]", sure=False)
    if e.first == 0:
        return Match(f"[B, boxes, {values}], without any for an empty picture: overlaps are suppressed inside")
    if e.first not in e.grids and not (e.first % 3 == 0 and e.first // 3 in e.grids):
        return Match(f"[B, {e.first} boxes, x1 y1 x2 y2 score class{f' + {e.extras}' * bool(e.extras)}]")
    return None


FAMILIES: tuple[Family, ...] = (
    Family("yolov5", "YOLOv5 and YOLOv7", Preprocess(), recognise=_is_yolov5, decode=heads.yolov5, box_values=5),
    Family("yolov8", "YOLOv8, YOLO11 and alike", Preprocess(), recognise=_is_yolov8, decode=heads.yolov8, box_values=4),
    Family(
        "yolox",
        "YOLOX",
        Preprocess(channels="bgr", value_range="0..255", align="top_left"),
        recognise=_is_yolox,
        decode=heads.yolox,
        box_values=5,
    ),
    Family(
        "end2end",
        "end-to-end [B, N, 6]: YOLOv10, YOLO26, exports with NMS inside",
        Preprocess(),
        recognise=_is_end2end,
        decode=heads.end2end,
        needs_nms=False,
    ),
    Family(
        "rtdetr",
        "labels, boxes and scores by name: RT-DETR, D-FINE, DEIM",
        Preprocess(resize="stretch"),
        decode_all=heads_many.rtdetr,
        needs_nms=False,
    ),
    Family(
        "rfdetr",
        "dets and labels by name: RF-DETR",
        replace(IMAGENET, resize="stretch"),
        decode_all=heads_many.rfdetr,
        needs_nms=False,
    ),
    Family(
        "yunet",
        "YuNet: faces with five landmarks",
        Preprocess(channels="bgr", value_range="0..255", align="top_left", pad=0),
        decode_all=heads_many.yunet,
    ),
    Family("classifier", "one score for each class", replace(IMAGENET, resize="crop", crop_ratio=0.875), "scores"),
    Family("semantic", "one class for each pixel", replace(IMAGENET, resize="stretch"), "pixels"),
    Family("embedder", "one vector for each picture: the image encoder of CLIP", CLIP, "vector"),
)


def family_of(name: FamilyName) -> Family:
    """The row of the table with this name."""
    return next(family for family in FAMILIES if family.name == name)
