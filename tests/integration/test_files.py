"""Files of results on disks that are full, and by processes that are killed."""

import contextlib
import csv
import gzip
import io
import json
import random
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from daemon import ONNX, Daemon
from observed import until
from small_disk import SmallDisk
from workplace import Workplace

from pipeline.testing import PluginContext
from sinks.csv import CsvSinkConfig
from sinks.jsonl import JsonlSinkConfig
from sinks.parquet import ParquetSinkConfig
from sinks.sqlite import SqliteSinkConfig
from tests.scorecard.files import row_23
from tests.scorecard.table import NotRunError

CAMERA = """
    [sources.cam]
    type = "synthetic"
    width = 64
    height = 48
    fps = 60
"""


def sink(name: str, keys: str) -> str:
    return f"\n    [sinks.{name}]\n" + "".join(f"    {line.strip()}\n" for line in keys.strip().splitlines())


def lines_of(folder: Path, pattern: str = "*.jsonl*") -> list[dict[str, object]]:
    """Every line of all files, the gzipped too; each of them whole."""
    lines = []
    for path in sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert data.endswith(b"\n") or not data, f"{path.name} ends in a torn line"
        lines += [json.loads(line) for line in data.splitlines()]
    return lines


def test_a_full_disk_costs_only_what_there_is_no_room_for_and_only_while_it_lasts(tmp_path: Path) -> None:
    sinks = (
        sink("full", 'type = "jsonl"\npath = "small/{source}.jsonl"\nmode = "append"\nmin_free_bytes = 0')
        + sink(
            "table",
            'type = "csv"\npath = "small/{source}.csv"\nmode = "append"\nmin_free_bytes = 0\nempty_frames = true',
        )
        + sink("base", 'type = "sqlite"\npath = "small/results.db"\nmin_free_bytes = "64KiB"')
        + sink("reserve", 'type = "jsonl"\npath = "small/r.jsonl"\nmode = "append"\nmin_free_bytes = "100KiB"')
        + sink("other", 'type = "jsonl"\npath = "out/{source}.jsonl"\nmode = "append"')
    )
    names = ("full", "table", "base", "reserve")
    with SmallDisk(tmp_path / "small", "4m") as disk, Daemon(tmp_path, CAMERA + ONNX + sinks) as daemon:
        daemon.ready()
        daemon.wait_frames("cam", 30)

        def failed(name: str) -> float:
            return daemon.scrape().of("penstock_sink_results_total", sink=name, outcome="failed")

        def delivered(name: str) -> float:
            return daemon.scrape().of("penstock_sink_results_total", sink=name, outcome="delivered")

        assert [failed(name) for name in names] == [0, 0, 0, 0]
        disk.fill(leave_bytes=200 << 10)
        until("the reserve is left alone", lambda: failed("reserve") > 0, 20)
        disk.fill()
        until("nobody has room", lambda: all(failed(name) > 5 for name in names), 20)
        assert disk.free_bytes() < 64 << 10
        before = {name: delivered(name) for name in names}
        disk.empty()
        start = time.monotonic()
        until("all write again", lambda: all(delivered(name) > before[name] + 5 for name in names), 10)
        assert time.monotonic() - start < 5
        daemon.wait_frames("cam", 20)
        daemon.stop(code=None)
        counts = {
            name: re.search(rf"sink {name}: ([\d,]+) accepted = ([\d,]+) delivered", daemon.log())
            for name in (*names, "other")
        }
        told = {name: int(found[2].replace(",", "")) for name, found in counts.items() if found}
        accepted = {name: int(found[1].replace(",", "")) for name, found in counts.items() if found}
        seen = {
            "full": len(lines_of(disk.folder, "cam.jsonl")),
            "reserve": len(lines_of(disk.folder, "r.jsonl")),
            "table": len(list(csv.DictReader(io.StringIO((disk.folder / "cam.csv").read_text()), strict=True))),
        }
        assert {name: told[name] for name in seen} == seen, "what counts as delivered is there, and nothing else"
        database = sqlite3.connect(disk.folder / "results.db")
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT count(*) FROM results").fetchone() == (told["base"],)
        database.close()
    assert accepted["other"] == told["other"] == len(lines_of(tmp_path / "out")), "who writes elsewhere lost nothing"
    assert all(accepted[name] > told[name] for name in names)
    assert daemon.log().count("not delivered") < 40, "it is said, and not for each frame"


def test_a_full_disk_under_lines_a_video_and_a_spool_costs_nobody_else_anything(tmp_path: Path) -> None:
    try:
        figures = row_23(tmp_path)
    except NotRunError as reason:
        pytest.skip(str(reason))
    assert (figures["others lost"], figures["torn lines"]) == (0, 0)
    assert figures["webhooks not sent, counted"] > 0, "the spool always had room: the experiment shows nothing"


