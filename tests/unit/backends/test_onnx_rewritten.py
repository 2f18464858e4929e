"""A model in cheaper steps at work: made, compared and measured at a first start, alone in memory at all later ones."""

import gc
import json
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import pytest
from clip_files import clip_files
from model_files import cells, detector, yolov8_output
from onnx import helper, numpy_helper

from pipeline.backends._onnx import open as opening
from pipeline.backends._onnx import rewrite_check, rewrite_trial, tune
from pipeline.backends._onnx import rewritten as rewriting
from pipeline.backends._onnx.graph_feed import GraphFeed
from pipeline.backends._onnx.graph_store import Note
from pipeline.backends._onnx.rewrite_check import Race
from pipeline.backends._onnx.session import Runtime, Session
from pipeline.backends._onnx.started import run_seconds as run_of
from pipeline.backends._onnx.tuning import Plan, Verdict
from pipeline.backends.clip import ClipBackendConfig
from pipeline.backends.onnx import OnnxBackend, OnnxBackendConfig
from pipeline.contracts.frame import Frame
from pipeline.contracts.result import Detections, Embedding
from pipeline.models import graph_rewrite
from pipeline.models.graph_nodes import CannotComposeError
from pipeline.models.graph_rewrite import Rewritten
from pipeline.models.picture import VideoPicture
from pipeline.testing import PluginContext, frame

CARS = "{0: 'car', 1: 'bus'}"
FASTER = Race({"plain": 0.02, "graph": 0.016}, 1.25, calm=True)
DONE = ("a step less",)


def changed(data: bytes, factor: float = 1.0) -> bytes:
    """The same model behind one more step, which multiplies its input's mean."""
    model = onnx.ModelProto()
    model.ParseFromString(data)
    nodes = [
        helper.make_node(
            "Constant", [], ["penstock/re_factor"], value=numpy_helper.from_array(np.array(factor, np.float32))
        ),
        helper.make_node("Mul", ["floats", "penstock/re_factor"], ["penstock/re_floats"], "penstock/re_Mul"),
    ]
    first, *rest = list(model.graph.node)
    rest[0].input[0] = "penstock/re_floats"
    del model.graph.node[:]
    model.graph.node.extend([first, *nodes, *rest])
    return bytes(model.SerializeToString())


def off(data: bytes, by: float) -> bytes:
    """The same model with other answers."""
    model = onnx.ModelProto()
    model.ParseFromString(data)
    for tensor in model.graph.initializer:
        if tensor.name == "out_value":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(by), "out_value"))
    return bytes(model.SerializeToString())


def of_open_sides(folder: Path) -> Path:
    """A detector that takes any number of pictures of any size."""
    return detector(
        folder / "open.onnx",
        {"out": yolov8_output((32, 32, 16, 8, 0, 0.9), rows=cells(640, 640))},
        image=("batch", 3, "h", "w"),
        shapes={"out": ("batch", 6, "cells")},
        metadata={"names": CARS},
    )


