"""What can be known of an ONNX file before a runtime touches it, and every reason to refuse one."""

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.models.file_memory import FileMemory
from pipeline.models.onnx_ends import OutputEnd, ends_of
from pipeline.models.onnx_external import external_file, is_external, refused
from pipeline.models.onnx_messages import dtype_name, new_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

MAX_BYTES = 2**31 - 1
"""A protobuf message cannot be larger than 2 GiB; larger models keep their weights in external files."""

_TEXT_SAMPLE_BYTES = 512
_MAX_METADATA_CHARS = 1_000_000
_MAGIC = (
    (0, b"PK\x03\x04", "a zip archive, perhaps PyTorch weights (.pt)"),
    (0, b"\x80\x02", "a Python pickle, perhaps PyTorch weights (.pt)"),
    (0, b"\x80\x03", "a Python pickle"),
    (0, b"\x80\x04", "a Python pickle"),
    (0, b"\x80\x05", "a Python pickle"),
    (0, b"\x89HDF", "an HDF5 file, perhaps Keras weights"),
    (0, b"GGUF", "a GGUF file"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "a model in onnxruntime's own format (.ort)"),
    (4, b"ftrt", "a TensorRT engine"),
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output of the graph.

    Attributes:
        name: as the graph calls it.
        dtype: numpy's name of the element type (`float32`), or ONNX's where numpy has none.
        shape: one entry per axis: an int where fixed, else the symbol's name (may be empty); None: rank unknown.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None

    def __str__(self) -> str:
        dims = "?" if self.shape is None else ", ".join(_shown(str(d)) or "?" for d in self.shape)
        return f"{self.label} {self.dtype} [{dims}]"

    @property
    def label(self) -> str:
        """The name as it may be shown: anybody may have written it."""
        return _shown(self.name)


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """The outside of a model: all that is known without running it.

    Attributes:
        path: the file.
        inputs: what must be fed, without initializers.
        outputs: what comes out.
        metadata: the free-form key and value pairs of the file.
        operators: the types of all nodes, in subgraphs and functions too.
        opset: version of the standard operator set.
        producer: the tool that wrote the file, with its version.
        size_bytes: size of the file itself.
        external_files: files beside it that hold weights, all checked to lie in its folder.
        ends: for each output, what is known of how it is made.
    """

    path: Path
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    operators: frozenset[str] = frozenset()
    opset: int = 0
    producer: str = ""
    size_bytes: int = 0
    external_files: tuple[Path, ...] = ()
    ends: dict[str, OutputEnd] = field(default_factory=dict)


# Checking a config and opening its backends ask the same several times.
_known: FileMemory[OnnxFile] = FileMemory(16)
_fingerprints: FileMemory[str] = FileMemory(16)


def read_onnx(path: Path, *, max_bytes: int = MAX_BYTES) -> OnnxFile:
    """Read the file, refuse what is not a whole and harmless ONNX model. Imports no runtime.

    A file that was read before and has not changed since is not read again; one with external data always is, for
    what its other files are is looked at each time.

    Args:
        path: the model; may itself be a link, its external data may not.
        max_bytes: the largest file that is read at all.

    Raises:
        ConfigError: with key `model` and one line on what was found instead.
    """
    known = _known.get(path)
    if known is not None and known.size_bytes <= max_bytes:
        return known
    with _known.remembering(path) as remember:
        file = _read_whole(path, max_bytes)
        if not file.external_files:
            remember(file)
    return file


def fingerprint(file: OnnxFile) -> str:
    """What tells this model from all others, for caches: SHA-256 of the file, and of what its external files look like.

    Raises:
        ConfigError: with key `model`: the file cannot be read any more.
    """
    known = _fingerprints.get(file.path)
    if known is None:
        with _fingerprints.remembering(file.path) as remember:
            try:
                with file.path.open("rb") as stream:
                    known = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                raise refused(file.path, f"the model cannot be read: {error.strerror}") from error
            remember(known)
    if not file.external_files:
        return known
    seen = ((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in file.external_files)
    return hashlib.sha256(f"{known} {list(seen)}".encode()).hexdigest()


def _read_whole(path: Path, max_bytes: int) -> OnnxFile:
    data = _read(path, max_bytes)
    _refuse_other_formats(path, data)
    model = _parse(path, data)
    size_bytes = len(data)
    del data
    graphs, nodes, tensors = _walk(model)
    _refuse_incomplete(path, model, nodes)
    external = {external_file(path, tensor) for tensor in tensors if is_external(tensor)}
    weights = {t.name for g in graphs[:1] for t in g.initializer}
    return OnnxFile(
        path=path,
        inputs=tuple(_info(v) for v in model.graph.input if v.name not in weights),
        outputs=tuple(_info(v) for v in model.graph.output),
        metadata={p.key: p.value[:_MAX_METADATA_CHARS] for p in model.metadata_props},
        operators=frozenset(n.op_type for n in nodes),
        opset=next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 0),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        size_bytes=size_bytes,
        external_files=tuple(sorted(external)),
        ends=ends_of(model.graph),
    )


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:100])


