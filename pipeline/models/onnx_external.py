"""Where the weights of an ONNX model lie outside of its file, and every reason not to follow it there."""

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.contracts.errors import ConfigError

if TYPE_CHECKING:
    import onnx

_MEMORY_TAG = "*/_ORT"  # onnxruntime reads such a "location" as an address in its own memory


def refused(path: Path, why: str) -> ConfigError:
    """The model at `path` is not taken."""
    return ConfigError(f"{path}: {why}", key="model")


def is_external(tensor: "onnx.TensorProto") -> bool:
    """Whether the tensor's data lies, or claims to lie, in another file."""
    return tensor.data_location == tensor.EXTERNAL or len(tensor.external_data) > 0


def external_file(model_path: Path, tensor: "onnx.TensorProto") -> Path:
    """The file in which a tensor's data lies, once it is sure that it is the model's own.

    A hard link is refused as well: onnxruntime would read any file of the machine through one.
    """
    keys = [entry.key for entry in tensor.external_data]
    values = {entry.key: entry.value for entry in tensor.external_data}
    location = values.get("location", "")
    shown = repr(location[:200])
    if not location or len(set(keys)) != len(keys):
        raise refused(model_path, "external data without exactly one location")
    parts = location.replace("\\", "/").split("/")
    if location.startswith(_MEMORY_TAG) or "\0" in location:
        raise refused(model_path, f"external data at {shown} is not a file")
    if location.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts:
        raise refused(model_path, f"external data at {shown} lies outside the model's folder")
    path = model_path.parent
    try:
        for part in parts:
            path = path / part
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode):
                raise refused(model_path, f"external data at {shown} is a symbolic link; put the file itself there")
    except OSError as error:
        raise refused(model_path, f"external data at {shown}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise refused(model_path, f"external data at {shown} is not a regular file")
    if found.st_nlink > 1:
        raise refused(model_path, f"external data at {shown} is a hard link; put a copy of the file there")
    _refuse_outside_file(model_path, shown, values, found.st_size)
    return path


def _refuse_outside_file(model_path: Path, shown: str, values: dict[str, str], size_bytes: int) -> None:
    numbers = [values.get(key, "0") for key in ("offset", "length")]
    if not all(n.isascii() and n.isdigit() and len(n) < 20 for n in numbers):
        raise refused(model_path, f"external data at {shown} has an offset or length that is no number")
    if sum(int(n) for n in numbers) > size_bytes:
        raise refused(model_path, f"external data at {shown} is truncated: {size_bytes} bytes")
