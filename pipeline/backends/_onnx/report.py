"""What people read about an ONNX model and about onnxruntime on this machine."""

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from pipeline.backends._onnx.device import CUDA, installed_wheels, wheel_conflict
from pipeline.backends._onnx.graph_plan import plan_of
from pipeline.backends._onnx.graph_store import Note, notes_about
from pipeline.backends._onnx.proof import prove
from pipeline.backends._onnx.rewritten import PART
from pipeline.backends._onnx.session import Runtime
from pipeline.contracts.component import Finding
from pipeline.devices.gpus import cuda_devices
from pipeline.models.description import ModelDescription
from pipeline.models.onnx_file import fingerprint
from pipeline.models.quantized import note_of

SHOWN_LABELS = 12
_SHOWN_NOTES = 4


def model_lines(model: ModelDescription, device: str, providers: Sequence[str]) -> list[str]:
    """`penstock inspect`: what the model takes and gives, and how it would be run."""
    choice = model.choice
    batch = "any" if model.fixed_batch is None else str(model.fixed_batch)
    rows = [
        ("model", str(model.file.path)),
        *(("input", str(tensor)) for tensor in model.file.inputs),
        *(("output", str(tensor)) for tensor in model.file.outputs),
        ("family", f"{choice.family.name if choice else 'unknown'}: {model.why}"),
        ("task", model.task),
        ("size", f"{model.input_size.width}x{model.input_size.height}, {'dynamic' if model.dynamic_size else 'fixed'}"),
        ("stride", f"{model.stride_px} px"),
        ("batch", batch),
        ("preprocess", str(model.preprocess)),
        ("labels", _labels(model)),
        *((("keypoints", _keypoints(model)),) if choice and choice.points.number else ()),
        *((("quantised", quantised),) if (quantised := note_of(model.file.metadata)) else ()),
        ("device", device),
        ("providers", ", ".join(providers)),
        *_graph_rows(model, device),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {value}" for name, value in rows]


def in_few_words(model: ModelDescription, device: str, workers: int, max_batch: int) -> str:
    """One line for the log: the model, and how it is run."""
    family = model.choice.family.name if model.choice else "unknown family"
    size = f"{model.input_size.width}x{model.input_size.height}"
    how = f"{workers} worker{'s' * (workers != 1)}" + (f", batches of up to {max_batch}" if max_batch > 1 else "")
    return f"{model.name} ({family}, {size}, {len(model.labels) or model.classes} classes) on {device}, {how}"


def findings() -> list[Finding]:
    """`penstock doctor`: which onnxruntime is installed, and which of its providers run a model here."""
    installed = installed_wheels()
    conflict = wheel_conflict(installed)
    wheels = ", ".join(f"{name} {version(name)}" for name in sorted(installed))
    found = [Finding(conflict is None and bool(installed), "onnxruntime", conflict or wheels or "not installed")]
    if not installed:
        return found
    runtime, gpus = Runtime(), cuda_devices()
    found += [prove(provider, runtime, gpus) for provider in runtime.available]
    if CUDA not in runtime.available:
        found.append(Finding(True, "CUDA", "this onnxruntime is built without it"))
    return found


def _graph_rows(model: ModelDescription, device: str) -> list[tuple[str, str]]:
    """What of the pre- and post-processing is part of the graph: by default, and what data folders know of it."""
    whole = model.file.external_files == ()
    rewriting = "rewritten in cheaper steps where that is faster, " if whole else ""
    rows = []
    for where in dict.fromkeys((device, "cpu", "cuda:0")):
        plan = plan_of("auto", where, model)
        inside = f"{', '.join(plan.inside)} inside where that is faster" if plan.inside else "nothing inside"
        why = (f"{part} not: {reason}" for part, reason in plan.outside.items())
        rows.append((f"graph, {where.partition(':')[0]}", rewriting + "; ".join((inside, *why))))
    folder = Path(os.environ.get("STATE_DIRECTORY", "").split(":")[0] or "data")
    notes = notes_about(folder, fingerprint(model.file))[:_SHOWN_NOTES]
    return rows + [(f"graph, {n.about.get('device', '?')}"[:24], f"found out here: {_known(n)}"[:500]) for n in notes]


def _known(note: Note) -> str:
    if PART in note.outside:
        what = f" ({', '.join(note.done)})" if note.done else ""
        parts = [f"not rewritten{what}: {note.outside[PART]}"]
    elif note.done:
        parts = [f"rewritten: {', '.join(note.done)}"]
    else:
        parts = [f"{', '.join(note.inside) or 'nothing'} inside"]
        parts += [f"{part} not: {why}" for part, why in note.outside.items()]
    parts += [note.checked] if note.checked and note.sha256 else []
    parts += [", ".join(f"{way} {seconds * 1000:.1f} ms" for way, seconds in note.run_s.items())] if note.run_s else []
    return "".join(c if c.isprintable() else "?" for c in "; ".join(parts))


def _keypoints(model: ModelDescription) -> str:
    number = model.choice.points.number if model.choice else 0
    return f"{number}: {', '.join(model.keypoints[:SHOWN_LABELS])}" if model.keypoints else f"{number}, without names"


def _labels(model: ModelDescription) -> str:
    if not model.labels:
        return f"none; {model.classes if model.classes is not None else 'an unknown number of'} classes by number"
    shown = ", ".join(model.labels[:SHOWN_LABELS])
    more = len(model.labels) - SHOWN_LABELS
    return f"{len(model.labels)} from {model.labels_from}: {shown}" + (f" and {more} more" if more > 0 else "")
