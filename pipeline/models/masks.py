"""Masks on the wire: COCO run lengths for objects, PNG for class maps."""

import base64
import io

import numpy as np
import numpy.typing as npt


def encode_rle(mask: npt.NDArray[np.bool_]) -> str:
    """A bool (H, W) mask as COCO's compressed run lengths (column by column, starting with a run of zeros).

    Format: pycocotools, `rleEncode` and `rleToString` in maskApi.c.
    """
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(columns):
        return _pack([height * width] if mask.size else [])
    first, last = int(columns[0]), int(columns[-1]) + 1
    # Only the columns that hold something are turned to column order: the copy is what costs.
    flat = np.ascontiguousarray(mask[:, first:last].T).ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1 + first * height
    # Edges are at columns `first` to `last`; what touches the sides of that block starts or ends there.
    starts = np.array([0, first * height] if flat[0] else [0], np.int64)
    ends = np.array([last * height] if flat[-1] and last < width else [], np.int64)
    counts: list[int] = np.diff(np.concatenate([starts, edges, ends, [height * width]])).tolist()
    return _pack(counts)


def _pack(counts: list[int]) -> str:
    """COCO's text form: from the third run on the difference to the run before last, 5 bits a character, low first."""
    characters = bytearray()
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != -1 if bits & 0x10 else value != 0
            characters.append((bits | 0x20 if more else bits) + 48)
    return characters.decode("ascii")


def png_base64(class_map: npt.NDArray[np.int32]) -> str:
    """An int32 (H, W) map of classes as a grey PNG in base64: 8 bits where that is enough, else 16."""
    from PIL import Image

    dtype = np.uint8 if class_map.size == 0 or class_map.max() < 256 else np.uint16
    buffer = io.BytesIO()
    Image.fromarray(class_map.astype(dtype)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
