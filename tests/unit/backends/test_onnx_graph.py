"""Models with their pre- and post-processing inside: composed once, checked, kept, and the plain one in any doubt."""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import model_files
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from pipeline.backends._onnx import graph as composing
from pipeline.backends._onnx import graph_store
from pipeline.backends._onnx.device import CPU_CHOICE
from pipeline.backends._onnx.feed import HostFeed
from pipeline.backends._onnx.graph import Answers, GraphModel, Plain, graph_of
from pipeline.backends._onnx.graph_feed import GraphFeed
from pipeline.backends._onnx.graph_plan import plan_of
from pipeline.backends._onnx.graph_store import Note, notes_about
from pipeline.backends._onnx.model import LoadedModel
from pipeline.backends._onnx.session import Runtime
from pipeline.backends.onnx import OnnxBackend, OnnxBackendConfig
from pipeline.contracts.errors import TransientError
from pipeline.contracts.frame import Frame, Wishes
from pipeline.contracts.result import Detections
from pipeline.models import graph
from pipeline.models.graph_bytes import PIXELS
from pipeline.models.graph_picks import PICKED
from pipeline.models.onnx_file import fingerprint
from pipeline.models.picture import from_rgb
from pipeline.testing import PluginContext

SIDE = 320
CLASSES = 20
NAMES = tuple(f"class {number}" for number in range(CLASSES))


@pytest.fixture
def ctx(tmp_path: Path) -> PluginContext:
    return PluginContext(data_dir=tmp_path / "data")


def yolo(path: Path, seed: int = 3) -> Path:
    """A YOLOv8 that always sees the same: some hundred boxes, few of them likely."""
    rng = np.random.default_rng(seed)
    output = rng.uniform(20, 300, (4 + CLASSES, model_files.cells(SIDE, SIDE))).astype(np.float32)
    output[4:] = np.power(rng.uniform(0, 1, output[4:].shape), 50)
    metadata = {"names": str(dict(enumerate(NAMES)))}
    return model_files.detector(path, {"output0": output}, image=("b", 3, SIDE, SIDE), metadata=metadata)


class Rig:
    """A backend that is open, and what it takes to compose its model."""

    def __init__(self, path: Path, ctx: PluginContext, **keys: Any) -> None:
        config = OnnxBackendConfig(model=path, device="cpu", workers=1, tune=False, in_graph="none", **keys)
        self.backend: OnnxBackend = config.build(ctx)
        self.backend.open()
        self.ctx = ctx
        loaded = self.backend._loaded
        assert loaded is not None
        assert isinstance(loaded._feed, HostFeed)
        self.reader = loaded._reader
        self.session = loaded._feed._session
        self.runtime = Runtime()
        self.loads = 0

    def load(self, model: Path | bytes) -> Any:
        self.loads += 1
        return self.runtime.session(model, CPU_CHOICE, 1)

    def plain(self, device: str = "cpu", load: Callable[[Path | bytes], Any] | None = None) -> Plain:
        return Plain(self.session, self.reader, device, "runtime 1", self.runtime.errors, load or self.load)

    def composed(self, wanted: Any = "both", **keys: Any) -> GraphModel:
        found = graph_of(wanted, self.plain(**keys), self.ctx)
        assert found is not None
        return found

    def through(self, model: GraphModel, *, at_no_cost: bool = True, rows: int = 2) -> LoadedModel:
        feed = GraphFeed(
            model=model,
            reader=self.reader,
            max_batch=rows,
            spare=1,
            errors=self.runtime.errors,
            now_s=self.ctx.clock.monotonic,
            at_no_cost=at_no_cost,
        )
        return LoadedModel(feed=feed, reader=self.reader, fit=False, now_s=self.ctx.clock.monotonic)


@pytest.fixture
def rig(tmp_path: Path, ctx: PluginContext) -> Rig:
    return Rig(yolo(tmp_path / "yolo.onnx"), ctx)


def frame(wishes: Wishes | None = None, seed: int = 0, size: tuple[int, int] = (64, 48)) -> Frame:
    rgb = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Frame("test", seed, 0.0, 0.0, "pts", from_rgb(rgb), 0.0, wishes=wishes)


