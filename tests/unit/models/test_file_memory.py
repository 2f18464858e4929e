"""What was found out about a file counts for as long as the file is the same."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from model_files import detector

from pipeline.contracts.errors import ConfigError
from pipeline.models import onnx_file
from pipeline.models.file_memory import FileMemory
from pipeline.models.onnx_file import fingerprint, read_onnx


def remember(memory: FileMemory[str], path: Path, finding: str) -> None:
    with memory.remembering(path) as keep:
        keep(finding)


def test_a_finding_is_known_until_the_file_changes(tmp_path: Path) -> None:
    memory: FileMemory[str] = FileMemory(4)
    path = tmp_path / "a"
    path.write_text("one")
    assert memory.get(path) is None
    remember(memory, path, "first")
    assert memory.get(path) == "first"
    path.write_text("another")
    assert memory.get(path) is None
    remember(memory, path, "second")
    (tmp_path / "b").write_text("another")
    (tmp_path / "b").replace(path)
    assert memory.get(path) is None, "another file of the same size in its place"
    path.unlink()
    assert memory.get(path) is None


def test_a_file_that_changes_while_it_is_looked_at_is_not_remembered(tmp_path: Path) -> None:
    memory: FileMemory[str] = FileMemory(4)
    path = tmp_path / "a"
    path.write_text("one")
    with memory.remembering(path) as keep:
        path.write_text("another")
        keep("of the first")
    assert memory.get(path) is None
    remember(memory, tmp_path / "missing", "nothing")
    assert memory.get(tmp_path / "missing") is None


def test_only_the_last_few_files_are_remembered(tmp_path: Path) -> None:
    memory: FileMemory[str] = FileMemory(2)
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name)
        remember(memory, path, path.name)
        memory.get(paths[0])
    assert [memory.get(path) for path in paths] == ["a", None, "c"]


def test_a_model_is_read_once_and_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = detector(tmp_path / "m.onnx", {"out": np.zeros((6, 84), np.float32)})
    read: list[Path] = []
    parse = onnx_file._parse

    def counted(path: Path, data: bytes) -> "onnx.ModelProto":
        read.append(path)
        return parse(path, data)

    monkeypatch.setattr(onnx_file, "_parse", counted)
    first = read_onnx(path)
    assert (read_onnx(path), len(read)) == (first, 1)
    with pytest.raises(ConfigError, match="more than the 10"):
        read_onnx(path, max_bytes=10)
    was = fingerprint(first)
    assert fingerprint(first) == was
    detector(path, {"other": np.zeros((7, 84), np.float32)})
    second = read_onnx(path)
    assert (second.outputs[0].name, len(read)) == ("other", 2)
    assert fingerprint(second) != was


def test_a_model_with_weights_in_other_files_is_looked_at_each_time(tmp_path: Path) -> None:
    proto = onnx.load(detector(tmp_path / "m.onnx", {"out": np.ones((6, 84), np.float32)}))
    onnx.save(proto, tmp_path / "n.onnx", save_as_external_data=True, location="weights.bin", size_threshold=100)
    file = read_onnx(tmp_path / "n.onnx")
    was = fingerprint(file)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes() + b"more")
    assert fingerprint(file) != was
    weights.rename(tmp_path / "elsewhere.bin")
    weights.symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(ConfigError, match="symbolic link"):
        read_onnx(tmp_path / "n.onnx")


def test_a_model_is_read_without_the_rest_of_the_package_onnx_which_still_works_afterwards(tmp_path: Path) -> None:
    path = detector(tmp_path / "m.onnx", {"out": np.zeros((6, 84), np.float32)})
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pipeline.models.onnx_file import read_onnx\n"
        "from pipeline.models.onnx_messages import new_model\n"
        "print(read_onnx(Path(sys.argv[1])).outputs[0], [m for m in sys.modules if m.split('.')[0] == 'onnx'])\n"
        "import onnx\n"
        "onnx.checker.check_model(onnx.load(sys.argv[1]))\n"
        "print(type(new_model()) is onnx.ModelProto)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
    )
    assert done.stdout.splitlines() == ["out float32 [1, 6, 84] []", "True"]


def test_element_types_have_the_names_that_onnx_gives_them() -> None:
    from onnx import TensorProto, helper

    from pipeline.models.onnx_messages import dtype_name

    for number in TensorProto.DataType.values():
        if number != TensorProto.UNDEFINED:
            assert dtype_name(number) == str(helper.tensor_dtype_to_np_dtype(number))
    assert dtype_name(TensorProto.UNDEFINED) == "undefined"
    assert (dtype_name(99), dtype_name(-1)) == ("type 99", "type -1")
