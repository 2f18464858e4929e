"""Segmentations as the Hugging Face inference protocol has them, from and to documents of JSON.

A mask is a grey PNG file of the whole picture, 0 and 255, in base64.
"""

import base64
import binascii
import io
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.contracts.frame import Size
from pipeline.contracts.result import Detections, SemanticMask, label_of
from pipeline.wire.document import items, mapping, text
from pipeline.wire.huggingface_answers import MAX_OBJECTS, LabelTable, a_label, a_score, kept, ranked, rounded

MAX_MASK_BYTES = 256 << 20
"""The memory that the masks of one answer may take."""
BACKGROUND = "background"
"""What pixels are that no mask of a semantic segmentation claims."""

_PNG_SIZE = struct.Struct(">II")
_MASK_ON = 128


Kind = Literal["auto", "objects", "semantic"]
"""What a segmentation is: objects with their masks, or a class for each pixel; `auto`: as it comes."""


def encode_segmentation(prediction: Detections | SemanticMask, threshold: float = 0.0) -> list[dict[str, Any]]:
    """One mask for each object, or for each class that is there; a class of a semantic mask has no score.

    Raises:
        ValueError: the objects have no masks.
    """
    if isinstance(prediction, SemanticMask):
        return [
            {
                "score": None,
                "label": label_of(prediction.names, class_id),
                "mask": encode_mask(prediction.class_map == class_id),
            }
            for class_id in np.unique(prediction.class_map).tolist()
        ]
    if prediction.masks is None:
        if len(prediction):
            raise ValueError("the objects have no masks")
        return []
    return [
        {
            "score": rounded(prediction.confidence[index]),
            "label": prediction.label(index),
            "mask": encode_mask(prediction.masks[index]),
        }
        for index in kept(prediction, threshold)
    ]


def decode_segmentation(
    document: object, size: Size, table: LabelTable, kind: Kind = "auto"
) -> Detections | SemanticMask:
    """The objects with their masks, most confident first; or, where no mask has a score, a class for each pixel.

    A mask without a pixel is no object. Where masks of a semantic segmentation overlap, the later counts.

    Args:
        document: what came.
        size: of the picture that was sent; masks of another size are an error.
        table: numbers the labels.
        kind: what it must be.

    Raises:
        ValueError: it is no such answer.
    """
    found = [mapping(item, "a mask") for item in items(document, "the answer", MAX_OBJECTS)]
    if len(found) * size.width * size.height > MAX_MASK_BYTES:
        raise ValueError(f"{len(found)} masks of {size.width}x{size.height} are more than fit into memory")
    labels = [a_label(item) for item in found]
    if kind == "semantic" or (kind == "auto" and found and all(item.get("score") is None for item in found)):
        return _semantic(labels, (item.get("mask") for item in found), size, table)
    scores = [a_score(item) for item in found]
    masks = np.zeros((len(found), size.height, size.width), np.bool_)
    for index, item in enumerate(found):
        masks[index] = decode_mask(item.get("mask"), size)
    seen = np.flatnonzero(masks.any(axis=(1, 2))).tolist()
    boxes = [_box_around(masks[index]) for index in seen]
    return ranked(boxes, [scores[i] for i in seen], [labels[i] for i in seen], table, masks[seen])


def encode_mask(mask: npt.NDArray[np.bool_]) -> str:
    """A bool (H, W) mask as a grey PNG, 0 and 255, in base64."""
    from PIL import Image

    buffer = io.BytesIO()
    # Masks are large and simple: the fastest compression makes them small enough.
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, format="PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode_mask(value: object, size: Size) -> npt.NDArray[np.bool_]:
    """The bool (H, W) mask in a PNG in base64; on is what is lighter than grey.

    Raises:
        ValueError: it is no PNG, or not of this size.
    """
    from PIL import Image

    try:
        data = base64.b64decode(text(value, "'mask'"), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a mask is no base64") from None
    # The size is looked at before anything is unpacked: a small PNG can be a huge picture.
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or len(data) < 33:
        raise ValueError("a mask is no PNG")
    if _PNG_SIZE.unpack_from(data, 16) != size:
        width, height = _PNG_SIZE.unpack_from(data, 16)
        raise ValueError(f"a mask is {width}x{height}, and the picture {size.width}x{size.height}")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            values = np.asarray(picture.convert("L"))
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error):
        raise ValueError("a mask is a broken PNG") from None
    if values.shape != (size.height, size.width):
        raise ValueError("a mask is a broken PNG")
    return values >= _MASK_ON


def _semantic(labels: Sequence[str], masks: Iterable[object], size: Size, table: LabelTable) -> SemanticMask:
    ids, names = table.ids([BACKGROUND, *labels])
    class_map = np.full((size.height, size.width), ids[0], np.int32)
    for class_id, mask in zip(ids[1:], masks, strict=True):
        class_map[decode_mask(mask, size)] = class_id
    return SemanticMask(class_map, names)


def _box_around(mask: npt.NDArray[np.bool_]) -> tuple[float, ...]:
    """The edges of the pixels that are on; there must be one."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
