"""The graph of a model before and after it is quantised: what stays float, and onnxruntime's QDQ around the rest."""

import contextlib
import io
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.contracts.errors import ConfigError
from pipeline.quantize.ranges import Range

if TYPE_CHECKING:
    import onnx

MIN_OPSET = 13
"""From here on a weight may have a scale for each channel."""

QUANTISED_OPERATORS = (
    *("Conv", "Sigmoid", "Mul", "Relu", "Clip", "LeakyRelu"),
    *("Concat", "Add", "MaxPool", "Resize", "Split", "Slice"),
)
"""What runs on 8-bit values between convolutions. Attention (MatMul, Softmax) stays float: it lost accuracy for nothing
won, its tensors are small."""

_ACTIVATIONS = frozenset({"Sigmoid", "Mul", "Relu", "Clip", "LeakyRelu", "HardSigmoid", "HardSwish", "Tanh", "Erf"})
_ALREADY = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"})
_MAX_BYTES = 2**31 - 1


class Kept(NamedTuple):
    """What stays float: the first convolutions, where little is computed on many different values, and the last, whose
    values are coordinates and scores."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"the first {self.first} and last {self.last} layers of convolutions float"


def prepare(path: Path, folder: Path) -> "onnx.ModelProto":
    """The float model as it is quantised: constants folded, every node with a name, an operator set that will do.

    Args:
        path: the model; `read_onnx` has seen it.
        folder: for a file in between.

    Raises:
        ConfigError: with key `model`: it cannot be quantised, and why.
    """
    import onnx
    import onnxruntime

    model = onnx.load(path)
    if _ALREADY & {node.op_type for node in model.graph.node}:
        raise ConfigError(f"{path}: the model is quantised already; give the float model", key="model")
    if all(node.op_type != "Conv" for node in model.graph.node):
        raise ConfigError(f"{path}: the model has no convolutions: there is nothing to win", key="model")
    weights = {tensor.data_type for tensor in model.graph.initializer}
    if onnx.TensorProto.FLOAT16 in weights:
        raise ConfigError(
            f"{path}: the model is float16; give the float32 model, it is the one to quantise", key="model"
        )
    if model.ByteSize() > _MAX_BYTES:
        raise ConfigError(f"{path}: the model is larger than 2 GiB", key="model")
    opset = next((each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), 0)
    folded = folder / "folded.onnx"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    try:
        if opset < MIN_OPSET:
            model = onnx.version_converter.convert_version(model, MIN_OPSET)
        onnxruntime.InferenceSession(
            model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
        )
        model = onnx.shape_inference.infer_shapes(onnx.load(folded))
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
        line = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path}: the model cannot be made ready: {line}", key="model") from error
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}_{node.op_type}"
    return model


def watchable(model: "onnx.ModelProto") -> list[str]:
    """Names of the float tensors that get a range: what the quantised operators take and give."""
    import onnx

    floats = {
        value.name
        for value in (*model.graph.value_info, *model.graph.output, *model.graph.input)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    weights = {tensor.name for tensor in model.graph.initializer}
    names = (
        name
        for node in model.graph.node
        if node.op_type in QUANTISED_OPERATORS
        for name in (*node.input, *node.output)
        if name in floats and name not in weights
    )
    return list(dict.fromkeys(names))


def kept_nodes(model: "onnx.ModelProto", kept: Kept) -> set[str]:
    """Names of the nodes that stay float.

    No float convolution may lie between 8-bit tensors: onnxruntime would quantise its weights by itself, coarsely (its
    optimiser's "WeightBiasQuantization"). So all that leads to a first one stays float, too, and all behind a last one.
    """
    nodes = list(model.graph.node)
    makers = {name: node for node in nodes for name in node.output}
    users: dict[str, list[Any]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            users[name].append(node)
    found = _behind(model, makers, kept.last)
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    pending = convolutions[: kept.first]
    for convolution in tuple(pending):
        pending += _activation(convolution, users)
    while pending:
        node = pending.pop()
        if node.name not in found:
            found.add(node.name)
            pending += [makers[name] for name in node.input if name in makers]
    return found


def leaves_enough(model: "onnx.ModelProto", kept: Kept) -> bool:
    """Whether at least half of the convolutions are quantised: with less there is nothing to win."""
    floats = kept_nodes(model, kept)
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    return 2 * sum(name in floats for name in convolutions) <= len(convolutions)


def _behind(model: "onnx.ModelProto", makers: Mapping[str, Any], layers: int) -> set[str]:
    """The nodes from which an output is reached over fewer than `layers` other convolutions."""
    most: dict[str, int] = {}
    pending = [(value.name, layers) for value in model.graph.output]
    found = set()
    while pending:
        name, left = pending.pop()
        node = makers.get(name)
        if node is None or most.get(node.name, -1) >= left:
            continue
        most[node.name] = left
        if node.op_type == "Conv":
            if not left:
                continue
            left -= 1
        found.add(node.name)
        pending += [(each, left) for each in node.input]
    return found


def _activation(convolution: Any, users: Mapping[str, list[Any]]) -> list[Any]:
    """What is computed of a convolution's output, value by value."""
    found: list[Any] = []
    pending = list(convolution.output)
    while pending and len(found) < 8:
        for node in users[pending.pop()]:
            if node.op_type in _ACTIVATIONS and node not in found:
                found.append(node)
                pending += node.output
    return found


def quantise(
    model: "onnx.ModelProto",
    ranges: Mapping[str, Range],
    kept: Kept,
    *,
    folder: Path,
    target: Path,
    metadata: Mapping[str, str],
) -> None:
    """Write the model with 8-bit weights, a scale for each channel, and 8-bit activations between.

    Args:
        model: from `prepare`.
        ranges: of all tensors of `watchable`.
        kept: what stays float.
        folder: for files in between.
        target: where it is written.
        metadata: of the written model.

    Raises:
        ConfigError: onnxruntime cannot do it.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import TensorData, TensorsData, save_tensors_data
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    found = {
        name: TensorData(lowest=np.float32(each.low), highest=np.float32(each.high)) for name, each in ranges.items()
    }
    ready = onnx.ModelProto()
    ready.CopyFrom(model)
    add_pre_process_metadata(ready)  # else a warning that it was not
    with tempfile.TemporaryDirectory(dir=folder) as inside, contextlib.redirect_stdout(io.StringIO()):
        source, known = Path(inside) / "float.onnx", Path(inside) / "ranges.json"
        onnx.save(ready, source)
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, found), known)
        try:
            quantize_static(
                str(source),
                str(target),
                None,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED_OPERATORS),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=sorted(kept_nodes(model, kept)),
                calibration_cache_path=str(known),
            )
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            line = " ".join(str(error).split())[:300]
            raise ConfigError(f"onnxruntime cannot quantise the model: {line}", key="model") from error
    written = onnx.load(target)
    del written.metadata_props[:]
    onnx.helper.set_model_props(written, dict(metadata))
    onnx.save(written, target)
