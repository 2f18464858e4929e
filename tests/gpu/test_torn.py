"""No picture is torn: a number is painted into every frame, and read back from what the model was given."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from device_feed import StandIn
from gpu_rig import Rig, frames_of
from model_files import echo

from pipeline.backends._onnx.cuda import cuda_feed
from pipeline.backends._onnx.feed import Placed
from pipeline.contracts.frame import Frame, Size
from pipeline.devices.gpu import Gpu
from pipeline.models.pattern import read_frame_number
from pipeline.testing import PluginContext

INPUT = Size(320, 320)
CAMERAS, FRAMES, BATCH, WORKERS = 6, 240, 8, 2


def test_every_number_comes_back_while_six_decoders_and_two_runs_are_at_work(
    rig: Rig, clips: Callable[..., Path], tmp_path: Path
) -> None:
    path = echo(tmp_path / "echo.onnx", INPUT)
    stand_in = StandIn(path, rig.gpu)
    feed = cuda_feed(rig.gpu, rig.runtime, rig.load(path), stand_in.reader, PluginContext())
    files = [clips((1280, 720), FRAMES, 1000 * camera) for camera in range(CAMERAS)]
    waiting: deque[tuple[int, Frame]] = deque()
    there, room = threading.Semaphore(0), threading.Semaphore(2 * BATCH)
    wrong: list[tuple[int, int]] = []
    seen = [0]
    lock = threading.Lock()

    def decode(camera: int) -> None:
        for frame in frames_of(files[camera], "cuda"):
            room.acquire()
            waiting.append((1000 * camera + frame.seq, frame))
            there.release()

    def work() -> None:
        while True:
            batch: list[tuple[int, Frame]] = []
            while len(batch) < BATCH and there.acquire(timeout=2.0):
                batch.append(waiting.popleft())
            if not batch:
                return
            frames = [frame for _, frame in batch]
            places = [Placed(INPUT, stand_in.reader.place(frame.picture.size, INPUT)) for frame in frames]
            rows = np.asarray(feed.run(frames, places).outputs[0], np.float32).reshape(-1, 3, *INPUT)
            numbers = [number for number, _ in batch]
            frames.clear()
            batch.clear()  # the decoder may write over them now
            room.release(len(numbers))
            for number, row, place in zip(numbers, rows, places, strict=False):
                picture = row[:, place.placement.top : place.placement.bottom].transpose(1, 2, 0)
                read = read_frame_number((picture * 255).clip(0, 255).astype(np.uint8))
                with lock:
                    seen[0] += 1
                    if read != number:
                        wrong.append((number, read))

    with ThreadPoolExecutor(CAMERAS + WORKERS) as threads:
        at_work = [threads.submit(decode, camera) for camera in range(CAMERAS)]
        at_work += [threads.submit(work) for _ in range(WORKERS)]
        for each in at_work:
            each.result()
    assert seen[0] == CAMERAS * FRAMES
    assert wrong == []
    assert feed.ways.surfaces == CAMERAS * FRAMES
    feed.close()


def test_frames_that_are_kept_for_long_stay_as_they_were(gpu: Gpu, clips: Callable[..., Path]) -> None:
    kept = list(frames_of(clips((1280, 720), FRAMES, 0), "cuda"))
    assert [read_frame_number(frame.picture.rgb(320, 180)) for frame in kept] == list(range(FRAMES))