WRITER = """
import sys
from pipeline.testing import PluginContext, frame, result
from dataclasses import replace
from sinks.{kind} import {config}

sink = {config}.model_validate({keys!r}).build(PluginContext())
sink.open()
first = int(sys.argv[1])
for seq in range(first, first + 1_000_000):
    sink.write([result(replace(frame(0), seq=seq))])
    sys.stdout.write(f"{{seq}}\\n")
    sys.stdout.flush()
    if seq % 5 == 0:
        sink.tick()
"""


APPENDED: dict[str, object] = {"mode": "append", "rotate": {"max_bytes": 20_000}, "compress": "gzip"}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        pytest.param("jsonl", APPENDED, id="jsonl"),
        pytest.param("csv", APPENDED, id="csv"),
        pytest.param("parquet", {"rotate": {"max_bytes": 20_000}}, id="parquet"),
        pytest.param("sqlite", {}, id="sqlite"),
        pytest.param("jsonl", {"mode": "replace"}, id="jsonl replaced"),
        pytest.param("csv", {"mode": "replace", "compress": "gzip"}, id="csv replaced"),
        pytest.param("parquet", {}, id="parquet at the end only"),
    ],
)
def test_what_was_delivered_before_a_kill_is_there_once_and_nothing_is_torn(
    tmp_path: Path, kind: str, more: dict[str, object]
) -> None:
    keys: dict[str, object] = {"path": str(tmp_path / "out" / f"gate.{kind}"), "min_free_bytes": 0, **more}
    config = {"jsonl": "JsonlSinkConfig", "csv": "CsvSinkConfig", "parquet": "ParquetSinkConfig"}
    code = WRITER.format(kind=kind, config=config.get(kind, "SqliteSinkConfig"), keys=keys)
    delivered: list[int] = []
    kills = 8
    chance = random.Random(kind)
    for kill in range(kills):
        child = subprocess.Popen([sys.executable, "-c", code, str(kill * 1_000_000)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        with child.stdout as acknowledged:
            wanted = chance.randrange(1, 400)
            for count, line in enumerate(acknowledged):
                delivered.append(int(line))
                if count == wanted:
                    child.kill()
            child.wait()
    found = numbers_after_a_start(kind, keys, tmp_path / "out")
    assert len(found) == len(set(found)), "nothing is there twice"
    assert set(delivered) <= set(found), "nothing that was delivered is lost"
    assert len(set(found) - set(delivered)) <= kills, "only what was being written at a kill is there besides"
    assert not [path.name for path in (tmp_path / "out").iterdir() if "part" in path.name]


def test_predict_writes_tables(workplace: Workplace) -> None:
    outputs = ("a.csv", "b.parquet", "c.db")
    named = [word for name in outputs for word in ("-o", name)]
    code, _, err = workplace.penstock("predict", "clip.mp4", "-m", "model.onnx", "-q", *named)
    assert (code, err) == (0, "")
    folder = workplace.folder
    rows = list(csv.DictReader((folder / "a.csv").read_text().splitlines(), strict=True))
    database = sqlite3.connect(folder / "c.db")
    with contextlib.closing(database):
        objects = database.execute("SELECT frame_id, confidence FROM detections ORDER BY frame_id").fetchall()
    table = [(row["frame_id"], row["confidence"]) for row in pq.read_table(folder / "b.parquet").to_pylist()]
    assert [(int(row["frame_id"]), float(row["confidence"])) for row in rows] == objects == table
    assert len(rows) >= 25


def test_a_reader_that_has_seen_enough_ends_a_run_quietly(workplace: Workplace) -> None:
    command = [sys.executable, "-m", "pipeline", "predict", "clip.mp4", "clip.mp4", "-m", "model.onnx", "-q", "-o", "-"]
    child = subprocess.Popen(command, cwd=workplace.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stderr is not None
    with child.stderr as stderr:
        with child.stdout as stdout:
            first = json.loads(stdout.readline())
        said = stderr.read()
    assert (child.wait(30), said) == (0, "")
    assert first["frame_id"] == 0


def numbers_after_a_start(kind: str, keys: dict[str, object], folder: Path) -> list[int]:
    """The numbers of all frames, after one more start and a clean end."""
    for config in (CsvSinkConfig, JsonlSinkConfig, ParquetSinkConfig, SqliteSinkConfig):
        if config.model_fields["type"].default == kind:
            last = config.model_validate(keys).build(PluginContext())
            last.open()
            last.close()
    match kind:
        case "jsonl":
            return [int(str(line["frame_id"])) for line in lines_of(folder)]
        case "csv":
            texts = [
                (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
                for path in folder.iterdir()
            ]
            return [int(row["frame_id"]) for text in texts for row in csv.DictReader(io.StringIO(text), strict=True)]
        case "parquet":
            return [row["frame_id"] for path in folder.iterdir() for row in pq.read_table(path).to_pylist()]
        case _:
            with contextlib.closing(sqlite3.connect(folder / "gate.sqlite")) as database:
                return [number for (number,) in database.execute("SELECT frame_id FROM results")]
