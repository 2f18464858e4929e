import csv
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sample_events import DAEMON_EVENT, OBJECT_EVENT, SOURCE_EVENT

from pipeline.contracts.analysis import Scene, Track
from pipeline.contracts.result import Classification, Prediction, SemanticMask, Text
from pipeline.contracts.sink import Mending
from pipeline.testing import PluginContext, detections, frame, result
from sinks._lines import LinesSink
from sinks._rows import COLUMNS, default_columns, rows_of
from sinks.csv import CsvSinkConfig, _Form


def opened(ctx: PluginContext, path: Path, **keys: Any) -> LinesSink:
    sink = CsvSinkConfig.model_validate({"path": str(path), "mode": "append", **keys}).build(ctx)
    sink.open()
    return sink


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def test_each_object_is_a_row_under_a_header(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "a.csv")
    sink.write([result(frame(0), detections((0, 0, 10, 20), (30, 30, 50, 40))), result(frame(1), detections())])
    sink.write([result(frame(2))])
    sink.close()
    rows = table(tmp_path / "a.csv")
    assert [row["frame_id"] for row in rows] == ["0", "0", "2"]
    assert rows[1]["id"] == "0" * 32
    assert [rows[1][name] for name in ("class", "confidence", "x", "y", "width", "height")] == [
        *("thing", "0.9", "40.0", "35.0", "20.0", "10.0")
    ]
    assert rows[0]["captured_at"] == "2023-11-14T22:13:20.000Z"
    assert (tmp_path / "a.csv").read_bytes().count(b"\r\n") == 4


def test_a_run_that_found_nothing_leaves_a_header_and_no_older_table(tmp_path: Path, ctx: PluginContext) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old\n")
    sink = opened(ctx, path, mode="replace")
    sink.write([result(frame(0), detections())])
    sink.close()
    assert path.read_text().startswith("id,source,frame_id")
    assert table(path) == []


def test_frames_without_an_object_have_a_row_where_they_are_wanted(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "a.csv", empty_frames=True, columns=["frame_id", "class"])
    sink.write([result(frame(0), detections()), result(frame(1))])
    sink.close()
    assert (tmp_path / "a.csv").read_text() == "frame_id,class\n0,\n1,thing\n"


def test_columns_are_those_that_were_chosen_in_that_order(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "a.csv", columns=["class", "frame_id", "zone"], delimiter=";")
    sink.write([result(frame(4), detections((0, 0, 1, 1), names=("a;b",)))])
    sink.close()
    assert (tmp_path / "a.csv").read_bytes() == b'class;frame_id;zone\r\n"a;b";4;\r\n'


@pytest.mark.parametrize("columns", [["clas"], ["class", "class"], []])
def test_columns_that_cannot_be_are_refused(columns: list[str]) -> None:
    with pytest.raises(ValidationError, match="columns"):
        CsvSinkConfig.model_validate({"path": "a.csv", "columns": columns})


@given(st.lists(st.text(), min_size=1, max_size=5), st.sampled_from([",", ";", "\t"]))
def test_any_text_is_one_cell_of_one_line_and_never_a_formula(texts: list[str], delimiter: Any) -> None:
    form = _Form(("class", "frame_id"), delimiter, empty_frames=False, escape_formulas=True)
    boxes = [(0.0, 0.0, 1.0, 1.0)] * len(texts)
    found = replace(detections(*boxes, names=tuple(texts)), class_id=np.arange(len(texts), dtype=np.int32))
    text = "".join([form.head(), *form.lines_of(result(frame(3), found))])
    assert text.count("\n") == text.count("\r") == len(texts) + 1
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    assert [row[1] for row in rows[1:]] == ["3"] * len(texts)
    assert not any(row[0].lstrip().startswith(("=", "+", "-", "@")) for row in rows)


def test_a_formula_is_kept_where_that_was_asked_for() -> None:
    form = _Form(("class",), ",", empty_frames=False, escape_formulas=False)
    assert form.lines_of(result(frame(0), detections((0, 0, 1, 1), names=("=1+1",)))) == ["=1+1\r\n"]


def test_a_number_is_no_formula() -> None:
    form = _Form(("x", "class"), ",", empty_frames=False, escape_formulas=True)
    assert form.lines_of(result(frame(0), detections((-30, 0, 10, 10), names=("=cmd|' /C calc'!A0",)))) == [
        "-10.0,'=cmd|' /C calc'!A0\r\n"
    ]


def test_a_torn_row_is_cut_off_and_told(tmp_path: Path, ctx: PluginContext) -> None:
    path = tmp_path / "a.csv"
    path.write_text("frame_id,class\r\n1,car\r\n2,bicy")
    sink = opened(ctx, path, columns=["frame_id", "class"])
    sink.write([result(frame(3))])
    sink.close()
    assert [row["frame_id"] for row in table(path)] == ["1", "3"]
    assert "its last 6 bytes were cut off" in ctx.warnings[0]
    assert isinstance(sink, Mending)
    assert sink.mended == 1


