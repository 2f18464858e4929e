"""TensorRT's options, the engines on disk, and the thread that has one made: with processes that only pretend."""

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_files import detector, yolov8_output

from pipeline.backends._onnx import tensorrt_build as child
from pipeline.backends._onnx import tensorrt_thread as thread
from pipeline.backends._onnx.device import CPU, CUDA, TENSORRT, choose_device
from pipeline.backends._onnx.tensorrt import (
    LIBRARIES,
    READY,
    EngineCache,
    Profile,
    library_version,
    load_libraries,
    tensorrt_choice,
)
from pipeline.backends._onnx.tensorrt_thread import EngineBuilder
from pipeline.contracts.errors import FatalError
from pipeline.testing import PluginContext

ON_CUDA = choose_device("cuda:1", "fail", None, (CUDA, CPU), 2)
DYNAMIC = Profile({"images": (1, 3, 32, 32)}, {"images": (8, 3, 640, 640)}, {"images": (8, 3, 640, 640)})
FIXED = Profile({"images": (1, 3, 64, 64)}, {"images": (1, 3, 64, 64)}, {"images": (1, 3, 64, 64)})

READ_JOB = (
    "import json, pathlib, sys\njob = json.loads(open(sys.argv[-1]).read())\nfolder = pathlib.Path(job['folder'])\n"
)
SUCCEEDS = READ_JOB + "(folder / 'ready.json').write_text(json.dumps({'built_s': 60.0}))"
FAILS = READ_JOB + "print('first line', file=sys.stderr)\nsys.exit('no kernel for this node')"
FORGETS = READ_JOB + "pass"
HANGS = READ_JOB + "(folder.parent / 'begun').write_text('')\nimport time\ntime.sleep(600)"
DEAF = READ_JOB + "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
DEAF += "(folder.parent / 'begun').write_text('')\ntime.sleep(600)"


class Rig:
    """A builder whose process runs a script."""

    def __init__(self, root: Path, script: str) -> None:
        self.ctx = PluginContext(data_dir=root)
        self.cache = EngineCache(root)
        self.folder = self.cache.folder("model")
        self.taken: list[Mapping[str, float]] = []
        self.builder = EngineBuilder(
            {"folder": str(self.folder), "model": "model.onnx"},
            cache=self.cache,
            take_over=self.take_over,
            ctx=self.ctx,
            command=(sys.executable, "-c", script),
        )

    def take_over(self, found: Mapping[str, float]) -> tuple[str, bool]:
        self.taken.append(found)
        return "TensorRT took over", True

    def run(self) -> None:
        self.builder.start()
        self.builder._thread.join(30)
        assert not self.builder._thread.is_alive()
        self.builder.stop()


def test_the_engine_is_asked_for_on_the_device_that_cuda_runs_on_and_cuda_stays_behind_it() -> None:
    choice = tensorrt_choice(ON_CUDA, Path("/data/engine-1"), Path("/data/timing"), DYNAMIC)
    assert [name for name, _ in choice.providers] == [TENSORRT, CUDA, CPU]
    options = dict(choice.providers)[TENSORRT]
    assert (options["device_id"], choice.device, choice.gpu, choice.must_have) == (1, "cuda:1", 1, TENSORRT)
    assert options["trt_engine_cache_path"] == "/data/engine-1"
    assert options["trt_profile_min_shapes"] == "images:1x3x32x32"
    assert options["trt_profile_max_shapes"] == options["trt_profile_opt_shapes"] == "images:8x3x640x640"
    assert not any("fp16" in key or "int8" in key for key in options)  # no accuracy is given away in silence


def test_a_model_with_one_shape_needs_no_profile() -> None:
    options = dict(tensorrt_choice(ON_CUDA, Path("e"), Path("t"), FIXED).providers)[TENSORRT]
    assert not any("profile" in key for key in options)


def test_an_engine_depends_on_all_that_it_was_made_for() -> None:
    cache = EngineCache(Path("root"))
    same = [cache.folder("model", DYNAMIC, ("1.31", 101300, "L4")) for _ in range(2)]
    others = [
        cache.folder("other", DYNAMIC, ("1.31", 101300, "L4")),
        cache.folder("model", FIXED, ("1.31", 101300, "L4")),
        cache.folder("model", DYNAMIC, ("1.31", 101301, "L4")),
        cache.folder("model", DYNAMIC, ("1.31", 101300, "T4")),
    ]
    assert same[0] == same[1]
    assert len({*same, *others}) == 5


def test_the_folder_of_engines_stays_bounded_and_keeps_those_used_last(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "tensorrt")
    for index in range(6):
        folder = cache.folder(index)
        cache.prepare(folder)
        (folder / READY).write_text("{}")
        os.utime(folder / READY, (index, index))
    unfinished = cache.folder("unfinished")
    cache.prepare(unfinished)
    cache.prepare(cache.folder("new"))
    left = {path.name for path in (tmp_path / "tensorrt").glob("engine-*")}
    assert left == {cache.folder(index).name for index in (4, 5, "new")}


def test_measurements_of_kernels_do_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.backends._onnx.tensorrt._MAX_TIMING_BYTES", 100)
    cache = EngineCache(tmp_path)
    cache.prepare(cache.folder(1))
    (cache.timing / "sm89.timing").write_bytes(bytes(101))
    cache.prepare(cache.folder(1))
    assert list(cache.timing.iterdir()) == []


