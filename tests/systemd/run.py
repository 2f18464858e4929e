"""The shipped unit under a real systemd: `python -m tests.systemd.run` proves each thing and writes RESULTS.md."""

import argparse
import json
import re
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from rig_plugins import plugin_path

from tests.systemd.rig import PROJECT, Machine, UnavailableError, install, make_root

UNIT = PROJECT / "deploy/systemd/penstock.service"
RESULTS = Path(__file__).with_name("RESULTS.md")
SECRET = "canary-7f3a-only-here"  # noqa: S105 - planted, to be looked for
FPS, EDITED_FPS = "fps = 20", "fps = 10"
PIPELINE = f"""
[sources.gate]
type = "synthetic"
width = 64
height = 48
{FPS}

[sources.yard]
type = "rtsp"
url = "rtsp://127.0.0.1:9/yard"
user = "penstock"
password = "${{CAMERA_PASSWORD}}"

[backends.rig]
type = "rig"
hang_file = "/var/lib/penstock/hang"

[sinks.lines]
type = "jsonl"
path = "/var/lib/penstock/{{source}}.jsonl"
mode = "append"
"""
# The shipped unit with less patience, and with the plugin that hangs on order.
DROP_IN = """
[Service]
WatchdogSec=3
RestartSec=2
Environment=PYTHONPATH=/opt/penstock/plugins
"""
WATCHDOG_S, RESTART_S = 3.0, 2.0


def prepare(root: Path) -> None:
    """Put the unit, its configuration and its credential where an administrator would."""
    for stale in ("var/lib/private/penstock", "var/lib/penstock", "var/log/journal", "etc/penstock"):
        path = root / stale
        path.unlink() if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)
    units = root / "etc/systemd/system"
    (units / "penstock.service.d").mkdir(parents=True, exist_ok=True)
    shutil.copy(UNIT, units)
    (units / "penstock.service.d/rig.conf").write_text(DROP_IN)
    (root / "etc/penstock").mkdir()
    (root / "etc/penstock/pipeline.toml").write_text(PIPELINE)
    store = root / "etc/credstore"
    store.mkdir(mode=0o700, exist_ok=True)
    (store / "CAMERA_PASSWORD").write_text(f"{SECRET}\n")
    (store / "CAMERA_PASSWORD").chmod(0o600)
    plugin_path(root / "opt/penstock")
    shutil.copy(PROJECT / "tests/support/rig_plugins.py", root / "opt/penstock/plugins")


