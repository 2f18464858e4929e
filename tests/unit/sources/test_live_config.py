import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from media import file_source
from pydantic import ValidationError

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.secret import SecretUrl
from pipeline.testing import PluginContext
from sources._live import Plan
from sources.device import DeviceSourceConfig
from sources.rtsp import RtspSourceConfig
from sources.stream import StreamSourceConfig

CAM = "rtsp://cam.lan/live"


def rtsp(url: str = CAM, **keys: Any) -> RtspSourceConfig:
    return RtspSourceConfig.model_validate({"type": "rtsp", "url": url, **keys})


def stream(url: str, **keys: Any) -> StreamSourceConfig:
    return StreamSourceConfig.model_validate({"type": "stream", "url": url, **keys})


def address(plan: Plan) -> str:
    assert isinstance(plan.address, SecretUrl)
    return plan.address.reveal()


def test_user_and_password_go_into_the_address_encoded_and_into_nothing_that_is_shown() -> None:
    config = rtsp(user="us er", password="p@s/s:geheim")  # noqa: S106
    plan = config.plan()
    assert address(plan) == "rtsp://us%20er:p%40s%2Fs%3Ageheim@cam.lan/live"
    assert plan.shown == CAM
    shown = f"{config!r} {config} {config.model_dump_json()} {config.model_dump()} {plan!r} {plan}"
    assert "geheim" not in shown


def test_a_url_with_a_password_is_shown_without_it() -> None:
    config = rtsp("rtsp://user:geheim@cam.lan/live")
    assert address(config.plan()) == "rtsp://user:geheim@cam.lan/live"
    assert "geheim" not in f"{config!r} {config.model_dump_json()} {config.plan()!r} {config.plan().shown}"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"url": "rtsp://user:geheim@cam.lan/my stream"}, "spaces"),
        ({"url": "rtsp://user:geheim@/live"}, "names no host"),
        ({"url": "cam.lan/live"}, "scheme"),
        ({"url": "http://user:geheim@cam.lan/live"}, "begins with http://, not with rtsp://, rtsps://"),
        ({"url": "rtsp://user:geheim@cam.lan:port/"}, "port"),
        ({"url": "rtsp://user:geheim@cam.lan", "user": "other"}, "keep one of them"),
        ({"url": CAM, "password": "geheim"}, "needs a user"),
        ({"url": "rtsps://cam.lan/live", "transport": "udp"}, "comes over TLS"),
        ({"url": CAM, "ca_file": "ca.pem"}, "belong to TLS"),
        ({"url": CAM, "verify": False}, "belong to TLS"),
        ({"url": "rtsps://cam.lan", "verify": False, "ca_file": "ca.pem"}, "contradict"),
        ({"url": CAM, "transport": "carrier pigeon"}, "'tcp', 'udp' or 'tls'"),
        ({"url": CAM, "open_timeout_s": 0}, "greater than 0"),
    ],
)
def test_what_cannot_be_meant_is_said_without_the_password(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RtspSourceConfig.model_validate({"type": "rtsp", **keys})
    messages = " ".join(fault["msg"] for fault in caught.value.errors(include_input=False))
    assert message in messages
    assert "geheim" not in messages


def test_each_transport_has_its_options() -> None:
    assert rtsp().plan().options["rtsp_transport"] == "tcp"
    assert rtsp(transport="udp").plan().options["rtsp_transport"] == "udp"
    assert rtsp().plan().tls is None
    secure = rtsp(transport="tls", ca_file="/ca.pem").plan()
    assert address(secure) == "rtsps://cam.lan/live"
    assert (secure.options["tls_verify"], secure.options["ca_file"]) == ("1", "/ca.pem")
    assert secure.transport == "tls"
    assert rtsp("rtsps://cam.lan").plan().options["tls_verify"] == "1"
    assert rtsp().plan().options["allowed_media_types"] == "video"


def test_a_certificate_that_is_not_checked_is_warned_of_at_each_start() -> None:
    context = PluginContext()
    rtsp("rtsps://cam.lan", verify=False).build(context)
    assert len(context.warnings) == 1


def test_a_ca_file_is_looked_at_by_check(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("no certificate")
    for name in ("nothing.pem", "empty.pem"):
        with pytest.raises(ConfigError) as caught:
            rtsp("rtsps://cam.lan", ca_file=str(tmp_path / name)).check()
        assert caught.value.key == "ca_file"
    rtsp().check()


def test_with_a_stride_every_frame_is_decoded() -> None:
    assert rtsp(max_fps=1).plan().max_fps == 1
    assert rtsp(max_fps=1, stride=2).plan().max_fps is None


def test_a_camera_rests_only_where_it_is_asked_to() -> None:
    assert rtsp().plan().rest_keepalive_s is None
    assert rtsp(motion={"keepalive_s": 7}).plan().rest_keepalive_s is None
    assert rtsp(motion={"keepalive_s": 7, "decode": "keyframes"}).plan().rest_keepalive_s == 7


def test_a_file_cannot_rest() -> None:
    with pytest.raises(ValidationError, match='decode = "keyframes" is for cameras and streams'):
        file_source("clip.mp4", motion={"decode": "keyframes"})


@pytest.mark.parametrize(
    ("url", "protocols"),
    [
        ("http://cam.lan/v.mjpg", "http,https,tcp,tls,crypto"),
        ("https://cam.lan/a.m3u8", "http,https,tcp,tls,crypto"),
        ("rtmp://cam.lan/live", "rtmp,rtmpt,tcp,http"),
        ("srt://cam.lan:9000", "srt,udp"),
        ("udp://239.0.0.1:5000", "udp"),
        ("udp://:5000", "udp"),
    ],
)
def test_no_stream_may_reach_a_file(url: str, protocols: str) -> None:
    options = stream(url).plan().options
    assert options["protocol_whitelist"] == protocols
    assert "file" not in options["protocol_whitelist"]
    assert not {"concat", "rtsp", "sdp", "lavfi", "dash"} & set(options["format_whitelist"].split(","))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("rtsp://cam.lan/live", 'read by type = "rtsp"'),
        ("file:///etc/passwd", "form scheme://host"),
        ("file://localhost/etc/passwd", "begins with file://"),
        ("http:///v.mjpg", "form scheme://host"),
    ],
)
def test_a_url_that_is_no_stream_is_said(url: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        stream(url)


def test_an_https_stream_is_verified() -> None:
    assert stream("https://cam.lan/a.m3u8").plan().options["tls_verify"] == "1"
    assert stream("https://cam.lan/a.m3u8", verify=False).plan().options["tls_verify"] == "0"


def test_a_device_is_asked_for_what_is_set_and_nothing_else() -> None:
    def plan(**keys: Any) -> Plan:
        return DeviceSourceConfig.model_validate({"type": "device", **keys}).plan()

    assert plan().address == Path("/dev/video0")
    assert plan().options == {}
    assert plan().demuxer == "v4l2"
    chosen = plan(path="/dev/video2", size="1280x720", fps=12.5, input_format="mjpeg")
    assert chosen.options == {"video_size": "1280x720", "framerate": "12.5", "input_format": "mjpeg"}
    with pytest.raises(ValidationError):
        plan(size="big")


def test_a_config_imports_nothing_heavy() -> None:
    code = "import sources.rtsp, sources.stream, sources.device, sys; print([m for m in sys.modules if m == 'av'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
