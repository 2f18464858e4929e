"""The loop people write: OpenCV reads, resizes and suppresses, ONNX Runtime runs with its defaults, one step at a time.

It is not made bad on purpose: this is what tutorials and model cards show, with the per-class loop and the transposed
output of the usual snippets.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from pipeline.models.labels import COCO_80
from tests.bench.jobs import CONFIDENCE, IOU_THRESHOLD
from tests.bench.measure import peak_rss_mib

Picture = npt.NDArray[np.integer | np.floating]
Floats = npt.NDArray[np.float32]


def letterbox(frame: Picture, height: int, width: int, *, centred: bool) -> tuple[Picture, float, int, int]:
    """BGR uint8 (height, width, 3), padded with 114; the scale and the padding on the left and above."""
    scale = min(width / frame.shape[1], height / frame.shape[0])
    new_width, new_height = round(frame.shape[1] * scale), round(frame.shape[0] * scale)
    resized = cv2.resize(frame, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    left, top = ((width - new_width) // 2, (height - new_height) // 2) if centred else (0, 0)
    padded = np.full((height, width, 3), 114, np.uint8)
    padded[top : top + new_height, left : left + new_width] = resized
    return padded, scale, left, top


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


def detect(boxes: Floats, scores: Floats) -> list[tuple[list[float], float, int]]:
    """Per-class NMS over boxes float32 (N, 4) cx, cy, w, h and scores float32 (N, C)."""
    class_ids = scores.argmax(1)
    best = scores.max(1)
    keep = best > CONFIDENCE
    boxes, best, class_ids = boxes[keep], best[keep], class_ids[keep]
    boxes[:, :2] -= boxes[:, 2:] / 2
    found: list[tuple[list[float], float, int]] = []
    for class_id in np.unique(class_ids):
        chosen = class_ids == class_id
        class_boxes, class_scores = boxes[chosen], best[chosen]
        kept = cv2.dnn.NMSBoxes(class_boxes.tolist(), class_scores.tolist(), CONFIDENCE, IOU_THRESHOLD)
        found += [(class_boxes[index].tolist(), float(class_scores[index]), int(class_id)) for index in kept]
    return found


def main() -> None:
    """Run it over one file and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path, help="the JSON lines")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--input", type=int, nargs=2, default=(640, 640), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    height, width = options.input
    session = onnxruntime.InferenceSession(str(options.model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    yolox = session.get_outputs()[0].shape[-1] == 85
    frames = detections = 0
    capture = cv2.VideoCapture(str(options.clip))
    with options.out.open("w") as out:
        while True:
            ok, frame = capture.read()
            if not ok:
                break
            began = time.time()
            padded, scale, left, top = letterbox(frame, height, width, centred=not yolox)
            if yolox:
                blob = padded.transpose(2, 0, 1)[None].astype(np.float32)
            else:
                blob = cv2.cvtColor(padded, cv2.COLOR_BGR2RGB).transpose(2, 0, 1)[None].astype(np.float32) / 255.0
            output = session.run(None, {name: np.ascontiguousarray(blob)})[0]
            if yolox:
                rows = decode_yolox(output, height, width)[0]
                found = detect(rows[:, :4], rows[:, 4:5] * rows[:, 5:])
            else:
                rows = output[0].T
                found = detect(rows[:, :4], rows[:, 4:])
            predictions = []
            for (x, y, box_width, box_height), score, class_id in found:
                predictions.append(
                    {
                        "x": (x + box_width / 2 - left) / scale,
                        "y": (y + box_height / 2 - top) / scale,
                        "width": box_width / scale,
                        "height": box_height / scale,
                        "confidence": score,
                        "class": COCO_80[class_id],
                        "class_id": class_id,
                    }
                )
            line = {"frame_id": frames, "time": time.time() - began, "predictions": predictions}
            out.write(json.dumps(line) + "\n")
            frames += 1
            detections += len(found)
    capture.release()
    json.dump({"frames": frames, "detections": detections, "peak_rss_mib": peak_rss_mib()}, sys.stdout)


if __name__ == "__main__":
    main()
