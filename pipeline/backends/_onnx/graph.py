"""`graph_of`: a model with its pre- and post-processing inside, composed once, checked, and kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from pipeline.backends._onnx.graph_check import Both, Checked, compare, runs_alike
from pipeline.backends._onnx.graph_plan import INPUT, OUTPUT, GraphPlan, InGraph, plan_of
from pipeline.backends._onnx.graph_store import GraphStore, Note, own_bytes
from pipeline.backends._onnx.session import Session
from pipeline.backends._onnx.started import Base
from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.frame import Frame
from pipeline.models.graph import Parts, compose
from pipeline.models.graph_nodes import CannotComposeError
from pipeline.models.graph_picks import MOST_PICKED, choice_of_picks, enough
from pipeline.models.onnx_file import fingerprint, read_onnx
from pipeline.models.reader import Reader

COMPOSER = "3"
"""Another number for each change of what is composed: models composed before are composed again."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Answers:
    """How a model answers whose post-processing is inside: its best rows picked, and its own outputs besides.

    Attributes:
        reader: reads what was picked.
        plain: reads the model's own outputs, where more rows count than were picked.
    """

    reader: Reader
    plain: Reader

    @property
    def fetch(self) -> tuple[str, ...]:
        """Outputs that are always needed."""
        return self.reader.outputs

    @property
    def spare(self) -> tuple[str, ...]:
        """Outputs that are looked at in rare cases: they may stay on the device."""
        return tuple(name for name in self.plain.outputs if name not in self.reader.outputs)

    def enough(self, fetched: Sequence[Array], batch: Sequence[Frame]) -> bool:
        """Whether what was picked holds all that counts for these frames, each by its own wishes."""
        return all(
            enough(rows, self.plain.confidence(frame.wishes)) for rows, frame in zip(fetched[0], batch, strict=False)
        )


@dataclass(frozen=True, slots=True)
class GraphModel:
    """A composed model in its session. Made by `graph_of`, for a feed.

    Attributes:
        session: takes all that the plain model takes and gives all that it gives, but for what follows.
        bytes_in: it takes `PIXELS` in place of the picture.
        answers: how it answers, where its post-processing is inside.
        note: what was found out about it.
        model: the composed model, to be loaded on further devices: a file, or its bytes where it could not be kept.
    """

    session: Session
    bytes_in: bool
    answers: Answers | None
    note: Note
    model: Path | bytes


class Plain(NamedTuple):
    """A model without anything put into it, where it runs.

    Attributes:
        session: what is composed is compared with it.
        reader: how it is fed and read.
        device: what it runs on: "cpu", "cuda:N", or a provider's name.
        versions: of what runs it.
        errors: what sessions raise.
        load: loads another model like this one; None where the device refuses it.
        facts: what kind of device that is here.
        base: what the session was made of, where it is rewritten; None: the model's own file.
    """

    session: Session
    reader: Reader
    device: str
    versions: str
    errors: tuple[type[Exception], ...]
    load: Callable[[Path | bytes], Session | None]
    facts: Mapping[str, str] = {}
    base: Base | None = None


def graph_of(wanted: InGraph, plain: Plain, ctx: Context) -> GraphModel | None:
    """The model with what belongs inside of its graph on this device; None where it stays as it is.

    Args:
        wanted: as in the config.
        plain: the model as it is.
        ctx: whose data folder keeps what is composed.
    """
    model = plain.reader.model
    plan = plan_of(wanted, plain.device, model)
    if not plan.inside:
        return None
    store = GraphStore(ctx.data_dir, _about(plan, plain))
    note = store.find()
    if note is not None:
        if note.sha256 is None:
            return None
        session = _loaded(plain, note, store.model)
        if session is None:
            store.discard()
        else:
            return GraphModel(session, INPUT in note.inside, _answers(note, plain.reader), note, store.model)
    note, data, session = _composed(plan, store, plain)
    kept: Path | bytes | None = store.model
    try:
        store.keep(note, data)
    except OSError as error:
        kept = data
        ctx.warn(f"what was composed of {model.name} cannot be kept for the next start: {error.strerror}")
    why = next((note.outside[part] for part in plan.inside if part in note.outside), None)
    if wanted != "auto" and why is not None:
        ctx.warn(f"{model.name} is run as it is: {why}")
    if session is None or kept is None:
        return None
    return GraphModel(session, INPUT in note.inside, _answers(note, plain.reader), note, kept)


