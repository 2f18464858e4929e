"""What every backend promises, checked on every backend that is registered, ours and strangers' alike."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from clip_files import clip_files
from looped import LoopedContext
from makers import brightness_model
from misbehaving_server import Asked, MisbehavingServer
from pydantic import ValidationError
from remote_rules import huggingface_rules, kserve_rules, roboflow_rules, supervisely_rules

from pipeline.contracts.backend import Backend, BackendConfig
from pipeline.contracts.errors import PenstockError
from pipeline.contracts.frame import Frame
from pipeline.contracts.result import Detections, Prediction
from pipeline.testing import PluginContext, frame

POINTS = sorted(entry_points(group="penstock.backends"), key=lambda point: point.name)

pytestmark = pytest.mark.parametrize("point", POINTS, ids=[point.name for point in POINTS])

EXAMPLES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "onnx": lambda folder: {"model": str(brightness_model(folder / "m.onnx")), "device": "cpu", "confidence": 0.01},
    "clip": lambda folder: {
        **{key: str(path) for key, path in clip_files(folder)._asdict().items() if isinstance(path, Path)},
        "device": "cpu",
        "max_batch": 3,
    },
}
"""What a backend needs to be opened here: a new backend adds a line. A folder of its own -> keys of its config."""

REMOTE: dict[str, tuple[Callable[[Asked], Any], dict[str, Any]]] = {
    "huggingface": (huggingface_rules, {"model": "a/b", "task": "object-detection"}),
    "kserve": (kserve_rules, {"model_name": "det", "max_batch_size": 3}),
    "roboflow": (roboflow_rules, {"model_id": "det/1", "max_batch_size": 3}),
    "supervisely": (supervisely_rules, {"max_batch_size": 3}),
}
"""The same for a backend elsewhere: how its server answers, and the keys of its config besides `url`."""

MISTAKES: dict[str, dict[str, Any]] = {
    "onnx": {"model": "/nowhere/m.onnx"},
    "clip": {"model": "/nowhere/m.onnx"},
}
MISTAKES |= {name: {"url": "https://127.0.0.1:1", "ca_file": "/nowhere/ca.pem"} for name in REMOTE}
"""Keys with which `check` must fail."""


@pytest.fixture
def config(point: EntryPoint, tmp_path: Path) -> Iterator[BackendConfig]:
    known = EXAMPLES.keys() | REMOTE.keys()
    assert point.name in known, f"tests/contract/test_backends.py has no example for the backend {point.name!r}"
    kind: type[BackendConfig] = point.load()
    if point.name not in REMOTE:
        yield kind.model_validate({"type": point.name, **EXAMPLES[point.name](tmp_path)})
        return
    rules, keys = REMOTE[point.name]
    with MisbehavingServer(rules) as server:
        yield kind.model_validate({"type": point.name, "url": server.url, **keys})


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[PluginContext]:
    with LoopedContext("local", tmp_path / "data") as ctx:
        yield ctx


@pytest.fixture
def backend(config: BackendConfig, ctx: PluginContext) -> Iterator[Backend]:
    built = config.build(ctx)
    try:
        built.open()
        yield built
    finally:
        built.close()


def frames(count: int) -> list[Frame]:
    """Frames that differ in size and brightness."""
    return [frame(i, width=64 + 16 * i, height=48 + 8 * i, grey=40 + 20 * (i % 10)) for i in range(count)]


def same(one: Prediction, other: Prediction) -> bool:
    """Equal but for the timings."""
    names = [field.name for field in fields(one) if field.name != "timings"]
    pairs = ((getattr(one, name), getattr(other, name)) for name in names)
    return type(one) is type(other) and all(np.array_equal(a, b) if a is not None else b is None for a, b in pairs)


def test_the_config_is_a_frozen_model_that_names_its_type(point: EntryPoint, config: BackendConfig) -> None:
    assert isinstance(config, BackendConfig)
    assert config.type == point.name == type(config).model_fields["type"].default
    with pytest.raises(ValidationError):
        type(config).model_validate({**config.model_dump(), "no_such_key": 1})
    with pytest.raises(ValidationError):
        config.type = "other"  # type: ignore[misc]  # the model is frozen
    assert type(config).model_validate(config.model_dump()) == config
    assert (type(config).__doc__ or "").strip()
    assert all(field.description for name, field in type(config).model_fields.items() if name != "type")


def test_naming_the_config_imports_nothing_heavy(point: EntryPoint) -> None:
    module = point.value.partition(":")[0]
    heavy = "{'av', 'PIL', 'onnx', 'onnxruntime', 'supervision', 'cv2', 'aiohttp', 'scipy', 'tokenizers'}"
    code = f"import sys, {module}; sys.exit(', '.join({heavy} & sys.modules.keys()) or 0)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_json_schema_can_be_made(config: BackendConfig) -> None:
    assert config.model_json_schema()["properties"]["type"]["const"] == config.type


def test_check_passes_what_works_and_names_the_key_of_a_mistake(point: EntryPoint, config: BackendConfig) -> None:
    config.check()
    assert point.name in MISTAKES, f"tests/contract/test_backends.py has no mistake for the backend {point.name!r}"
    wrong = type(config).model_validate(config.model_dump() | MISTAKES[point.name])
    with pytest.raises(PenstockError) as caught:
        wrong.check()
    assert getattr(caught.value, "key", None) in MISTAKES[point.name]
    assert "\n" not in str(caught.value)


def test_building_opens_nothing_and_a_backend_that_was_never_opened_can_be_closed(
    point: EntryPoint, config: BackendConfig, ctx: PluginContext, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    built = type(config).model_validate(config.model_dump() | MISTAKES[point.name]).build(ctx)
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(PenstockError):
        built.open()
    built.close()


def test_an_open_backend_says_what_it_is(backend: Backend) -> None:
    assert backend.model
    assert 1 <= backend.concurrency <= 1024
    assert 1 <= backend.max_batch <= 1024


def test_each_frame_gets_its_prediction_in_order_whatever_the_batch(backend: Backend) -> None:
    given = frames(max(4, backend.max_batch))
    alone = [backend.infer([one])[0] for one in given]
    assert not same(alone[0], alone[1]), "the example must answer differently to different frames"
    for size in range(1, backend.max_batch + 1):
        answers = [a for at in range(0, len(given), size) for a in backend.infer(given[at : at + size])]
        assert len(answers) == len(given)
        assert all(same(one, other) for one, other in zip(alone, answers, strict=True))


def test_a_prediction_keeps_the_promises_of_its_type(backend: Backend) -> None:
    for one in frames(4):
        (answer,) = backend.infer([one])
        assert isinstance(answer, get_args(Prediction))
        assert min(answer.timings) >= 0
        if isinstance(answer, Detections):
            _check_detections(answer, one)


def _check_detections(answer: Detections, of: Frame) -> None:
    width, height = of.picture.size
    count = len(answer)
    assert [str(a.dtype) for a in (answer.xyxy, answer.confidence, answer.class_id)] == ["float32", "float32", "int32"]
    assert (answer.xyxy.shape, answer.confidence.shape) == ((count, 4), (count,))
    left, top, right, bottom = answer.xyxy.T
    assert ((left >= 0) & (left < right) & (right <= width)).all()
    assert ((top >= 0) & (top < bottom) & (bottom <= height)).all()
    assert ((answer.confidence >= 0) & (answer.confidence <= 1)).all()
    assert (np.diff(answer.confidence) <= 0).all(), "most confident first"
    assert all(answer.label(i) for i in range(count))


def test_overlapping_calls_give_what_single_calls_give(backend: Backend) -> None:
    given = frames(24)
    alone = [backend.infer([one])[0] for one in given]
    with ThreadPoolExecutor(backend.concurrency, thread_name_prefix="test") as pool:
        answers = [answer for (answer,) in pool.map(lambda one: backend.infer([one]), given)]
    assert all(same(one, other) for one, other in zip(alone, answers, strict=True))


def test_an_answer_does_not_change_when_the_next_frame_comes(backend: Backend) -> None:
    first, second = frames(2)
    (answer,) = backend.infer([first])
    kept = [np.copy(getattr(answer, f.name)) for f in fields(answer) if isinstance(getattr(answer, f.name), np.ndarray)]
    backend.infer([second])
    now = [getattr(answer, f.name) for f in fields(answer) if isinstance(getattr(answer, f.name), np.ndarray)]
    assert all(np.array_equal(a, b) for a, b in zip(kept, now, strict=True))


def test_frames_are_not_written_into(backend: Backend) -> None:
    one = frame(width=128, height=96, grey=90)
    before = one.picture.yuv420p().y.copy()
    backend.infer([one])
    np.testing.assert_array_equal(one.picture.yuv420p().y, before)
