"""Environments for other people's programs: made once, told why not, made anew when what they are made of changes."""

import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from environments import Environments, Install

from tests.bench.setup import RIVALS
from tests.conformance.setup import RIGS


@dataclass
class _Uv:
    """Stands in for `uv`: makes folders, installs nothing, fails if it shall."""

    calls: list[list[str]] = field(default_factory=list)
    fault: str = ""

    def run(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        if command[1] == "venv":
            Path(command[-1]).mkdir(parents=True)
        return subprocess.CompletedProcess(command, int(bool(self.fault)), "", self.fault)


@pytest.fixture
def uv(monkeypatch: pytest.MonkeyPatch) -> _Uv:
    made = _Uv()
    monkeypatch.setattr(shutil, "which", lambda _: "/bin/uv")
    monkeypatch.setattr(subprocess, "run", made.run)
    return made


@pytest.fixture
def environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environments:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pins = tmp_path / "pins"
    pins.mkdir()
    for name in ("one", "two"):
        (pins / f"{name}.txt").write_text("# What it is for.\nthing==1.8.3\nother==2.0\n")
    return Environments(project="penstock-trial", command="just trial", pins=pins, names=("one", "two"))


def test_an_environment_is_made_once_of_exactly_its_pins(environments: Environments, uv: _Uv) -> None:
    assert environments.missing("one") == "not installed here: run `just trial`"
    assert environments.main(["one"]) == 0
    assert environments.missing("one") is None
    venv, install = uv.calls
    assert venv[-1] == str(environments.home / "one")
    assert install[-3:] == ["--no-deps", "--requirement", str(environments.pins / "one.txt")]
    assert environments.make("one") is None
    assert len(uv.calls) == 2
    assert environments.pinned("one") == {"thing": "1.8.3", "other": "2.0"}


@pytest.mark.parametrize("change", ["pins", "recipe"])
def test_it_is_made_anew_when_what_it_is_made_of_changes(environments: Environments, uv: _Uv, change: str) -> None:
    assert environments.make("one") is None
    if change == "pins":
        (environments.pins / "one.txt").write_text("thing==1.8.4\n")
    else:
        environments = replace(environments, recipe="3.11, compiled")
    assert environments.missing("one") is not None
    uv.fault = "no such version: 1.8.4"
    assert environments.make("one") == "no such version: 1.8.4"
    assert environments.missing("one") == "not installed here: no such version: 1.8.4"
    assert not (environments.home / "one").exists()
    uv.fault = ""
    assert environments.make("one") is None
    assert environments.missing("one") is None


def test_one_that_fails_is_told_and_the_others_are_made(
    environments: Environments, uv: _Uv, capsys: pytest.CaptureFixture[str]
) -> None:
    def finish(name: str, _: Path, install: Install) -> str | None:
        return "no wheel for this machine" if name == "one" else install(["torch"])

    environments = replace(environments, finish=finish)
    assert environments.main([]) == 0
    told = capsys.readouterr().out
    assert "one: no wheel for this machine (" in told
    assert "two: ready (" in told
    assert uv.calls[-1][-1] == "torch"
    assert environments.main(["three"]) == 2


@pytest.mark.parametrize(("environments", "name"), [(each, name) for each in (RIVALS, RIGS) for name in each.names])
def test_every_package_of_a_rival_or_a_rig_is_pinned_to_one_version(environments: Environments, name: str) -> None:
    rows = (environments.pins / f"{name}.txt").read_text().splitlines()
    packages = [row for row in rows if row and not row.startswith("#")]
    assert packages
    assert len(environments.pinned(name)) == len(packages)
