"""`penstock doctor`: a plain verdict on machine, installation and cameras, without their passwords."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from makers import clip
from rtsp_server import RtspServer
from workplace import Workplace

from pipeline.backends._onnx.device import CPU, TENSORRT
from pipeline.backends._onnx.proof import prove, tiny_model
from pipeline.backends._onnx.session import Runtime
from pipeline.contracts.component import Finding
from pipeline.contracts.errors import SourceErrorCode, TransientError
from pipeline.contracts.frame import Size
from pipeline.doctor import clock, disk, examine, hardware_decoders
from pipeline.probe import Sight, judge


def row(out: str, subject: str) -> str:
    """The doctor's line about something."""
    (found,) = [line for line in out.splitlines() if line[5:].split("  ")[0] == subject]
    return found


def test_this_machine_is_well_and_the_cpu_is_proven(workplace: Workplace) -> None:
    code, out, err = workplace.penstock("doctor")
    assert (code, err) == (0, ""), out
    for subject in ("penstock", "libraries", "processor", "clock", "decoders", "onnxruntime", "disk"):
        assert row(out, subject).startswith("ok ")
    assert "runs a model" in row(out, CPU)
    assert out.splitlines()[-1] == "all is well"


def test_each_camera_is_looked_at_and_the_bad_ones_are_told_with_what_to_do(workplace: Workplace) -> None:
    with RtspServer() as server:
        good = server.add("/good", clip(workplace.folder / "good.mp4", [90] * 50))
        server.add("/shut", workplace.folder / "good.mp4", user="me", password="right")  # noqa: S106
        shut = f"rtsp://me:c4nary-pass@127.0.0.1:{server.port}/shut"
        cameras = {"good": good, "shut": shut, "gone": f"rtsp://u:c4nary-pass@127.0.0.1:{server.port}/nothing"}
        tables = "".join(f'[sources.{name}]\ntype = "rtsp"\nurl = "{url}"\n' for name, url in cameras.items())
        workplace.write(
            tables + '[backends.local]\ntype = "onnx"\nmodel = "model.onnx"\n'
            '[sinks.lines]\ntype = "jsonl"\npath = "out/{source}.jsonl"\n[server]\nlisten = "off"\n'
        )
        code, out, err = workplace.penstock("doctor", "pipeline.toml")
    assert code == 1, out
    assert err == ""
    for text in ("h264 over tcp", "128x64", " fps", "first picture after"):
        assert text in row(out, "source good")
    assert row(out, "source good").startswith("ok ")
    assert row(out, "source shut").startswith("BAD  ")
    assert "AUTH_FAILED" in row(out, "source shut")
    assert "correct user and password" in row(out, "source shut")
    assert "NOT_FOUND" in row(out, "source gone")
    assert row(out, "config").startswith("ok ")
    assert out.splitlines()[-1].startswith("2 of ")
    assert "c4nary" not in out
    assert not (workplace.folder / "out").exists(), "it changes nothing"
    assert not (workplace.folder / "data").exists()


def test_a_wrong_config_is_told_line_by_line(workplace: Workplace) -> None:
    workplace.write('[sources.cam]\ntype = "rtsp"\nurl = "rtsp://u:c4nary pass@host/x"\nstrid = 1\n')
    code, out, _ = workplace.penstock("doctor", "pipeline.toml")
    assert code == 1
    assert "BAD  config" in out
    assert "pipeline.toml:4: sources.cam.strid" in out
    assert "c4nary" not in out


def test_what_a_plugin_tells_of_its_password_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [Finding(False, "source cam", "no answer from rtsp://me:c4nary@host/\x1b[2J")]
    monkeypatch.setattr("pipeline.doctor._examine", lambda _: iter(told))
    (found,) = examine()
    assert found.detail == "no answer from rtsp://me:***@host/\\x1b[2J"


def sight(**changes: object) -> Sight:
    seen = Sight(frames=101, first_after_s=0.5, last_after_s=4.5, sizes={Size(640, 480): None}, time_source="rtcp")
    for name, value in changes.items():
        setattr(seen, name, value)
    return seen


