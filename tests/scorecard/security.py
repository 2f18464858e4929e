"""Rows 40, 41 and 44: who may ask, what is told, whom it connects to. Rows 40 and 41 are tests of the suite."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from daemon import JSONL, ONNX, Daemon
from media import camera_clip
from rtsp_server import RtspServer

from tests.scorecard.operation import PROJECT, synthetic, tool
from tests.scorecard.sources import camera, hold
from tests.scorecard.table import Figures, NotRunError


def _tests(folder: Path, *arguments: str) -> Figures:
    for argument in arguments:
        if "/" in argument and not (PROJECT / argument.partition("::")[0]).exists():
            raise NotRunError(f"{argument} is not there")
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'pytest'}", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    assert done.returncode == 0, "\n".join(lines[-8:])
    passed = re.search(r"(\d+) passed", lines[-1])
    assert passed is not None, lines[-1]
    return {"tests passed": int(passed[1]), "took s": time.monotonic() - start}


SECRETS = {scope: f"{scope}-0123456789abcdef" for scope in ("metrics", "read", "control", "infer")}
OPEN = {"/livez", "/readyz", "/healthz", "/readiness", "/v2/health/live", "/v2/health/ready"}
TOKENS = "sources_by_api = true\n" + "".join(
    f'[server.tokens.for_{scope}]\ntoken = "{secret}"\nscopes = ["{scope}"]\n' for scope, secret in SECRETS.items()
)
EXPIRED = (
    '[server.tokens.old]\ntoken = "expired-0123456789abcdef"\nscopes = ["metrics", "read", "control", "infer"]\n'
    "expires = 2020-01-01T00:00:00Z\n"
)


def _at(path: str, operation: dict[str, Any]) -> str:
    """A path that the route takes."""
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            pattern = parameter["schema"]["pattern"].removeprefix("^(?:").removesuffix(")$")
            found = next(word for word in ("nobody", *pattern.split("|")) if re.fullmatch(pattern, word))
            path = path.replace(f"{{{parameter['name']}}}", found)
    return path


def row_40(folder: Path) -> Figures:
    """Every route that the program describes, with no token, wrong ones, an expired one and those of other scopes."""
    wrong = ["", "Bearer ", "Bearer unknown-0123456789abcdef", "Bearer expired-0123456789abcdef", "Basic cmVhZDpyZWFk"]
    asked = routes = 0
    with Daemon(folder, synthetic("cam") + ONNX + JSONL, server=TOKENS + EXPIRED, token=SECRETS["metrics"]) as daemon:
        daemon.ready().wait_frames("cam", 5)

        def status(method: str, path: str, authorization: str = "Basic none", **headers: str) -> int:
            nonlocal asked
            asked += 1
            return daemon.request(path, method, headers={"Authorization": authorization, **headers})[0]

        described = daemon.request("/api/v1/openapi.json", headers={"Authorization": f"Bearer {SECRETS['read']}"})
        paths = json.loads(described[1])["paths"]
        assert len(paths) >= 100, list(paths)
        for path, methods in paths.items():
            for name, operation in methods.items():
                routes += 1
                method, at = name.upper(), _at(path, operation)
                refused = [status(method, at, each) for each in wrong]
                refused += [status(method, f"{at}?api_key=None"), status(method, at, **{"x-api-key": "unknown"})]
                if path in OPEN:
                    assert set(refused) == {200}, f"{method} {path} answers {refused}"
                    continue
                assert set(refused) == {401}, f"{method} {path} answers {refused} without a good token"
                by_scope = {scope: status(method, at, f"Bearer {secret}") for scope, secret in SECRETS.items()}
                (wanted,) = operation["security"][0]["bearer"]
                let_in = [scope for scope, answer in by_scope.items() if answer not in (401, 403)]
                assert let_in == [wanted], f"{method} {path} answers {by_scope}, and wants {wanted}"
                elsewhere = [
                    status(method, f"{at}?api_key={SECRETS[wanted]}"),
                    status(method, at, **{"x-api-key": SECRETS[wanted]}),
                ]
                assert (set(elsewhere) == {401}) == ("tags" not in operation), f"{method} {path} answers {elsewhere}"
                if "tags" not in operation:
                    assert (wanted == "control") == (method != "GET"), f"{method} {path} wants {wanted}"
        daemon.wait_frames("cam", 5)
        daemon.stop()
        leaked = [secret for secret in SECRETS.values() if secret in daemon.log()]
        assert not leaked, f"in the log: {leaked}"
    tests = ("tests/unit/server/test_access.py", "tests/unit/server/inference/test_table.py")
    return {"requests": asked, "routes": routes, **_tests(folder, *tests)}


def row_41(folder: Path) -> Figures:
    """A planted password appears nowhere: logs at debug level, metrics, API, errors, tracebacks, files."""
    return _tests(folder, "tests/integration/test_credentials.py")


def row_44(folder: Path) -> Figures:
    """A run with a camera, traced: it connects to that camera only."""
    trace = folder / "trace"
    before = (tool("strace"), "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace))
    with RtspServer() as server:
        url = server.add("/cam", camera_clip(folder / "cam.mkv"))
        with Daemon(folder, camera("cam", url) + ONNX + JSONL, before=before) as daemon:
            daemon.ready(60)
            if "ptrace" in daemon.log():
                raise NotRunError("strace may not trace here")
            daemon.wait_frames("cam", 30)
            server.close_all()
            daemon.wait_state("cam", "reconnecting")
            daemon.wait_state("cam", "running")
            hold(daemon, 15)
            daemon.stop()
    text = trace.read_text()
    ports = re.findall(r"(?:connect|sendto|sendmsg)\(\d+, .*?sa_family=AF_INET6?, sin6?_port=htons\((\d+)\)", text)
    addresses = set(re.findall(r'inet_addr\("([\d.]+)"\)', text))
    assert set(ports) == {str(server.port)}, f"ports {set(ports)}, the camera is at {server.port}"
    assert addresses == {"127.0.0.1"}, f"{addresses}"
    return {"connections": len(ports), "to others": 0}
