"""What every sink promises, checked on every sink that is registered, ours and strangers' alike."""

import contextlib
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from every_kind import PREDICTIONS, SINKS
from pydantic import ValidationError

from pipeline.contracts.errors import ConfigError, PenstockError
from pipeline.contracts.event import SourceEvent
from pipeline.contracts.frame import NoPicture
from pipeline.contracts.result import Detections, Result
from pipeline.contracts.sender import SenderConfig
from pipeline.contracts.sink import Attentive, Sink, SinkConfig
from pipeline.testing import PluginContext, detections, frame, result

ENDINGS = {"snapshot": "jpg", "hls": "m3u8"}
"""The others take any, or that of a video."""

POINTS = [point for point in SINKS if not issubclass(point.load(), SenderConfig)]  # senders: test_senders.py

pytestmark = [
    pytest.mark.parametrize("point", POINTS, ids=[point.name for point in POINTS]),
    pytest.mark.filterwarnings("error"),
]


def config_of(point: EntryPoint, folder: Path) -> SinkConfig:
    """The sink's config with nothing but what it needs: a file in `folder` where it has a path."""
    kind: type[SinkConfig] = point.load()
    keys: dict[str, object] = {"type": point.name}
    if kind.takes_events and point.name != "video":  # which takes events to record clips, and no notices
        keys["notices"] = ("sources", "daemon")
    if "url" in kind.model_fields:
        keys["url"] = "udp://127.0.0.1:9/{source}"  # where nobody listens, and nobody minds
    if "path" in kind.model_fields:
        keys["path"] = str(folder / f"{{source}}.{ENDINGS.get(point.name, 'mp4')}")
    return kind.model_validate(keys)


def results_of(sink: Sink, *results: Result) -> list[Result]:
    """The results as the runner hands them over: without pixels where the sink does not want any."""
    if sink.wants_pictures:
        return list(results)
    return [replace(one, frame=replace(one.frame, picture=NoPicture(one.frame.picture.size))) for one in results]


def blocked_path(config: SinkConfig, folder: Path) -> dict[str, str]:
    """Its path, under a file instead of a folder."""
    path = getattr(config, "path", None)
    return {} if path is None else {"path": str(folder / "file" / Path(path).name)}


@pytest.fixture
def ctx(tmp_path: Path) -> PluginContext:
    return PluginContext("out", tmp_path / "data")


@pytest.fixture
def config(point: EntryPoint, tmp_path: Path) -> SinkConfig:
    return config_of(point, tmp_path / "results")


def test_the_config_is_a_frozen_model_that_names_its_type(point: EntryPoint, config: SinkConfig) -> None:
    assert isinstance(config, SinkConfig)
    assert config.type == point.name == type(config).model_fields["type"].default
    with pytest.raises(ValidationError):
        type(config).model_validate({**config.model_dump(), "no_such_key": 1})
    with pytest.raises(ValidationError):
        config.sources = ("gate",)  # type: ignore[misc]  # the model is frozen
    assert type(config).model_validate(config.model_dump()) == config
    assert (type(config).__doc__ or "").strip()
    assert all(field.description for name, field in type(config).model_fields.items() if name != "type")


def test_naming_the_config_imports_nothing_heavy(point: EntryPoint, config: SinkConfig) -> None:
    module = point.value.partition(":")[0]
    heavy = "{'av', 'PIL', 'onnxruntime', 'supervision', 'cv2', 'aiohttp', 'scipy', 'pyarrow'}"
    code = f"import sys, {module}; print(*{heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    assert run.stdout.split() == []


def test_checking_and_building_change_nothing(tmp_path: Path, config: SinkConfig, ctx: PluginContext) -> None:
    config.check()
    sink = config.build(ctx)
    assert isinstance(sink.wants_pictures, bool)
    assert list(tmp_path.iterdir()) == []


def test_every_kind_of_prediction_is_taken(config: SinkConfig, ctx: PluginContext) -> None:
    sink = config.build(ctx)
    sink.open()
    for seq, prediction in enumerate(PREDICTIONS):
        one = replace(result(frame(seq)), prediction=prediction)
        sink.write(results_of(sink, one))
    sink.close()


