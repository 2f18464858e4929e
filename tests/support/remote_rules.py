"""Servers of other protocols with a model that finds one box, as wide as the picture is bright."""

import base64
import io
from typing import Any

import numpy as np
from misbehaving_server import Asked, Reply
from PIL import Image

from pipeline.contracts.backend import ModelInfo
from pipeline.contracts.frame import Size
from pipeline.contracts.result import Detections
from pipeline.server.inference.multipart import boundary_of, parse_multipart
from pipeline.wire.huggingface_answers import encode_detections
from pipeline.wire.kserve import HEADER, InferResponse, decode_request, header_length
from pipeline.wire.kserve import encode_response as encode_tensors
from pipeline.wire.kserve_results import outputs_of, to_tensors
from pipeline.wire.roboflow import RegistryModel, encode_registry, encode_response
from pipeline.wire.supervisely import encode_session_info, result_item
from pipeline.wire.supervisely_annotation import encode_annotation
from pipeline.wire.supervisely_meta import encode_meta


def bright_box(data: bytes) -> tuple[Detections, Size]:
    """What the model finds in a picture file, and the picture's size."""
    grey = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    height, width = grey.shape
    share = max(float(grey.mean()) / 255, 0.05)
    found = Detections(
        np.array([[0, 0, width * share, height / 2]], np.float32),
        np.array([share], np.float32),
        np.zeros(1, np.int32),
        ("thing",),
    )
    return found, Size(width, height)


def roboflow_rules(asked: Asked) -> Any:
    """Roboflow's v1 with the model `det/1`."""
    if asked.path.startswith("/model/"):
        return encode_registry([RegistryModel("det/1", "object-detection", 4)])
    images = asked.json()["image"]
    answers = []
    for image in images if isinstance(images, list) else [images]:
        found, size = bright_box(base64.b64decode(image["value"]))
        answers.append(encode_response(found, size, time_s=0.01, inference_id="ab"))
    return answers if isinstance(images, list) else answers[0]


def huggingface_rules(asked: Asked) -> Any:
    """Hugging Face's object detection: the picture is the body, and says what it is."""
    if not asked.headers.get("content-type", "").startswith("image/"):
        return Reply(400, body=b'{"error": "content type not supported"}')
    return encode_detections(bright_box(asked.body)[0])


def supervisely_rules(asked: Asked) -> Any:
    """A serving app of Supervisely's: at once, without sessions."""
    info = ModelInfo("object-detection", ("thing",))
    if asked.path == "/get_session_info":
        return encode_session_info("thing", info, 16)
    if asked.path == "/get_model_meta":
        return encode_meta(info)
    parts = parse_multipart(asked.body, boundary_of(asked.headers["content-type"]))
    results = [result_item(encode_annotation(*bright_box(part.data))) for part in parts if part.name == "files"]
    return results if asked.path == "/inference_batch" else results[0]


def kserve_rules(asked: Asked) -> Any:
    """The open inference protocol, as a Penstock speaks it: files in, boxes out."""
    info = ModelInfo("object-detection", ("thing",))
    if asked.path.endswith("/config"):
        return {"max_batch_size": 16, "parameters": {"labels": {"string_value": '["thing"]'}}}
    if not asked.path.endswith("/infer"):
        outputs = [spec.to_dict() for spec in outputs_of(info.task)]
        return {
            "name": "det",
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
            "outputs": outputs,
        }
    request = decode_request(asked.body, header_length(asked.headers.get(HEADER.lower())))
    tensors = to_tensors([bright_box(data)[0] for data in request.inputs[0].array.tolist()], info)
    body = encode_tensors(InferResponse("det", "1", tensors), [one.name for one in tensors])
    return Reply(body=body.data, headers={"Content-Type": body.media_type, HEADER: str(body.header_length)})
