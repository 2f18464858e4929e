"""Makes small real files for tests: an ONNX detector that answers to brightness, and clips of known greys."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 64
ANCHORS = (SIDE // 8) ** 2 + (SIDE // 16) ** 2 + (SIDE // 32) ** 2


def brightness_model(path: Path, names: Sequence[str] = ("thing", "other"), *, takes_bytes: bool = False) -> Path:
    """A detector of the YOLOv8 family, 64x64, that finds one `names[0]` in the middle of every picture.

    With `takes_bytes` its input is uint8, and it scales the values itself.

    Its confidence is the mean brightness of what it is fed, 0..1 (the grey 114 of the letterbox counts as well).
    """
    rows = 4 + len(names)
    base = np.zeros((1, rows, ANCHORS), np.float32)
    base[0, :4, 0] = (32, 32, 16, 16)  # one box: centre, width, height in the model's pixels
    gain = np.zeros((1, rows, ANCHORS), np.float32)
    gain[0, 4, 0] = 1.0
    scale = numpy_helper.from_array(np.array(1 / 255 if takes_bytes else 1, np.float32), "scale")
    dtype = TensorProto.UINT8 if takes_bytes else TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["values", "scale"], ["scaled"]),
            helper.make_node("ReduceMean", ["scaled"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["gain", "mean"], ["scores"]),
            helper.make_node("Add", ["base", "scores"], ["output0"]),
        ],
        "brightness",
        [helper.make_tensor_value_info("images", dtype, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, rows, ANCHORS])],
        [scale, numpy_helper.from_array(base, "base"), numpy_helper.from_array(gain, "gain")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(
        model, {"names": str(dict(enumerate(names))), "stride": "32", "task": "detect", "imgsz": f"[{SIDE}, {SIDE}]"}
    )
    onnx.save(model, path)
    return path


def clip(path: Path, greys: Sequence[int], *, width: int = 128, height: int = 64, fps: int = 25) -> Path:
    """A video with one frame of each grey, H.264 without B-frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for grey in greys:
            rgb = np.full((height, width, 3), grey, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def damage(path: Path, packets: Sequence[int]) -> None:
    """Overwrite the beginning of these packets, so that no decoder takes them."""
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        found = [
            (packet.pos, packet.size) for packet in container.demux(video=0) if packet.size and packet.pos is not None
        ]
    for number in packets:
        start, size = found[number]
        content[start : start + min(size, 8)] = b"\xff" * min(size, 8)
    path.write_bytes(content)
