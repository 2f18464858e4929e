"""Roboflow's stream manager, driven by `inference-sdk`, on cameras of a real daemon."""

from pathlib import Path

import answering
from daemon import Daemon
from makers import clip

from tests.conformance.harness import vendor

PIPELINE = """
    [sources.gate]
    type = "synthetic"
    fps = 10

    [backends.boxes]
    type = "answering"
    aliases = ["det/1"]

    [sinks.lines]
    type = "jsonl"
    path = "out/{source}.jsonl"
"""
CLIENT = """
    import time, warnings
    warnings.simplefilter("ignore")
    from inference_sdk import InferenceHTTPClient

    http = InferenceHTTPClient(api_url=args.url, api_key="K")

    def consume(name, count):
        found = []
        deadline = time.monotonic() + 20
        while len(found) < count and time.monotonic() < deadline:
            answer = http.consume_inference_pipeline_result(name)
            if answer["outputs"]:
                found.append([answer["outputs"][0], answer["frames_metadata"][0]["frame_id"]])
            else:
                time.sleep(0.05)
        return found

    found = {"before": http.list_inference_pipelines()["pipelines"], "own": consume("gate", 3)}
    made = http.start_inference_pipeline_with_workflow(
        video_reference=args.video, workflow_specification=args.workflow, max_fps=None, results_buffer_size=500
    )
    name = made["context"]["pipeline_id"]
    found["counted"] = consume(name, 5)
    found["during"] = http.list_inference_pipelines()["pipelines"]
    found["status"] = http.get_inference_pipeline_status(name)["report"]["sources_metadata"][0]["state"]
    found["paused"] = http.pause_inference_pipeline("gate")["status"]
    deadline = time.monotonic() + 10  # the frame that is under way comes first
    while True:
        found["state"] = http.get_inference_pipeline_status("gate")["report"]["sources_metadata"][0]["state"]
        if found["state"] == "PAUSED" or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    found["resumed"] = http.resume_inference_pipeline("gate")["status"]
    found["ended"] = http.terminate_inference_pipeline(name)["status"]
    found["after"] = http.list_inference_pipelines()["pipelines"]
    found["name"] = name
    answer(found)
"""
COUNTING = {
    "version": "1.0",
    "inputs": [{"type": "WorkflowImage", "name": "image"}],
    "steps": [
        {"type": "ObjectDetectionModel", "name": "model", "image": "$inputs.image", "model_id": "det/1"},
        {
            "type": "PropertyDefinition",
            "name": "count",
            "data": "$steps.model.predictions",
            "operations": [{"type": "SequenceLength"}],
        },
    ],
    "outputs": [{"type": "JsonField", "name": "count", "selector": "$steps.count.output"}],
}


def test_a_stream_is_started_consumed_and_ended_by_the_client(tmp_path: Path) -> None:
    answering.install(tmp_path)
    clip(tmp_path / "clip.mp4", [40, 90, 140, 190] * 100)
    with Daemon(tmp_path, PIPELINE, server="sources_by_api = true") as daemon:
        daemon.ready()
        found = vendor("sdk", CLIENT, url=daemon.url, video="clip.mp4", workflow=COUNTING)
        daemon.scrape()
        daemon.stop()
    assert found["before"] == ["gate"]
    numbers = [number for _, number in found["own"]]
    assert numbers == sorted(set(numbers))
    assert found["own"][0][0]["predictions"]["predictions"][0]["class"] == "person"
    name = found["name"]
    assert found["during"] == ["gate", name]
    assert [output for output, _ in found["counted"]] == [{"count": 2}] * 5
    assert found["status"] in ("RUNNING", "ENDED")
    assert (found["paused"], found["state"], found["resumed"]) == ("success", "PAUSED", "success")
    assert found["ended"] == "success"
    assert found["after"] == ["gate"]
