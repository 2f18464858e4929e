"""What of a model's pre- and post-processing runs inside of its graph on which device, and why: a table."""

from typing import Literal, NamedTuple

from pipeline.models.description import ModelDescription
from pipeline.models.graph_picks import why_not

InGraph = Literal["auto", "none", "input", "output", "both"]

INPUT = "input"
OUTPUT = "output"

# Measured by tests/bench/graph.py on two cores: see its results.
_INPUT_ON_CPU = "swscale shrinks, converts and scales in one pass, which is cheaper"
_OUTPUT_ON_CPU = "reading the whole output costs less than picking from it"
_INPUT_ON_CUDA = "a graph of its own for each size of picture does it, into the model's batch"
_NOT_KNOWN = "not measured on this device"


class GraphPlan(NamedTuple):
    """What shall be inside.

    Attributes:
        front: bytes are fed, and become the model's input inside.
        picks: the best rows of the output are picked inside.
        measured: inside only if it is faster.
        outside: why the other parts are not inside, by part.
    """

    front: bool
    picks: bool
    measured: bool
    outside: dict[str, str]

    @property
    def inside(self) -> tuple[str, ...]:
        """The names of the parts that are."""
        return (INPUT,) * self.front + (OUTPUT,) * self.picks


def plan_of(wanted: InGraph, device: str, model: ModelDescription) -> GraphPlan:
    """What shall be inside of this model's graph on a device: "cpu", "cuda:N" or the name of a provider; pure."""
    outside = {}
    on_cuda = device.startswith("cuda")
    impossible = _impossible(model)
    if impossible is not None:
        return GraphPlan(False, False, False, {INPUT: impossible, OUTPUT: impossible})
    front = wanted in {"input", "both"} and not on_cuda
    if not front:
        known = {"cpu": _INPUT_ON_CPU}.get(device, _NOT_KNOWN)
        outside[INPUT] = _INPUT_ON_CUDA if on_cuda else known if wanted == "auto" else "not asked for"
    no_picks = why_not(model)
    picks = no_picks is None and (wanted in {"output", "both"} or (wanted == "auto" and on_cuda))
    if not picks:
        known = {"cpu": _OUTPUT_ON_CPU}.get(device, _NOT_KNOWN)
        outside[OUTPUT] = no_picks or (known if wanted == "auto" else "not asked for")
    return GraphPlan(front, picks, wanted == "auto", outside)


def _impossible(model: ModelDescription) -> str | None:
    """Why this model stays as it is on any device; what only composing it can tell is told then."""
    if model.file.external_files:
        return "its weights lie in other files"
    return None
