"""Rows 17, 18 and 35: a model file that is exchanged for junk, an inference that hangs, the unit under a systemd."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from daemon import JSONL, Daemon
from makers import brightness_model

from tests.scorecard.operation import PROJECT, synthetic, tool
from tests.scorecard.sources import hold
from tests.scorecard.table import Figures, NotRunError

NOT_RUN = 77


def _onnx(name: str) -> str:
    return f'\n[backends.model]\ntype = "onnx"\nmodel = "{name}"\ndevice = "cpu"\nconfidence = 0.01\n'


def row_17(folder: Path) -> Figures:
    """A reload with a model file that is cut off, empty, or text; then one with a good one."""
    good = brightness_model(folder / "model.onnx", ("thing", "other"))
    data = good.read_bytes()
    bad = {"cut.onnx": data[: len(data) // 2], "empty.onnx": b"", "text.onnx": b"this is no model\n" * 100}
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    cameras = synthetic("cam", 25) + JSONL
    with Daemon(folder, cameras + _onnx("model.onnx")) as daemon:
        daemon.ready().wait_frames("cam", 25)
        for name in bad:
            daemon.write(cameras + _onnx(name))
            assert not daemon.reload(), f"{name} was taken"
            assert name in daemon.log().splitlines()[-1], daemon.log().splitlines()[-1]
            _goes_on(daemon)
        # The very file that is in use is overwritten: what is loaded stays.
        good.write_bytes(bad["cut.onnx"])
        daemon.write(cameras + _onnx("model.onnx") + "max_batch = 1\n")
        daemon.reload()
        _goes_on(daemon)
        brightness_model(folder / "new.onnx", ("person", "car"))
        daemon.write(cameras + _onnx("new.onnx"))
        start = time.monotonic()
        assert daemon.reload(), "the good model was refused"
        took_s = time.monotonic() - start
        _goes_on(daemon)
        samples = daemon.scrape()
        assert samples.of("penstock_frames_total", outcome="failed_backend") == 0
        daemon.stop()
    lines = [line for line in daemon.lines("out/cam.jsonl") if line.get("predictions")]
    assert lines[0]["predictions"][0]["class"] == "thing"
    assert lines[-1]["predictions"][0]["class"] == "person"
    return {"exchange s": took_s, "refused": len(bad), "failed frames": 0}


def _goes_on(daemon: Daemon) -> None:
    before = daemon.scrape().of("penstock_frames_total", outcome="inferred")
    daemon.wait_frames("cam", 20)
    hold(daemon, 0.5)
    assert daemon.scrape().of("penstock_frames_total", outcome="inferred") >= before + 15


def _under_systemd() -> dict[str, str]:
    """What each proof of `tests/systemd` saw; it is carried out once for all rows."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.systemd.run"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if done.returncode == NOT_RUN:
        raise NotRunError(done.stdout.strip().removeprefix("not run: "))
    seen = dict(re.findall(r"^ok +(\w+): (.*)$", done.stdout, re.MULTILINE))
    failed = re.findall(r"^FAILED (\w+: .*)$", done.stdout, re.MULTILINE)
    assert not failed, "; ".join(failed)
    assert seen, done.stdout[-500:] + done.stderr[-500:]
    return seen


def row_18(folder: Path) -> Figures:
    """An inference hangs under a real systemd: named, and restarted within WatchdogSec + RestartSec + 1 s."""
    del folder
    seen = _under_systemd()["watchdog"]
    named, ended, restarted, ready, watchdog, restart = map(float, re.findall(r"[\d.]+\d|\d", seen)[:6])
    assert restarted <= watchdog + restart + 1, seen
    return {"named s": named, "ended s": ended, "restarted s": restarted, "ready s": ready}


def row_35(folder: Path) -> Figures:
    """The shipped unit: `systemd-analyze verify` and `security`, and all of it started by a real systemd."""
    unit = PROJECT / "deploy/systemd/penstock.service"
    analyze = tool("systemd-analyze")
    security = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert security.returncode == 0, security.stdout.splitlines()[-1] if security.stdout else security.stderr
    exposure = float(re.findall(r"exposure level.*?: ([\d.]+)", security.stdout)[0])
    # The program must be there for `verify`: an executable of that name stands for it.
    copy = folder / unit.name
    copy.write_text(unit.read_text().replace("/opt/penstock/.venv/bin/penstock", shutil.which("true") or "/bin/true"))
    verify = subprocess.run([analyze, "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (verify.returncode, verify.stderr) == (0, ""), verify.stderr
    seen = _under_systemd()
    return {"exposure": exposure, "proofs under systemd": len(seen)}
