"""What people read about an ONNX model and about onnxruntime on this machine."""

from collections.abc import Sequence
from importlib.metadata import version

from pipeline.backends._onnx_device import CUDA, cuda_devices, installed_wheels, wheel_conflict
from pipeline.backends._onnx_proof import prove
from pipeline.backends._onnx_session import Runtime
from pipeline.contracts.component import Finding
from pipeline.models.description import ModelDescription

SHOWN_LABELS = 12


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
        ("device", device),
        ("providers", ", ".join(providers)),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {value}" for name, value in rows]


def in_few_words(model: ModelDescription, device: str, workers: int, max_batch: int) -> str:
    """One line for the log: the model, and how it is run."""
    family = model.choice.family.name if model.choice else "unknown family"
    size = f"{model.input_size.width}x{model.input_size.height}"
    how = f"{workers} workers" + (f", batches of up to {max_batch}" if max_batch > 1 else "")
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


def _keypoints(model: ModelDescription) -> str:
    number = model.choice.points.number if model.choice else 0
    return f"{number}: {', '.join(model.keypoints[:SHOWN_LABELS])}" if model.keypoints else f"{number}, without names"


def _labels(model: ModelDescription) -> str:
    if not model.labels:
        return f"none; {model.classes if model.classes is not None else 'an unknown number of'} classes by number"
    shown = ", ".join(model.labels[:SHOWN_LABELS])
    more = len(model.labels) - SHOWN_LABELS
    return f"{len(model.labels)} from {model.labels_from}: {shown}" + (f" and {more} more" if more > 0 else "")