def kept(ctx: PluginContext, ending: str) -> list[Path]:
    return sorted((ctx.data_dir / "graphs").glob(f"*{ending}"))


def assert_same(one: Any, other: Any) -> None:
    assert isinstance(one, Detections)
    assert isinstance(other, Detections)
    assert np.array_equal(one.xyxy, other.xyxy)
    assert np.array_equal(one.confidence, other.confidence)
    assert np.array_equal(one.class_id, other.class_id)


def test_nothing_is_composed_on_a_cpu_unless_it_is_asked_for(rig: Rig) -> None:
    assert graph_of("auto", rig.plain(), rig.ctx) is None
    assert graph_of("none", rig.plain(), rig.ctx) is None
    assert (rig.loads, rig.ctx.data_dir.exists()) == (0, False)


def test_a_composed_model_is_kept_and_not_composed_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rig.composed()
    assert first.note.inside == ("input", "output")
    assert first.note.run_s.keys() == {"plain", "graph"}
    assert [path.stem for path in kept(rig.ctx, ".onnx")] == [path.stem for path in kept(rig.ctx, ".json")]
    assert first.model == kept(rig.ctx, ".onnx")[0]
    monkeypatch.setattr(composing, "compose", None)
    again = rig.composed()
    assert again.note == first.note
    assert rig.loads == 2


def _cut_short(ctx: PluginContext) -> None:
    path = kept(ctx, ".onnx")[0]
    path.write_bytes(path.read_bytes()[:-100])


def _other_model(ctx: PluginContext) -> None:
    path = kept(ctx, ".onnx")[0]
    model = onnx.load(path)
    model.graph.node[0].name = "somebody else's"
    onnx.save(model, path)


def _a_link(ctx: PluginContext) -> None:
    path = kept(ctx, ".onnx")[0]
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def _gone(ctx: PluginContext) -> None:
    kept(ctx, ".onnx")[0].unlink()


def _a_folder(ctx: PluginContext) -> None:
    kept(ctx, ".onnx")[0].unlink()
    kept(ctx, ".onnx")
    (ctx.data_dir / "graphs" / kept(ctx, ".json")[0].with_suffix(".onnx").name).symlink_to("/dev/zero")


def _broken_note(ctx: PluginContext) -> None:
    kept(ctx, ".json")[0].write_bytes(b"\x00" * 100)


def _note_of_another(ctx: PluginContext) -> None:
    path = kept(ctx, ".json")[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": "0" * 64}))


def _endless_note(ctx: PluginContext) -> None:
    kept(ctx, ".json")[0].write_bytes(b'{"x": "' + b"y" * 2_000_000)


@pytest.mark.parametrize(
    "damage",
    [_cut_short, _other_model, _a_link, _gone, _a_folder, _broken_note, _note_of_another, _endless_note],
    ids=lambda damage: damage.__name__[1:],
)
def test_what_is_damaged_or_somebody_elses_is_composed_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, damage: Callable[[PluginContext], None]
) -> None:
    composed: list[bytes] = []

    def compose(*args: Any, **keys: Any) -> bytes:
        composed.append(graph.compose(*args, **keys))
        return composed[-1]

    monkeypatch.setattr(composing, "compose", compose)
    rig.composed("output")
    damage(rig.ctx)
    rig.composed("output")
    assert len(composed) == 2
    assert composed[0] == composed[1] == kept(rig.ctx, ".onnx")[0].read_bytes()
    assert not kept(rig.ctx, ".onnx")[0].is_symlink()
    rig.composed("output")
    assert len(composed) == 2, "and this time it is found"


def _gives_less(model: onnx.ModelProto) -> None:
    del model.graph.output[1:]


