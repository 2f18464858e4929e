import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import pytest
from pydantic import ValidationError

from pipeline.contracts.errors import FatalError, TransientError
from pipeline.contracts.frame import Frame
from pipeline.testing import PluginContext, detections, frame, result
from sinks.hls import HlsSink, HlsSinkConfig


def opened(ctx: PluginContext, path: Path, **keys: Any) -> HlsSink:
    settings = {"path": str(path), "encoder": "software", "segment_s": 1, "window": 4, "content": "clean", **keys}
    sink = HlsSinkConfig.model_validate(settings).build(ctx)
    sink.open()
    return sink


def write(sink: HlsSink, frames: Iterable[Frame]) -> None:
    for one in frames:
        sink.write([result(one, detections())])


def pictures(begin: int, end: int, **keys: Any) -> Iterable[Frame]:
    return (frame(seq, grey=40 + seq % 150, **keys) for seq in range(begin, end))


class Listed:
    """A playlist as a player reads it (RFC 8216)."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text()
        self.lines = self.text.splitlines()
        self.segments = [line for line in self.lines if line and not line.startswith("#")]
        self.lengths_s = [float(value) for value in re.findall(r"#EXTINF:([\d.]+)", self.text)]
        self.first = int(self._value("MEDIA-SEQUENCE"))
        self.target_s = int(self._value("TARGETDURATION"))
        self.ended = "#EXT-X-ENDLIST" in self.lines

    def _value(self, tag: str) -> str:
        return str(re.findall(rf"#EXT-X-{tag}:(.+)", self.text)[0])


def greys(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(picture.reformat(format="gray8").to_ndarray().mean()) for picture in container.decode(video=0)]


@pytest.mark.parametrize(("segments", "suffix"), [("ts", "ts"), ("mp4", "m4s")])
def test_a_playlist_shows_the_last_segments_and_the_older_ones_go(
    tmp_path: Path, ctx: PluginContext, clips: Any, segments: str, suffix: str
) -> None:
    sink = opened(ctx, tmp_path / "hls/{source}.m3u8", segments=segments)
    path = clips.make("in.mp4", times_s=[index / 25 for index in range(310)])
    write(sink, clips.frames(path))
    sink.close()
    playlist = Listed(tmp_path / "hls/gate.m3u8")
    assert playlist.lines[0] == "#EXTM3U"
    assert len(playlist.segments) == len(playlist.lengths_s) == 4
    assert playlist.lengths_s == pytest.approx([1, 1, 1, 0.4], abs=0.05)
    assert max(playlist.lengths_s) <= playlist.target_s
    assert playlist.first == 10  # the first segment is number 1
    assert playlist.ended, "a file has an end"
    on_disk = sorted(one.name for one in (tmp_path / "hls").glob(f"*.{suffix}"))
    assert set(playlist.segments) <= set(on_disk)
    assert len(on_disk) <= 4 + 3
    assert list((tmp_path / "hls").glob("*.tmp")) == []
    assert all(one.stat().st_mode & 0o777 == 0o640 for one in (tmp_path / "hls").iterdir())
    assert len(greys(tmp_path / "hls/gate.m3u8")) == 85
    assert sorted(Path(one).name for one in sink.written()) == sorted(one.name for one in (tmp_path / "hls").iterdir())


def test_every_segment_can_be_begun_with_and_is_there_before_it_is_named(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "a.m3u8")
    seen = 0
    for one in pictures(0, 150):
        write(sink, [one])
        if not (tmp_path / "a.m3u8").exists():
            continue
        for name in Listed(tmp_path / "a.m3u8").segments:
            assert (tmp_path / name).is_file()
            seen += 1
    assert seen > 100
    assert not Listed(tmp_path / "a.m3u8").ended, "a camera goes on"
    for name in Listed(tmp_path / "a.m3u8").segments:
        with av.open(str(tmp_path / name)) as container:
            assert next(iter(container.demux(video=0))).is_keyframe
    sink.close()
    assert not Listed(tmp_path / "a.m3u8").ended, "its players may wait for the next start"


def test_the_pictures_are_those_that_were_given(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "a.m3u8", window=10)
    write(sink, pictures(0, 100))
    sink.close()
    shown = [grey for name in Listed(tmp_path / "a.m3u8").segments for grey in greys(tmp_path / name)]
    assert shown == pytest.approx([40 + seq for seq in range(100)], abs=3)


def test_the_next_run_goes_on_where_the_last_ended(tmp_path: Path, ctx: PluginContext) -> None:
    path = tmp_path / "a.m3u8"
    for _ in range(2):
        sink = opened(ctx, path)
        write(sink, pictures(0, 75))
        sink.close()
    playlist = Listed(path)
    assert playlist.first == 3
    assert playlist.segments == [f"a-{number:06d}.ts" for number in (3, 4, 5, 6)]
    assert playlist.text.count("#EXT-X-DISCONTINUITY\n") == 1


@pytest.mark.parametrize("segments", ["ts", "mp4"])
def test_what_a_killed_run_left_over_is_removed_and_nothing_else(
    tmp_path: Path, ctx: PluginContext, segments: str
) -> None:
    path = tmp_path / "a.m3u8"
    sink = opened(ctx, path, segments=segments)
    write(sink, pictures(0, 75))
    sink.close()
    for name in ("a-000001.ts.tmp", "a-000099.ts", "a-000098.m4s", "a-init-000001.mp4"):
        (tmp_path / name).write_text("left")
    for name in ("a-notes.ts", "b-000001.ts", "a.mp4"):
        (tmp_path / name).write_text("mine")
    sink = opened(ctx, path, segments=segments)
    write(sink, pictures(0, 75))
    sink.close()
    for name in ("a-notes.ts", "b-000001.ts", "a.mp4"):
        assert (tmp_path / name).read_text() == "mine"
    named = {*Listed(path).segments, *re.findall('URI="(.+)"', path.read_text())}
    others = {one.name for one in tmp_path.iterdir() if one.suffix in {".ts", ".m4s", ".mp4", ".tmp"}}
    assert named <= others
    assert "left" not in [one.read_bytes()[:4].decode("latin1") for one in tmp_path.iterdir() if one.is_file()]
    assert Listed(path).first > 1, "numbers never go back, or players would stop"


def test_another_size_is_a_discontinuity(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "a.m3u8")
    write(sink, pictures(0, 50))
    write(sink, pictures(50, 100, width=128, height=96))
    sink.close()
    playlist = Listed(tmp_path / "a.m3u8")
    assert len(playlist.segments) == 4
    assert playlist.text.count("#EXT-X-DISCONTINUITY\n") == 1


def test_a_full_disk_skips_pictures_and_goes_on_by_itself(
    tmp_path: Path, ctx: PluginContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [10**12]
    monkeypatch.setattr("sinks._files.free_bytes", lambda _: free[0])
    sink = opened(ctx, tmp_path / "a.m3u8")
    write(sink, pictures(0, 50))
    free[0] = 1000
    with pytest.raises(TransientError, match="cannot be written: 0 MiB are free"):
        write(sink, pictures(50, 51))
    free[0] = 10**12
    write(sink, pictures(60, 100))
    sink.close()
    assert len(Listed(tmp_path / "a.m3u8").segments) >= 3


def test_two_sources_need_two_playlists(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "a.m3u8")
    write(sink, pictures(0, 2, source="gate"))
    with pytest.raises(FatalError, match=r"gate and yard have one playlist"):
        write(sink, pictures(0, 2, source="yard"))
    sink.close()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"path": "a.mp4"}, r"must end in \.m3u8"),
        ({"path": "{date}.m3u8"}, r"\{source\} is the only placeholder"),
        ({"path": "a.m3u8", "codec": "hevc"}, 'set segments = "mp4"'),
        ({"path": "a.m3u8", "window": 2}, "greater than or equal to 3"),
    ],
)
def test_a_wrong_key_is_refused_with_what_would_be_right(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        HlsSinkConfig.model_validate(keys)


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_other_codecs_come_in_fragmented_mp4(tmp_path: Path, ctx: PluginContext, clips: Any, codec: str) -> None:
    path = clips.make("in.mp4", times_s=[index / 25 for index in range(60)], size=(128, 96))
    sink = opened(ctx, tmp_path / "a.m3u8", codec=codec, segments="mp4")
    write(sink, clips.frames(path))
    sink.close()
    with av.open(str(tmp_path / "a.m3u8")) as container:
        assert container.streams.video[0].codec_context.name in {codec, "libdav1d"}
        assert sum(1 for _ in container.decode(video=0)) == 60