@dataclass
class Rig:
    """What is rewritten here, how the race goes, and which models were loaded."""

    folder: Path
    model: Path
    rewrite: Callable[[bytes], Rewritten] = lambda data: Rewritten(changed(data), DONE)
    race: Race = FASTER
    real_rewrite: Callable[[bytes], Rewritten] = graph_rewrite.rewrite
    asked: int = 0
    raced: list[Any] = field(default_factory=list)
    loaded: list[tuple[Path | bytes, weakref.ref[Any]]] = field(default_factory=list)
    ctx: PluginContext = field(default_factory=PluginContext)

    def opened(self, **keys: Any) -> OnnxBackend:
        """A start with a context and a list of loaded models of its own."""
        self.ctx, self.loaded, self.asked = PluginContext(data_dir=self.folder / "data"), [], 0
        backend = OnnxBackendConfig(model=self.model, **({"device": "cpu", "workers": 1} | keys)).build(self.ctx)
        backend.open()
        return backend

    @property
    def models(self) -> list[Path | bytes]:
        """What was loaded."""
        return [model for model, _ in self.loaded]

    @property
    def alive(self) -> list[Path | bytes]:
        """What of it is in memory."""
        gc.collect()
        return [model for model, session in self.loaded if session() is not None]

    def kept(self, ending: str) -> list[Path]:
        return sorted((self.folder / "data" / "graphs").glob(f"*{ending}"))

    def note(self) -> Note:
        (path,) = self.kept(".json")
        return Note.model_validate_json(path.read_bytes())


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    output = yolov8_output((32, 32, 16, 8, 0, 0.9))
    model = detector(tmp_path / "m.onnx", {"out": output}, image=("batch", 3, 64, 64), metadata={"names": CARS})
    rig = Rig(tmp_path, model)
    real_session = Runtime.session

    def rewrite(data: bytes) -> Rewritten:
        rig.asked += 1
        return rig.rewrite(data)

    def race(plain: Session, other: Session, names: Sequence[str], feeds: Any, *, by_cpu_time: bool) -> Race:
        rig.raced.append({name: value.shape for name, value in feeds.items()})
        return rig.race

    def session(runtime: Runtime, model: Path | bytes, *rest: Any, **keys: Any) -> Session | None:
        made = real_session(runtime, model, *rest, **keys)
        if made is not None:
            rig.loaded.append((model, weakref.ref(made)))
        return made

    monkeypatch.setattr(graph_rewrite, "rewrite", rewrite)
    monkeypatch.setattr(rewrite_trial, "race", race)
    monkeypatch.setattr(rewriting, "WORTH_S", 0.0)
    monkeypatch.setattr(Runtime, "session", session)
    return rig


def boxes(backend: OnnxBackend) -> list[list[float]]:
    (found,) = backend.infer([frame(width=128, height=64)])
    assert isinstance(found, Detections)
    return [[float(side) for side in box] for box in found.xyxy]


def test_a_first_start_keeps_what_is_faster_and_says_so_once(rig: Rig) -> None:
    backend = rig.opened()
    (path,) = rig.kept(".onnx")
    assert backend.describe().startswith(
        "m (yolov8, 64x64, 2 classes) on cpu, 1 worker; graph: a step less, 1.25 times"
    )
    assert rig.alive == [path], "the plain model is gone, and so is the one that was compared"
    assert [rig.models[0], rig.models[2]] == [rig.model, path]
    note = rig.note()
    assert (note.done, note.run_s) == (DONE, FASTER.run_s)
    assert note.checked == "outputs differ by 0 at most"
    assert boxes(backend) == [[48, 24, 80, 40]]


def test_a_later_start_loads_the_rewritten_model_alone_and_says_nothing(rig: Rig) -> None:
    rig.opened().close()
    backend = rig.opened()
    assert rig.models == rig.kept(".onnx")
    assert rig.asked == 0
    assert backend.describe() == "m (yolov8, 64x64, 2 classes) on cpu, 1 worker"
    assert boxes(backend) == [[48, 24, 80, 40]]


def test_the_file_as_it_is_means_that(rig: Rig) -> None:
    rig.opened().close()
    for keys in ({"in_graph": "none"}, {"providers": ("CPUExecutionProvider",)}):
        backend = rig.opened(**keys)
        assert (rig.models, rig.asked) == ([rig.model], 0)
        assert boxes(backend) == [[48, 24, 80, 40]]


def test_who_wants_nothing_measured_gets_what_was_measured_before_and_no_file(rig: Rig) -> None:
    rig.opened(tune=False)
    assert (rig.models, rig.asked, rig.kept("*")) == ([rig.model], 0, [])
    rig.opened()
    rig.opened(tune=False)
    assert rig.models == rig.kept(".onnx")


@pytest.fixture
def open_rig(rig: Rig) -> Rig:
    """With a model whose outputs have a shape that only a run tells."""
    output, shapes = yolov8_output((32, 32, 16, 8, 0, 0.9)), {"out": ("batch", 6, "cells")}
    keys: dict[str, Any] = {"image": ("batch", 3, 64, 64), "shapes": shapes, "metadata": {"names": CARS}}
    rig.model = detector(rig.folder / "open.onnx", {"out": output}, **keys)
    return rig


