"""Makes a tiny CLIP for tests: two ONNX files and a tokenizer.json whose answers can be worked out by hand."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Floats = npt.NDArray[np.float32]

WORDS = ("<pad>", "<start>", "<end>", "<unk>", "dark", "bright", "a", "photo", "of")
SIDE = 32
TOKENS = 7
MEAN = np.array((0.48145466, 0.4578275, 0.40821073))
STD = np.array((0.26862954, 0.26130258, 0.27577711))


class ClipFiles(NamedTuple):
    """Where the files are, and what is in them.

    Attributes:
        model: image encoder: mean of each channel (B, 3), times `image_weights`.
        text_model: text encoder: sum of `table` over the tokens that the mask counts.
        tokenizer: words to numbers, `<start>` before and `<end>` behind.
        image_weights: float32 (3, D).
        table: float32 (words, D).
    """

    model: Path
    text_model: Path
    tokenizer: Path
    image_weights: Floats
    table: Floats

    def image_vector(self, rgb: tuple[float, float, float]) -> Floats:
        """What a picture of one colour, 0..255, gives, of length 1."""
        vector = ((np.array(rgb) / 255 - MEAN) / STD) @ self.image_weights
        unit: Floats = (vector / np.linalg.norm(vector)).astype(np.float32)
        return unit

    def text_vector(self, text: str) -> Floats:
        """What a text of known words gives, of length 1."""
        ids = [1, *(WORDS.index(word) for word in text.split()), 2]
        vector = self.table[ids].sum(axis=0)
        unit: Floats = (vector / np.linalg.norm(vector)).astype(np.float32)
        return unit


def clip_files(folder: Path, *, numbers: int = 4, text_numbers: int | None = None, mask: bool = True) -> ClipFiles:
    """Write the three files.

    Args:
        folder: where.
        numbers: how many numbers a vector has.
        text_numbers: of a text's vector, where it shall not fit.
        mask: whether the text encoder takes an attention mask; without, padding counts as a word of zeros.
    """
    random = np.random.default_rng(4)
    weights = random.normal(size=(3, numbers)).astype(np.float32)
    table = random.normal(size=(len(WORDS), text_numbers or numbers)).astype(np.float32)
    if not mask:
        table[0] = 0
    return ClipFiles(
        _image_encoder(folder / "image.onnx", weights),
        _text_encoder(folder / "text.onnx", table, mask=mask),
        _tokenizer(folder / "tokenizer.json"),
        weights,
        table,
    )


def _save(path: Path, graph: onnx.GraphProto) -> Path:
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def _image_encoder(path: Path, weights: Floats) -> Path:
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["image_embeds"]),
    ]
    image = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    answer = helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["batch", weights.shape[1]])
    stored = [numpy_helper.from_array(weights, "weights")]
    return _save(path, helper.make_graph(nodes, "image", [image], [answer], stored))


def _text_encoder(path: Path, table: Floats, *, mask: bool) -> Path:
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["words"])]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", TOKENS])]
    stored = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axis")]
    counted = "words"
    if mask:
        inputs.append(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", TOKENS]))
        stored.append(numpy_helper.from_array(np.array([2]), "last"))
        nodes += [
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
            helper.make_node("Mul", ["words", "column"], ["counted"]),
        ]
        counted = "counted"
    nodes.append(helper.make_node("ReduceSum", [counted, "axis"], ["text_embeds"], keepdims=0))
    answer = helper.make_tensor_value_info("text_embeds", TensorProto.FLOAT, ["batch", table.shape[1]])
    return _save(path, helper.make_graph(nodes, "text", inputs, [answer], stored))


def _tokenizer(path: Path) -> Path:
    start, end = ({"SpecialToken": {"id": WORDS[i], "type_id": 0}} for i in (1, 2))
    text = {"Sequence": {"id": "A", "type_id": 0}}
    special = [
        {"id": i, "content": WORDS[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for i in range(3)
    ]  # fmt: skip
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, text, end],
            "pair": [start, text, end],
            "special_tokens": {WORDS[i]: {"id": WORDS[i], "ids": [i], "tokens": [WORDS[i]]} for i in (1, 2)},
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(WORDS)}, "unk_token": "<unk>"},
    }
    path.write_text(json.dumps(document))
    return path
