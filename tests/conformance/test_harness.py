"""The rig itself: a script's answer comes back, a failure is told, nothing it started is left."""

import os
import urllib.request
from pathlib import Path

import pytest
from observed import until

from tests.conformance.harness import vendor, vendor_server
from tests.conformance.setup import RIGS

SERVER = """
    import http.server, subprocess, sys

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(str(child.pid).encode())

    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    http.server.HTTPServer(("127.0.0.1", args.port), Handler).serve_forever()
"""


def test_a_script_gets_its_arguments_and_its_answer_comes_back() -> None:
    found = vendor(
        "triton",
        """
        import numpy as np, sys
        print("noise")
        answer({"sum": sum(args.numbers), "array": np.arange(3), "python": sys.prefix})
        """,
        numbers=[1, 2, 3],
    )
    assert found == {"sum": 6, "array": [0, 1, 2], "python": str(RIGS.home / "triton")}


def test_a_script_that_fails_fails_the_test_with_the_end_of_its_traceback() -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        vendor("triton", "1 / 0")


def test_a_script_that_hangs_is_killed() -> None:
    with pytest.raises(AssertionError, match="not done after 1 s"):
        vendor("triton", "import time; time.sleep(600)", limit_s=1)


def test_a_server_is_gone_with_its_children_when_the_context_ends() -> None:
    with vendor_server("triton", SERVER) as url:
        with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own URL
            child = int(answer.read())
        os.kill(child, 0)

    def is_gone() -> bool:
        stat = Path(f"/proc/{child}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in {"Z", "X"}

    until("the child is gone", is_gone, 10)


def test_a_server_that_ends_at_once_is_told_with_its_log() -> None:
    with (
        pytest.raises(AssertionError, match="no such thing"),
        vendor_server("triton", "raise SystemExit('no such thing')"),
    ):
        pass


def test_an_environment_that_is_missing_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="run `just conformance-setup`"):
        vendor("sdk", "")
    RIGS.home.mkdir(parents=True)
    (RIGS.home / "sdk.failed").write_text("the registry is away")
    with pytest.raises(pytest.skip.Exception, match="the registry is away"):
        vendor("sdk", "")