def test_backends_that_open_one_model_at_once_find_out_once(open_rig: Rig) -> None:
    rig = open_rig
    at_lock = threading.Barrier(3)

    def run_seconds(*rest: Any) -> float:
        at_lock.wait(30)  # all have seen that there is nothing kept
        return run_of(*rest)

    config = OnnxBackendConfig(model=rig.model, device="cpu", workers=1)
    backends = [config.build(PluginContext(data_dir=rig.folder / "data")) for _ in range(3)]
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as pool:
        patch.setattr(rewriting, "run_seconds", run_seconds)
        list(pool.map(OnnxBackend.open, backends))
    assert rig.asked == 1
    assert rig.alive == rig.kept(".onnx") * 3
    assert sorted("graph: a step less" in backend.describe() for backend in backends) == [False, False, True]
    assert [boxes(backend) for backend in backends] == [[[48, 24, 80, 40]]] * 3


def test_who_may_not_measure_for_others_do_says_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "alone", lambda: nullcontext(False))
    assert rig.opened().describe().endswith("; graph as it is: other models were measured")
    assert (rig.asked, rig.kept("*")) == (0, [])


def test_a_device_that_stands_in_for_another_takes_what_was_kept_for_it(
    open_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = open_rig
    rig.opened()
    monkeypatch.setattr(opening, "start_kept", lambda *_: None)  # the one that was asked for has nothing, or is gone
    backend = rig.opened()
    assert (rig.alive, rig.asked) == (rig.kept(".onnx"), 0)
    assert boxes(backend) == [[48, 24, 80, 40]]


def test_what_a_killed_start_left_behind_goes_with_the_next_that_is_kept(rig: Rig) -> None:
    folder = rig.folder / "data" / "graphs"
    folder.mkdir(parents=True)
    lost, written = folder / "a.onnx.7-1.part", folder / "b.onnx.8-1.part"
    for path in (lost, written):
        path.write_bytes(b"half a model")
    os.utime(lost, (0, 0))
    rig.opened()
    assert rig.kept(".part") == [written]


def _unlike(data: bytes) -> Rewritten:
    return Rewritten(off(data, 1.001), DONE)


def _other_type(data: bytes) -> Rewritten:
    return Rewritten(data.replace(b"Reshape", b"Reshapf"), DONE)


def _nothing(data: bytes) -> Rewritten:
    return Rewritten(data)


def _refused(data: bytes) -> Rewritten:
    raise CannotComposeError("its operator set is old")


def _bug(data: bytes) -> Rewritten:
    raise KeyError("no such node")


@pytest.mark.parametrize(
    ("rewrite", "why", "said"),
    [
        (_unlike, "not the same as the plain model: its outputs differ by 0.001", True),
        (_other_type, "rewritten, the composed model: onnxruntime cannot load the model", True),
        (_nothing, "there is nothing to rewrite", False),
        (_refused, "there is nothing to rewrite: its operator set is old", False),
        (_bug, "rewriting failed: KeyError: 'no such node'", True),
    ],
    ids=["unlike", "unloadable", "nothing", "refused", "bug"],
)
def test_what_cannot_be_rewritten_runs_as_it_is_and_is_not_tried_again(
    rig: Rig, rewrite: Callable[[bytes], Rewritten], why: str, said: bool
) -> None:
    rig.rewrite = rewrite
    first = rig.opened()
    assert rig.alive == [rig.model]
    assert rig.note().outside["rewriting"].startswith(why)
    assert (f"graph as it is: {why}" in first.describe()) is said
    again = rig.opened()
    assert (rig.models, rig.asked, rig.kept(".onnx")) == ([rig.model], 0, [])
    assert "graph" not in again.describe()
    assert boxes(first) == boxes(again) == [[48, 24, 80, 40]]


def test_what_is_not_faster_runs_as_it_is_and_a_busy_machine_decides_nothing(rig: Rig) -> None:
    rig.race = Race({"plain": 0.02, "graph": 0.02}, 1.01, calm=False)
    backend = rig.opened()
    assert backend.describe().endswith("; graph as it is: rewritten it is not faster (1.01)")
    assert (rig.alive, rig.kept("*")) == ([rig.model], [])
    rig.race = rig.race._replace(calm=True)
    rig.opened()
    assert rig.asked == 1
    assert (rig.note().done, rig.kept(".onnx")) == (DONE, [])
    rig.opened()
    assert (rig.models, rig.asked) == ([rig.model], 0)


def test_a_model_whose_run_takes_no_time_or_ages_is_left_alone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "run_seconds", lambda *_: 0.0005)
    monkeypatch.setattr(rewriting, "WORTH_S", 0.001)
    assert "graph" not in rig.opened().describe()
    monkeypatch.setattr(rewriting, "run_seconds", lambda *_: 1.5)
    assert rig.opened().describe().endswith("; graph as it is: a run takes 1.5 s")
    assert (rig.asked, rig.kept("*")) == (0, [])


