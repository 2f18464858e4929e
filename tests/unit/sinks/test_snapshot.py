import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from pipeline.contracts.errors import FatalError, TransientError
from pipeline.contracts.event import Best, DaemonEvent, ObjectEvent, Phase
from pipeline.contracts.result import Result
from pipeline.testing import PluginContext, detections, frame, result
from sinks import _files
from sinks.snapshot import SnapshotSink, SnapshotSinkConfig

BOX = (16.0, 8.0, 48.0, 40.0)


def opened(ctx: PluginContext, path: Path | str, **keys: Any) -> SnapshotSink:
    config = SnapshotSinkConfig.model_validate({"path": str(path), "min_free_bytes": 0, "annotators": [], **keys})
    sink = config.build(ctx)
    sink.open()
    return sink


def seen(seq: int, grey: int) -> Result:
    return result(frame(seq, source="gate", width=64, height=48, grey=grey), detections(BOX, names=("person",)))


def event(of: Result, phase: Phase, event_id: str = "e1", *, best: bool = True, track: int | None = 7) -> ObjectEvent:
    over = phase == "end"
    at = of.frame.released() if over else of.frame
    return ObjectEvent(
        id=f"{event_id}-{of.frame.seq}-{phase}",
        event_id=event_id,
        phase=phase,
        kind="object",
        source="gate",
        class_name="person",
        tracker_id=track,
        began_at=1_700_000_000.0,
        at=of.frame.captured_at,
        frame=at,
        confidence=0.9,
        xyxy=BOX,
        best=Best(of.id if best else "another", of.frame.seq, of.frame.pts_s, of.frame.captured_at, 0.9, BOX),
        result=None if over else of,
    )