def _about(plan: GraphPlan, plain: Plain) -> dict[str, str]:
    model, choice = plain.reader.model, plain.reader.choice
    return {
        "composer": COMPOSER,
        "model": model.name,
        "fingerprint": fingerprint(model.file),
        "parts": ", ".join(plan.inside) + (", if it is faster" if plan.measured else ""),
        "preprocess": str(model.preprocess),
        "input": f"{model.image} {model.input_size.width}x{model.input_size.height}",
        "output": f"{choice.family.name} {choice.layout} {choice.output} +{choice.extras}",
        "picked": str(MOST_PICKED),
        "runtime": plain.versions,
        "base": "" if plain.base is None else plain.base.sha256,
        **plain.facts,
        "device": plain.device,
    }


def _composed(plan: GraphPlan, store: GraphStore, plain: Plain) -> tuple[Note, bytes | None, Session | None]:
    """Compose, load, compare: what is kept, and the session if the composed model is to be run."""
    note, reader = Note(key=store.key, about=store.about, outside=plan.outside), plain.reader
    try:
        parts = Parts("bytes" if plan.front else None, plan.picks)
        data = compose(_own_bytes(plain), reader.model, parts, rewritten=plain.base is not None)
        session = _first_loaded(plain, data)
        picks = _picks(reader) if plan.picks else None
        checked = compare(Both(plain.session, session, reader, picks, plan.front, plain.errors))
        note = note.model_copy(update={"checked": checked.fault or checked.detail, "run_s": checked.run_s})
        _refuse(checked, measured=plan.measured)
    except (CannotComposeError, ConfigError) as error:  # the second: the runtime does not take it
        outside = note.outside | dict.fromkeys(plan.inside, str(error))
        return note.model_copy(update={"outside": outside}), None, None
    return note.model_copy(update={"inside": plan.inside, "sha256": sha256(data).hexdigest()}), data, session


def _first_loaded(plain: Plain, data: bytes) -> Session:
    session = plain.load(data)
    if session is None:
        raise CannotComposeError("the composed model does not load on this device")
    return session


def _own_bytes(plain: Plain) -> bytes:
    """What the plain session was made of."""
    if plain.base is None:
        return own_bytes(plain.reader.model.file)
    model = plain.base.model
    return model if isinstance(model, bytes) else own_bytes(read_onnx(model), plain.base.sha256)


def _refuse(checked: Checked, *, measured: bool) -> None:
    if checked.fault is not None:
        raise CannotComposeError(f"not the same as the plain model: {checked.fault}")
    plain_s, graph_s = checked.run_s["plain"], checked.run_s["graph"]
    if measured and graph_s > plain_s:
        raise CannotComposeError(f"slower here: {graph_s * 1000:.1f} ms a run instead of {plain_s * 1000:.1f}")


def _loaded(plain: Plain, note: Note, path: Path) -> Session | None:
    """What was kept, if it loads and gives what it shall: another build of the runtime may not take what this one did,
    and anybody may have put the file there."""
    try:
        session = plain.load(path)
    except ConfigError:
        return None
    if session is None:
        return None
    picks = _picks(plain.reader) if OUTPUT in note.inside else None
    both = Both(plain.session, session, plain.reader, picks, INPUT in note.inside, plain.errors)
    return session if runs_alike(both) else None


def _picks(reader: Reader) -> Reader:
    return reader.reading(choice_of_picks(reader.model))


def _answers(note: Note, reader: Reader) -> Answers | None:
    return Answers(_picks(reader), reader) if OUTPUT in note.inside else None
