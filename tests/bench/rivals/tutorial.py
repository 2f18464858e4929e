"""What tutorials do around a model, with OpenCV and NumPy: letterbox, `NMSBoxes`, lines, boxes on the picture, a film.

Used by the rivals, in their environments: nothing of Penstock is in here, and nothing that is not in theirs.
"""

import argparse
import base64
import http.client
import json
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import av
import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from tests.bench.jobs import CONFIDENCE, ENCODER_OPTIONS, IOU_THRESHOLD, JPEG_QUALITY, JPEG_SIDE

Picture = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Found = list[tuple[list[float], float, int]]
"""For each object its box (left, top, right, bottom, pixels of the frame), its confidence, its class."""


def letterbox(frame: Picture, height: int, width: int, *, centred: bool) -> tuple[Picture, float, int, int]:
    """BGR uint8 (height, width, 3), padded with 114; the scale and the padding on the left and above."""
    scale = min(width / frame.shape[1], height / frame.shape[0])
    new_width, new_height = round(frame.shape[1] * scale), round(frame.shape[0] * scale)
    resized = cv2.resize(frame, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    left, top = ((width - new_width) // 2, (height - new_height) // 2) if centred else (0, 0)
    padded = np.full((height, width, 3), 114, np.uint8)
    padded[top : top + new_height, left : left + new_width] = resized
    return padded, scale, left, top


class Model:
    """A session with ONNX Runtime's defaults, and the heads of YOLO11 and YOLOX as their demonstrations read them."""

    def __init__(self, path: Path, height: int, width: int) -> None:
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.yolox = self.session.get_outputs()[0].shape[-1] == 85
        self.height, self.width = height, width

    def find(self, frame: Picture) -> Found:
        """What is in a picture, uint8 (H, W, 3), BGR."""
        padded, scale, left, top = letterbox(frame, self.height, self.width, centred=not self.yolox)
        if self.yolox:
            blob = padded.transpose(2, 0, 1)[None].astype(np.float32)
        else:
            blob = cv2.cvtColor(padded, cv2.COLOR_BGR2RGB).transpose(2, 0, 1)[None].astype(np.float32) / 255.0
        output = self.session.run(None, {self.input: np.ascontiguousarray(blob)})[0]
        if self.yolox:
            rows = decode_yolox(output, self.height, self.width)[0]
            found = suppress(rows[:, :4], rows[:, 4:5] * rows[:, 5:])
        else:
            rows = output[0].T
            found = suppress(rows[:, :4], rows[:, 4:])
        high, wide = frame.shape[:2]
        limits = (wide, high, wide, high)
        return [
            (
                [
                    min(max((side - pad) / scale, 0), limit)
                    for side, pad, limit in zip(box, (left, top) * 2, limits, strict=True)
                ],
                score,
                class_id,
            )
            for box, score, class_id in found
        ]


def decode_yolox(output: Floats, height: int, width: int) -> Floats:
    """`demo_postprocess` of YOLOX: all rows onto the grid."""
    grids, strides = [], []
    for stride in (8, 16, 32):
        x, y = np.meshgrid(np.arange(width // stride), np.arange(height // stride))
        grid = np.stack((x, y), 2).reshape(1, -1, 2)
        grids.append(grid)
        strides.append(np.full((*grid.shape[:2], 1), stride))
    grids_all, strides_all = np.concatenate(grids, 1), np.concatenate(strides, 1)
    output[..., :2] = (output[..., :2] + grids_all) * strides_all
    output[..., 2:4] = np.exp(output[..., 2:4]) * strides_all
    return output


def suppress(boxes: Floats, scores: Floats) -> Found:
    """Per-class NMS over boxes float32 (N, 4) cx, cy, w, h and scores float32 (N, C), in pixels of the input."""
    class_ids = scores.argmax(1)
    best = scores.max(1)
    keep = best > CONFIDENCE
    boxes, best, class_ids = boxes[keep], best[keep], class_ids[keep]
    boxes[:, :2] -= boxes[:, 2:] / 2
    found: Found = []
    for class_id in np.unique(class_ids):
        chosen = class_ids == class_id
        class_boxes, class_scores = boxes[chosen], best[chosen]
        kept = cv2.dnn.NMSBoxes(class_boxes.tolist(), class_scores.tolist(), CONFIDENCE, IOU_THRESHOLD)
        for index in kept:
            x, y, wide, high = class_boxes[index].tolist()
            found.append(([x, y, x + wide, y + high], float(class_scores[index]), int(class_id)))
    return found


class Server:
    """A model elsewhere, asked over one kept connection: shrink, JPEG, base64, POST."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc)

    def find(self, frame: Picture) -> Found:
        """What is in a picture, uint8 (H, W, 3), BGR."""
        scale = JPEG_SIDE / max(frame.shape[:2])
        small = cv2.resize(frame, (round(frame.shape[1] * scale), round(frame.shape[0] * scale)))
        _, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        body = base64.b64encode(jpeg.tobytes())
        self._connection.request("POST", "/bench/1?api_key=none", body, {"Content-Type": "text/plain"})
        answer = json.loads(self._connection.getresponse().read())
        found: Found = []
        for one in answer["predictions"]:
            x, y, half, tall = one["x"], one["y"], one["width"] / 2, one["height"] / 2
            box = [(x - half) / scale, (y - tall) / scale, (x + half) / scale, (y + tall) / scale]
            found.append((box, one["confidence"], one["class_id"]))
        return found


def line(source: int, number: int, found: Found, age_s: float) -> str:
    """A JSON line: the fields that the harness compares, and how old the picture is."""
    predictions = [
        {
            "x": (left + right) / 2,
            "y": (top + bottom) / 2,
            "width": right - left,
            "height": bottom - top,
            "confidence": score,
            "class": str(class_id),
            "class_id": class_id,
        }
        for (left, top, right, bottom), score, class_id in found
    ]
    return (
        json.dumps(
            {
                "source": f"clip{source}",
                "frame_id": number,
                "latency_s": age_s,
                "written_at": time.time(),
                "predictions": predictions,
            }
        )
        + "\n"
    )


class Film:
    """Boxes and labels on the picture, and H.264 by the same encoder with the same settings for all."""

    def __init__(self, path: Path, frame: Picture) -> None:
        self._out = av.open(str(path), "w")
        self._stream: Any = self._out.add_stream("libx264", rate=30)
        self._stream.height, self._stream.width = frame.shape[:2]
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.gop_size = 120
        self._stream.time_base = Fraction(1, 30)
        self._stream.options = dict(ENCODER_OPTIONS)
        self._number = 0

    def write(self, frame: Picture, found: Found) -> None:
        """Draw into `frame` and encode it."""
        for (left, top, right, bottom), score, class_id in found:
            corner = (int(left), int(top))
            cv2.rectangle(frame, corner, (int(right), int(bottom)), (0, 200, 0), 2)
            text = f"{class_id} {score:.2f}"
            (wide, high), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)
            cv2.rectangle(frame, (corner[0], corner[1] - high - 6), (corner[0] + wide, corner[1]), (0, 200, 0), -1)
            cv2.putText(frame, text, (corner[0], corner[1] - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1)
        self.encode(frame)

    def encode(self, frame: Picture) -> None:
        """One picture, uint8 (H, W, 3), BGR."""
        picture = av.VideoFrame.from_ndarray(frame, format="bgr24")
        picture.pts, picture.time_base = self._number, Fraction(1, 30)
        self._number += 1
        self._out.mux(self._stream.encode(picture))

    def close(self) -> None:
        """Finish the file."""
        self._out.mux(self._stream.encode(None))
        self._out.close()


class Results:
    """Where results go: lines, and a film where one is wanted. Any thread may put lines; a film is of one file."""

    def __init__(self, file: IO[str], film: Path | None) -> None:
        self._file, self._film_path = file, film
        self._film: Film | None = None
        self._lock = threading.Lock()
        self.frames = self.detections = 0

    def put(self, source: int, number: int, frame: Picture, found: Found, *, age_s: float) -> None:
        """One frame's."""
        text = line(source, number, found, age_s)
        with self._lock:
            self._file.write(text)
            self.frames += 1
            self.detections += len(found)
        if self._film_path is not None:
            self._film = self._film or Film(self._film_path, frame)
            self._film.write(frame, found)

    def close(self) -> None:
        """Finish the film, and say what was done."""
        if self._film is not None:
            self._film.close()
        json.dump({"frames": self.frames, "detections": self.detections}, sys.stdout)


def asked() -> argparse.Namespace:
    """What every rival is told; with `fps` the inputs are cameras, and it runs until it is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path, help="the JSON lines")
    parser.add_argument("inputs", nargs="+", help="files or cameras")
    parser.add_argument("--input", type=int, nargs=2, default=(640, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--film", type=Path, help="where the annotated video goes")
    parser.add_argument("--server", help="ask this one instead of running the model")
    parser.add_argument("--fps", type=float, default=0.0, help="look at so many frames of each camera's second")
    return parser.parse_args()


def finder(options: argparse.Namespace) -> Model | Server:
    """The model, here or elsewhere."""
    if options.server:
        return Server(options.server)
    return Model(options.model, *options.input)
