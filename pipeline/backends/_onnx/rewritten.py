"""A model in fewer and cheaper steps: rewritten, compared and measured at a first start, kept for all later ones."""

import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.backends._onnx.config import RunConfig
from pipeline.backends._onnx.device import CPU, CUDA
from pipeline.backends._onnx.graph_store import GraphStore, Note, device_facts
from pipeline.backends._onnx.measuring import alone
from pipeline.backends._onnx.rewrite_trial import NOTHING, Fed, Found, try_rewriting
from pipeline.backends._onnx.session import Session
from pipeline.backends._onnx.started import Base, Launch, Started, run_seconds, trial
from pipeline.backends._onnx.tuning import WORTH_S
from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError
from pipeline.models.description import ModelDescription, Shapes
from pipeline.models.onnx_file import OnnxFile, fingerprint, read_onnx

PART = "rewriting"

_LONGEST_S = 1.0
"""A model whose run takes longer is not rewritten: some 20 runs would hold up its first start."""
_MOST_BYTES = 256 << 20
"""Nor is a larger one: while both are compared, memory holds it about six times."""


def start_kept(config: RunConfig, ctx: Context, description: ModelDescription, launch: Launch) -> Started | None:
    """The rewritten model that was kept, started in the plain one's place; None where that is to be started.

    What does not load, does not run or looks different from outside than the model's own file is thrown away.
    """
    store = _store(config, ctx, description, launch)
    note = None if store is None else store.find()
    if store is None or note is None or note.sha256 is None:
        return None
    try:
        session, shapes = _run_once(store.model, description, launch)
    except ConfigError:
        store.discard()
        return None
    if session is None:  # the device does not start, whatever it is to run
        return None
    return Started(session, *launch[:2], shapes, launch.plan, base=Base(store.model, note.sha256, note.done))


def rewritten(
    config: RunConfig, started: Started, ctx: Context, description: ModelDescription, *, fit: bool
) -> Started:
    """The model rewritten, if that was not tried before, says the same and is faster; else as it is.

    Args:
        config: whether anything may be measured, and rewritten.
        started: the model.
        ctx: whose data folder keeps the result.
        description: how the model is fed.
        fit: whether its input will have the shape of the frames.
    """
    is_open = started.base is None and config.tune
    store = None if not is_open else _store(config, ctx, description, started.launch)
    if store is None or store.find() is not None:  # the second: of the device that stands in for another
        return started if store is None else _kept_or(started, config, ctx, description)
    fed = Fed(started, description, fit=fit)
    run_s = run_seconds(started, fed.usual)
    if run_s < WORTH_S:
        return started
    if run_s > _LONGEST_S:
        return started._replace(graph=f"graph as it is: a run takes {run_s:.1f} s")
    with alone() as is_alone:
        if store.find() is not None:  # another backend has this model, too, and was first
            return _kept_or(started, config, ctx, description)
        if not is_alone:
            return started._replace(graph="graph as it is: other models were measured")
        return _tried(started, store, ctx, description, fed)


def _tried(started: Started, store: GraphStore, ctx: Context, description: ModelDescription, fed: Fed) -> Started:
    """Try it, and keep what comes of it: others wait for that."""
    began_s = time.perf_counter()
    found = try_rewriting(started, description, fed)
    took_s = time.perf_counter() - began_s
    base = _kept(store, found, ctx, description)
    how = f"graph: {', '.join(found.done)}, {found.gain:.2f} times as fast, found in {took_s:.1f} s"
    if base is None:
        how = "" if found.why.startswith(NOTHING) else f"graph as it is: {found.why}"
    now = started._replace(base=base, graph=how)
    return _started_anew(now, description) if found.checked else now


def _kept_or(started: Started, config: RunConfig, ctx: Context, description: ModelDescription) -> Started:
    """What was kept in the place of the model as it is, if it is better."""
    return (start_kept(config, ctx, description, started.launch) or started)._replace(how=started.how)


def _started_anew(started: Started, description: ModelDescription) -> Started:
    """The same in a session of its own. Those that were compared keep the memory that their largest run took, here two
    pictures in the largest input."""
    model = description.file.path if started.base is None else started.base.model
    may_halve = started.choice.gpu is not None
    try:
        session = started.launch.session(model)
        if session is not None:
            trial(session, started.runtime, description, started.plan.max_batch, may_halve=may_halve)
            return started._replace(session=session)
        fault = "the device does not start again"
    except ConfigError as error:  # a file that is gone, memory that is short
        fault = str(error)
    return started._replace(base=None, graph=f"graph as it is: {fault}")


def _run_once(model: Path, description: ModelDescription, launch: Launch) -> tuple[Session | None, Shapes]:
    """A kept model in its session, and what its outputs look like.

    Raises:
        ConfigError: it is not what it should be.
    """
    file, own = read_onnx(model), read_onnx(description.file.path)  # as it was read: a trial run may have told more
    if (file.inputs, file.outputs) != (own.inputs, own.outputs):
        raise ConfigError("its inputs or outputs are others")
    session = launch.session(model)
    if session is None:
        return None, {}
    may_halve = launch.choice.gpu is not None
    shapes = trial(session, launch.runtime, description, launch.plan.max_batch, may_halve=may_halve)
    if not _as_declared(shapes, file):
        raise ConfigError("its outputs have other shapes than it says")
    return session, shapes


def _kept(store: GraphStore, found: Found, ctx: Context, description: ModelDescription) -> Base | None:
    """Keep what was found out; what is to be loaded from now on in the plain model's place."""
    note = Note(key=store.key, about=store.about, done=found.done, checked=found.checked, run_s=dict(found.run_s))
    if found.data is None:
        update: dict[str, Any] = {"outside": {PART: found.why}}
    else:
        update = {"sha256": sha256(found.data).hexdigest()}
    note, model = note.model_copy(update=update), found.data
    if found.is_final:
        try:
            store.keep(note, found.data)
        except OSError as error:
            ctx.warn(f"what was made of {description.name} cannot be kept for the next start: {error.strerror}")
        else:
            return None if note.sha256 is None else Base(store.model, note.sha256, found.done)
    return None if model is None or note.sha256 is None else Base(model, note.sha256, found.done)


def _store(config: RunConfig, ctx: Context, description: ModelDescription, launch: Launch) -> GraphStore | None:
    """Where it is kept what is known of the rewritten model; None where a model is run as it is.

    What others than the CPU and CUDA make of a graph is not known: TensorRT rewrites it itself.
    """
    choice = launch.choice
    if config.in_graph == "none" or config.providers is not None or choice.must_have not in {CPU, CUDA}:
        return None
    from pipeline.models.graph_rewrite import REWRITER

    file = description.file
    if file.external_files or file.size_bytes > _MOST_BYTES:
        return None
    about = {
        "rewriter": REWRITER,
        "model": description.name,
        "fingerprint": fingerprint(file),
        # Not what is made of them: a trial run may tell more of that than is known before it.
        "input_size": str(getattr(config, "input_size", None)),
        "input_shape": str(getattr(config, "input_shape", "square")),
        "threads": str(config.intra_op_threads),
        "runtime": launch.runtime.version,
        **device_facts(choice),
    }
    return GraphStore(ctx.data_dir, about)


def _as_declared(shapes: Shapes, file: OnnxFile) -> bool:
    """Whether outputs have the shapes that the file says, where it says any."""
    return all(
        output.shape is None
        or (
            len(output.shape) == len(shapes[output.name])
            and all(isinstance(s, str) or s == got for s, got in zip(output.shape, shapes[output.name], strict=True))
        )
        for output in file.outputs
    )
