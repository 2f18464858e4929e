"""One device alone, in a process of its own: how fast NVDEC decodes, and how fast a session runs; prints JSON.

python -m tests.bench.gpu_alone CLIP MODEL cuda|cpu INPUT_SIZE
python -m tests.bench.gpu_alone --about
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backends._onnx.device import CPU, CUDA, DeviceChoice
from pipeline.backends._onnx.session import Runtime, Session
from pipeline.contracts.frame import Frame, Size
from pipeline.devices.driver import DeviceError
from pipeline.devices.gpus import gpus
from pipeline.models.description import ModelDescription, ModelOptions, describe
from pipeline.models.letterbox import fitted
from pipeline.models.onnx_file import read_onnx
from pipeline.models.reader import Reader
from pipeline.testing import PluginContext
from sources.file import FileSourceConfig

DECODERS = (1, 2, 4, 8)
BATCHES = (1, 2, 4, 8, 16, 32)
RUNS_AT_ONCE = 2
SPAN_S = 3.0
FRAME = Size(1920, 1080)


def main() -> None:
    """Print one JSON object."""
    if sys.argv[1] == "--about":
        print(json.dumps(about()))
        return
    clip, model, where, side = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    on_gpu = where == "cuda"
    if on_gpu:
        gpus().gpu(0)  # before decoder and session: both share its context
    decoding = {number: decoded_fps(clip, where, number) for number in (DECODERS if on_gpu else DECODERS[:2])}
    running = session_fps(model, side, on_gpu=on_gpu)
    decoders, batch = max(decoding, key=decoding.__getitem__), max(running, key=running.__getitem__)
    found = {"decode_fps": decoding[decoders], "decoders": decoders, "session_fps": running[batch], "batch": batch}
    print(json.dumps(found | {"by_decoders": decoding, "by_batch": running}))


def about() -> dict[str, Any]:
    """The GPU, or why there is none."""
    try:
        gpu = gpus().gpu(0)
    except DeviceError as error:
        return {"gpu": None, "why": str(error)}
    return {"gpu": f"{gpu.name}, {gpu.total_bytes / 2**30:.0f} GiB"}


def decoded_fps(clip: Path, where: str, decoders: int) -> float:
    """Frames a second of so many decoders at once, which nobody looks at."""
    counts, stop = [0] * decoders, threading.Event()
    fallbacks: list[tuple[str, str, str]] = []
    began: list[float] = []

    def decode(number: int) -> None:
        keys = {"type": "file", "path": str(clip), "decode": where, "loop": True}
        ctx = PluginContext(f"cam{number}")
        for frame in FileSourceConfig.model_validate(keys).build(ctx).frames(stop):
            counts[number] += isinstance(frame, Frame)
        fallbacks.extend(ctx.fallbacks)

    threads = [threading.Thread(target=decode, args=(number,)) for number in range(decoders)]
    for thread in threads:
        thread.start()
    stop.wait(1.0)  # all are open and at work
    before = sum(counts)
    began.append(time.perf_counter())
    stop.wait(SPAN_S)
    fps = (sum(counts) - before) / (time.perf_counter() - began[0])
    stop.set()
    for thread in threads:
        thread.join()
    if fallbacks:
        raise SystemExit(f"decoded on the CPU: {fallbacks[0]}")
    return fps


def session_fps(model: Path, side: int, *, on_gpu: bool) -> dict[int, float]:
    """Pictures a second by batch size: the input lies on the device, the answers come home."""
    options = ModelOptions(input_size=Size(side, side) if side else None)
    description = describe(read_onnx(model), options)
    choice = (
        DeviceChoice(((CUDA, {"device_id": 0}),), "cuda:0", CUDA) if on_gpu else DeviceChoice(((CPU, {}),), "cpu", CPU)
    )
    session = Runtime().session(model, choice)
    if session is None:
        raise SystemExit("onnxruntime cannot start CUDA")
    sizes = (description.fixed_batch,) if description.fixed_batch else (BATCHES if on_gpu else BATCHES[:1])
    found: dict[int, float] = {}
    for rows in sizes:
        if rows:
            runs, errors = _runs(session, description, rows, on_gpu=on_gpu)
            if errors and not found:
                raise SystemExit(f"the session does not run: {errors[0]}")
            if errors:
                break  # no memory for more
            found[rows] = runs * rows
    return found


def _runs(session: Session, model: ModelDescription, rows: int, *, on_gpu: bool) -> tuple[float, list[Exception]]:
    """Runs a second, two at once; and what ended them early."""
    size = fitted(FRAME, model.input_size, model.stride_px) if model.dynamic_size else model.input_size
    shape = (rows, size.height, size.width, 3) if model.channels_last else (rows, 3, size.height, size.width)
    dtype = np.dtype(model.image.dtype)
    nbytes = int(np.prod(shape)) * dtype.itemsize
    outputs = Reader(model).outputs
    counts, stop = [0] * RUNS_AT_ONCE, threading.Event()
    errors: list[Exception] = []

    def work(number: int) -> None:
        host = np.zeros(shape, dtype)
        memory = gpus().gpu(0).allocate(nbytes) if on_gpu else None
        address = memory.address if memory is not None else host.ctypes.data
        device = ("cuda", 0) if on_gpu else ("cpu", 0)
        bound = session.io_binding()
        try:
            while not stop.is_set():
                bound.bind_input(model.image.name, *device, dtype.type, shape, address)
                for name, values in model.feeds(np.empty((rows, 0)), size).items():
                    if name != model.image.name:
                        bound.bind_cpu_input(name, values)
                for name in outputs:
                    bound.bind_output(name, "cpu")
                session.run_with_iobinding(bound)
                counts[number] += 1
        except Exception as error:  # noqa: BLE001  (told by who asked)
            errors.append(error)
        finally:
            if memory is not None:
                memory.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(RUNS_AT_ONCE)]
    for thread in threads:
        thread.start()
    stop.wait(2.0)  # the first runs choose their algorithms
    before, began = sum(counts), time.perf_counter()
    stop.wait(SPAN_S)
    rate = (sum(counts) - before) / (time.perf_counter() - began)
    stop.set()
    for thread in threads:
        thread.join()
    return rate, errors


if __name__ == "__main__":
    main()
