"""What is tried at a first start, what wins, and what is kept of it."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_files import Array, detector, yolov8_output

from pipeline.backends._onnx import measuring, tune
from pipeline.backends._onnx.measuring import Stopwatch
from pipeline.backends._onnx.session import Session
from pipeline.backends._onnx.tuning import Freedom, Plan, Sample, Verdict, choose, splits
from pipeline.backends._onnx.tuning_store import TuningFile
from pipeline.backends.onnx import OnnxBackend, OnnxBackendConfig
from pipeline.testing import PluginContext, frame

TWO_BY_ONE = Plan(2, 1, False, 1)
ONE_BY_TWO = Plan(1, 2, False, 1)
SPINNING = Plan(1, 2, True, 1)
PAIRS = Plan(2, 1, False, 2)
EVERYTHING = Freedom(split=True, spinning=True, batch=True)
CARS = "{0: 'car', 1: 'bus'}"


@dataclass
class Machine:
    """Answers for each plan from a table, in turn; the last answer stands. What is not in it cannot be had."""

    table: Mapping[Plan, Sequence[Sample]]
    asked: list[Plan] = field(default_factory=list)
    most: int = 100

    def measure(self, plan: Plan) -> Sample | None:
        known = self.table.get(plan)
        turn = self.asked.count(plan)
        self.asked.append(plan)
        return None if known is None else known[min(turn, len(known) - 1)]

    def has_time(self) -> bool:
        return len(self.asked) < self.most

    def choose(self, usual: Plan = TWO_BY_ONE, free: Freedom = EVERYTHING, cores: int = 2) -> Verdict:
        return choose(usual, free, cores, self.measure, self.has_time)


def machine(**fps: Sequence[Sample]) -> Machine:
    names = {"usual": TWO_BY_ONE, "threaded": ONE_BY_TWO, "spinning": SPINNING, "pairs": PAIRS}
    return Machine({names[name]: samples for name, samples in fps.items()})


def fps(number: float, cpu_s: float = 0.045, share: float = 1.0) -> Sequence[Sample]:
    return (Sample(number, cpu_s, share),)


@pytest.mark.parametrize(
    ("cores", "ways"),
    [
        (1, [(1, 1)]),
        (2, [(2, 1), (1, 2)]),
        (6, [(6, 1), (3, 2), (1, 4), (1, 6)]),
        (16, [(16, 1), (8, 2), (4, 4), (2, 8), (1, 16)]),
    ],
)
def test_cores_are_split_from_many_workers_to_one(cores: int, ways: list[tuple[int, int]]) -> None:
    assert list(splits(cores)) == ways


def test_on_two_cores_two_single_threaded_runs_win_and_the_lead_is_told() -> None:
    rig = machine(usual=fps(43.3), threaded=fps(31.1, 0.064), spinning=fps(90), pairs=fps(34.5, 0.056))
    verdict = rig.choose()
    assert verdict.calm
    assert verdict.plan == TWO_BY_ONE
    assert str(verdict) == "2 workers x 1 thread, 1.26 times the runner-up's speed (2 workers x 1 thread, batches of 2)"
    assert rig.asked == [TWO_BY_ONE, ONE_BY_TWO, PAIRS], (
        "what is far behind is not followed: no spinning, no batch of 4"
    )


def test_another_plan_wins_where_it_is_faster_each_time_and_takes_no_more_of_the_cores() -> None:
    rig = machine(usual=fps(40), threaded=fps(50, 0.040), spinning=fps(50, 0.09))
    verdict = rig.choose()
    assert verdict.plan == ONE_BY_TWO
    assert rig.asked.count(ONE_BY_TWO) == rig.asked.count(TWO_BY_ONE) == 3, "a winner is asked again, in turns"
    assert str(verdict).startswith("1 worker x 2 threads, ")


def test_what_is_faster_only_by_taking_the_cores_from_others_does_not_win() -> None:
    assert machine(usual=fps(40), threaded=fps(38), spinning=fps(60, 0.06)).choose().plan == TWO_BY_ONE


def test_a_lucky_moment_is_not_believed() -> None:
    lucky = (Sample(60, 0.045), Sample(41, 0.045))
    assert machine(usual=fps(40), threaded=lucky).choose().plan == TWO_BY_ONE


def test_a_little_faster_is_not_enough() -> None:
    verdict = machine(usual=fps(40), threaded=fps(43, 0.04)).choose()
    assert (verdict.plan, str(verdict)) == (TWO_BY_ONE, "2 workers x 1 thread, no other was clearly faster")


def test_a_busy_machine_decides_nothing_and_is_not_asked_further() -> None:
    rig = machine(usual=fps(20, share=0.5), threaded=fps(80))
    verdict = rig.choose()
    assert (verdict.plan, verdict.calm, rig.asked) == (TWO_BY_ONE, False, [TWO_BY_ONE])


def test_a_machine_that_becomes_busy_decides_nothing() -> None:
    usual = (Sample(40, 0.045, 1.0), Sample(20, 0.045, 0.5))
    verdict = machine(usual=usual, threaded=fps(60, 0.04)).choose()
    assert (verdict.plan, verdict.calm) == (TWO_BY_ONE, False)


def test_when_time_is_up_the_usual_plan_stays() -> None:
    rig = machine(usual=fps(40), threaded=fps(90, 0.02))
    rig.most = 1
    assert rig.choose().plan == TWO_BY_ONE
    assert rig.asked == [TWO_BY_ONE]


def test_batches_grow_as_long_as_that_pays() -> None:
    table = {TWO_BY_ONE: fps(100), ONE_BY_TWO: fps(60)}
    batches = {1 << step: TWO_BY_ONE._replace(max_batch=1 << step) for step in range(1, 5)}
    rig = Machine({**table, batches[2]: fps(120), batches[4]: fps(140), batches[8]: fps(130), batches[16]: fps(900)})
    assert rig.choose().plan == batches[4]
    assert batches[16] not in rig.asked


def test_only_what_the_config_leaves_open_is_tried() -> None:
    rig = machine(usual=fps(40), threaded=fps(39), spinning=fps(90, 0.01), pairs=fps(90, 0.01))
    assert rig.choose(free=Freedom(split=True, spinning=False, batch=False)).plan == TWO_BY_ONE
    assert set(rig.asked) == {TWO_BY_ONE, ONE_BY_TWO}


def test_what_cannot_be_had_is_left_out() -> None:
    assert machine(usual=fps(40)).choose().plan == TWO_BY_ONE
    nothing = Machine({}).choose()
    assert (nothing.plan, nothing.calm) == (TWO_BY_ONE, False)


class Runs:
    """Stands for a session: counts who is in it at once, and fails where it is told to."""

    def __init__(self, rows: int | None = None, fails: bool = False) -> None:
        self.together = threading.Barrier(3)
        self._rows = rows
        self._fails = fails
        self.met = False

    def run(self, names: Sequence[str] | None, feeds: dict[str, Array]) -> Sequence[Array]:
        if self._fails:
            raise RuntimeError("no")
        if not self.met:
            self.together.wait(10)
            self.met = True
        return [np.zeros((self._rows or len(feeds["images"]), 4), np.float32)]

    def get_providers(self) -> Sequence[str]:
        return []

    def io_binding(self) -> Any:
        raise NotImplementedError

    def run_with_iobinding(self, iobinding: Any) -> None:
        raise NotImplementedError


def stopwatch(session: Session | None, monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    monkeypatch.setattr(measuring, "SAMPLE_S", 0.002)
    return Stopwatch(
        lambda threads, spinning: session,
        ("out",),
        lambda rows: {"images": np.zeros((rows, 3, 8, 8), np.float32)},
        (RuntimeError,),
    )


def test_a_plan_is_tried_with_all_its_workers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs()
    sample = stopwatch(runs, monkeypatch).measure(Plan(3, 1, False, 2))
    assert runs.met, "three were in the session together"
    assert sample is not None
    assert sample.fps > 0
    assert sample.cpu_s > 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tune-")]


@pytest.mark.parametrize("session", [None, Runs(fails=True), Runs(rows=1)])
def test_a_plan_that_the_model_does_not_take_cannot_be_had(
    session: Session | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stopwatch(session, monkeypatch).measure(Plan(3, 1, False, 2)) is None


def tuning_file(folder: Path, **about: str) -> TuningFile:
    return TuningFile(folder, {"model": "m.onnx", "cores": "2", **about})


def verdict(plan: Plan = ONE_BY_TWO) -> Verdict:
    return Verdict(plan, {plan: 50.0, TWO_BY_ONE: 40.0}, calm=True)


def test_what_was_kept_is_found_for_exactly_the_same_and_nothing_else(tmp_path: Path) -> None:
    assert tuning_file(tmp_path / "data").find() is None
    assert not (tmp_path / "data").exists(), "to look is not to make"
    tuning_file(tmp_path / "data").keep(verdict())
    assert tuning_file(tmp_path / "data").find() == ONE_BY_TWO
    assert tuning_file(tmp_path / "data", cores="4").find() is None
    tuning_file(tmp_path / "data", cores="4").keep(verdict(PAIRS))
    assert tuning_file(tmp_path / "data").find() == ONE_BY_TWO
    tuning_file(tmp_path / "data").keep(verdict(SPINNING))
    assert tuning_file(tmp_path / "data").find() == SPINNING
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["tuning.json"]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version": 2, "plans": []}', b"\xff" * 100, b"[]"])
def test_a_damaged_file_costs_a_measurement_and_is_written_anew(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "tuning.json").write_bytes(damage)
    assert tuning_file(tmp_path).find() is None
    tuning_file(tmp_path).keep(verdict())
    assert tuning_file(tmp_path).find() == ONE_BY_TWO


def test_a_plan_that_nobody_could_have_chosen_is_not_taken_from_the_file(tmp_path: Path) -> None:
    tuning_file(tmp_path).keep(verdict())
    text = (tmp_path / "tuning.json").read_text()
    (tmp_path / "tuning.json").write_text(text.replace('"workers": 1', '"workers": 100000'))
    assert tuning_file(tmp_path).find() is None


def test_the_file_stays_small(tmp_path: Path) -> None:
    for number in range(70):
        tuning_file(tmp_path, model=f"{number}.onnx").keep(verdict())
    kept = [number for number in range(70) if tuning_file(tmp_path, model=f"{number}.onnx").find()]
    assert kept == list(range(6, 70)), "the newest 64"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that is worth tuning, on a machine of two cores."""
    monkeypatch.setattr(tune, "WORTH_S", 0.0)
    for module in ("tune", "open"):
        monkeypatch.setattr(f"pipeline.backends._onnx.{module}.usable_cores", lambda: 2)
    output = yolov8_output((32, 32, 16, 8, 0, 0.9))
    return detector(tmp_path / "m.onnx", {"out": output}, image=("batch", 3, 64, 64), metadata={"names": CARS})


