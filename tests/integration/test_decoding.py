"""Decoding as a run shows it: what is decoded where, and counted how."""

from pathlib import Path

import pytest
from fake_hardware import installed
from harness import run
from media import moving, video

from sources.file import FileSourceConfig

FRAMES = 60


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    pictures = [moving(number, 64, 48) for number in range(FRAMES)]
    return video(tmp_path / "clip.mp4", pictures, options={"preset": "medium", "g": "10", "bf": "2"})


def test_a_wished_device_that_is_not_there_is_in_log_and_metrics(clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    with installed(devices=0):
        this = run(
            {"sources": {"film": {"type": "file", "path": str(clip), "decode": "cuda"}}}, None, [FileSourceConfig]
        )
    samples = this.scrape()
    who = {"source": "film", "backend": "", "sink": "", "wanted": "cuda", "got": "cpu"}
    assert samples["penstock_device_fallbacks_total", tuple(sorted(who.items()))] == 1
    assert samples["penstock_source_decoder_info", (("decoder", "cpu"), ("source", "film"))] == 1
    assert samples["penstock_frames_decoded_total", (("source", "film"),)] == FRAMES
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "source film: cpu in place of cuda: there is no GPU"
    ]


def test_frames_of_a_device_are_inferred_and_counted_like_any_other(clip: Path) -> None:
    with installed() as rig:
        this = run({"sources": {"film": {"type": "file", "path": str(clip)}}}, None, [FileSourceConfig])
    samples = this.scrape()
    assert samples["penstock_source_decoder_info", (("decoder", "cuda:0"), ("source", "film"))] == 1
    assert samples["penstock_frames_total", (("outcome", "inferred"), ("source", "film"))] == FRAMES
    assert rig.decoders.open_sessions() == {0: 0}


def test_what_is_never_decoded_is_not_in_the_ledger(clip: Path) -> None:
    film = {"type": "file", "path": str(clip), "stride": 10}
    this = run({"sources": {"film": film}}, None, [FileSourceConfig])
    samples = this.scrape()
    assert samples["penstock_frames_total", (("outcome", "inferred"), ("source", "film"))] == FRAMES / 10
    assert samples["penstock_frames_decoded_total", (("source", "film"),)] < FRAMES / 2