def test_an_engine_that_is_ready_takes_over_and_is_said(tmp_path: Path) -> None:
    rig = Rig(tmp_path, SUCCEEDS)
    rig.run()
    assert rig.taken == [{"built_s": 60.0}]
    assert [(state, well) for state, _, well in rig.ctx.told] == [("cuda", True), ("tensorrt", True)]
    assert rig.ctx.warnings == []
    again = Rig(tmp_path, SUCCEEDS)
    again.run()
    assert [state for state, _, _ in again.ctx.told] == ["tensorrt"]  # made before: nothing to wait for


@pytest.mark.parametrize(
    ("script", "said"),
    [(FAILS, "no kernel for this node"), (FORGETS, "its process ended with 0"), ("x(", "SyntaxError")],
)
def test_a_build_that_fails_is_said_once_and_leaves_nothing_behind(tmp_path: Path, script: str, said: str) -> None:
    rig = Rig(tmp_path, script)
    rig.run()
    (line,) = rig.ctx.warnings
    assert "CUDA goes on" in line
    assert said in line
    assert rig.taken == []
    assert not rig.folder.exists()


def test_an_engine_that_worked_once_and_does_not_now_is_made_again(tmp_path: Path) -> None:
    script = READ_JOB + "sys.exit(1) if (folder / 'old.engine').exists() else None\n" + SUCCEEDS.removeprefix(READ_JOB)
    rig = Rig(tmp_path, script)
    rig.cache.prepare(rig.folder)
    for name in (READY, "old.engine"):
        (rig.folder / name).write_text("{}")
    rig.run()
    assert rig.taken == [{"built_s": 60.0}]
    assert not (rig.folder / "old.engine").exists()


def test_a_session_that_does_not_take_over_is_said_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path, SUCCEEDS)

    def refuse(_: Mapping[str, float]) -> tuple[str, bool]:
        raise FatalError("onnxruntime could not start it")

    rig.builder._take_over = refuse
    rig.run()
    assert rig.ctx.warnings == ["TensorRT does not take over, CUDA goes on: onnxruntime could not start it"]


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    rig = Rig(tmp_path / "file", SUCCEEDS)
    rig.run()
    (line,) = rig.ctx.warnings
    assert "CUDA goes on" in line


@pytest.mark.parametrize(("script", "by"), [(HANGS, signal.SIGTERM), (DEAF, signal.SIGKILL)])
def test_a_close_in_the_middle_of_a_build_ends_it(
    tmp_path: Path, script: str, by: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread, "_TERMINATE_S", 0.2)
    rig = Rig(tmp_path, script)
    os.mkfifo(tmp_path / "begun")
    rig.builder.start()
    (tmp_path / "begun").read_text()  # waits for the process
    process = rig.builder._process
    assert process is not None
    rig.builder.stop()
    assert process.returncode == -by
    assert not rig.builder._thread.is_alive()
    assert rig.ctx.warnings == []  # it was told to
    assert rig.taken == []


def test_a_stop_before_the_start_is_no_harm(tmp_path: Path) -> None:
    Rig(tmp_path, SUCCEEDS).builder.stop()


def _job(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    model = detector(
        tmp_path / "model.onnx", {"output0": yolov8_output((32, 32, 16, 8, 0, 0.9))}, image=("batch", 3, 64, 64)
    )
    shapes = [{"images": ((rows, 3, 64, 64), "float32")} for rows in (1, 4)]
    return {
        "model": str(model),
        "folder": str(tmp_path),
        "providers": [[CPU, {}]],
        "must_have": CPU,
        "runs": shapes,
        **changes,
    }


def test_the_process_runs_every_shape_and_compares_an_answer(tmp_path: Path) -> None:
    found = child.build(json.loads(json.dumps(_job(tmp_path))))
    assert found["difference_ratio"] == 0.0
    assert found["built_s"] > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"must_have": TENSORRT, "providers": [[TENSORRT, {}], [CPU, {}]]}, "libnvinfer|could not start"),
        (
            {"runs": [{"images": ((1, 3, 64, 64), "float32")}, {"images": ((1, 5, 64, 64), "float32")}]},
            "Got invalid dim",
        ),
    ],
)
def test_the_process_says_in_one_line_why_there_is_no_engine(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(Exception, match=said) as caught:
        child.build(_job(tmp_path, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("difference", "said"), [(0.3, r"30\.0%"), (np.nan, "nan%")])
def test_answers_that_are_others_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: float, said: str
) -> None:
    monkeypatch.setattr(child, "_difference", lambda *_: difference)
    with pytest.raises(Exception, match=f"differ from the CPU's by {said} of their range"):
        child.build(_job(tmp_path))


@pytest.mark.parametrize(
    ("found", "right", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.2], [1.0, 2.0], 0.1),
        ([0.0], [0.0], 0.0),
        ([], [], 0.0),
        ([1], [1, 2], np.inf),
    ],
)
def test_a_difference_is_a_share_of_the_range(found: list[float], right: list[float], expected: float) -> None:
    assert child._difference(np.array(found), np.array(right)) == pytest.approx(expected)


def test_libraries_that_are_not_there_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.backends._onnx.tensorrt.LIBRARIES", ("libnvinfer_of_nobody.so.10",))
    fault = load_libraries()
    assert fault is not None
    assert "libnvinfer_of_nobody.so.10" in fault


def test_the_libraries_of_a_wheel_are_found_where_the_wheel_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "tensorrt_libs"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('loads everything')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("ctypes.CDLL", lambda path, mode=0: opened.append(path))
    opened: list[str] = []
    assert load_libraries() is None
    assert opened == [str(package / name) for name in LIBRARIES]


def test_a_version_that_nobody_knows_is_none() -> None:
    assert library_version() >= 0