def _read(path: Path, max_bytes: int) -> bytes:
    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # opening a pipe would wait for its other end for ever

    try:
        with open(path, "rb", opener=opener) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise refused(path, "is not a regular file")
            if found.st_size == 0:
                raise refused(path, "the model file is empty")
            if found.st_size > max_bytes:
                raise refused(path, f"is {found.st_size} bytes, more than the {max_bytes} that are read of a model")
            return file.read(max_bytes)
    except FileNotFoundError as error:
        raise refused(path, "no such model file") from error
    except IsADirectoryError as error:
        raise refused(path, "is a folder; give the .onnx file itself") from error
    except OSError as error:
        raise refused(path, f"the model cannot be read: {error.strerror}") from error


def _refuse_other_formats(path: Path, data: bytes) -> None:
    for offset, magic, what in _MAGIC:
        if data[offset : offset + len(magic)] == magic:
            raise refused(path, f"is not ONNX but {what}; export the model to ONNX")
    sample = data[:_TEXT_SAMPLE_BYTES]
    if sample.startswith(b"version https://git-lfs"):
        raise refused(path, "is a Git LFS pointer, not the model; run `git lfs pull`")
    # The first byte of every real model is 0x08, the tag of ir_version; text has no such control characters.
    if all(b >= 32 or b in b"\t\n\r\f\v" for b in sample):
        raise refused(path, "is not ONNX but text")


def _parse(path: Path, data: bytes) -> "onnx.ModelProto":
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = new_model()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise refused(path, "is not an ONNX model, or a truncated one (the file does not parse)") from error
    return model


def _refuse_incomplete(path: Path, model: "onnx.ModelProto", nodes: "list[onnx.NodeProto]") -> None:
    """Protobuf reads a file that was cut between two fields without complaint: what must be there is looked for."""
    if model.ir_version <= 0 or not model.HasField("graph"):
        raise refused(path, "is not an ONNX model, or a truncated one (no graph in it)")
    if not model.graph.output or not model.graph.input:
        raise refused(path, "is a truncated ONNX model, or an empty one (the graph has no inputs or no outputs)")
    known = {o.domain for o in model.opset_import}
    known |= {"", "ai.onnx"} if known & {"", "ai.onnx"} else set()
    missing = {n.domain for n in nodes} - known
    if not known or missing:
        raise refused(path, "is a truncated ONNX model (operator set versions are missing)")
    if any(n.op_type == "EPContext" for n in nodes):
        raise refused(path, "was compiled for one device (it holds an EPContext node); give the portable ONNX model")


def _walk(
    model: "onnx.ModelProto",
) -> "tuple[list[onnx.GraphProto], list[onnx.NodeProto], list[onnx.TensorProto]]":
    """All graphs (the main one first), nodes and stored tensors, wherever the format lets them hide."""
    graphs: list[onnx.GraphProto] = [model.graph]
    graphs += [g for t in model.training_info for g in (t.initialization, t.algorithm)]
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    attributes = [a for f in model.functions for a in f.attribute_proto]
    pending = [n for f in model.functions for n in f.node]
    done = 0
    while done < len(graphs) or pending or attributes:
        if done < len(graphs):
            graph = graphs[done]
            done += 1
            pending += graph.node
            tensors += graph.initializer
            tensors += [t for s in graph.sparse_initializer for t in (s.values, s.indices)]
        nodes += pending
        attributes += [a for n in pending for a in n.attribute]
        pending = []
        graphs += [g for a in attributes for g in _graphs(a)]
        tensors += [t for a in attributes for t in _tensors(a)]
        attributes = []
    return graphs, nodes, tensors


def _graphs(attribute: "onnx.AttributeProto") -> "Iterator[onnx.GraphProto]":
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _tensors(attribute: "onnx.AttributeProto") -> "Iterator[onnx.TensorProto]":
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for s in (*sparse, *attribute.sparse_tensors):
        yield s.values
        yield s.indices


def _info(value: "onnx.ValueInfoProto") -> TensorInfo:
    tensor = value.type.tensor_type
    dtype = dtype_name(tensor.elem_type)
    if not tensor.HasField("shape"):
        return TensorInfo(value.name, dtype, None)
    dims = (d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim)
    return TensorInfo(value.name, dtype, tuple(d if isinstance(d, str) or d >= 0 else "" for d in dims))
