"""ONNX's protobuf messages without the rest of the package `onnx`, whose import costs twice as much."""

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import onnx

_GENERATED = "onnx_ml_pb2.py"

# TensorProto.DataType of onnx.proto, number by number, in numpy's words where it has some.
_DTYPES = (
    *("undefined", "float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "object", "bool", "float16"),
    *("float64", "uint32", "uint64", "complex64", "complex128", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz"),
    *("float8_e5m2", "float8_e5m2fnuz", "uint4", "int4", "float4_e2m1fn", "float8_e8m0fnu", "uint2", "int2"),
    *("float6_e2m3fn", "float6_e3m2fn"),
)


def new_model() -> "onnx.ModelProto":
    """An empty model, to parse one into; the same class as `onnx.ModelProto`."""
    return cast("onnx.ModelProto", _messages().ModelProto())


def dtype_name(element: int) -> str:
    """Numpy's name of an element type (`float32`), or ONNX's where numpy has none."""
    return _DTYPES[element] if 0 <= element < len(_DTYPES) else f"type {element}"


@functools.cache
def _messages() -> ModuleType:
    """The module of generated classes: protobuf makes each class once, whoever loads its description."""
    if "onnx" in sys.modules:
        return sys.modules["onnx"]
    package = importlib.util.find_spec("onnx")
    if package is not None and package.submodule_search_locations:
        file = Path(package.submodule_search_locations[0]) / _GENERATED
        spec = importlib.util.spec_from_file_location("_penstock_onnx_messages", file)
        if file.is_file() and spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    import onnx

    return onnx
