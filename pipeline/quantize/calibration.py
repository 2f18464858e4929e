"""What values the tensors inside a model take when it looks at the user's pictures: ranges, in bounded memory."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.benching.machine import cores
from pipeline.quantize.ranges import Histogram, Method, Range

if TYPE_CHECKING:
    import onnx

GROUP_BYTES = 256 * 2**20
"""So much of a model's inside is looked at in one run; of a larger one each picture is run more than once."""

Feeds = Mapping[str, npt.NDArray[Any]]


class Calibration:
    """Watches tensors of a model, picture after picture. Made for one `penstock quantize`, used by one thread.

    Args:
        model: the float model, as it will be quantised; all names of tensors are told from it.
        tensors: names of float tensors to watch, inputs of the model among them.
        feeds: an example of what it is fed: sizes are taken from it.

    Raises:
        RuntimeError: onnxruntime cannot run the model with these outputs.
    """

    def __init__(self, model: "onnx.ModelProto", tensors: Sequence[str], feeds: Feeds) -> None:
        self._histograms = {name: Histogram() for name in tensors}
        inputs = {value.name for value in model.graph.input}
        self._inputs = [name for name in tensors if name in inputs]
        inner = [name for name in tensors if name not in inputs]
        self._sessions = [_watching(model, group) for group in _groups(model, inner, feeds)]
        self.pictures = 0
        """How many were looked at."""

    def look(self, feeds: Feeds) -> None:
        """Run one picture, or several in a batch, and count every watched value."""
        for name in self._inputs:
            self._histograms[name].add(np.asarray(feeds[name]))
        for names, session in self._sessions:
            for name, values in zip(names, session.run(list(names), dict(feeds)), strict=True):
                self._histograms[name].add(np.asarray(values))
        self.pictures += 1

    def ranges(self, method: Method) -> dict[str, Range]:
        """The range of each tensor that was watched."""
        return {name: histogram.range(method) for name, histogram in self._histograms.items()}


def _groups(model: "onnx.ModelProto", tensors: Sequence[str], feeds: Feeds) -> list[list[str]]:
    """The tensors in groups of about `GROUP_BYTES`; of a tensor of unknown size it is assumed that it is as large as
    the largest known one."""
    known = _sizes(model, feeds)
    most = max((known[name] for name in tensors if name in known), default=GROUP_BYTES // 8)
    groups: list[list[str]] = []
    room = 0
    for name in tensors:
        size = known.get(name, most)
        if not groups or size > room:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(name)
        room -= size
    return groups


def _sizes(model: "onnx.ModelProto", feeds: Feeds) -> dict[str, int]:
    """Bytes of each tensor when the model is fed like this."""
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        array = feeds.get(value.name)
        if array is not None:
            del value.type.tensor_type.shape.dim[:]
            for side in array.shape:
                value.type.tensor_type.shape.dim.add().dim_value = side
    del fixed.graph.value_info[:]
    for value in fixed.graph.output:  # what they said holds for any size; inference says it again for this one
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return {}
    sizes = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        sides = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if sides and all(sides):
            sizes[value.name] = 4 * int(np.prod(sides))
    return sizes


def _watching(model: "onnx.ModelProto", tensors: Sequence[str]) -> tuple[tuple[str, ...], Any]:
    """A session of the model that also gives these tensors."""
    import onnx
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    own = {value.name for value in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in own)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = cores()
    # Fused nodes have no inside to watch. What is let go at once leaves the memory to the tensors that are kept.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
    )
    return tuple(tensors), session