def _fails(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == "output0_ones":
            tensor.CopyFrom(numpy_helper.from_array(np.array([7, 7, 7], np.int64), tensor.name))


def _picks_too_little(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = "rows"
    more = [
        helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(np.array([0, 0, 0], np.int64))),
        helper.make_node("Constant", [], ["ends"], value=numpy_helper.from_array(np.array([9, 512, 3], np.int64))),
        helper.make_node("Slice", ["rows", "axes", "ends"], [PICKED]),
    ]
    model.graph.node.extend(more)
    del model.graph.output[1].type.tensor_type.shape.dim[:]


@pytest.mark.parametrize("forge", [_gives_less, _fails, _picks_too_little], ids=lambda forge: forge.__name__[1:])
def test_a_forged_model_that_does_not_answer_as_it_shall_is_composed_again(
    rig: Rig, forge: Callable[[onnx.ModelProto], None]
) -> None:
    rig.composed("output")
    (path,), (note,) = kept(rig.ctx, ".onnx"), kept(rig.ctx, ".json")
    good, model = path.read_bytes(), onnx.load(path)
    forge(model)
    onnx.save(model, path)
    digest = sha256(path.read_bytes()).hexdigest()
    note.write_text(json.dumps(json.loads(note.read_text()) | {"sha256": digest}))
    loaded = rig.through(rig.composed("output"))
    assert path.read_bytes() == good
    assert_same(rig.backend.infer([frame()])[0], loaded.infer([frame()])[0])


def test_another_gpu_is_another_entry(rig: Rig) -> None:
    for name in ("one", "other", "one"):
        plain = rig.plain("cuda:0")
        graph_of("output", plain._replace(facts={"gpu": name}), rig.ctx)
    notes = notes_about(rig.ctx.data_dir, fingerprint(rig.reader.model.file))
    assert sorted(note.about["gpu"] for note in notes) == ["one", "other"]


def test_another_model_option_or_version_is_another_entry(tmp_path: Path, ctx: PluginContext) -> None:
    rig = Rig(yolo(tmp_path / "a.onnx"), ctx)
    rig.composed("output")
    rig.composed("both")
    graph_of("output", rig.plain()._replace(versions="runtime 2"), ctx)
    Rig(yolo(tmp_path / "a.onnx", seed=4), ctx).composed("output")
    Rig(tmp_path / "a.onnx", ctx, preprocess={"pad": 0}).composed("both")
    assert len(kept(ctx, ".onnx")) == 5


def test_the_oldest_go_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_store, "MOST_MODELS", 3)
    for version in range(6):
        graph_of("output", rig.plain()._replace(versions=f"runtime {version}"), rig.ctx)
    versions = {note.about["runtime"] for note in notes_about(rig.ctx.data_dir, fingerprint(rig.reader.model.file))}
    assert versions == {"runtime 3", "runtime 4", "runtime 5"}
    assert len(kept(rig.ctx, ".onnx")) == 3
    assert not kept(rig.ctx, ".part")


def test_a_folder_that_cannot_be_written_costs_only_the_next_start(tmp_path: Path, rig: Rig) -> None:
    rig.ctx.data_dir = tmp_path / "file"
    rig.ctx.data_dir.write_text("no folder")
    found = rig.composed("output")
    assert isinstance(found.model, bytes)
    assert found.answers is not None
    assert rig.ctx.warnings == ["what was composed of yolo cannot be kept for the next start: Not a directory"]


class Wrong:
    """A session that gets one number wrong."""

    def __init__(self, session: Any, output: str, at: tuple[Any, ...], by: float) -> None:
        self._session, self._output, self._at, self._by = session, output, at, by

    def run(self, names: Sequence[str], feeds: Any) -> list[npt.NDArray[Any]]:
        found = [np.array(array) for array in self._session.run(names, feeds)]
        for name, array in zip(names, found, strict=True):
            if name == self._output:
                array[self._at] *= self._by
        return found


@pytest.mark.parametrize(
    ("output", "at", "by", "why"),
    [
        ("output0", (0, slice(0, 4)), 1.1, "its outputs differ by 0.1 of the largest value"),
        (PICKED, (0, 0, 4), 0.9, "its boxes are others"),
        (PICKED, (0, 0, 5), 0.0, "its boxes are others"),
        (PICKED, (0, slice(None), 0), 1.01, "its boxes are others"),
    ],
)
def test_a_composed_model_that_says_something_else_is_not_run(
    rig: Rig, output: str, at: tuple[Any, ...], by: float, why: str
) -> None:
    plain = rig.plain(load=lambda model: Wrong(rig.load(model), output, at, by))
    assert graph_of("output", plain, rig.ctx) is None
    assert rig.ctx.warnings == [f"yolo is run as it is: not the same as the plain model: {why}"]
    assert graph_of("output", plain, rig.ctx) is None
    assert rig.loads == 1, "that it is wrong is remembered, too"
    assert kept(rig.ctx, ".onnx") == []


