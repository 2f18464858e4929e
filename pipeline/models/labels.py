"""Class names: from the model's metadata, from a file, from the config, or the 80 of COCO."""

import ast
import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.contracts.errors import ConfigError

# fmt: off
COCO_80 = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis",
    "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
    "toothbrush",
)
# fmt: on
"""The classes of COCO in the order that detectors use (without the gaps of the original ids)."""

COCO_KEYPOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
    "right_ankle",
)
"""The 17 points of a person in COCO, in its order."""

FACE_POINTS = ("right_eye", "left_eye", "nose", "right_mouth", "left_mouth")
"""The five points that YuNet finds, right and left as the person's own."""

_MAX_TEXT_CHARS = 1_000_000
_MAX_FILE_BYTES = 4_000_000
_MAX_LABELS = 65_536
_MAX_LABEL_CHARS = 100

# A Python dict or list of string literals, as ultralytics writes it: one bracket deep, so nothing can be nested.
_STRING = r"(?:'(?:[^'\\\n]|\\.)*+'|\"(?:[^\"\\\n]|\\.)*+\")"
_ENTRY = rf"\s*+(?:\d{{1,6}}\s*+:\s*+)?{_STRING}\s*+"
_NAMES = re.compile(rf"\s*+[\[{{(](?:{_ENTRY},)*+(?:{_ENTRY})?+\s*+[\])}}]\s*+")


def from_metadata(text: str) -> tuple[str, ...]:
    """The names in ultralytics' `names` entry, a Python dict or list as text; () where it is nothing of the kind.

    The text comes with the model, so from anybody: only literals one bracket deep are evaluated.
    """
    if len(text) > _MAX_TEXT_CHARS or not _NAMES.fullmatch(text):
        return ()
    try:
        found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ()
    if isinstance(found, dict):
        ids = [key for key in found if isinstance(key, int)]
        if len(ids) != len(found) or not ids or max(ids) >= _MAX_LABELS:
            return ()
        found = [found.get(i, f"class_{i}") for i in range(max(ids) + 1)]
    if not isinstance(found, (list, tuple)) or len(found) > _MAX_LABELS:
        return ()
    return tuple(_clean(str(name)) for name in found)


def keypoints_from_metadata(text: str) -> tuple[str, ...]:
    """The names of the first class's keypoints in ultralytics' `kpt_names`, `{0: ["nose", ...], ...}`; () without."""
    _, bracket, rest = text[:_MAX_TEXT_CHARS].partition("[")
    return from_metadata(f"[{rest.partition(']')[0]}]") if bracket else ()


def from_file(path: Path) -> tuple[str, ...]:
    """One name a line (empty lines at the end do not count), or a JSON list of names.

    Raises:
        ConfigError: with key `labels`.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES or not path.is_file():
            raise ConfigError(f"{path}: no text file with one class name a line", key="labels")
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: the labels cannot be read: {error.strerror}", key="labels") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the labels are not UTF-8 text", key="labels") from error
    names = _json_list(text) if text.lstrip().startswith("[") else text.rstrip().splitlines()
    if not names or len(names) > _MAX_LABELS:
        raise ConfigError(f"{path}: no list of names: one class name a line, or a JSON list", key="labels")
    return tuple(_clean(name) for name in names)


def _json_list(text: str) -> list[str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else []


def _clean(name: str) -> str:
    """Fit for a log line and a metric label: no control characters, not endless."""
    return "".join(c if c.isprintable() else " " for c in name).strip()[:_MAX_LABEL_CHARS]


def find_classes(wanted: Sequence[str | int], names: Sequence[str], count: int | None) -> tuple[int, ...]:
    """The class numbers of names and numbers that a user wrote.

    Args:
        wanted: names (capitals do not matter) and numbers.
        names: the model's labels, may be empty.
        count: how many classes the model has; None where it does not say.

    Raises:
        ConfigError: with key `classes` and the nearest names.
    """
    by_name: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        by_name.setdefault(name.casefold(), []).append(index)
    ids: list[int] = []
    for entry in wanted:
        if isinstance(entry, str):
            ids += by_name.get(entry.strip().casefold()) or _unknown(entry, names)
        elif 0 <= entry < (count if count is not None else _MAX_LABELS):
            ids.append(entry)
        else:
            raise ConfigError(
                f"the model has no class {entry}: they are 0 to {(count or _MAX_LABELS) - 1}", key="classes"
            )
    return tuple(sorted(set(ids)))


def _unknown(entry: str, names: Sequence[str]) -> list[int]:
    if not names:
        raise ConfigError(
            f"no class {entry!r}: the model has no names for its classes; give `labels` or class numbers", key="classes"
        )
    folded = {name.casefold(): name for name in names}
    near = [folded[n] for n in difflib.get_close_matches(entry.strip().casefold(), folded, n=3, cutoff=0.5)]
    shown = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has {', '.join(names[:10])}"
    more = ", ..." if not near and len(names) > 10 else ""
    raise ConfigError(f"the model has no class {entry!r}; {shown}{more}", key="classes")
