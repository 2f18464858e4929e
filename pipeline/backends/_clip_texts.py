"""The text side of CLIP: texts to tokens to vectors of length 1."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.backends._onnx.session import Runtime, Session, raise_run_error
from pipeline.contracts.backend import MAX_TEXT_CHARS, MAX_TEXTS
from pipeline.contracts.errors import ConfigError, TransientError
from pipeline.models.choice import fixed, shown
from pipeline.models.onnx_file import OnnxFile, TensorInfo, read_onnx

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONTEXT_TOKENS = 77
"""So many tokens CLIP's text encoders are trained with."""

_RUN_TEXTS = 64  # in one run
_REMEMBERED = 1024
_MAX_TOKENIZER_BYTES = 64 << 20
_TOKENS = ("input_ids", "input", "text", "tokens")

Vectors = npt.NDArray[np.float32]


class TextModel(NamedTuple):
    """The outside of a text encoder.

    Attributes:
        file: the graph's outside.
        tokens: the input that takes the tokens, int (B, T).
        mask: the input that says which tokens count, int (B, T); None where there is none.
        output: (B, D), one vector for each text.
        length: how many tokens a text has, padding included.
    """

    file: OnnxFile
    tokens: TensorInfo
    mask: TensorInfo | None
    output: TensorInfo
    length: int


def describe_texts(path: Path) -> TextModel:
    """What is known of a text encoder without running it.

    Raises:
        ConfigError: with key `text_model`.
    """
    try:
        file = read_onnx(path)
    except ConfigError as error:
        raise ConfigError(str(error), key="text_model") from error
    whole = [i for i in file.inputs if i.dtype in {"int64", "int32"} and i.shape is not None and len(i.shape) == 2]
    named = {i.name.casefold(): i for i in whole}
    mask = named.get("attention_mask")
    tokens = next((named[name] for name in _TOKENS if name in named), whole[0] if len(whole) == 1 else None)
    if tokens is None or len(file.inputs) != (1 if mask is None else 2):
        raise ConfigError(
            f"{path}: a text encoder takes tokens, int [B, T], and may be an attention_mask; found "
            f"{shown(file.inputs)}",
            key="text_model",
        )
    rows = [o for o in file.outputs if o.shape is None or len(o.shape) == 2]
    vectors = [o for o in rows if "embed" in o.name.casefold()] or rows
    if len(vectors) != 1:
        raise ConfigError(
            f"{path}: a text encoder gives one output [B, numbers]; found {shown(file.outputs)}", key="text_model"
        )
    length = fixed((tokens.shape or (0, 0))[1]) or CONTEXT_TOKENS
    return TextModel(file, tokens, mask, vectors[0], length)


def read_tokenizer(path: Path, length: int) -> "Tokenizer":
    """The tokenizer, set to give exactly `length` tokens.

    Raises:
        ConfigError: with key `tokenizer`: it is none, or the package that reads it is missing.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigError(
            "texts need the package tokenizers; install it with the extra: penstock[clip]", key="tokenizer"
        ) from error
    try:
        too_large = not path.is_file() or path.stat().st_size > _MAX_TOKENIZER_BYTES
        tokenizer = Tokenizer.from_str("" if too_large else path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: the tokenizer cannot be read: {error.strerror}", key="tokenizer") from error
    except Exception as error:  # tokenizers raises Exception itself for whatever is wrong with the file
        raise ConfigError(
            f"{path}: is no tokenizer.json that the package tokenizers reads: {' '.join(str(error).split())[:200]}",
            key="tokenizer",
        ) from error
    padding = tokenizer.padding or {}
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(
        length=length, pad_id=int(padding.get("pad_id", 0)), pad_token=str(padding.get("pad_token", "!"))
    )
    return tokenizer


class TextSide:
    """A loaded text encoder. Made by the backend's `open`; used by several threads at once.

    Args:
        session: the loaded model.
        model: what is known of it.
        tokenizer: gives `model.length` tokens a text.
        runtime: whose errors the session raises.
    """

    def __init__(self, *, session: Session, model: TextModel, tokenizer: "Tokenizer", runtime: Runtime) -> None:
        self._session = session
        self._model = model
        self._tokenizer = tokenizer
        self._errors = runtime.errors
        self._known: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = threading.Lock()

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """float32 (N, D), each of length 1. What was asked lately is not worked out again.

        Raises:
            TransientError: too many or too long texts, or the run failed.
            FatalError: no run will ever succeed.
        """
        if len(texts) > MAX_TEXTS or any(len(text) > MAX_TEXT_CHARS for text in texts):
            raise TransientError(f"more than {MAX_TEXTS} texts, or one of more than {MAX_TEXT_CHARS} characters")
        with self._lock:
            known = {text: self._known[text] for text in texts if text in self._known}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        for first in range(0, len(new), _RUN_TEXTS):
            some = new[first : first + _RUN_TEXTS]
            known.update(zip(some, self._run(some), strict=True))
        with self._lock:
            for text in dict.fromkeys(texts):
                self._known[text] = known[text]
                self._known.move_to_end(text)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return np.stack([known[text] for text in texts]) if texts else np.empty((0, 0), np.float32)

    def _run(self, texts: list[str]) -> Vectors:
        model = self._model
        # One by one: `encode_batch` would start threads of its own, and complains when the process forks after that.
        encoded = [self._tokenizer.encode(text) for text in texts]
        rows = fixed((model.tokens.shape or (0,))[0])
        if rows is None:
            return self._feed(encoded)
        # A model of a fixed batch is fed so many at once; the last text fills the rest.
        found = []
        for first in range(0, len(encoded), rows):
            some = encoded[first : first + rows]
            found.append(self._feed(some + some[-1:] * (rows - len(some)))[: len(some)])
        return np.concatenate(found)

    def _feed(self, encoded: list[Any]) -> Vectors:
        model = self._model
        feeds = {model.tokens.name: np.array([one.ids for one in encoded], model.tokens.dtype)}
        if model.mask is not None:
            feeds[model.mask.name] = np.array([one.attention_mask for one in encoded], model.mask.dtype)
        try:
            (output,) = self._session.run([model.output.name], feeds)
        except self._errors as error:
            raise_run_error(error)
        if output.ndim != 2 or len(output) != len(encoded):
            raise TransientError(f"the text encoder answers {list(output.shape)} to {len(encoded)} texts")
        vectors = output.astype(np.float32)
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        if not ((lengths > 0) & np.isfinite(lengths)).all():
            raise TransientError("the text encoder gave no vector, but zeros or what is no number")
        unit: Vectors = (vectors / lengths).astype(np.float32)
        return unit
