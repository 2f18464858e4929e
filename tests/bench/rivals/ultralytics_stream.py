"""ultralytics: `YOLO(model).predict(source, stream=True)` with an ONNX model of its own family, on the CPU."""

import os
import time

os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_OFFLINE", "true")

from pathlib import Path

from ultralytics import YOLO
from ultralytics.utils import SETTINGS

from tests.bench.jobs import CONFIDENCE, IOU_THRESHOLD
from tests.bench.rivals.tutorial import Found, Results, asked

CAMERA_FPS = 30


def main() -> None:
    """Run it over one file to its end, or over cameras until it is ended."""
    options = asked()
    SETTINGS.update({"sync": False})
    source = options.inputs[0]
    if len(options.inputs) > 1:
        source = str(Path(options.out).with_suffix(".streams"))
        Path(source).write_text("\n".join(options.inputs) + "\n")
    model = YOLO(str(options.model), task="detect")
    more = {"vid_stride": round(CAMERA_FPS / options.fps)} if options.fps else {}
    given = model.predict(
        source,
        stream=True,
        conf=CONFIDENCE,
        iou=IOU_THRESHOLD,
        imgsz=max(options.input),
        device="cpu",
        verbose=False,
        save=False,
        **more,
    )
    numbers: dict[str, int] = {}
    with options.out.open("w", buffering=1 if options.fps else -1) as out:
        results = Results(out, options.film)
        for result in given:
            now = time.time()
            boxes = result.boxes
            rows = zip(boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist(), strict=True)
            found: Found = [(box, score, int(class_id)) for box, score, class_id in rows]
            path = str(result.path)
            number = numbers[path] = numbers.get(path, -1) + 1
            source_number = list(numbers).index(path)
            results.put(source_number, number, result.orig_img, found, age_s=time.time() - now)
        results.close()


if __name__ == "__main__":
    main()
