"""The usual loop: `cv2.VideoCapture`, `cv2.resize`, ONNX Runtime's defaults, `cv2.dnn.NMSBoxes`, `json.dumps`.

What tutorials show, with as much care as they take: one thread that does one thing after the other, with cameras one
such thread for each. The letterbox is the one that the model was trained with, classes are suppressed apart, and no
array is copied that need not be: with sloppier code it would be slower still.
"""

import threading
import time

import cv2

from tests.bench.rivals.tutorial import Model, Results, Server, asked, finder

CAMERA_FPS = 30


def of_file(path: str, source: int, model: Model | Server, results: Results) -> None:
    """Every frame of a file."""
    capture = cv2.VideoCapture(path)
    number = 0
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        began = time.time()
        found = model.find(frame)
        results.put(source, number, frame, found, age_s=time.time() - began)
        number += 1
    capture.release()


def of_camera(url: str, source: int, fps: float, model: Model | Server, results: Results) -> None:
    """Some frames of a camera, for ever: the others are decoded, but not converted."""
    capture = cv2.VideoCapture(url)
    number, step = 0, round(CAMERA_FPS / fps)
    while capture.grab():
        number += 1
        if number % step == 0:
            began = time.time()
            _, frame = capture.retrieve()
            found = model.find(frame)
            results.put(source, number, frame, found, age_s=time.time() - began)


def main() -> None:
    """Run it over one file, or over cameras until it is ended."""
    options = asked()
    model = finder(options)
    with options.out.open("w", buffering=1 if options.fps else -1) as out:
        results = Results(out, options.film)
        if options.fps:
            threads = [
                threading.Thread(target=of_camera, args=(url, number, options.fps, model, results))
                for number, url in enumerate(options.inputs)
            ]
        else:
            threads = [
                threading.Thread(target=of_file, args=(path, number, model, results))
                for number, path in enumerate(options.inputs)
            ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        results.close()


if __name__ == "__main__":
    main()
