"""`penstock run`, as its user runs it: results, exit codes, signals, metrics."""

import io
import json
import re
import signal
import subprocess
import textwrap
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import av
import supervision as sv
from daemon import free_port
from makers import damage
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from workplace import Workplace

Edit = Callable[[str, str], str]


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def _wait_for_log(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"{text!r} was never logged")


def test_a_run_gives_one_line_a_frame_and_says_what_became_of_each(workplace: Workplace) -> None:
    code, out, err = workplace.penstock("run")
    assert (code, out) == (0, "")
    lines = workplace.lines("out/cam.jsonl")
    assert [line["frame_id"] for line in lines] == list(range(30))
    assert [line["pts_s"] for line in lines] == [round(index / 25, 6) for index in range(30)]
    detections = sv.Detections.from_inference(lines[7])
    assert detections.xyxy.round().tolist() == [[48, 16, 80, 48]]
    assert list(detections.data["class_name"]) == ["thing"]
    assert "source cam: 30 decoded = 30 inferred" in err
    assert "sink lines: 30 accepted = 30 delivered" in err
    assert "wrote out/cam.jsonl" in err
    assert "every frame and every result is accounted for" in err


def test_quiet_says_nothing(workplace: Workplace) -> None:
    assert workplace.penstock("run", "--quiet") == (0, "", "")


def test_a_clip_becomes_an_annotated_clip_of_the_same_length(workplace: Workplace, edited: Edit) -> None:
    workplace.write(edited('type = "jsonl"', 'type = "video"').replace(".jsonl", ".mp4"))
    assert workplace.penstock("run", "-q") == (0, "", "")
    with av.open(str(workplace.folder / "out/cam.mp4")) as container:
        assert [round(float(frame.time or 0), 3) for frame in container.decode(video=0)] == [i / 25 for i in range(30)]


def test_sigterm_drains_and_says_what_was_written(workplace: Workplace, edited: Edit) -> None:
    workplace.write(edited('path = "clip.mp4"', 'path = "clip.mp4"\n    pace = "realtime"\n    loop = true'))
    process = workplace.start("run")
    _wait_for_log(process, "source cam: running")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "SIGTERM: stopping the sources" in err
    lines = workplace.lines("out/cam.jsonl")
    assert f"{len(lines):,} delivered" in err
    assert "accounted for" in err


def test_a_second_signal_abandons_counts_and_exits_1(workplace: Workplace, edited: Edit) -> None:
    workplace.write(edited('type = "jsonl"', 'type = "stdout"').replace('path = "out/{source}.jsonl"', ""))
    loop = 'path = "clip.mp4"\n    loop = true'
    workplace.write((workplace.folder / "pipeline.toml").read_text().replace('path = "clip.mp4"', loop))
    process = workplace.start("run")  # nobody reads its stdout: the sink is stuck once the pipe is full
    _wait_for_log(process, "source cam: running")
    assert process.stdout is not None
    _until_stuck(process)
    process.send_signal(signal.SIGINT)
    _wait_for_log(process, "SIGINT: stopping")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    err = process.stderr.read()
    process.stdout.close()
    assert process.wait(timeout=20) == 1, err
    assert "abandoning what is left" in err
    assert "did not end in time: sink-" in err
    assert "accounted for" in err


def _until_stuck(process: subprocess.Popen[str]) -> None:
    """Wait until the process writes no more: its CPU time stands still."""
    import psutil

    watched, before = psutil.Process(process.pid), -1.0
    while (now := sum(watched.cpu_times()[:2])) != before:
        before = now
        try:
            process.wait(timeout=0.7)
        except subprocess.TimeoutExpired:
            continue


def test_metrics_health_and_status_are_served_while_it_lingers(workplace: Workplace, edited: Edit) -> None:
    port = free_port()
    workplace.write(edited('listen = "off"', f'listen = "127.0.0.1:{port}"\n    linger_s = inf'))
    process = workplace.start("run")
    _wait_for_log(process, "source cam: ended")
    samples = _samples_when_drained(port)
    assert samples["penstock_frames_decoded_total", (("source", "cam"),)] == 30
    assert samples["penstock_frames_total", (("outcome", "inferred"), ("source", "cam"))] == 30
    assert samples["penstock_sink_results_total", (("outcome", "delivered"), ("sink", "lines"))] == 30
    assert samples["penstock_detections_total", (("class", "thing"), ("source", "cam"))] == 30
    for stage, kind, name in (("decode", "source", "cam"), ("infer", "backend", "local"), ("write", "sink", "lines")):
        labels = dict.fromkeys(("backend", "sink", "source"), "") | {"stage": stage, kind: name}
        assert samples["penstock_stage_duration_seconds_count", tuple(sorted(labels.items()))] > 0
    assert _get(port, "/livez")[0] == 200
    assert _get(port, "/readyz")[0] == 503  # it is over: no frame will be worked on any more
    status = json.loads(_get(port, "/api/v1/status")[1])
    assert status["sources"][0]["state"] == "ended"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err


def _samples_when_drained(port: int) -> dict[Any, float]:
    while True:
        body = _get(port, "/metrics")[1]
        samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
        }
        if (
            not samples["penstock_sink_pending", (("sink", "lines"),)]
            and not (samples["penstock_frames_in_flight", (("source", "cam"),)])
        ):
            return samples