class Watched:
    """A session that keeps what it was asked for."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.asked: list[list[str]] = []

    def run(self, output_names: Sequence[str] | None, input_feed: dict[str, Any]) -> Any:
        self.asked.append(list(output_names or ()))
        return self._session.run(output_names, input_feed)

    def get_providers(self) -> list[str]:
        return []

    def io_binding(self) -> Any:
        raise NotImplementedError

    def run_with_iobinding(self, iobinding: Any) -> None:
        raise NotImplementedError


class Slow(Watched):
    """A session that takes as long as it is told, by a clock that is moved."""

    def __init__(self, session: Any, clock: list[float], seconds: float) -> None:
        super().__init__(session)
        self._clock, self._seconds = clock, seconds

    def run(self, output_names: Sequence[str] | None, input_feed: dict[str, Any]) -> Any:
        self._clock[0] += self._seconds
        return super().run(output_names, input_feed)


@pytest.mark.parametrize(("graph_s", "inside"), [(0.5, ("output",)), (2.0, ())])
def test_on_a_gpu_picking_stays_inside_only_if_it_is_faster(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, graph_s: float, inside: tuple[str, ...]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("pipeline.backends._onnx.graph_check.time.perf_counter", lambda: clock[0])
    plain = rig.plain("cuda:0", lambda model: Slow(rig.load(model), clock, graph_s))
    found = graph_of("auto", plain._replace(session=Slow(rig.session, clock, 1.0)), rig.ctx)
    (note,) = notes_about(rig.ctx.data_dir, fingerprint(rig.reader.model.file))
    assert (found is not None, note.inside) == (bool(inside), inside)
    assert note.run_s == {"plain": 1.0, "graph": graph_s}
    if not inside:
        assert note.outside["output"] == "slower here: 2000.0 ms a run instead of 1000.0"
    assert note.outside["input"].startswith("a graph of its own for each size")
    assert rig.ctx.warnings == []


def test_a_composed_model_that_the_device_refuses_stays_as_it_was(rig: Rig) -> None:
    assert graph_of("output", rig.plain(load=lambda _: None), rig.ctx) is None
    assert rig.ctx.warnings == ["yolo is run as it is: the composed model does not load on this device"]


def test_a_file_that_changes_behind_the_check_is_not_composed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fingerprint(rig.reader.model.file)
    for module in (composing, graph_store):
        monkeypatch.setattr(module, "fingerprint", lambda _: real)
    path = rig.reader.model.file.path
    path.write_bytes(path.read_bytes() + b"\x00")
    assert graph_of("output", rig.plain(), rig.ctx) is None
    assert rig.ctx.warnings == ["yolo is run as it is: its file changed while it was read"]


def test_weights_in_other_files_stay_where_they_are(tmp_path: Path, ctx: PluginContext) -> None:
    path = yolo(tmp_path / "yolo.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=1024)
    rig = Rig(path, ctx)
    plan = plan_of("both", "cpu", rig.reader.model)
    assert plan.inside == ()
    assert set(plan.outside.values()) == {"its weights lie in other files"}
    assert graph_of("both", rig.plain(), ctx) is None


WISHES = [None, Wishes(confidence=0.6), Wishes(classes=("class 3", "class 7")), Wishes(max_detections=2)]


@pytest.mark.parametrize("at_no_cost", [True, False])
@pytest.mark.parametrize("wanted", ["output", "both"])
def test_answers_are_those_of_the_plain_model(rig: Rig, wanted: str, at_no_cost: bool) -> None:
    loaded = rig.through(rig.composed(wanted), at_no_cost=at_no_cost)
    batch = [frame(WISHES[0]), frame(WISHES[1], seed=1)], [frame(WISHES[2])], [frame(WISHES[3], seed=2)]
    for frames in batch:
        wanted_boxes = [rig.backend.infer([one])[0] for one in frames]
        for one, other in zip(wanted_boxes, loaded.infer(frames), strict=True):
            assert_same(one, other)
            assert isinstance(one, Detections)
            assert len(one) >= 2
    loaded.close()


@pytest.mark.parametrize("at_no_cost", [True, False])
def test_a_wish_that_what_was_picked_cannot_answer_gets_the_whole_output(rig: Rig, at_no_cost: bool) -> None:
    model = rig.composed("output")
    watched = Watched(model.session)
    loaded = rig.through(
        GraphModel(watched, model.bytes_in, model.answers, model.note, model.model), at_no_cost=at_no_cost
    )
    low = frame(Wishes(confidence=0.0, max_detections=1000))
    (wanted,), (found,) = rig.backend.infer([low]), loaded.infer([low])
    assert_same(wanted, found)
    assert isinstance(found, Detections)
    assert len(found) > 512
    assert watched.asked == ([[PICKED, "output0"]] if at_no_cost else [[PICKED], ["output0"]])
    # One of a batch takes the others along: they share the run.
    for one, other in zip(rig.backend.infer([low]), loaded.infer([low, frame()])[:1], strict=True):
        assert_same(one, other)


def test_bytes_are_fed_where_the_input_is_inside(rig: Rig) -> None:
    model = rig.composed("input")
    assert model.answers is None
    seen: list[npt.NDArray[Any]] = []

    class Fed(Watched):
        def run(self, output_names: Sequence[str] | None, input_feed: dict[str, Any]) -> Any:
            assert list(input_feed) == [PIXELS]
            seen.append(input_feed[PIXELS].copy())
            return super().run(output_names, input_feed)

    loaded = rig.through(GraphModel(Fed(model.session), True, None, model.note, model.model))
    first, second = frame(seed=1), frame(seed=2, size=(30, 60))
    loaded.infer([first])
    loaded.infer([second])
    assert seen[0].shape == (1, SIDE, SIDE, 3)
    assert seen[0].dtype == np.uint8
    exact = first.picture.gbr_planes(320, 240)[[2, 0, 1]].transpose(1, 2, 0) * 255
    assert np.abs(seen[0][0, 40:280] - exact).max() <= 0.51
    assert (seen[1][0, :, :80] == 114).all()
    assert (seen[1][0, :, 240:] == 114).all()


def test_a_picture_that_cannot_be_converted_loses_only_its_own_batch(rig: Rig) -> None:
    loaded = rig.through(rig.composed("both"))

    class Broken:
        size = frame().picture.size
        nbytes = 0

        def gbr_planes(self, width: int, height: int) -> None:
            raise ValueError("an odd pixel format")

    broken = Frame("test", 0, 0.0, 0.0, "pts", Broken(), 0.0)  # type: ignore[arg-type]
    with pytest.raises(TransientError, match="odd pixel format"):
        loaded.infer([broken])
    assert len(loaded.infer([frame()])) == 1


def test_answers_tell_what_to_fetch_and_what_may_stay(rig: Rig) -> None:
    answers = rig.composed("output").answers
    assert isinstance(answers, Answers)
    assert (answers.fetch, answers.spare) == ((PICKED,), ("output0",))
    picked = np.zeros((2, 512, 7), np.float32)
    picked[1, :, 4] = 0.3
    high, low = frame(Wishes(confidence=0.5)), frame(Wishes(confidence=0.2))
    assert answers.enough([picked], [low, high])
    assert not answers.enough([picked], [high, low])


def test_inspect_says_what_is_inside_and_why_not(tmp_path: Path, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.composed("output")
    monkeypatch.setenv("STATE_DIRECTORY", str(rig.ctx.data_dir))
    lines = OnnxBackendConfig(model=tmp_path / "yolo.onnx", device="cpu").inspect()
    told = [line for line in lines if line.startswith("graph, ")]
    assert "nothing inside; input not: swscale" in told[0]
    assert told[1].startswith("graph, cuda")
    assert "output inside where that is faster" in told[1]
    assert "found out here: output inside; input not: not asked for; outputs differ by" in told[2]


def test_notes_that_are_not_ours_are_not_shown(tmp_path: Path) -> None:
    folder = tmp_path / "graphs"
    folder.mkdir()
    (folder / "a.json").write_text("{}")
    (folder / "b.json").write_text(Note(key="1", about={"fingerprint": "f"}).model_dump_json())
    (folder / "c.json").mkdir()
    assert [note.key for note in notes_about(tmp_path, "f")] == ["1"]
    assert notes_about(tmp_path / "nowhere", "f") == []