class Proofs:
    """Each method proves one thing and returns what was seen; they run in this order on one machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.config = machine.root / "etc/penstock/pipeline.toml"

    def ready(self) -> str:
        """`systemctl start` returns when the backend is warm"""
        began_at = time.monotonic()
        self.machine.run("systemctl", "start", "penstock")
        took_s = time.monotonic() - began_at
        assert self.machine.show("ActiveState") == "active"
        status, body = self.machine.get("/readyz")
        assert status == 200, body
        self.machine.until(lambda: "1 of 2 sources up" in self.machine.show("StatusText"), 10)
        return f"active after {took_s:.1f} s, /readyz 200, status: {self.machine.show('StatusText')}"

    def credential(self) -> str:
        """The credential is read by the service, and by nobody else"""
        machine, pid = self.machine, self.machine.show("MainPID")
        path = f"/proc/{pid}/root/run/credentials/penstock.service/CAMERA_PASSWORD"
        mode, owner = machine.run("stat", "-c", "%a %u", path).split()
        assert mode in ("400", "440"), mode
        environ = machine.run("cat", f"/proc/{pid}/environ")
        assert SECRET not in environ
        assert "CREDENTIALS_DIRECTORY" in environ
        as_other = machine.run("setpriv", "--reuid=65534", "--clear-groups", "cat", path, check=False)
        assert "Permission denied" in as_other, as_other
        for text in (machine.journal(), machine.get("/metrics")[1], machine.get("/api/v1/status")[1]):
            assert SECRET not in text
        return f"mode {mode}, owner {owner}; not in the environment, journal, metrics or status"

    def sandbox(self) -> str:
        """It cannot write, gain privileges, or see devices and homes"""
        machine, pid = self.machine, self.machine.show("MainPID")
        status = dict(line.split(":\t", 1) for line in machine.run("cat", f"/proc/{pid}/status").splitlines())
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert {status[key].strip("0") for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {""}
        assert status["Uid"].split()[0] != "0"
        inside = ("nsenter", "-t", pid, "-m")
        for folder in ("/etc", "/usr", "/opt/penstock", "/boot"):
            refused = machine.run(*inside, "touch", f"{folder}/x", check=False)
            assert "Read-only file system" in refused, refused
        machine.run(*inside, "touch", "/var/lib/penstock/x")
        assert not [
            name for name in machine.run(*inside, "ls", "/dev").split() if name.startswith(("sd", "video", "fuse"))
        ]
        assert machine.run(*inside, "ls", "/home") == ""
        score = machine.run("systemd-analyze", "security", "penstock", check=False).splitlines()[-1]
        figure = float(re.findall(r"\d+\.\d+", score)[0])
        assert figure <= 2.0, score
        return f"EROFS on /etc /usr /opt /boot; no capability, no new privileges, seccomp; exposure {figure}"

    def reload(self) -> str:
        """`systemctl reload` puts a new configuration in force; a wrong one changes nothing"""
        machine, before = self.machine, self._hash()
        pid, seq = machine.show("MainPID"), self._decoded()
        self.config.write_text(PIPELINE.replace(FPS, EDITED_FPS))
        machine.run("systemctl", "reload", "penstock")
        took_s = machine.until(lambda: self._hash() != before, 10)
        machine.until(lambda: machine.show("ActiveState") == "active", 10)
        now = self._hash()
        self.config.write_text(PIPELINE.replace(FPS, "fsp = 10"))
        machine.run("systemctl", "reload", "penstock")
        machine.until(lambda: 'reloads_total{outcome="failed"} 1.0' in machine.get("/metrics")[1], 10)
        machine.until(lambda: machine.show("ActiveState") == "active", 10)
        assert self._hash() == now
        assert machine.show("MainPID") == pid
        self.config.write_text(PIPELINE)
        machine.until(lambda: self._decoded() > seq, 10)
        return f"{before} -> {now} in {took_s:.1f} s, same process; the wrong one was refused and named"

    def watchdog(self) -> str:
        """An inference that hangs is ended by the watchdog, the journal shows where, and the service runs again"""
        machine, restarts = self.machine, int(self.machine.show("NRestarts"))
        hang = machine.root / "var/lib/private/penstock/hang"
        hang.touch()
        named_s = machine.until(lambda: "STUCK: backend rig" in machine.show("StatusText"), 10)
        ended_s = named_s + machine.until(lambda: machine.show("ActiveState") != "active", 10)
        hang.unlink()
        again_s = ended_s + machine.until(lambda: int(machine.show("NRestarts")) > restarts, 10)
        ready_s = again_s + machine.until(lambda: machine.get("/readyz")[0] == 200, 20)
        journal = machine.journal()
        assert "in infer" in journal, "no traceback in the journal"
        assert machine.run("journalctl", "-b", "-u", "penstock", "--no-pager").count("Watchdog request") == 1
        assert again_s <= WATCHDOG_S + RESTART_S + 1, again_s
        return (
            f"named after {named_s:.1f} s, ended after {ended_s:.1f} s, restarted after {again_s:.1f} s, "
            f"ready after {ready_s:.1f} s (WatchdogSec={WATCHDOG_S:g}, RestartSec={RESTART_S:g})"
        )

    def kill(self) -> str:
        """It comes back after `kill -9`"""
        machine, restarts = self.machine, int(self.machine.show("NRestarts"))
        machine.run("kill", "-9", machine.show("MainPID"))
        machine.until(lambda: int(machine.show("NRestarts")) > restarts, 10)
        return f"ready again after {machine.until(lambda: machine.get('/readyz')[0] == 200, 20) + RESTART_S:.1f} s"

    def stop(self) -> str:
        """`systemctl stop` drains"""
        machine = self.machine
        machine.until(lambda: self._decoded() > 20, 10)
        began_at = time.monotonic()
        machine.run("systemctl", "stop", "penstock")
        took_s = time.monotonic() - began_at
        assert (machine.show("Result"), machine.show("ExecMainStatus")) == ("success", "0")
        assert "every frame and every result is accounted for" in machine.journal()
        lines = (machine.root / "var/lib/private/penstock/gate.jsonl").read_text().splitlines()
        assert all(json.loads(line)["source"] == "gate" for line in lines)
        return f"{took_s:.1f} s, exit code 0, {len(lines)} whole lines, ledger balanced"

    def bad_config(self) -> str:
        """A wrong configuration is named in the journal, and not tried again and again"""
        machine = self.machine
        self.config.write_text(PIPELINE.replace(FPS, "fsp = 20"))
        machine.run("systemctl", "start", "penstock", check=False)
        machine.until(lambda: machine.show("ActiveState") == "failed", 10)
        assert machine.show("ExecMainStatus") == "78"
        line = next(line for line in reversed(machine.journal().splitlines()) if "fsp" in line)
        restarts = machine.show("NRestarts")
        time.sleep(2 * RESTART_S)  # nothing tells that something does not happen
        assert machine.show("NRestarts") == restarts
        assert machine.show("ActiveState") == "failed"
        self.config.write_text(PIPELINE)
        return f"failed with 78, no restart: {line}"

    def missing_credential(self) -> str:
        """A credential that is not in the store is named, too"""
        machine = self.machine
        (machine.root / "etc/credstore/CAMERA_PASSWORD").unlink()
        machine.run("systemctl", "start", "penstock", check=False)
        machine.until(lambda: machine.show("ActiveState") == "failed", 10)
        return next(line for line in machine.journal().splitlines() if "CAMERA_PASSWORD" in line)

    def generated(self) -> str:
        """The unit that `penstock generate systemd` writes for the configuration starts, too"""
        machine, program = self.machine, "/opt/penstock/.venv/bin/penstock"
        (machine.root / "etc/credstore/CAMERA_PASSWORD").write_text(SECRET)
        plugins = "PYTHONPATH=/opt/penstock/plugins"
        text = machine.run("env", plugins, program, "generate", "systemd", "/etc/penstock/pipeline.toml")
        assert SECRET not in text
        (machine.root / "etc/systemd/system/penstock.service").write_text(f"{text}\n")
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", "penstock")
        assert machine.get("/readyz")[0] == 200
        machine.run("systemctl", "stop", "penstock")
        return f"{len(text.splitlines())} lines, {re.findall('(?m)^LoadCredential=.*$', text)}"

    def _hash(self) -> str:
        return str(json.loads(self.machine.get("/api/v1/status")[1])["config_hash"])

    def _decoded(self) -> int:
        sources = json.loads(self.machine.get("/api/v1/status")[1])["sources"]
        return next(int(source["decoded"]) for source in sources if source["name"] == "gate")


def main() -> int:
    """Prove everything, print it as it goes, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    asked = parser.parse_args()
    try:
        root = make_root()
        install(root)
    except UnavailableError as error:
        print(f"not run: {error}")
        return 77
    prepare(root)
    rows, failed = [], False
    with Machine(root) as machine:
        version = machine.run("systemctl", "--version").splitlines()[0]
        proofs = Proofs(machine)
        steps = (
            *(proofs.ready, proofs.credential, proofs.sandbox, proofs.reload, proofs.watchdog, proofs.kill),
            *(proofs.stop, proofs.bad_config, proofs.missing_credential, proofs.generated),
        )
        for step in steps:
            try:
                seen, verdict = step(), "ok"
            except (AssertionError, StopIteration, ValueError, KeyError) as error:
                seen, verdict, failed = f"{type(error).__name__}: {error}"[:400], "FAILED", True
            print(f"{verdict:6} {step.__name__}: {seen}", flush=True)
            rows.append(f"| {step.__doc__} | {verdict} | {' '.join(seen.split()).replace('|', '/')} |")
        if failed:
            print(machine.journal("-n", "60"))
    if asked.write:
        head = f"# The shipped unit under a real systemd\n\n{version} in systemd-nspawn, `just systemd`.\n\n"
        RESULTS.write_text(head + "| what | | seen |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
