"""The limit's annotated video: a copy of the decoder's planes, boxes and labels drawn into it, libx264."""

import queue
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.contracts.frame import Size
from pipeline.contracts.result import Detections
from pipeline.models.labels import COCO_80
from sinks._draw import Painter
from sinks._planes import planes_of
from sinks._style import style_of
from tests.bench.jobs import ENCODER_OPTIONS
from tests.bench.lines import Line

HELD = 4
"""Frames that wait for the encoder."""


class Film:
    """One thread that copies, draws and encodes, in the order in which it is given frames.

    The brush is Penstock's: how cheaply boxes can be drawn is not what is compared here.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: queue.Queue[Line | None] = queue.Queue(HELD)
        self._thread = threading.Thread(target=self._encode, name="film")
        self._thread.start()

    def put(self, line: Line) -> None:
        """The next frame; waits for the encoder."""
        self._waiting.put(line)

    def close(self) -> None:
        """Finish the file."""
        self._waiting.put(None)
        self._thread.join()

    def _encode(self) -> None:
        with av.open(str(self._path), "w") as out:
            stream: Any = out.add_stream("libx264", rate=30)
            stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 30)
            stream.codec_context.gop_size = 120
            stream.options = dict(ENCODER_OPTIONS)
            painter: Painter | None = None
            number = 0
            while (line := self._waiting.get()) is not None:
                frame, found, boxes = line.frame, line.found, line.boxes
                assert frame is not None
                assert found is not None
                assert boxes is not None
                if painter is None:
                    stream.width, stream.height = frame.width, frame.height
                    painter = Painter(Size(frame.width, frame.height), "bt709", full_range=False, style=style_of())
                canvas = av.VideoFrame(frame.width, frame.height, "yuv420p")
                target = planes_of(canvas)
                for here, there in zip((target.y, target.u, target.v), _planes(frame), strict=True):
                    here[:] = there
                painter.paint(target, Detections(boxes, found.confidence, found.class_id.astype(np.int32), COCO_80))
                canvas.pts, canvas.time_base = number, Fraction(1, 30)
                number += 1
                out.mux(stream.encode(canvas))
            out.mux(stream.encode(None))


def _planes(frame: av.VideoFrame) -> list[Any]:
    return [
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        for plane in frame.planes
    ]