def opened(model: Path, **keys: Any) -> OnnxBackend:
    config = OnnxBackendConfig(model=model, device="cpu", **keys)
    backend = config.build(PluginContext(data_dir=model.parent / "data"))
    backend.open()
    return backend


def choosing(monkeypatch: pytest.MonkeyPatch, found: Verdict) -> list[Freedom]:
    """Whatever is measured, this comes out; what was left open is noted."""
    asked: list[Freedom] = []

    def instead(usual: Plan, free: Freedom, *rest: Any) -> Verdict:
        assert usual.workers == 2
        asked.append(free)
        return found

    monkeypatch.setattr(tune, "choose", instead)
    return asked


def test_the_first_start_measures_and_the_next_one_knows(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = choosing(monkeypatch, verdict(Plan(3, 2, False, 4)))
    first = opened(model)
    assert (first.concurrency, first.max_batch) == (3, 4)
    assert "; tuned in 0.0 s: 3 workers x 2 threads, batches of 4, 1.25 times the runner-up's speed" in first.describe()
    assert [len(first.infer([frame(i) for i in range(4)])), asked] == [4, [EVERYTHING]]
    first.close()
    second = opened(model)
    assert (second.concurrency, second.max_batch, len(asked)) == (3, 4, 1)
    assert second.describe().endswith("; tuned before: 3 workers x 2 threads, batches of 4")
    second.close()


@pytest.mark.parametrize("keys", [{"tune": False}, {"workers": 2}, {"intra_op_threads": 1}])
def test_nothing_is_measured_where_the_config_has_chosen(
    model: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any]
) -> None:
    asked = choosing(monkeypatch, verdict())
    backend = opened(model, **keys)
    assert (backend.concurrency, backend.max_batch, asked) == (2, 1, [])
    assert "tuned" not in backend.describe()
    assert not (model.parent / "data").exists()
    backend.close()


