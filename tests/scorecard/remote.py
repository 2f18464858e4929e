"""Rows 14 to 16: what happens to the cameras when the server elsewhere that infers for them does badly.

Two Penstocks and a proxy between them that spoils what passes: `penstock serve` with a model, `penstock run` with
cameras. Nothing stands in for a server that fails (no fallback): each frame that gets no answer is counted as that.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from daemon import JSONL, Daemon
from makers import brightness_model
from observed import Samples, until
from proxy import Mode, Proxy

from tests.scorecard.operation import results, synthetic
from tests.scorecard.sources import hold
from tests.scorecard.table import Figures

BACK_LIMIT_S = 5.0
SERVER = """
[models.far]
type = "onnx"
model = "model.onnx"
device = "cpu"
confidence = 0.01
aliases = ["cameras/1"]
"""
LOCAL = '\n[backends.local]\ntype = "onnx"\nmodel = "model.onnx"\ndevice = "cpu"\nconfidence = 0.01\n'


class Pair(NamedTuple):
    """The box with the cameras, and what is between it and the server."""

    box: Daemon
    proxy: Proxy

    def attempts(self, since: Samples | None = None) -> dict[str, int]:
        """Requests by how they ended, without the zeros."""
        found: dict[str, int] = {}
        for (name, labels), value in self.box.scrape().items():
            if name == "penstock_backend_attempts_total":
                code = dict(labels)["code"]
                before = 0.0 if since is None else since.of(name, backend="cloud", code=code)
                if value > before:
                    found[code] = int(value - before)
        return found

    def circuit(self) -> str:
        """The state of the circuit."""
        samples = self.box.scrape()
        states = ("closed", "open", "half_open")
        return next(
            state for state in states if samples.of("penstock_backend_circuit_state", backend="cloud", state=state)
        )

    def back(self) -> float:
        """Let everything through again; seconds until the server answers a camera."""
        self.proxy.mode = "through"
        start, before = time.monotonic(), self.box.scrape()
        until("the server answers again", lambda: self.attempts(before).get("ok"), BACK_LIMIT_S)
        return time.monotonic() - start


@contextmanager
def pair(folder: Path, cloud: str, more: str = "", max_staleness_s: float = 4) -> Iterator[Pair]:
    """Both programs, ready, the camera `far` on the server elsewhere."""
    for name in ("server", "box"):
        (folder / name).mkdir()
        brightness_model(folder / name / "model.onnx", (name, "other"))
    camera = synthetic("far", 20, f'backend = "cloud"\nmax_staleness_s = {max_staleness_s}')
    with ExitStack() as stack:
        server = stack.enter_context(Daemon(folder / "server", SERVER, command="serve")).ready()
        proxy = stack.enter_context(Proxy(server.url, slow_s=3.0, retry_after_s=1))
        backend = (
            f'\n[backends.cloud]\ntype = "roboflow"\nurl = "{proxy.url}"\nmodel_id = "cameras/1"\n'
            f"confidence = 0.01\nmax_concurrent_requests = 4\n{cloud}\n"
        )
        box = stack.enter_context(Daemon(folder / "box", camera + more + backend + JSONL)).ready()
        this = Pair(box, proxy)
        until("the server answers", lambda: this.attempts().get("ok", 0) > 20, 20)
        yield this
        box.stop(code=1)  # frames failed: the exit code says so
        numbers = [line["frame_id"] for line in results(box, "far")]
        assert numbers == sorted(set(numbers)), "out of order, or twice"
        assert "Traceback" not in box.log(), box.log()
        assert "Traceback" not in server.log(), server.log()


def row_14(folder: Path) -> Figures:
    """A server that answers 500, 503 and 429 with Retry-After, 6 s each, behind a camera of 20 frames a second."""
    back, most, dropped = [], 0, 0.0
    with pair(folder, "circuit = { failures = 5, open_s = 1, max_open_s = 3 }") as this:
        modes: tuple[Mode, ...] = ("500", "503", "429")
        for mode in modes:
            before = this.box.scrape()
            this.proxy.mode = mode
            until(f"the circuit opens after {mode}", lambda: this.circuit() == "open", 6)
            hold(this.box, 5.0)
            asked = this.proxy.answers[mode]
            # Five failures of three attempts each, those that were under way besides, and one try at each reopening.
            assert asked <= 3 * (5 + 5) + 3 * 6, f"{asked} requests within 6 s of {mode}"
            most = max(most, asked)
            after = this.box.scrape()
            code = {"500": "server_error", "503": "server_error", "429": "rate_limited"}[mode]
            assert this.attempts(before).get(code, 0) >= 5, this.attempts(before)
            dropped += sum(
                after.of("penstock_frames_total", source="far", outcome=why)
                - before.of("penstock_frames_total", source="far", outcome=why)
                for why in ("dropped_queue_full", "dropped_stale")
            )
            back.append(this.back())
            until("the circuit closes", lambda: this.circuit() == "closed", 2)
            seen = len(results(this.box, "far"))
            hold(this.box, 1.5)
            fresh = results(this.box, "far")[seen:]
            assert fresh, "no results after it"
            assert max(line["latency_s"] for line in fresh[-10:]) < 1.0, "old frames were kept"
    return {"most requests in 6 s": most, "back s": max(back), "dropped": dropped}


def row_15(folder: Path) -> Figures:
    """A server that takes 3 s, sends 20 kB/s, hangs, 8 s each; a second camera is on a local model."""
    timeout_s = 1.5
    cloud = f"timeout_s = {timeout_s}\ncircuit = {{ failures = 20, open_s = 0.5, max_open_s = 1 }}"
    waits: list[float] = []
    rates, back = [], []
    more = synthetic("near", 25, 'backend = "local"') + LOCAL
    # A frame that had waited long would rightly be given up sooner: here none ever is too old.
    with pair(folder, cloud, more, max_staleness_s=600) as this:
        this.box.wait_state("near", "running")
        modes: tuple[Mode, ...] = ("slow", "drip", "hang")
        for mode in modes:
            this.proxy.given_up_after_s.clear()
            before = this.box.scrape()
            this.proxy.mode = mode
            start, seen = time.monotonic(), len(results(this.box, "near"))
            hold(this.box, 8.0)
            rates.append((len(results(this.box, "near")) - seen) / (time.monotonic() - start) / 25)
            assert this.attempts(before).get("timeout", 0) >= 5, f"{mode}: {this.attempts(before)}"
            found = list(this.proxy.given_up_after_s)
            assert len(found) >= 5, f"{mode}: {len(found)} requests were given up"
            waits += found
            back.append(this.back())
    assert all(abs(wait / timeout_s - 1) <= 0.1 for wait in waits), f"given up after {min(waits)} to {max(waits)} s"
    assert min(rates) >= 0.95, f"the other camera ran at {min(rates):.2f} of its rate"
    return {
        "deadline at worst, ratio": max(waits, key=lambda wait: abs(wait / timeout_s - 1)) / timeout_s,
        "other camera, ratio": min(rates),
        "back s": max(back),
    }


def row_16(folder: Path) -> Figures:
    """Garbage, answers cut at 100 and 1000 bytes, resets, refused connections, 3 s each."""
    cloud = "retries = { max_attempts = 2 }\ncircuit = { failures = 5, open_s = 0.5, max_open_s = 1 }"
    back, counted = [], 0
    with pair(folder, cloud) as this:
        modes: dict[Mode, str] = {
            "garbage": "bad_answer",
            "cut100": "connection",
            "cut1000": "connection",
            "reset": "connection",
        }
        for mode, code in modes.items():
            before = this.box.scrape()
            this.proxy.mode = mode
            hold(this.box, 3.0)
            counted += _only(this.attempts(before), code, mode)
            back.append(this.back())
        before = this.box.scrape()
        this.proxy.down()
        hold(this.box, 3.0)
        counted += _only(this.attempts(before), "connection", "refuse")
        this.proxy.up()
        back.append(this.back())
        samples = this.box.scrape()
        failed = samples.of("penstock_frames_total", source="far", outcome="failed_backend")
        assert failed > 0
    return {"named failures": counted, "failed frames": failed, "back s": max(back)}


def _only(attempts: dict[str, int], code: str, mode: str) -> int:
    """Every failure has that name; an answer that was on its way, and what was not asked, do not count."""
    failures = {name: count for name, count in attempts.items() if name not in {"ok", "circuit_open"}}
    assert set(failures) == {code}, f"{mode}: {attempts}"
    assert failures[code] >= 5, f"{mode}: {attempts}"
    return failures[code]
