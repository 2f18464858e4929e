"""The limit of a backend elsewhere: shrink, JPEG, base64 and one kept connection for each worker, nothing else."""

import base64
import http.client
import io
import json
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from pipeline.models.labels import COCO_80
from tests.bench.jobs import JPEG_QUALITY, JPEG_SIDE, REMOTE_REQUESTS
from tests.bench.stages import FloatArray, Found


class Elsewhere:
    """Asks the server. Shared by all workers, each of which has its own connection; some encode while others wait."""

    workers = REMOTE_REQUESTS + 2

    quoted: Sequence[str] = tuple(json.dumps(name) for name in COCO_80)

    def __init__(self, url: str) -> None:
        self._netloc = urlsplit(url).netloc
        self._own = threading.local()
        self._window = threading.Semaphore(REMOTE_REQUESTS)

    def shrinker(self, frame: av.VideoFrame) -> "JpegShrinker":
        """One for a worker and frames of this size."""
        return JpegShrinker(frame)

    def run(self, jpeg: bytes) -> bytes:
        """The answer to one picture."""
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = http.client.HTTPConnection(self._netloc)
        body = base64.b64encode(jpeg)
        with self._window:
            connection.request("POST", "/bench/1?api_key=none", body, {"Content-Type": "text/plain"})
            answer: bytes = connection.getresponse().read()
        return answer

    def find(self, answer: bytes) -> Found:
        """What it says."""
        rows = json.loads(answer)["predictions"]
        boxes = [
            (r["x"] - r["width"] / 2, r["y"] - r["height"] / 2, r["x"] + r["width"] / 2, r["y"] + r["height"] / 2)
            for r in rows
        ]
        return Found(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array([r["confidence"] for r in rows], np.float32),
            np.array([r["class_id"] for r in rows], np.int64),
        )


class JpegShrinker:
    """From the decoder's frame to the JPEG that is sent. One for each worker."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self.ratio = JPEG_SIDE / max(frame.width, frame.height)
        self._width, self._height = round(frame.width * self.ratio), round(frame.height * self.ratio)
        self._scaler = VideoReformatter()

    def shrink(self, frame: av.VideoFrame) -> bytes:
        """The file."""
        small = self._scaler.reformat(frame, self._width, self._height, "rgb24", interpolation="AREA", threads=1)
        buffer = io.BytesIO()
        Image.fromarray(small.to_ndarray()).save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue()

    def to_picture(self, xyxy: FloatArray, width: int, height: int) -> FloatArray:
        """Boxes in pixels of the original frame, inside of it."""
        inside: FloatArray = np.clip(xyxy / np.float32(self.ratio), 0, np.array((width, height) * 2, np.float32))
        return inside
