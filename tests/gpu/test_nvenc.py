"""Videos encoded by NVENC: chosen by itself where the card has it, and with the right pictures in the file."""

from pathlib import Path

import av
import pytest

from pipeline.testing import PluginContext, detections, frame, result
from sinks._encoder import Codec, Encoding, choose, hardware, proof
from sinks.video import VideoSinkConfig

pytestmark = pytest.mark.usefixtures("gpu")


def encoding(codec: Codec) -> Encoding:
    return Encoding(codec, "veryfast", 23, 0, 25.0)


@pytest.fixture(autouse=True)
def card(gpu: object) -> None:
    """Cards for data centres alone (A100, H100, H200) compute and decode, and have no encoder."""
    fault = proof(hardware("h264", "nvenc"), encoding("h264"))
    if fault is not None:
        pytest.skip(f"no NVENC here: {fault}")


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_auto_takes_nvenc(codec: Codec) -> None:
    ctx = PluginContext()
    assert choose("auto", encoding(codec), ctx).device == "nvenc"
    assert ctx.fallbacks == []


def test_a_video_by_nvenc_has_every_frame_in_its_place(tmp_path: Path) -> None:
    ctx = PluginContext(data_dir=tmp_path)
    sink = VideoSinkConfig.model_validate(
        {"path": str(tmp_path / "a.mp4"), "encoder": "nvenc", "content": "clean", "crf": 10}
    ).build(ctx)
    sink.open()
    for seq in range(25):
        sink.write([result(frame(seq, width=640, height=480, grey=40 + 8 * seq), detections())])
    sink.close()
    with av.open(str(tmp_path / "a.mp4")) as container:
        greys = [picture.to_ndarray(format="gray").mean() for picture in container.decode(video=0)]
    assert len(greys) == 25
    assert greys == pytest.approx([40 + 8 * seq for seq in range(25)], abs=4)
