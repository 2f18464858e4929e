"""What is seen of a running `penstock run` from outside: metrics with their ledger, and results as they come."""

import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Labels = frozenset[tuple[str, str]]

_SAMPLE = re.compile(r"([a-z_:]+)(?:\{(.*)\})? ([^ ]+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def until(what: str, condition: Callable[[], T | None], limit_s: float, every_s: float = 0.05) -> T:
    """Ask again and again until the condition is true; what is asked lives in another process, which tells nobody.

    Raises:
        AssertionError: it is not true within the limit.
    """
    ends_at = time.monotonic() + limit_s
    while True:
        if found := condition():
            return found
        if time.monotonic() > ends_at:
            raise AssertionError(f"not within {limit_s:g} s: {what}")
        time.sleep(every_s)


class Samples(dict[tuple[str, Labels], float]):
    """One scrape of /metrics."""

    @classmethod
    def parse(cls, text: str) -> "Samples":
        """Read the text format."""
        found = cls()
        for line in text.splitlines():
            if not line.startswith("#") and (match := _SAMPLE.match(line)):
                name, labels, value = match.groups()
                found[name, frozenset(_LABEL.findall(labels or ""))] = float(value)
        return found

    def of(self, name: str, /, **labels: str) -> float:
        """The sum of all samples of this name that have these labels."""
        wanted = set(labels.items())
        return sum(value for (metric, have), value in self.items() if metric == name and wanted <= have)

    def check_ledger(self) -> None:
        """Every source's and every sink's equation, exactly."""
        for (name, labels), value in self.items():
            if name == "penstock_frames_decoded_total":
                one = dict(labels)
                settled = self.of("penstock_frames_total", **one) + self.of("penstock_frames_in_flight", **one)
                assert value == settled, f"ledger of {one}: {value:.0f} decoded, {settled:.0f} settled and in flight"
            if name == "penstock_sink_results_total" and ("outcome", "accepted") in labels:
                one = {key: text for key, text in labels if key == "sink"}
                entered = value + self.of(name, outcome="restored", **one)
                settled = self.of(name, **one) - entered + self.of("penstock_sink_pending", **one)
                assert entered == settled, f"ledger of {one}: {entered:.0f} accepted, {settled:.0f} settled and pending"


class Tail:
    """Reads the lines that a jsonl sink adds, and says how old each result was when it could be read."""

    def __init__(self, path: Path) -> None:
        self.path, self._at = path, 0

    def ages(self) -> list[tuple[dict[str, Any], float]]:
        """What came since the last call: each line, and seconds since its frame was captured."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        now = time.time()
        data = data[: data.rfind(b"\n") + 1]
        self._at += len(data)
        lines = [json.loads(line) for line in data.splitlines()]
        return [
            (line, now - datetime.fromisoformat(line["captured_at"]).timestamp())
            for line in lines
            if "captured_at" in line
        ]
