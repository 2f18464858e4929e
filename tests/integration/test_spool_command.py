"""`penstock spool`, beside a pipeline that runs and without one."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_sender import FakeSenderConfig, OtherSide
from harness import Run, run

from pipeline.cli import run_command_line
from pipeline.contracts.sender import Parcel, RefusedError


@pytest.fixture
def side() -> Iterator[OtherSide]:
    FakeSenderConfig.sides["there"] = OtherSide()
    yield FakeSenderConfig.sides["there"]
    FakeSenderConfig.sides.clear()


def go(folder: Path, frames: int, during: Any = None, **source: Any) -> Run:
    tables = {
        "data_dir": str(folder),
        "sources": {"cam": {"frames": frames, **source}},
        "sinks": {"far": {"type": "far", "retry": {"min_s": 0.01, "max_s": 0.02}}},
    }
    return run(tables, during, plugins=[FakeSenderConfig])


def spool(folder: Path, *args: str) -> int:
    return run_command_line(["spool", *args, "--data-dir", str(folder)])


def refuse_odd(parcels: list[Parcel]) -> None:
    if int(parcels[0].body) % 2:
        raise RefusedError("HTTP 422", answer='{"error": "odd \x1b[2J"}')


def results(this: Run) -> dict[str, int]:
    (account,) = this.report.sinks
    return {name: count for name, count in account.outcomes.items() if count} | {"restored": account.restored}


def test_what_waits_and_what_is_dead_is_listed(
    tmp_path: Path, side: OtherSide, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spool(tmp_path, "ls") == 0
    assert "no spool in" in capsys.readouterr().out
    side.answer = refuse_odd
    go(tmp_path, 10)
    side.away = True
    go(tmp_path, 3)
    assert spool(tmp_path, "ls") == 0
    out = capsys.readouterr().out
    assert out.startswith("far.far: 3 waiting (")
    assert out.endswith(", 5 dead letters\n")
    assert ", since 20" in out


def test_dead_letters_are_shown_with_what_was_answered_and_nothing_that_a_terminal_obeys(
    tmp_path: Path, side: OtherSide, capsys: pytest.CaptureFixture[str]
) -> None:
    side.answer = refuse_odd
    go(tmp_path, 10)
    capsys.readouterr()
    assert spool(tmp_path, "show", "far", "--limit", "2") == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert "odd" in out
    assert "\x1b" not in out
    assert err == "0 waiting, 5 dead letters\n"
    assert spool(tmp_path, "export", "far") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["body"] for line in lines] == ["1", "3", "5", "7", "9"]
    assert {line["answer"] for line in lines} == {'{"error": "odd \x1b[2J"}'}
    assert all(line["kind"] == "result" and len(line["id"]) == 32 for line in lines)


def test_dead_letters_are_sent_again_by_the_next_run(tmp_path: Path, side: OtherSide) -> None:
    side.answer = refuse_odd
    go(tmp_path, 10)
    side.answer = lambda _: None
    side.got.clear()
    assert spool(tmp_path, "replay", "far", "-n", "1", "-n", "2") == 0
    assert results(go(tmp_path, 0)) == {"delivered": 2, "restored": 2}
    assert spool(tmp_path, "replay", "far") == 0
    assert results(go(tmp_path, 0)) == {"delivered": 3, "restored": 3}
    assert side.seqs() == [1, 3, 5, 7, 9]


def test_what_waits_can_be_exported_and_thrown_away(
    tmp_path: Path, side: OtherSide, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    side.away = True
    go(tmp_path, 10)
    capsys.readouterr()
    spool(tmp_path, "export", "far", "--waiting")
    assert len(capsys.readouterr().out.splitlines()) == 10
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert spool(tmp_path, "purge", "far", "--waiting") != 0, "nobody said yes"
    assert spool(tmp_path, "purge", "far", "--waiting", "--yes") == 0
    assert capsys.readouterr().out.endswith("10 thrown away\n")
    side.away = False
    assert results(go(tmp_path, 1)) == {"delivered": 1, "restored": 0}


def test_beside_a_pipeline_that_runs_its_ledger_still_balances(tmp_path: Path, side: OtherSide) -> None:
    side.answer = refuse_odd

    def outcome(this: Run, name: str) -> float:
        return this.scrape()["penstock_sink_results_total", (("outcome", name), ("sink", "far"))]

    async def during(this: Run) -> None:
        await this.until(lambda: outcome(this, "dead_lettered") >= 10)
        side.answer = lambda _: None
        assert await asyncio.to_thread(spool, tmp_path, "replay", "far") == 0
        await this.until(lambda: outcome(this, "restored") >= 10)
        await this.until(lambda: {1, 3, 5} <= set(side.seqs()))
        side.away = True
        await this.until(lambda: this.scrape()["penstock_sink_pending", (("sink", "far"),)] > 20)
        assert await asyncio.to_thread(spool, tmp_path, "purge", "far", "--waiting", "--yes") == 0
        await this.until(lambda: outcome(this, "dropped_purged") > 20)
        assert await asyncio.to_thread(spool, tmp_path, "ls") == 0
        side.away = False
        this.supervisor.stop("enough")

    this = go(tmp_path, 0, during, endless=True, fps=200)
    found = results(this)
    assert found["dropped_purged"] > 20
    assert found["restored"] >= 10


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["show", "nobody"], "no spool of nobody in"),
        (["purge", "far", "--waiting", "-n", "3"], "--number is for dead letters"),
        (["show"], "Missing argument 'NAME'"),
    ],
)
def test_a_mistake_gets_one_line(
    tmp_path: Path, side: OtherSide, capsys: pytest.CaptureFixture[str], args: list[str], says: str
) -> None:
    go(tmp_path, 1)
    capsys.readouterr()
    assert spool(tmp_path, *args) == 78
    err = capsys.readouterr().err
    assert says in err
    assert len(err.splitlines()) == 1


def test_the_spools_of_a_configuration_are_found_in_its_data_dir(
    tmp_path: Path, side: OtherSide, capsys: pytest.CaptureFixture[str]
) -> None:
    side.away = True
    go(tmp_path / "state", 2)
    capsys.readouterr()
    config = tmp_path / "pipeline.toml"
    config.write_text(
        'data_dir = "state"\n[sources.cam]\ntype = "synthetic"\n[backends.m]\ntype = "onnx"\nmodel = "m.onnx"\n'
        '[sinks.lines]\ntype = "jsonl"\npath = "x.jsonl"\n'
    )
    assert run_command_line(["spool", "ls", str(config)]) == 0
    assert capsys.readouterr().out.endswith(", no such sink in the configuration\n")
