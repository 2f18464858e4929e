"""Makes a small detector of real convolutions, so that there is something to quantise; and pictures for it."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SIDE = 64
LAYERS = 8


def conv_detector(
    path: Path, *, layers: int = LAYERS, opset: int = 17, half: bool = False, wild: bool = False, blind: bool = False
) -> Path:
    """A detector of the YOLOv8 family, 64x64, 84 places and two classes, of `layers` convolutions with SiLU.

    Its boxes lie where they always lie; how sure it is of each depends on the picture.

    Args:
        path: where to write it.
        layers: convolutions, the last included.
        opset: version of the standard operators.
        half: weights are float16.
        blind: it is never sure of anything.
        wild: one channel of each layer is 2,000 times as large as the others: 256 steps cannot hold both.
    """
    rng = np.random.default_rng(3)
    dtype = np.float16 if half else np.float32
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    nodes, weights = [], []
    name, channels = "images", 3
    for layer in range(layers - 1):
        out = 16
        kernel = rng.normal(0, (2 / (channels * 9)) ** 0.5, (out, channels, 3, 3)).astype(dtype)
        if wild:
            gains = np.ones((out, channels, 1, 1))
            gains[0], gains[1:, 0] = 2000, 1e-4 if layer else 1
            kernel = np.multiply(kernel, gains).astype(dtype)
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        stride = 2 if layer < 3 else 1
        nodes += [
            helper.make_node("Conv", [name, f"w{layer}"], [f"c{layer}"], pads=[1] * 4, strides=[stride] * 2),
            helper.make_node("Sigmoid", [f"c{layer}"], [f"s{layer}"]),
            helper.make_node("Mul", [f"c{layer}", f"s{layer}"], [f"m{layer}"]),
        ]
        name, channels = f"m{layer}", out
    weights.append(numpy_helper.from_array(rng.normal(0, 1.5, (2, channels, 1, 1)).astype(dtype), "last"))
    weights.append(numpy_helper.from_array(np.full(2, -99.0 if blind else 0.0, dtype), "bias"))
    weights.append(numpy_helper.from_array(np.array([1, 2, -1], np.int64), "flat"))
    nodes.append(helper.make_node("Conv", [name, "last", "bias"], ["p8"]))
    for side, above in ((4, "p8"), (2, "p4")):
        nodes.append(helper.make_node("MaxPool", [above], [f"p{side}"], kernel_shape=[2, 2], strides=[2, 2]))
    nodes += [helper.make_node("Reshape", [f"p{side}", "flat"], [f"f{side}"]) for side in (8, 4, 2)]
    boxes = np.stack([rng.uniform(16, 48, 84), rng.uniform(16, 48, 84), *rng.uniform(8, 24, (2, 84))])[None]
    weights.append(numpy_helper.from_array(boxes.astype(dtype), "boxes"))
    nodes += [
        helper.make_node("Concat", ["f8", "f4", "f2"], ["all"], axis=2),
        helper.make_node("Sigmoid", ["all"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("images", kind, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output0", kind, [1, 6, 84])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, {"names": "{0: 'thing', 1: 'other'}", "stride": "32", "imgsz": "[64, 64]"})
    onnx.save(model, path)
    return path


def pictures(folder: Path, count: int = 12) -> Path:
    """A folder of colourful pictures, no two alike."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(5)
    for number in range(count):
        small = rng.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(small).resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
    return folder