def _forge(rig: Rig, data: bytes) -> None:
    """Put a model in the place of the one that was kept, and make the note fit it."""
    (path,), (note,) = rig.kept(".onnx"), rig.kept(".json")
    path.write_bytes(data)
    note.write_text(json.dumps(json.loads(note.read_text()) | {"sha256": sha256(data).hexdigest()}))


def _other_outputs(rig: Rig) -> None:
    other = {"other": yolov8_output((32, 32, 16, 8, 0, 0.9))}
    _forge(rig, detector(rig.folder / "x.onnx", other, image=("batch", 3, 64, 64)).read_bytes())


def _one_at_a_time(rig: Rig) -> None:
    output = {"out": yolov8_output((32, 32, 16, 8, 0, 0.9))}
    _forge(rig, detector(rig.folder / "x.onnx", output, image=(1, 3, 64, 64)).read_bytes())


def _other_shape(rig: Rig) -> None:
    output = yolov8_output((32, 32, 16, 8, 0, 0.9), rows=40)
    shapes = {"out": ("batch", 6, cells(64, 64))}
    path = detector(rig.folder / "x.onnx", {"out": output}, image=("batch", 3, 64, 64), shapes=shapes)
    _forge(rig, path.read_bytes())


def _fails(rig: Rig) -> None:
    data = rig.kept(".onnx")[0].read_bytes()
    model = onnx.ModelProto()
    model.ParseFromString(data)
    for tensor in model.graph.initializer:
        if tensor.name == "out_ones":
            tensor.CopyFrom(numpy_helper.from_array(np.array([7, 7, 7], np.int64), "out_ones"))
    _forge(rig, model.SerializeToString())


def _no_model(rig: Rig) -> None:
    _forge(rig, b"PK\x03\x04" + b"x" * 100)


def _damaged(rig: Rig) -> None:
    path = rig.kept(".onnx")[0]
    path.write_bytes(path.read_bytes()[:-10])


def _gone(rig: Rig) -> None:
    rig.kept(".onnx")[0].unlink()


@pytest.mark.parametrize(
    "harm",
    [_other_outputs, _one_at_a_time, _other_shape, _fails, _no_model, _damaged, _gone],
    ids=lambda harm: harm.__name__[1:],
)
def test_what_is_damaged_or_forged_is_thrown_away_and_made_again(rig: Rig, harm: Callable[[Rig], None]) -> None:
    rig.opened()
    good = rig.kept(".onnx")[0].read_bytes()
    harm(rig)
    backend = rig.opened()
    assert rig.asked == 1
    assert rig.kept(".onnx")[0].read_bytes() == good
    assert (boxes(backend), rig.ctx.warnings) == ([[48, 24, 80, 40]], [])
    rig.opened()
    assert (rig.models, rig.asked) == (rig.kept(".onnx"), 0)


def test_a_folder_that_cannot_be_written_costs_only_the_next_start(rig: Rig) -> None:
    (rig.folder / "data").write_text("no folder")
    backend = rig.opened()
    assert "graph: a step less" in backend.describe()
    assert rig.ctx.warnings == ["what was made of m cannot be kept for the next start: Not a directory"]
    assert boxes(backend) == [[48, 24, 80, 40]]


