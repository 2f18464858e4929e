"""Counts of what clients of the KServe routes asked of each model, in Triton's form."""

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from pipeline.server.inference._kserve_models import VERSION


@dataclass(slots=True)
class _Counted:
    """Requests of one kind: how many, and how long they took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += round(seconds * 1e9)

    def shown(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


class _Model:
    """All about one model."""

    def __init__(self) -> None:
        self.well, self.badly, self.inference = _Counted(), _Counted(), _Counted()
        self.pictures = 0
        self.last_ms = 0


class Stats:
    """Counts since the server's start. Made by the dialect; used on the main loop. One page for each model there is."""

    def __init__(self) -> None:
        self._models: defaultdict[str, _Model] = defaultdict(_Model)

    def went_well(self, model: str, pictures: int, took_s: float, inference_s: float) -> None:
        """A request was answered; `inference_s` is what the model itself took for all its pictures."""
        page = self._models[model]
        page.well.add(took_s)
        page.inference.add(inference_s)
        page.pictures += pictures
        page.last_ms = round(time.time() * 1000)  # for people: it is a date

    def went_badly(self, model: str, took_s: float) -> None:
        """A request got no answer."""
        self._models[model].badly.add(took_s)

    def of(self, model: str, name: str) -> dict[str, Any]:
        """A model's page, under the name that the client calls it."""
        page = self._models[model] if model in self._models else _Model()
        nothing = _Counted().shown()
        return {
            "name": name,
            "version": VERSION,
            "last_inference": page.last_ms,
            "inference_count": page.pictures,
            "execution_count": page.inference.count,
            "inference_stats": {
                "success": page.well.shown(),
                "fail": page.badly.shown(),
                "queue": nothing,
                "compute_input": nothing,
                "compute_infer": page.inference.shown(),
                "compute_output": nothing,
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "response_stats": {},
            "batch_stats": [],
            "memory_usage": [],
        }