def test_a_file_with_other_columns_is_set_aside(tmp_path: Path, ctx: PluginContext) -> None:
    path = tmp_path / "a.csv"
    path.write_text("frame_id,class\r\n1,car\r\n")
    sink = opened(ctx, path, columns=["class", "frame_id"])
    sink.write([result(frame(3))])
    sink.close()
    assert table(path) == [{"class": "thing", "frame_id": "3"}]
    (aside,) = set(tmp_path.glob("*.csv")) - {path}
    assert table(aside) == [{"frame_id": "1", "class": "car"}]
    assert "other columns" in ctx.warnings[0]


def test_each_piece_has_the_header(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "a.csv", rotate={"max_bytes": 1024})
    for seq in range(60):
        sink.write([result(frame(seq))])
    sink.close()
    files = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) > 3
    assert [row["frame_id"] for path in files for row in table(path)] == [str(seq) for seq in range(60)]


def test_events_and_notices_have_their_columns(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "a.csv", emit="events", notices=["sources", "daemon"])
    for item in (OBJECT_EVENT, SOURCE_EVENT, DAEMON_EVENT):
        sink.notice(item)
    sink.close()
    event, source, daemon = table(tmp_path / "a.csv")
    assert [
        event[name] for name in ("record", "event", "phase", "class", "zone", "zones", "duration_s", "frame_id")
    ] == [*("event", "zone", "end", "car", "drive", "drive yard", "2.5", "50")]
    assert [source[name] for name in ("record", "source", "value", "code", "detail", "at")] == [
        *("notice", "gate", "reconnecting", "TIMEOUT", "no answer", "2023-11-14T22:13:20.000Z")
    ]
    assert [daemon[name] for name in ("component", "event", "value", "detail")] == [
        *("backend local", "fallback", "taken", "'=to cloud")
    ]


# Rows


def test_the_columns_by_default_are_columns_and_each_row_has_no_other() -> None:
    assert {"record", "component"} <= set(default_columns(events=True, notices=True)) <= set(COLUMNS)
    assert "record" not in default_columns(events=False, notices=False)
    for item in (result(frame(0)), OBJECT_EVENT, SOURCE_EVENT, DAEMON_EVENT):
        (row,) = rows_of(item, empty_frames=True)
        assert row.keys() <= COLUMNS.keys()


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        (Classification(np.array([0.2, 0.8], np.float32), ("a", "b")), [("b", 0.8), ("a", 0.2)]),
        (Classification(np.array([0.7, 0.8], np.float32), ("a", "b"), multi_label=True), [("b", 0.8), ("a", 0.7)]),
        (Text("=hi"), [(None, None)]),
        (SemanticMask(np.zeros((48, 64), np.int32), ("a",)), []),
    ],
)
def test_every_kind_of_prediction_has_its_rows(prediction: Prediction, expected: list[Any]) -> None:
    rows = rows_of(replace(result(frame(0)), prediction=prediction), empty_frames=False)
    assert [(row.get("class"), row.get("confidence")) for row in rows] == expected
    assert [row.get("text") for row in rows] == (["=hi"] if isinstance(prediction, Text) else [None] * len(expected))


def test_zones_and_ages_go_with_the_object_that_they_belong_to() -> None:
    track = Track("e" * 32, 9, 0, "thing", 1_700_000_000.0, 10, 2.5, {"yard": 1.0, "drive": 2.0})
    bad = (float("nan"), 0, 1, 1)
    found = replace(detections(bad, (0, 0, 1, 1), (2, 2, 3, 3)), tracker_id=np.array([7, -1, 9], np.int32))
    one = replace(result(frame(0), found), scene=Scene(tracks=(None, None, track)))
    rows = rows_of(one, empty_frames=False)
    assert [(row["object"], row.get("tracker_id"), row.get("zones"), row.get("track_age_s")) for row in rows] == [
        (1, None, None, None),
        (2, 9, "yard drive", 2.5),
    ]


def test_masks_and_keypoints_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def dear(*_: object) -> None:
        raise AssertionError("a mask was encoded")

    monkeypatch.setattr("pipeline.wire._roboflow_encode.encode_rle", dear)
    found = replace(
        detections((0, 0, 9, 9)), masks=np.ones((1, 48, 64), bool), keypoints=np.ones((1, 3, 3), np.float32)
    )
    assert len(rows_of(result(frame(0), found), empty_frames=False)) == 1


def test_a_path_that_is_no_text_is_written(tmp_path: Path, ctx: PluginContext) -> None:
    sink = opened(ctx, tmp_path / "a.csv", columns=["path", "class"])
    odd = os.fsdecode(b"/media/\xff.mp4")
    sink.write([result(replace(frame(0), path=odd), detections((0, 0, 1, 1), names=("\udcff",)))])
    sink.close()
    assert table(tmp_path / "a.csv")[0]["path"] == "/media/\N{REPLACEMENT CHARACTER}.mp4"