@pytest.mark.parametrize(
    ("changes", "ok", "text"),
    [
        ({}, True, "640x480, 25.0 fps, first picture after 0.5 s, time from rtcp"),
        ({"damaged": 1}, True, "1 damaged"),
        ({"damaged": 9}, False, "pictures are lost"),
        ({"failed": 9}, False, "pictures are lost"),
        ({"clock_offset_s": 0.2}, True, "0.20 s behind ours"),
        ({"clock_offset_s": -3600.0}, False, "its clock is wrong"),
        ({"details": {"codec": "h264", "keyframe_interval_s": 2.0}}, True, "a keyframe every 2.0 s"),
        ({"details": {"codec": "h264", "keyframe_interval_s": 60.0}}, False, "keyframes are too rare"),
        ({"sizes": {Size(640, 480): None, Size(320, 240): None}}, True, "640x480 then 320x240"),
        ({"error": TransientError("no answer", code=SourceErrorCode.TIMEOUT)}, False, "firewall"),
        ({"error": ZeroDivisionError("oh")}, False, "the plugin has a bug: ZeroDivisionError: oh"),
        ({"first_after_s": None}, False, "no picture in time"),
        ({"warnings": ["verify = false"]}, True, "verify = false"),
    ],
)
def test_what_was_seen_of_a_camera_is_judged(changes: dict[str, object], ok: bool, text: str) -> None:
    found = judge("cam", sight(**changes))
    assert found.ok is ok, found
    assert text in found.detail


def test_the_tiny_model_is_valid_and_multiplies(tmp_path: Path) -> None:
    onnx.checker.check_model(onnx.load(tiny_model(tmp_path / "proof.onnx")), full_check=True)
    assert prove(CPU, Runtime(), 0).ok


def test_a_provider_that_does_not_start_or_gets_it_wrong_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Runtime):
        answer: object = None

        def session(self, *_: object) -> object:  # type: ignore[override]
            return self.answer

    class Wrong:
        def run(self, *_: object) -> list[object]:
            return [np.zeros((8, 8), np.float32)]

    runtime = Broken()
    assert not prove("SomeExecutionProvider", runtime, 0).ok
    runtime.answer = Wrong()
    assert "gets it wrong" in prove("SomeExecutionProvider", runtime, 0).detail


def test_tensorrt_is_only_tried_where_there_is_a_gpu_and_its_libraries_load(monkeypatch: pytest.MonkeyPatch) -> None:
    class Starts(Runtime):
        def session(self, *_: object) -> object:  # type: ignore[override]
            return None

    runtime = Starts()
    assert "no NVIDIA driver" in prove(TENSORRT, runtime, 0).detail
    monkeypatch.setattr("pipeline.backends._onnx.proof.load_libraries", lambda **_: "libnvinfer.so.10: not found")
    without = prove(TENSORRT, runtime, 1)
    assert (without.ok, "CUDA is used: libnvinfer.so.10" in without.detail) == (True, True)
    monkeypatch.setattr("pipeline.backends._onnx.proof.load_libraries", lambda **_: None)
    assert not prove(TENSORRT, runtime, 1).ok


def test_clock_disk_and_decoders_are_told_honestly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "synchronized").touch()
    assert "synchronised by systemd-timesyncd" in clock(tmp_path / "synchronized").detail
    monkeypatch.setattr("pipeline.doctor._kernel_says_synchronised", lambda: None)
    assert "not known" in clock(tmp_path / "no").detail
    monkeypatch.setattr("time.gmtime", lambda: __import__("time").struct_time((1970, 1, 1, 0, 0, 0, 3, 1, 0)))
    assert not clock(tmp_path / "no").ok
    assert disk("data_dir", tmp_path / "not" / "yet").ok
    monkeypatch.setattr("pipeline.doctor.MIN_FREE_BYTES", 1 << 60)
    assert not disk("data_dir", tmp_path).ok
    assert hardware_decoders().ok
    for gpus, usual in ((0, "the CPU"), (1, "a GPU")):
        monkeypatch.setattr("pipeline.doctor.cuda_devices", lambda gpus=gpus: gpus)
        assert hardware_decoders().detail.endswith(f'decode = "auto" decodes on {usual}')


@pytest.mark.parametrize(
    ("wish", "gpus", "said"),
    [
        ("auto", 0, None),
        ("vaapi", 0, None),
        ("cuda", 1, None),
        ("cuda:1", 2, None),
        ("cuda", 0, "there is no GPU:"),
        ("cuda:1", 1, "there is no GPU 1:"),
    ],
)
def test_a_source_that_wants_a_gpu_which_is_not_here_is_told(
    wish: str, gpus: int, said: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pipeline.doctor.cuda_devices", lambda: gpus)
    (tmp_path / "pipeline.toml").write_text(
        f"""
        [sources.street]
        type = "file"
        path = "street.mp4"
        decode = "{wish}"
        [backends.local]
        type = "onnx"
        model = "model.onnx"
        [sinks.lines]
        type = "jsonl"
        path = "street.jsonl"
        """
    )
    told = [each for each in examine(tmp_path / "pipeline.toml") if each.subject == "source street"]
    assert [each.ok for each in told] == [False] * (said is not None)
    assert said is None or f'decode = "{wish}", but {said}' in told[0].detail
