"""The JSON line of the limit: the fields of a Penstock line, put together by hand."""

import secrets
import time
from collections.abc import Sequence
from typing import NamedTuple

import av

from tests.bench.stages import FloatArray, Found


class Of(NamedTuple):
    """Which frame of which file a line is about."""

    source: str
    seq: int
    path: str
    frame: av.VideoFrame
    decoded_s: float
    """By `time.perf_counter`."""


class Line(NamedTuple):
    """A line, and where a film is wanted what it is about."""

    text: str
    frame: av.VideoFrame | None = None
    found: Found | None = None
    boxes: FloatArray | None = None


def line(quoted: Sequence[str], of: Of, found: Found, boxes: FloatArray, infer_s: float) -> str:
    """One line with its end: the envelope and a Roboflow inference response.

    Args:
        quoted: the labels as JSON strings.
        of: whose line it is.
        found: scores and classes.
        boxes: float32 (K, 4) xyxy, pixels of the original frame.
        infer_s: what stands for the inference time.
    """
    frame = of.frame
    line_id = secrets.token_hex(16)
    parts = []
    rows = zip(boxes.tolist(), found.confidence.tolist(), found.class_id.tolist(), strict=True)
    for number, ((left, top, right, bottom), score, class_id) in enumerate(rows):
        parts.append(
            f'{{"x":{(left + right) / 2:.2f},"y":{(top + bottom) / 2:.2f},"width":{right - left:.2f},'
            f'"height":{bottom - top:.2f},"confidence":{score:.4f},"class":{quoted[class_id]},'
            f'"class_id":{class_id},"detection_id":"{line_id}.{number}"}}'
        )
    now, latency_s = time.time(), time.perf_counter() - of.decoded_s
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    return (
        f'{{"schema":"penstock.result/1","id":"{line_id}","source":"{of.source}","frame_id":{of.seq},'
        f'"pts_s":{frame.time or 0.0:.6f},"captured_at":"{stamp}.{int(now % 1 * 1000):03d}Z","time_source":"pts",'
        f'"path":"{of.path}","backend":"local","model":"limit","config_hash":"000000000000",'
        f'"latency_s":{latency_s:.6f},"time":{infer_s:.6f},"image":{{"width":{frame.width},"height":{frame.height}}},'
        f'"predictions":[{",".join(parts)}]}}\n'
    )