def grey_of(path: Path) -> int:
    with Image.open(path) as image:
        return round(float(np.asarray(image.convert("L")).mean()))


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_picture_of_an_event_is_there_at_once_and_replaced_by_better_ones(
    tmp_path: Path, ctx: PluginContext
) -> None:
    sink = opened(ctx, tmp_path / "out/{source}/{date}/{class}-{track}-{event}.jpg")
    path = tmp_path / "out/gate/2023-11-14/person-7-e1.jpg"
    sink.notice(event(seen(0, 40), "new"))
    assert abs(grey_of(path) - 40) < 3
    sink.notice(event(seen(1, 90), "update", best=False))
    assert abs(grey_of(path) - 40) < 3
    sink.notice(event(seen(2, 120), "update"))
    assert abs(grey_of(path) - 120) < 3
    sink.notice(event(seen(3, 0), "end"))
    sink.notice(event(seen(4, 200), "update"))  # another life of this id would be another event: it begins anew
    sink.close()
    assert names(tmp_path / "out") == ["gate/2023-11-14/person-7-e1.jpg"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert sink.written() == [str(path)]


def test_at_the_end_only_the_best_appears_and_before_nothing(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "out/{event}.jpg", when="end")
    sink.notice(event(seen(0, 40), "new"))
    sink.notice(event(seen(1, 120), "update"))
    sink.notice(event(seen(2, 200), "update", best=False))
    assert names(tmp_path / "out") == ["e1.jpg.part"]
    sink.notice(event(seen(3, 0), "end"))
    assert names(tmp_path / "out") == ["e1.jpg"]
    assert abs(grey_of(tmp_path / "out/e1.jpg") - 120) < 3
    sink.notice(event(seen(4, 40), "new", "e2"))
    sink.close()  # what goes on is finished
    assert names(tmp_path / "out") == ["e1.jpg", "e2.jpg"]


def test_the_first_one_stays_where_that_is_asked_for(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "{event}.jpg", when="new")
    sink.notice(event(seen(0, 40), "new"))
    sink.notice(event(seen(1, 120), "update"))
    sink.notice(event(seen(2, 120), "end"))
    assert abs(grey_of(tmp_path / "e1.jpg") - 40) < 3
    sink.close()


def test_what_a_killed_process_left_gets_its_name_and_what_is_torn_goes(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "{event}.jpg", when="end")
    sink.notice(event(seen(0, 40), "new", "whole"))
    sink.notice(event(seen(0, 40), "new", "torn"))
    torn = tmp_path / "torn.jpg.part"
    torn.write_bytes(torn.read_bytes()[:-20])
    again = opened(PluginContext("again", tmp_path / "data"), tmp_path / "{event}.jpg", when="end")
    assert names(tmp_path) == ["whole.jpg"]
    again.close()


def test_an_object_is_cut_out_with_a_margin(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "{event}.jpg", crop="object", margin_ratio=0.25)
    sink.notice(event(seen(0, 40), "once"))
    with Image.open(tmp_path / "e1.jpg") as image:
        assert image.size == (48, 48)  # 32 + 2 * 8 each way
    sink.close()


def test_results_are_pictures_too_and_a_name_that_does_not_change_is_the_latest(
    tmp_path: Path, ctx: PluginContext
) -> None:
    sink = opened(ctx, tmp_path / "{source}-{frame}.jpg", emit="frames", annotators=["box", "label"])
    sink.write([seen(0, 40), seen(1, 90)])
    sink.close()
    assert names(tmp_path) == ["gate-0.jpg", "gate-1.jpg"]
    latest = opened(ctx, tmp_path / "latest/{source}.jpg", emit="frames")
    latest.write([seen(0, 40)])
    latest.write([seen(1, 90)])
    latest.close()
    assert names(tmp_path / "latest") == ["gate.jpg"]
    assert abs(grey_of(tmp_path / "latest/gate.jpg") - 90) < 3
    assert latest.written() == [str(tmp_path / "latest/gate.jpg")]


def test_the_event_stands_beside_its_picture_as_it_was_last_told(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "{event}.jpg", sidecar=True)
    sink.notice(event(seen(0, 40), "new"))
    assert json.loads((tmp_path / "e1.json").read_text())["phase"] == "new"
    sink.notice(event(seen(3, 0), "end"))
    told = json.loads((tmp_path / "e1.json").read_text())
    assert (told["phase"], told["class"], told["picture"]) == ("end", "person", "e1.jpg")
    sink.close()


def test_older_pictures_go_and_what_is_told_of_them_too(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "{event}.jpg", sidecar=True, keep={"max_files": 2})
    for number in range(5):
        sink.notice(event(seen(number, 40), "once", f"e{number}"))
        os.utime(tmp_path / f"e{number}.jpg", (number, number))
    sink.tick()
    assert names(tmp_path) == ["e3.jpg", "e3.json", "e4.jpg", "e4.json"]
    sink.close()


def test_a_full_disk_fails_the_picture_and_leaves_no_half_one(
    tmp_path: Path, ctx: PluginContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = opened(ctx, tmp_path / "{event}.jpg", min_free_bytes=1 << 20)
    monkeypatch.setattr(_files, "free_bytes", lambda _: 1000)
    with pytest.raises(TransientError, match="min_free_bytes"):
        sink.notice(event(seen(0, 40), "new"))
    assert names(tmp_path) == []
    monkeypatch.undo()
    sink.notice(event(seen(1, 40), "update"))  # the event goes on: now it has a picture
    assert names(tmp_path) == ["e1.jpg"]
    sink.close()


def test_an_event_without_a_picture_fails_and_others_do_not(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "{event}.jpg")
    without = replace(event(seen(0, 40), "new"), frame=seen(0, 40).frame.released())
    with pytest.raises(TransientError, match="no picture"):
        sink.notice(without)
    sink.notice(DaemonEvent("1", "penstock", "start", "ok", "", 0.0))
    sink.notice(event(seen(3, 0), "end", "never begun"))
    sink.close()
    assert names(tmp_path) == []


def test_a_source_that_goes_takes_its_open_pictures_with_it(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "{event}.jpg", when="end")
    sink.notice(event(seen(0, 40), "new"))
    sink.release("yard")
    assert names(tmp_path) == ["e1.jpg.part"]
    sink.release("gate")
    assert names(tmp_path) == ["e1.jpg"]
    sink.close()


def test_a_hidden_person_is_hidden_in_the_file(tmp_path: Path, ctx: PluginContext) -> None:
    from pipeline.models.picture import from_rgb

    rgb = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    one = replace(frame(0, source="gate"), picture=from_rgb(rgb))
    sink = opened(ctx, tmp_path / "a.jpg", draw=[{"type": "blur", "classes": ["person"]}], emit="frames", quality=95)
    sink.write([result(one, detections((30, 20, 90, 80), names=("person",)))])
    sink.close()
    image = np.asarray(Image.open(io.BytesIO((tmp_path / "a.jpg").read_bytes())).convert("L")).astype(int)
    assert np.abs(np.diff(image[20:80, 30:90], axis=1)).mean() < 5
    assert np.abs(np.diff(image[:, 100:], axis=1)).mean() > 20


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"path": "a.png"}, "must end in .jpg"),
        ({"path": "{events}.jpg"}, "unknown placeholder"),
        ({"path": "a.jpg", "crop": "object", "emit": "frames"}, "needs emit"),
        ({"path": "a.jpg", "annotators": ["boxx"]}, "there is no annotator"),
        ({"path": "a.jpg", "quality": 100}, "less than or equal to 95"),
    ],
)
def test_what_cannot_be_meant_is_told(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SnapshotSinkConfig.model_validate(keys)


def test_no_name_of_a_class_or_an_event_leads_out_of_the_folder(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "out/{class}/{event}.jpg")
    hostile = replace(event(seen(0, 40), "once"), class_name="../../etc", event_id="../up")
    sink.notice(hostile)
    sink.close()
    assert all(name.startswith("out/") for name in names(tmp_path))
    (tmp_path / "out/link").symlink_to(tmp_path.parent)
    other = opened(PluginContext("other", tmp_path / "data"), tmp_path / "out/{class}/{event}.jpg")
    with pytest.raises(FatalError, match="leads out"):
        other.notice(replace(hostile, class_name="link"))
    other.close()


def test_there_is_one_picture_of_an_object_and_not_one_more_for_each_zone_unless_that_is_asked_for() -> None:
    def kinds(**keys: Any) -> tuple[str, ...] | None:
        where = SnapshotSinkConfig.model_validate({"path": "a.jpg", **keys}).where
        return None if where is None else where.kinds

    assert kinds() == kinds(where={"classes": ["person"]}) == ("object", "presence")
    assert kinds(where={"zones": ["door"]}) is None
    assert kinds(where={"kinds": ["zone"]}) == ("zone",)
    assert kinds(emit="frames") is None