def test_both_are_compared_in_every_shape_that_frames_will_give(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.model = of_open_sides(rig.folder)
    fed: list[list[tuple[int, ...]]] = []
    real = rewrite_check.difference

    def difference(plain: Session, other: Session, names: Sequence[str], feeds: Any) -> float:
        every = list(feeds)
        fed.append([each["images"].shape for each in every])
        return real(plain, other, names, every)

    monkeypatch.setattr(rewrite_trial, "difference", difference)
    rig.opened(input_shape="fit")
    wide, tall, square = (1, 3, 384, 640), (1, 3, 640, 384), (1, 3, 640, 640)
    assert fed.pop() == [wide, tall, square, (2, *wide[1:])]
    assert rig.raced.pop() == {"images": wide}
    rig.opened(input_shape="square")
    assert fed.pop() == [square, (2, *square[1:])]
    rig.model = detector(rig.folder / "four.onnx", {"out": yolov8_output()}, image=(4, 3, 64, 64))
    rig.opened()
    assert fed.pop() == [(4, 3, 64, 64)]


def test_a_model_that_is_wrong_in_one_shape_only_is_not_run(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.model = of_open_sides(rig.folder)

    def only_wide(data: bytes) -> Rewritten:
        """Its answers depend on the height of the input: right for 384 only."""
        model = onnx.ModelProto()
        model.ParseFromString(data)
        one = numpy_helper.from_array(np.array(1 / 384, np.float32))
        two = numpy_helper.from_array(np.array(2, np.int64))
        more = [
            helper.make_node("Shape", ["images"], ["re_shape"]),
            helper.make_node("Constant", [], ["re_two"], value=two),
            helper.make_node("Gather", ["re_shape", "re_two"], ["re_height"]),
            helper.make_node("Cast", ["re_height"], ["re_float"], to=1),
            helper.make_node("Constant", [], ["re_one"], value=one),
            helper.make_node("Mul", ["re_float", "re_one"], ["re_factor"]),
            helper.make_node("Mul", ["re_out", "re_factor"], ["out"]),
        ]
        model.graph.node[-1].output[0] = "re_out"
        model.graph.node.extend(more)
        return Rewritten(model.SerializeToString(), DONE)

    rig.rewrite = only_wide
    backend = rig.opened(input_shape="fit")
    assert "not the same as the plain model" in backend.describe()
    assert rig.alive == [rig.model]


def test_weights_in_other_files_stay_where_they_are(rig: Rig) -> None:
    model = onnx.load(rig.model)
    onnx.save(model, rig.model, save_as_external_data=True, location="weights.bin", size_threshold=1024)
    assert boxes(rig.opened()) == [[48, 24, 80, 40]]
    assert (rig.models, rig.asked, rig.kept("*")) == ([rig.model], 0, [])


def test_half_floats_may_differ_by_more(rig: Rig) -> None:
    output = yolov8_output((32, 32, 16, 8, 0, 0.9))
    rig.rewrite = lambda data: Rewritten(off(data, 1.001), DONE)
    rig.model = detector(rig.folder / "half.onnx", {"out": output}, image=("batch", 3, 64, 64), dtype=np.float16)
    assert "graph: a step less" in rig.opened().describe()


@pytest.mark.parametrize("wanted", ["input", "output", "both"])
def test_further_parts_are_put_into_the_rewritten_model(rig: Rig, wanted: str) -> None:
    output = yolov8_output((320, 320, 160, 80, 0, 0.9), rows=cells(640, 640))
    rig.model = detector(
        rig.folder / "large.onnx", {"out": output}, image=("batch", 3, 640, 640), metadata={"names": CARS}
    )
    plain = boxes(rig.opened(in_graph="none"))
    for start in range(2):
        backend = rig.opened(in_graph=wanted)
        assert backend._loaded is not None
        assert isinstance(backend._loaded._feed, GraphFeed)
        assert boxes(backend) == plain == [[48, 24, 80, 40]]
        (running,) = rig.alive
        data = running if isinstance(running, bytes) else running.read_bytes()
        assert b"penstock/re_Mul" in data
        assert (rig.model in rig.models) is (start == 0)
        backend.close()
    assert (len(rig.kept(".onnx")), rig.asked, rig.ctx.warnings) == (2, 0, [])


def test_what_is_tuned_is_the_rewritten_model(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(1, 2, False, 1)

    def choose(usual: Plan, free: Any, cores: int, measure: Callable[[Plan], Any], has_time: Any) -> Verdict:
        assert measure(plan) is not None
        return Verdict(plan, {}, calm=True)

    monkeypatch.setattr(tune, "choose", choose)
    monkeypatch.setattr(tune, "WORTH_S", 0.0)
    monkeypatch.setattr(tune, "usable_cores", lambda: 2)
    backend = rig.opened(workers=None)
    (path,) = rig.kept(".onnx")
    assert rig.models[-1] == path
    assert rig.alive == [path]
    assert "times as fast, found in" in backend.describe()
    assert "; tuned in 0." in backend.describe()
    rig.opened(workers=None)
    assert rig.models == [path]


def test_the_image_side_of_clip_is_rewritten_as_well(rig: Rig, tmp_path: Path) -> None:
    files = clip_files(tmp_path)
    seen: list[bytes] = []

    def same(data: bytes) -> Rewritten:
        model = onnx.ModelProto()
        model.ParseFromString(data)
        model.doc_string = "another file"
        seen.append(data)
        return Rewritten(bytes(model.SerializeToString()), DONE)

    rig.rewrite = same
    vectors = []
    for start in range(2):
        rig.loaded.clear()
        config = ClipBackendConfig(
            model=files.model, text_model=files.text_model, tokenizer=files.tokenizer, device="cpu"
        )
        backend = config.build(PluginContext(data_dir=tmp_path / "data"))
        backend.open()
        assert ("graph: a step less" in backend.describe()) is (start == 0)
        assert rig.models[-1] == files.text_model, "texts have no time to save"
        vectors += [one.vector for one in backend.infer([frame()]) if isinstance(one, Embedding)]
        backend.close()
    assert len(rig.models) == 2
    assert rig.models[0] == rig.kept(".onnx")[0]
    assert seen == [files.model.read_bytes()]
    first, second = vectors
    assert np.array_equal(first, second)


@pytest.mark.parametrize("name", ["yolox_nano_416.onnx", "yolo11n-seg_640.onnx"])
def test_real_models_are_rewritten_and_see_the_same(
    rig: Rig, shared_data: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(graph_rewrite, "rewrite", rig.real_rewrite)
    rig.model = shared_data / "models" / name
    with av.open(str(shared_data / "images" / "bus.jpg")) as container:
        picture = VideoPicture(next(container.decode(video=0)))
    found = []
    for in_graph in ("none", "auto", "auto"):
        backend = rig.opened(in_graph=in_graph)
        (answer,) = backend.infer([Frame("test", 0, 0.0, 0.0, "pts", picture, 0.0)])
        assert isinstance(answer, Detections)
        found.append(answer)
        backend.close()
    assert rig.models == rig.kept(".onnx")
    assert len(found[0]) >= 3
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].class_id, other.class_id)
        np.testing.assert_allclose(found[0].xyxy, other.xyxy, atol=0.01)
        np.testing.assert_allclose(found[0].confidence, other.confidence, atol=1e-4)


def test_another_machine_size_or_runtime_asks_anew(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.opened()
    rig.opened(input_shape="square")
    monkeypatch.setattr(Runtime, "version", "onnxruntime 99")
    rig.opened()
    monkeypatch.setattr("pipeline.backends._onnx.graph_store.machine", lambda cores: {"cpu": "another"})
    rig.opened()
    assert rig.asked == 1
    monkeypatch.setattr(graph_rewrite, "REWRITER", "next")
    rig.opened()
    assert (rig.asked, len(rig.kept(".onnx"))) == (1, 5)


def test_inspect_tells_what_was_done_and_what_it_brought(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(rig.folder / "data"))
    rig.opened()
    told = OnnxBackendConfig(model=rig.model, device="cpu").inspect()
    assert any("rewritten in cheaper steps where that is faster, nothing inside" in line for line in told)
    wanted = "found out here: rewritten: a step less; outputs differ by 0 at most; plain 20.0 ms, graph 16.0 ms"
    assert any(wanted in line for line in told)
    rig.race = FASTER._replace(gain=1.0)
    rig.opened(input_shape="square")
    told = OnnxBackendConfig(model=rig.model, device="cpu").inspect()
    assert any("not rewritten (a step less): rewritten it is not faster (1.00)" in line for line in told)
