"""Rewriting tried: the model rewritten, loaded beside the plain one, compared with it and measured against it."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.backends._onnx.device import CPU, CUDA, DeviceChoice
from pipeline.backends._onnx.graph_check import feeds_of
from pipeline.backends._onnx.graph_store import own_bytes
from pipeline.backends._onnx.rewrite_check import NEAR, NEAR_CUDA, NEAR_HALF, Race, difference, race
from pipeline.backends._onnx.session import OutOfMemoryError, decide_run_error
from pipeline.backends._onnx.started import Started
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.frame import Size
from pipeline.models.description import ModelDescription
from pipeline.models.graph_nodes import CannotComposeError
from pipeline.models.letterbox import fitted

NOTHING = "there is nothing to rewrite"
"""How it is said that a model is none of those that can be."""

_WORTH = 1.02
"""So many times as fast it must be: less is the noise of a second."""
_FRAMES = (Size(1920, 1080), Size(1080, 1920))  # what inputs are shrunk for: most cameras, and those on their side
_BLOCK_PX = 24

Feeds = dict[str, npt.NDArray[Any]]


class Found(NamedTuple):
    """What came of a try.

    Attributes:
        why: why it stays as it is; empty where it does not.
        done: what can be rewritten.
        data: the rewritten model, if it is to be run.
        checked: how near it comes.
        run_s: seconds of a run, by way.
        gain: how many times as fast it is.
        is_final: whether another try would find the same.
    """

    why: str
    done: tuple[str, ...] = ()
    data: bytes | None = None
    checked: str = ""
    run_s: Mapping[str, float] = MappingProxyType({})
    gain: float = 0.0
    is_final: bool = True


class Fed:
    """What both models are fed: made-up pictures in every shape of input that frames will give.

    Args:
        started: the plain model.
        description: how it is fed.
        fit: whether its input will have the shape of the frames.
    """

    def __init__(self, started: Started, description: ModelDescription, *, fit: bool) -> None:
        self._started = started
        self._model = description
        whole = description.input_size
        cut = [fitted(frame, whole, description.stride_px) for frame in _FRAMES] if fit else []
        self._sizes = tuple(dict.fromkeys((*cut, whole)))
        self.names = tuple(output.name for output in description.file.outputs)
        self.usual = self._feeds(self._sizes[0], 1)

    def all(self) -> Iterator[Feeds]:
        """In every shape; and two pictures at once, if the model takes them."""
        for size in self._sizes:
            yield self._feeds(size, 1)
        if self._model.fixed_batch is None:
            two = self._feeds(self._sizes[0], 2)
            try:
                self._started.session.run(self.names, two)
            except self._started.runtime.errors:
                return  # its batch is open by name only
            yield two

    def _feeds(self, size: Size, rows: int) -> Feeds:
        return feeds_of(self._model, _pictures(size, self._model.fixed_batch or rows))


def _pictures(size: Size, rows: int) -> npt.NDArray[np.uint8]:
    """Noise on the left and blocks of one colour on the right, uint8 (B, H, W, 3)."""
    rng = np.random.default_rng(rows)
    pixels = rng.integers(0, 256, (rows, size.height, size.width, 3), np.uint8)
    tall, wide = (-(-side // _BLOCK_PX) for side in (size.height, size.width))
    blocks = rng.integers(0, 256, (tall, wide, 3), np.uint8).repeat(_BLOCK_PX, 0).repeat(_BLOCK_PX, 1)
    half = size.width // 2
    pixels[:, :, half:] = blocks[: size.height, half : size.width]
    return pixels


def try_rewriting(started: Started, description: ModelDescription, fed: Fed) -> Found:
    """Rewrite, load, compare, measure."""
    errors = started.runtime.errors
    done: tuple[str, ...] = ()
    try:
        data, done = _rewritten(description)
        apart, run = _compared(started, description, fed, data)
    except CannotComposeError as error:
        return Found(str(error), done)
    except ConfigError as error:
        return Found(f"rewritten, {error}", done)
    except errors as error:
        decided = decide_run_error(error)
        return Found(f"rewritten, {decided}", done, is_final=not isinstance(decided, OutOfMemoryError))
    checked = f"outputs differ by {apart:.1g} at most"
    if run is None:
        return Found(f"not the same as the plain model: its outputs differ by {apart:.2g}", done, checked=checked)
    if run.gain < _WORTH:
        why = f"rewritten it is not faster ({run.gain:.2f})"
        return Found(why, done, checked=checked, run_s=run.run_s, is_final=run.calm)
    return Found("", done, data, checked, run.run_s, run.gain)


def _compared(started: Started, description: ModelDescription, fed: Fed, data: bytes) -> tuple[float, Race | None]:
    """How far the rewritten model is from the plain one, and which is faster; not measured where it is too far.

    Raises:
        CannotComposeError, ConfigError: it does not load.
    """
    launch = started.launch
    session = launch.session(data)
    if session is None:
        raise CannotComposeError("the rewritten model does not load on this device")
    apart = difference(started.session, session, fed.names, fed.all())
    if not apart <= _near(description, launch.choice):
        return apart, None
    by_cpu_time = launch.choice.must_have == CPU and launch.plan.intra_op_threads == 1
    return apart, race(started.session, session, fed.names, fed.usual, by_cpu_time=by_cpu_time)


def _rewritten(description: ModelDescription) -> tuple[bytes, tuple[str, ...]]:
    """The rewritten model, and what was done.

    Raises:
        CannotComposeError: it stays as it is.
    """
    from pipeline.models.graph_rewrite import rewrite  # needed at a first start only

    data = own_bytes(description.file)
    try:
        found = rewrite(data)
    except CannotComposeError as error:
        raise CannotComposeError(f"{NOTHING}: {error}") from error
    except Exception as bug:  # whatever it meets in a stranger's graph, the model as it is runs
        raise CannotComposeError(f"rewriting failed: {type(bug).__name__}: {' '.join(str(bug).split())[:200]}") from bug
    if not found.done:
        raise CannotComposeError(NOTHING)
    return found.data, found.done


def _near(description: ModelDescription, choice: DeviceChoice) -> float:
    types = {tensor.dtype for tensor in (*description.file.inputs, *description.file.outputs)}
    return NEAR_HALF if "float16" in types else NEAR_CUDA if choice.must_have == CUDA else NEAR
