"""The stages of the limit, each as cheap as it can be written by hand: shrink, letterbox, run, heads, NMS, JSON line.

Nothing here is general: two heads, one pixel format, no checks. That is what makes it a limit.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported

import ast
import json
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import onnxruntime
from av.video.reformatter import VideoReformatter

from pipeline.models.labels import COCO_80
from tests.bench.jobs import CONFIDENCE, IOU_THRESHOLD

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """What was found in one frame.

    Attributes:
        xyxy: float32 (K, 4), pixels of the model's input.
        confidence: float32 (K,), 0..1, falling.
        class_id: int64 (K,).
    """

    xyxy: FloatArray
    confidence: FloatArray
    class_id: npt.NDArray[np.int64]


class Model:
    """One session, shared by all workers, and what belongs to its family.

    Args:
        path: an ONNX file of the YOLOv8/11 or the YOLOX family.
        height: of the input; the model's own where that is fixed.
        width: likewise.
        threads: of one run; 1 where several runs overlap, 0 for ONNX Runtime's default.
    """

    def __init__(self, path: Path, height: int, width: int, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Plans that are made for one run at a time: with two at once they cost 45 MiB on yolo11n, and gain nothing.
        options.enable_mem_pattern = False
        options.enable_mem_reuse = False
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        entry = self.session.get_inputs()[0]
        self.input = entry.name
        self.height, self.width = height, width
        self.yolox = self.session.get_outputs()[0].shape[-1] == 85
        labels = self.session.get_modelmeta().custom_metadata_map.get("names")
        self.names = tuple(ast.literal_eval(labels).values()) if labels else COCO_80
        self.quoted: tuple[str, ...] = tuple(json.dumps(name) for name in self.names)
        if self.yolox:
            self.grid, self.stride = _yolox_grid(height, width)

    def shrinker(self, frame: av.VideoFrame) -> "Shrinker":
        """One for a worker and frames of this size."""
        return Shrinker(self, frame)

    def run(self, pixels: FloatArray) -> FloatArray:
        """The raw output for one letterboxed picture."""
        output: FloatArray = self.session.run(None, {self.input: pixels})[0]
        return output

    def find(self, output: FloatArray) -> Found:
        """Candidates over the threshold and, of those that overlap within a class, the best."""
        return _suppressed(self._yolox(output[0]) if self.yolox else _yolo11(output[0]))

    def _yolox(self, rows: FloatArray) -> Found:
        maybe = np.flatnonzero(rows[:, 4] >= CONFIDENCE)  # no class can beat the objectness
        rows = rows[maybe]
        class_id = rows[:, 5:].argmax(1)
        confidence = rows[:, 4] * rows[np.arange(len(rows)), class_id + 5]
        keep = confidence >= CONFIDENCE
        rows, maybe = rows[keep], maybe[keep]
        stride = self.stride[maybe, None]
        centre = (rows[:, :2] + self.grid[maybe]) * stride
        half = np.exp(rows[:, 2:4]) * (stride * 0.5)
        return Found(np.concatenate((centre - half, centre + half), 1), confidence[keep], class_id[keep])


class Shrinker:
    """From the decoder's frame to the model's input: one pass of swscale and three copies. One for each worker.

    Args:
        model: what the picture is for.
        frame: a frame of the size that will come.
    """

    def __init__(self, model: Model, frame: av.VideoFrame) -> None:
        self.ratio = min(model.width / frame.width, model.height / frame.height)
        self.width, self.height = round(frame.width * self.ratio), round(frame.height * self.ratio)
        self.scaler = VideoReformatter()
        left, top = (0, 0) if model.yolox else ((model.width - self.width) // 2, (model.height - self.height) // 2)
        self.left, self.top = left, top
        self.scale, grey = (255.0, 114.0) if model.yolox else (1.0, 114 / 255)
        self.order = (1, 0, 2) if model.yolox else (2, 0, 1)  # BGR or RGB out of planes that come as G, B, R
        self.pixels = np.full((1, 3, model.height, model.width), grey, np.float32)
        self.inside = self.pixels[0, :, top : top + self.height, left : left + self.width]

    def shrink(self, frame: av.VideoFrame) -> FloatArray:
        """float32 (1, 3, H, W), RGB 0..1 or (YOLOX) BGR 0..255, letterboxed; overwritten by the next call."""
        small = self.scaler.reformat(
            frame, self.width, self.height, "gbrpf32le", interpolation="FAST_BILINEAR", threads=1
        )
        for channel, index in enumerate(self.order):
            plane = small.planes[index]
            values = np.frombuffer(memoryview(plane), np.float32).reshape(self.height, -1)[:, : self.width]
            if self.scale == 1.0:
                self.inside[channel] = values
            else:
                np.multiply(values, self.scale, out=self.inside[channel])
        return self.pixels

    def to_picture(self, xyxy: FloatArray, width: int, height: int) -> FloatArray:
        """Boxes in pixels of the original frame, inside of it."""
        boxes = (xyxy - np.array((self.left, self.top) * 2, np.float32)) / np.float32(self.ratio)
        inside: FloatArray = np.clip(boxes, 0, np.array((width, height) * 2, np.float32))
        return inside


def _yolo11(rows: FloatArray) -> Found:
    """From (84, N): the maximum runs along the contiguous axis, and only what is left is looked at."""
    scores = rows[4:]
    keep = np.flatnonzero(scores.max(0) >= CONFIDENCE)
    few = scores[:, keep]
    class_id = few.argmax(0)
    box = rows[:4, keep].T
    half = box[:, 2:] * 0.5
    return Found(np.concatenate((box[:, :2] - half, box[:, :2] + half), 1), few.max(0), class_id)


def _suppressed(found: Found) -> Found:
    """Greedy NMS within each class, on the matrix of all overlaps."""
    if len(found.confidence) == 0:
        return found
    order = np.argsort(-found.confidence, kind="stable")
    xyxy, class_id = found.xyxy[order], found.class_id[order]
    low = np.maximum(xyxy[:, None, :2], xyxy[None, :, :2])
    high = np.minimum(xyxy[:, None, 2:], xyxy[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(2)
    area = (xyxy[:, 2:] - xyxy[:, :2]).prod(1)
    rivals = (both > IOU_THRESHOLD * (area[:, None] + area[None] - both)) & (class_id[:, None] == class_id[None])
    alive = np.ones(len(order), bool)
    for index in range(len(order)):
        if alive[index]:
            alive[index + 1 :] &= ~rivals[index, index + 1 :]
    kept = order[alive]
    return Found(found.xyxy[kept], found.confidence[kept], found.class_id[kept])


def _yolox_grid(height: int, width: int) -> tuple[FloatArray, FloatArray]:
    grids, strides = [], []
    for stride in (8, 16, 32):
        rows, columns = height // stride, width // stride
        y, x = np.mgrid[:rows, :columns]
        grids.append(np.stack((x.ravel(), y.ravel()), 1))
        strides.append(np.full(rows * columns, stride))
    return np.concatenate(grids).astype(np.float32), np.concatenate(strides).astype(np.float32)