def test_one_bad_source_stops_no_other_and_the_exit_code_says_so(workplace: Workplace, edited: Edit) -> None:
    (workplace.folder / "bad.mp4").write_text("this is no video\n" * 100)
    second = '\n    [sources.bad]\n    type = "file"\n    path = "bad.mp4"\n\n    [backends.local]'
    workplace.write(edited("\n    [backends.local]", second))
    code, _, err = workplace.penstock("run")
    assert code == 1
    assert len(workplace.lines("out/cam.jsonl")) == 30
    bad = [line for line in err.splitlines() if "source bad:" in line and "ERROR" in line]
    assert len(bad) == 1
    assert "bad.mp4" in bad[0]
    assert "Traceback" not in err


def test_a_damaged_clip_gives_its_good_frames_and_counts_the_others(workplace: Workplace) -> None:
    damage(workplace.folder / "clip.mp4", [8, 9, 20])
    code, _, err = workplace.penstock("run")
    assert code == 0, err
    assert "source cam: 30 decoded = 27 inferred + 3 failed decode" in err
    assert len(workplace.lines("out/cam.jsonl")) == 27
    assert err.count("not decoded:") == 1  # repeats are counted, not logged one by one
    assert "cam: failed_decode: 2 more times" in err


def test_eight_files_at_once_each_give_all_of_their_frames(workplace: Workplace, edited: Edit) -> None:
    sources = "\n".join(f'[sources.cam{index}]\ntype = "file"\npath = "clip.mp4"\n' for index in range(8))
    text = textwrap.dedent(edited('[sources.cam]\n    type = "file"\n    path = "clip.mp4"', ""))
    workplace.write(sources + text)
    code, _, err = workplace.penstock("run")
    assert code == 0, err
    for index in range(8):
        assert [line["frame_id"] for line in workplace.lines(f"out/cam{index}.jsonl")] == list(range(30))
    assert "sink lines: 240 accepted = 240 delivered" in err


def test_a_missing_file_is_an_error_of_its_source_only(workplace: Workplace, edited: Edit) -> None:
    second = '\n    [sources.gone]\n    type = "file"\n    path = "clp.mp4"\n\n    [backends.local]'
    workplace.write(edited("\n    [backends.local]", second))
    code, _, err = workplace.penstock("run", "--quiet")
    assert code == 1
    assert len(workplace.lines("out/cam.jsonl")) == 30
    assert "source gone: NOT_FOUND" in err
    assert err.count("\n") == 1, err
    assert workplace.penstock("check")[0] == 78


def test_each_bad_file_is_named(workplace: Workplace, edited: Edit) -> None:
    (workplace.folder / "photos").mkdir()
    (workplace.folder / "photos/good.png").write_bytes(_png())
    for index in range(5):
        (workplace.folder / f"photos/bad{index}.jpg").write_bytes(b"junk")
    workplace.write(edited('type = "file"', 'type = "directory"').replace("clip.mp4", "photos"))
    code, _, err = workplace.penstock("run")
    assert code == 0, err
    assert "6 decoded = 1 inferred + 5 failed decode" in err
    assert [f"bad{index}.jpg" in err for index in range(5)] == [True] * 5


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 200, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_run_without_a_result_does_not_claim_to_have_written_one(workplace: Workplace, edited: Edit) -> None:
    (workplace.folder / "clip.mp4").write_text("no video\n" * 100)
    (workplace.folder / "old.jsonl").write_text('{"old": true}\n')
    workplace.write(edited("out/{source}.jsonl", "old.jsonl"))
    code, _, err = workplace.penstock("run")
    assert code == 1
    assert "wrote" not in err
    assert workplace.lines("old.jsonl") == [{"old": True}]


def test_a_hangup_is_the_order_to_read_the_configuration_again(workplace: Workplace, edited: Edit) -> None:
    workplace.write(edited('path = "clip.mp4"', 'path = "clip.mp4"\n    pace = "realtime"\n    loop = true'))
    process = workplace.start("run")
    _wait_for_log(process, "source cam: running")
    process.send_signal(signal.SIGHUP)
    _wait_for_log(process, "nothing changed")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert workplace.lines("out/cam.jsonl")


def test_it_is_ready_while_frames_move(workplace: Workplace, edited: Edit) -> None:
    port = free_port()
    text = edited('path = "clip.mp4"', 'path = "clip.mp4"\n    pace = "realtime"\n    loop = true')
    workplace.write(text.replace('listen = "off"', f'listen = "127.0.0.1:{port}"'))
    process = workplace.start("run")
    _wait_for_log(process, "source cam: running")
    code, body = _get(port, "/readyz")
    assert code == 200, body
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_it_is_not_ready_when_every_source_has_failed(workplace: Workplace, edited: Edit) -> None:
    port = free_port()
    (workplace.folder / "clip.mp4").write_text("no video\n" * 100)
    workplace.write(edited('listen = "off"', f'listen = "127.0.0.1:{port}"\n    linger_s = inf'))
    process = workplace.start("run")
    _wait_for_log(process, "source cam: CORRUPT")
    code, body = _get(port, "/readyz")
    assert code == 503
    assert json.loads(body)["checks"]["sources"] == "every source has failed"
    labels = (("code", "STALLED"), ("source", "cam"))
    assert _samples_when_drained(port)["penstock_source_reconnects_total", labels] == 0  # there from the start
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 1


def test_an_environment_variable_overrides_a_key(workplace: Workplace) -> None:
    code, _, err = workplace.penstock("run", PENSTOCK_SOURCES__CAM__STRIDE="10")
    assert code == 0, err
    assert [line["frame_id"] for line in workplace.lines("out/cam.jsonl")] == [0, 10, 20]
    assert "= 3 inferred" in err
    decoded, skipped = (int(found) for found in re.findall(r"(\d+) (?:decoded =|not decoded)", err))
    assert decoded + skipped == 30
