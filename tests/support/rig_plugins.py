"""Plugins of the rigs, in a distribution of their own: a backend that is slow or hangs on order, and a slow sink."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.contracts.backend import BackendConfig
from pipeline.contracts.component import Context
from pipeline.contracts.frame import Frame
from pipeline.contracts.paths import ConfigPath
from pipeline.contracts.result import Detections, Prediction, Result, Timings
from pipeline.contracts.sink import SinkConfig

HANG_S = 3600.0
NAME = "penstock_rigs-0"


def plugin_path(folder: Path) -> dict[str, str]:
    """Make the distribution's metadata in a folder; the environment in which the program finds the plugins."""
    metadata = folder / "plugins" / f"{NAME}.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: penstock-rigs\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(
        "[penstock.backends]\nrig = rig_plugins:RigBackendConfig\nwalker = walker:WalkerBackendConfig\n"
        "[penstock.sinks]\nslow = rig_plugins:SlowSinkConfig\n"
    )
    return {"PYTHONPATH": f"{folder / 'plugins'}:{Path(__file__).parent}"}


class RigBackendConfig(BackendConfig):
    """Warm after `open_s`; finds one box in every frame, `delay_s` after it was asked.

    While `hang_file` is there it never answers.
    """

    type: Literal["rig"] = "rig"
    concurrency: int = 1
    max_batch: int = 1
    delay_s: float = 0.0
    open_s: float = 0.0
    hang_file: ConfigPath | None = None

    def build(self, ctx: Context) -> "RigBackend":
        return RigBackend(self)


class RigBackend:
    """Made by its config; `infer` is called by `concurrency` threads."""

    model = "rig"

    def __init__(self, config: RigBackendConfig) -> None:
        self.concurrency, self.max_batch = config.concurrency, config.max_batch
        self._config = config

    def open(self) -> None:
        """Take one's time, as a model that is loaded."""
        time.sleep(self._config.open_s)

    def infer(self, batch: Sequence[Frame]) -> Sequence[Prediction]:
        """Sleep as a busy device would: outside of Python, not to be woken."""
        config = self._config
        if config.hang_file is not None and config.hang_file.exists():
            time.sleep(HANG_S)
        time.sleep(config.delay_s)
        answer = Detections(
            xyxy=np.array([[1, 2, 5, 6]], np.float32),
            confidence=np.array([0.9], np.float32),
            class_id=np.array([0], np.int32),
            names=("thing",),
            timings=Timings(0.0, config.delay_s, 0.0),
        )
        return [answer] * len(batch)

    def describe(self) -> str:
        """For the log."""
        return "a rig"

    def close(self) -> None:
        """Nothing to let go."""


class SlowSinkConfig(SinkConfig):
    """Takes `delay_s` for every result and keeps none."""

    type: Literal["slow"] = "slow"
    delay_s: float = 0.1

    def build(self, ctx: Context) -> "SlowSink":
        return SlowSink(self.delay_s)


class SlowSink:
    """Made by its config; used by its sink's thread."""

    wants_pictures = False

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    def open(self) -> None:
        """Nothing to open."""

    def write(self, results: Sequence[Result]) -> None:
        """Take one's time."""
        time.sleep(self._delay_s * len(results))

    def close(self) -> None:
        """Nothing to finish."""

    def written(self) -> Sequence[str]:
        """Nothing."""
        return ()
