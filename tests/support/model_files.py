"""Makes small ONNX files for tests: detectors that always give the same output, and files that hide things."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Dim = int | str
Array = npt.NDArray[np.generic]


def detector(
    path: Path,
    outputs: Mapping[str, Array],
    *,
    image: Sequence[Dim] = (1, 3, 64, 64),
    dtype: type[np.generic] = np.float32,
    shapes: Mapping[str, Sequence[Dim]] | None = None,
    metadata: Mapping[str, str] | None = None,
    operators: Sequence[str] = (),
) -> Path:
    """A model that answers every picture of a batch with `outputs` (one frame's, without the batch axis).

    Args:
        path: where it is written.
        outputs: by name, one frame's output.
        image: declared shape of the input.
        dtype: element type of the input; outputs are float32, or float16 where the input is.
        shapes: declared shapes of outputs, where they are not the true ones.
        metadata: the file's key and value pairs.
        operators: further operators (of one input), which change nothing.
    """
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    answer = TensorProto.FLOAT16 if dtype is np.float16 else TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["means", "zero"], ["zeros"]),
    ]
    nodes += [helper.make_node(name, ["zeros"], [f"unused_{i}"]) for i, name in enumerate(operators)]
    weights = [numpy_helper.from_array(np.zeros(1, np.float32), "zero")]
    values = []
    for name, array in outputs.items():
        ones = np.array([-1] + [1] * array.ndim, np.int64)
        weights += [numpy_helper.from_array(array.astype(np.float32)[None], f"{name}_value")]
        weights += [numpy_helper.from_array(ones, f"{name}_ones")]
        nodes += [
            helper.make_node("Reshape", ["zeros", f"{name}_ones"], [f"{name}_zeros"]),
            helper.make_node("Add", [f"{name}_zeros", f"{name}_value"], [f"{name}_sum"]),
            helper.make_node("Cast", [f"{name}_sum"], [name], to=answer),
        ]
        shape = (shapes or {}).get(name, (image[0], *array.shape))
        values.append(helper.make_tensor_value_info(name, answer, shape))
    graph = helper.make_graph(
        nodes, "detector", [helper.make_tensor_value_info("images", element, image)], values, weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.save(model, path)
    return path


def echo(
    path: Path,
    size: tuple[int, int] = (64, 64),
    dtype: type[np.generic] = np.float32,
    *,
    channels_last: bool = False,
    batch: Dim = "b",
) -> Path:
    """A "detector" that answers with its own input, in 6 rows: what was fed can be looked at."""
    width, height = size
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    image = (batch, height, width, 3) if channels_last else (batch, 3, height, width)
    columns = width * height // 2
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "shape"], ["output0"]),
    ]
    graph = helper.make_graph(
        nodes,
        "echo",
        [helper.make_tensor_value_info("images", element, image)],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, (batch, 6, columns))],
        [helper.make_tensor("shape", TensorProto.INT64, [3], [-1, 6, columns])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def cells(width: int, height: int, strides: Sequence[int] = (8, 16, 32)) -> int:
    """How many grid cells a detector has at this input size."""
    return sum((width // s) * (height // s) for s in strides)


def yolov8_output(
    *boxes: tuple[float, float, float, float, int, float], classes: int = 2, rows: int = cells(64, 64)
) -> npt.NDArray[np.float32]:
    """float32 (4 + classes, rows) with the boxes (cx, cy, w, h, class, score) in the first columns."""
    output = np.zeros((4 + classes, rows), np.float32)
    for column, (cx, cy, w, h, class_id, score) in enumerate(boxes):
        output[:4, column] = (cx, cy, w, h)
        output[4 + class_id, column] = score
    return output


def objects_output(
    *boxes: tuple[float, float, float, float, int, float, float], classes: int = 2, rows: int = 3 * cells(64, 64)
) -> npt.NDArray[np.float32]:
    """float32 (rows, 5 + classes) with the boxes (cx, cy, w, h, class, objectness, class score) in the first rows."""
    output = np.zeros((rows, 5 + classes), np.float32)
    for row, (cx, cy, w, h, class_id, objectness, score) in enumerate(boxes):
        output[row, :5] = (cx, cy, w, h, objectness)
        output[row, 5 + class_id] = score
    return output


def external(location: str, *, length: int = 64, offset: int = 0) -> TensorProto:
    """A float32 tensor whose data lies in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[length // 4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


Face = tuple[float, float, tuple[float, float, float, float], Sequence[tuple[float, float]]]


def yunet_outputs(faces: Mapping[int, Face], width: int = 64, height: int = 64) -> dict[str, npt.NDArray[np.float32]]:
    """The twelve maps of YuNet, one frame's, with faces (class, objectness, box, landmarks) in cells of stride 8."""
    maps = {}
    for kind, values in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for stride in (8, 16, 32):
            maps[f"{kind}_{stride}"] = np.zeros(((width // stride) * (height // stride), values), np.float32)
    for cell, (cls, obj, box, landmarks) in faces.items():
        maps["cls_8"][cell], maps["obj_8"][cell], maps["bbox_8"][cell] = cls, obj, box
        maps["kps_8"][cell] = np.array(landmarks).ravel()
    return maps
