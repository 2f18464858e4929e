"""The edge to onnxruntime: makes the one session, and turns its errors into ours."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.backends._onnx.device import CUDA, TENSORRT, DeviceChoice
from pipeline.contracts.errors import ConfigError, FatalError, PenstockError, TransientError

_QUIET = 4  # "fatal": what goes wrong is raised as well, and the terminal is not onnxruntime's to write on
_MAX_MESSAGE_CHARS = 300
_PRELOADING = threading.Lock()
_OUT_OF_MEMORY = (
    *("out of memory", "failed to allocate", "bad_alloc", "bfc_arena", "cudaerrormemoryallocation", "cuda failure 2:"),
    *("cudnn_status_alloc_failed", "cublas_status_alloc_failed"),
)
_DEVICE_WORDS = ("cuda", "cudnn", "tensorrt")
_HOPELESS = ("InvalidArgument", "NotImplemented", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NoModel")

Array = npt.NDArray[Any]


class OutOfMemoryError(TransientError):
    """A run found no memory: the next may, and a smaller one sooner."""


class DeviceLostError(FatalError):
    """A device failed in the middle of a run: nothing runs on it any more; a failed CUDA context stays failed."""


class Session(Protocol):
    """What we use of `onnxruntime.InferenceSession`."""

    def run(self, output_names: Sequence[str] | None, input_feed: dict[str, Array]) -> Sequence[Array]:
        """Run the graph; may be called by several threads at once."""
        ...

    def get_providers(self) -> Sequence[str]:
        """What it really runs on."""
        ...

    def io_binding(self) -> Any:
        """A new `onnxruntime.IOBinding`: which memory inputs are read from and outputs are written to."""
        ...

    def run_with_iobinding(self, iobinding: Any) -> None:
        """Run the graph on what is bound; may be called by several threads at once, each with a binding of its own."""
        ...


class Runtime:
    """onnxruntime, imported. Made by the backend's `open`, for what is heavy to import.

    Raises:
        FatalError: it is not installed, or cannot be loaded.
    """

    def __init__(self) -> None:
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as state
        except ImportError as error:
            raise FatalError(
                f"onnxruntime cannot be imported ({_line(error)}); is it installed? run: uv sync"
            ) from error
        self._module = onnxruntime
        onnxruntime.set_default_logger_severity(_QUIET)
        named = (getattr(state, name) for name in dir(state))
        found = tuple(e for e in named if isinstance(e, type) and issubclass(e, Exception))
        self.errors: tuple[type[Exception], ...] = (*found, RuntimeError, MemoryError)
        """All that a session raises."""

    @property
    def available(self) -> Sequence[str]:
        """The providers that this build has; whether they work here is another question."""
        return tuple(self._module.get_available_providers())

    def _preload_cuda(self) -> None:
        """Let the CUDA and cuDNN wheels be found; without this only system-wide libraries would do.

        onnxruntime prints what it does not find: standard output belongs to results, and the session says it again.
        """
        with _PRELOADING:  # several threads may start sessions, and the module is one for all
            self._module.print = lambda *_, **__: None
            try:
                self._module.preload_dlls()
            finally:
                del self._module.print

    @property
    def version(self) -> str:
        """onnxruntime's version, and which of its builds it is."""
        return f"{getattr(self._module, 'package_name', 'onnxruntime')} {self._module.__version__}"

    def session(
        self,
        model: Path | bytes,
        choice: DeviceChoice,
        intra_op_threads: int = 1,
        *,
        allow_spinning: bool = False,
        gpu_only: bool = False,
    ) -> Session | None:
        """Load the model; None where the provider that it must have did not start.

        Args:
            model: the file, or a model without external data as the bytes of one.
            choice: what it shall run on.
            intra_op_threads: threads inside one run.
            allow_spinning: whether they spin while they wait, which takes the cores from decoders and other processes.
            gpu_only: a node that the GPU cannot run is an error, and no silent way over the host.

        Raises:
            ConfigError: with key `model`: the runtime cannot load it.
        """
        options = self._module.SessionOptions()
        options.intra_op_num_threads = intra_op_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _QUIET
        # Both plan one block that is as large as all tensors of a run; two runs at once hold two of them. Measured with
        # yolo11n at 640: 182 MiB with both, 155 without the pattern, 137 without either, and not slower.
        options.enable_mem_pattern = False
        options.enable_mem_reuse = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if allow_spinning else "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        if gpu_only:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        on_gpu = choice.must_have in {CUDA, TENSORRT}
        if on_gpu:
            self._preload_cuda()
        try:
            # enable_fallback: never another device in the middle of a run, behind everybody's back.
            session = self._module.InferenceSession(
                model if isinstance(model, bytes) else str(model),
                sess_options=options,
                providers=list(choice.providers),
                enable_fallback=0,
            )
        except self.errors as error:
            if on_gpu and any(word in str(error) for word in ("CUDA", "TensorRT")):
                return None
            name = "the composed model" if isinstance(model, bytes) else model
            raise ConfigError(f"{name}: onnxruntime cannot load the model: {_line(error)}", key="model") from error
        return session if choice.must_have in session.get_providers() else None


def raise_run_error(error: Exception) -> NoReturn:
    """Decide what an error of `run` means.

    Raises:
        OutOfMemoryError: memory was short: the next may do.
        TransientError: something unknown happened to this batch: the next may do.
        FatalError: the model does not take what it is fed; DeviceLostError: the device is gone.
    """
    raise decide_run_error(error) from error


def decide_run_error(error: Exception) -> PenstockError:
    """The error of ours that stands for one of onnxruntime's; pure."""
    text = str(error).casefold()
    line = f"the model failed: {_line(error)}"
    if isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY):
        return OutOfMemoryError(line)
    if any(word in text for word in _DEVICE_WORDS):
        return DeviceLostError(line)
    return FatalError(line) if type(error).__name__ in _HOPELESS else TransientError(line)


def zeros(shape: Sequence[int], dtype: str) -> Array:
    """An input of zeros, for a trial run."""
    return np.zeros(tuple(shape), dtype)


def _line(error: Exception) -> str:
    """The error's text as one line, not endless."""
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:_MAX_MESSAGE_CHARS]