def test_keys_of_their_own_are_kept_to_and_remembered_apart(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = choosing(monkeypatch, verdict(TWO_BY_ONE))
    opened(model, max_batch=1).close()
    opened(model, allow_spinning=False).close()
    opened(model).close()
    assert asked == [Freedom(True, True, False), Freedom(True, False, True), EVERYTHING]


def test_what_a_busy_machine_gave_is_not_kept(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = choosing(monkeypatch, Verdict(TWO_BY_ONE, {TWO_BY_ONE: 10.0}, calm=False))
    for _ in range(2):
        backend = opened(model)
        assert backend.describe().endswith("2 workers; not tuned, for the machine is busy")
        backend.close()
    assert len(asked) == 2, "the next start tries again"


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choosing(monkeypatch, verdict())
    (model.parent / "data").write_text("a file stands in the way")
    backend = opened(model)
    assert "(not kept: " in backend.describe()
    backend.close()


def test_a_model_whose_run_costs_next_to_nothing_is_not_measured(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "WORTH_S", 10.0)
    asked = choosing(monkeypatch, verdict())
    opened(model).close()
    assert asked == []
    assert not (model.parent / "data").exists()


def test_a_model_that_is_too_slow_to_be_tried_out_keeps_the_usual_plan(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "BUDGET_S", 0.0)
    asked = choosing(monkeypatch, verdict())
    backend = opened(model)
    assert "; not tuned: a run takes 0.0 s" in backend.describe()
    assert asked == []
    backend.close()


def test_a_real_measurement_ends_in_a_plan_and_leaves_no_threads(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SAMPLE_S", 0.002)
    backend = opened(model)
    assert "tuned" in backend.describe()
    assert backend.max_batch in {1, 2, 4, 8}
    assert len(backend.infer([frame()])) == 1
    backend.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tune-")]
