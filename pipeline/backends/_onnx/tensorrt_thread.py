"""`EngineBuilder`: the thread that has a TensorRT engine made while CUDA serves, and then hands over."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.backends._onnx.tensorrt import READY, EngineCache
from pipeline.contracts.component import Context
from pipeline.contracts.errors import PenstockError

COMMAND = (sys.executable, "-m", "pipeline.backends._onnx.tensorrt_build")

_TERMINATE_S = 5.0
"""So long a process that was told to end may take; then it is killed."""
_SAID_BYTES = 2000


class EngineBuilder:
    """Made and started when a backend opens; stopped and joined by its `close`, also in the middle of a build.

    The build is a process of low priority. Whatever goes wrong is said once, and what serves goes on serving.

    Args:
        job: what `tensorrt_build` is told.
        cache: where the engine will be.
        take_over: called by the thread once the engine is there, with what the build found out; returns what became of
            it, for the log, and whether it is in use.
        ctx: of the backend.
        command: what makes the engine; the job's file is its last argument.
    """

    def __init__(
        self,
        job: Mapping[str, Any],
        *,
        cache: EngineCache,
        take_over: Callable[[Mapping[str, float]], tuple[str, bool]],
        ctx: Context,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._job = job
        self._folder = Path(job["folder"])
        self._cache = cache
        self._take_over: Callable[[Mapping[str, float]], tuple[str, bool]] | None = take_over
        self._ctx = ctx
        self._command = command
        self._lock = threading.Lock()
        self._stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._work, name=f"tensorrt-{ctx.name}", daemon=True)

    def start(self) -> None:
        """Begin in the background."""
        self._thread.start()

    def stop(self) -> None:
        """End it, whatever it is at; returns when the thread is over. Again is no harm."""
        with self._lock:
            self._stopped = True
            process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(_TERMINATE_S)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            self._cache.prepare(self._folder)
            known = (self._folder / READY).is_file()
            if known:
                (self._folder / READY).touch()  # used last
            else:
                self._ctx.tell("cuda", "TensorRT's engine is being made; until then CUDA runs the model", well=True)
            fault = self._build()
            if fault is not None and known and not self._stopped:  # it worked once: another driver, a damaged file
                self._cache.discard(self._folder)
                self._cache.prepare(self._folder)
                fault = self._build()
            if self._stopped:
                return
            if fault is not None:
                self._cache.discard(self._folder)
                self._ctx.warn(f"TensorRT's engine could not be made, CUDA goes on: {fault}")
                return
            take_over, self._take_over = self._take_over, None  # it holds the session whose place is taken
            if take_over is None:  # cannot be: a thread works once
                return
            said, in_use = take_over(json.loads((self._folder / READY).read_text("utf-8")))
            del take_over
            self._ctx.tell("tensorrt" if in_use else "cuda", said, well=True)
        except (PenstockError, OSError, ValueError) as error:
            if not self._stopped:
                self._ctx.warn(f"TensorRT does not take over, CUDA goes on: {error}")

    def _build(self) -> str | None:
        """Run the process; what is wrong, or None."""
        with tempfile.TemporaryDirectory(prefix="penstock-tensorrt-") as folder, tempfile.TemporaryFile() as said:
            path = Path(folder) / "job.json"
            path.write_text(json.dumps(self._job), "utf-8")
            with self._lock:
                if self._stopped:
                    return None
                # A group of its own: Ctrl-C in the terminal ends us, and we end it.
                self._process = process = subprocess.Popen(  # noqa: S603  (ourselves)
                    [*self._command, str(path)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    process_group=0,
                )
            code = process.wait()
            with self._lock:
                self._process = None
            if code == 0 and (self._folder / READY).is_file():
                return None
            said.seek(0, 2)
            said.seek(max(0, said.tell() - _SAID_BYTES))
            lines = said.read().decode("utf-8", "replace").strip().splitlines()
            return lines[-1] if lines else f"its process ended with {code}"
