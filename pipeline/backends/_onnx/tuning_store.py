"""`TuningFile`: plans that were found by measuring, kept in the data folder for the next start."""

import hashlib
import json
import os
import platform
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from pipeline.backends._onnx.tuning import Plan, Verdict
from pipeline.contracts.component import FrozenModel

FILE = "tuning.json"
_MOST_PLANS = 64
_MOST_BYTES = 1 << 20
_CPU_INFO = Path("/proc/cpuinfo")

Count = Annotated[int, Field(ge=1, le=1024)]


class _Kept(FrozenModel):
    """One plan: what it holds for, in a hash and in words; and what was measured, for whoever reads the file."""

    key: str
    about: dict[str, str]
    workers: Count
    intra_op_threads: Count
    allow_spinning: bool
    max_batch: Count
    tried_fps: dict[str, float]


class _Content(FrozenModel):
    version: Literal[1] = 1
    plans: tuple[_Kept, ...] = ()


class TuningFile:
    """Made when a backend opens. Damage costs a measurement, no more: what cannot be read is as if it were not there.

    Args:
        folder: the data folder; made when something is kept.
        about: all that a plan depends on: model, keys, machine, onnxruntime.
    """

    def __init__(self, folder: Path, about: Mapping[str, str]) -> None:
        self.path = folder / FILE
        self._about = dict(about)
        self._key = hashlib.sha256(json.dumps(self._about, sort_keys=True).encode()).hexdigest()

    def find(self) -> Plan | None:
        """The plan that was kept for exactly this."""
        for kept in self._read().plans:
            if kept.key == self._key:
                return Plan(kept.workers, kept.intra_op_threads, kept.allow_spinning, kept.max_batch)
        return None

    def keep(self, verdict: Verdict) -> None:
        """Keep it, and the newest of what else is there.

        Raises:
            OSError: it cannot be written.
        """
        tried = {str(plan): round(fps, 1) for plan, fps in verdict.tried.items()}
        new = _Kept(key=self._key, about=self._about, **verdict.plan._asdict(), tried_fps=tried)
        others = tuple(kept for kept in self._read().plans if kept.key != self._key)
        content = _Content(plans=(*others[-_MOST_PLANS + 1 :], new))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Several processes and threads may share the folder: each writes a file of its own, the last one stays.
        partial = self.path.with_name(f"{FILE}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            partial.write_text(content.model_dump_json(indent=1) + "\n")
            partial.replace(self.path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def _read(self) -> _Content:
        try:
            with self.path.open("rb") as file:
                return _Content.model_validate_json(file.read(_MOST_BYTES + 1))
        except (OSError, ValidationError):
            return _Content()


def machine(cores: int) -> dict[str, str]:
    """What of the machine decides how fast a model is: its CPU, and how many of its cores are ours."""
    return {"cpu": _cpu_name(), "cores": str(cores), "system": f"{platform.system()} {platform.machine()}"}


def _cpu_name() -> str:
    try:
        lines = _CPU_INFO.read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    fields: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    names = ("model name", "hardware", "cpu implementer", "cpu part", "stepping", "microcode")
    return " ".join(fields[name] for name in names if name in fields) or platform.processor()