def test_several_sources_several_results_and_no_timeline_are_taken(config: SinkConfig, ctx: PluginContext) -> None:
    sink = config.build(ctx)
    sink.open()
    frames = [frame(seq, source=source) for seq in range(3) for source in ("gate", "yard")]
    sink.write(results_of(sink, *(result(one) for one in frames)))
    bare = replace(frame(3, source="gate"), pts_s=None, duration_s=None, path="no/such/file.mp4")
    sink.write(results_of(sink, result(bare)))
    sink.close()


def test_what_it_says_it_wrote_is_there_and_complete(tmp_path: Path, config: SinkConfig, ctx: PluginContext) -> None:
    sink = config.build(ctx)
    sink.open()
    sink.write(results_of(sink, result(frame(0, source="gate"))))
    sink.close()
    written = [Path(name) for name in sink.written()]
    assert all(path.stat().st_size > 0 for path in written)
    assert all(path in written for path in config.writes("gate"))
    files = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert sorted(files) == sorted(written), "nothing half-written is left, nothing is kept secret"
    assert all(path.stat().st_mode & 0o137 == 0 for path in files), "others may not read it, nobody may run it"


def test_closing_without_a_result_and_after_a_failed_open_is_fine(
    tmp_path: Path, config: SinkConfig, ctx: PluginContext
) -> None:
    sink = config.build(ctx)
    sink.open()
    sink.close()
    (tmp_path / "file").touch()
    blocked = config.model_copy(update=blocked_path(config, tmp_path))
    sink = blocked.build(ctx)
    with contextlib.suppress(PenstockError):
        sink.open()
    sink.close()


def test_a_folder_that_cannot_be_made_is_a_config_error_for_its_key(
    tmp_path: Path, config: SinkConfig, ctx: PluginContext
) -> None:
    if "path" not in type(config).model_fields:
        pytest.skip("writes no files")
    (tmp_path / "file").touch()
    blocked = config.model_copy(update=blocked_path(config, tmp_path))
    with pytest.raises(ConfigError) as caught:
        blocked.check()
    assert caught.value.key == "path"
    with pytest.raises(PenstockError):
        blocked.build(ctx).open()


def test_results_and_their_pictures_are_not_changed(config: SinkConfig, ctx: PluginContext) -> None:
    sink = config.build(ctx)
    sink.open()
    seen = frame(0)
    one = result(seen, detections((8, 8, 24, 24)))
    before = seen.picture.rgb().copy()
    assert isinstance(one.prediction, Detections)
    boxes = one.prediction.xyxy.copy()
    sink.write(results_of(sink, one))
    sink.close()
    np.testing.assert_array_equal(seen.picture.rgb(), before)
    np.testing.assert_array_equal(one.prediction.xyxy, boxes)


def test_events_are_asked_for_and_then_delivered_in_order_with_results(
    point: EntryPoint, tmp_path: Path, config: SinkConfig, ctx: PluginContext, capfd: pytest.CaptureFixture[str]
) -> None:
    sink = config.build(ctx)
    assert isinstance(sink, Attentive) == type(config).takes_events
    if not isinstance(sink, Attentive):
        pytest.skip("takes no events")
    sink.open()
    event = SourceEvent("e" * 32, "gate", "state", "reconnecting", "TIMEOUT", "evil \x1b[2J\n title", 1e9)
    sink.notice(event)
    sink.write(results_of(sink, result(frame(0, source="gate"))))
    sink.notice(replace(event, kind="content", value="frozen", code=None, detail="", at=float("nan")))
    sink.write(results_of(sink, result(frame(1, source="gate"))))
    sink.close()
    files = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    data = files[0].read_bytes() if files else capfd.readouterr().out.encode()
    if b"\0" in data:
        pytest.skip("no text: the sink's own tests look into it")
    text = data.decode()
    lines = [line for line in text.split("\n") if "gate" in line]  # the head of a CSV is none of them
    assert len(lines) == 4
    assert "\x1b" not in text
    assert "TIMEOUT" in lines[0]
    assert "frozen" in lines[2]
    assert not any(word in lines[number] for number in (1, 3) for word in ("TIMEOUT", "frozen"))
