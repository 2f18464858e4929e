"""The CLIP backend on two tiny encoders whose answers are worked out by hand."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from clip_files import ClipFiles, clip_files
from pydantic import ValidationError

from pipeline.backends.clip import ClipBackend, ClipBackendConfig, ClipImages
from pipeline.contracts.backend import ModelInfo, Servable, TextEncoder
from pipeline.contracts.errors import ConfigError, FatalError, TransientError
from pipeline.contracts.frame import Frame, Size, Wishes
from pipeline.contracts.result import Classification, Embedding
from pipeline.testing import PluginContext, frame

TEXTS = ("dark", "bright", "a photo of dark")


@pytest.fixture
def files(tmp_path: Path) -> ClipFiles:
    return clip_files(tmp_path)


@pytest.fixture
def backend(files: ClipFiles) -> Iterator[ClipBackend]:
    backend = built(files)
    assert isinstance(backend, ClipBackend)
    backend.open()
    yield backend
    backend.close()


def config(files: ClipFiles, **keys: Any) -> ClipBackendConfig:
    return ClipBackendConfig(
        model=files.model, **{"text_model": files.text_model, "tokenizer": files.tokenizer, "device": "cpu", **keys}
    )


def built(files: ClipFiles, **keys: Any) -> ClipBackend | ClipImages:
    return config(files, **keys).build(PluginContext())


def asked(of: Frame, *texts: str) -> Frame:
    return replace(of, wishes=Wishes(texts=texts))


def shares(files: ClipFiles, grey: int, texts: tuple[str, ...], scale: float = 100.0) -> npt.NDArray[np.float64]:
    """The softmax of the cosines, worked out apart from the code."""
    image = files.image_vector((grey, grey, grey)).astype(np.float64)
    cosines = np.array([image @ files.text_vector(text).astype(np.float64) for text in texts])
    powers = np.exp(scale * cosines - (scale * cosines).max())
    found: npt.NDArray[np.float64] = powers / powers.sum()
    return found


def test_a_picture_gets_its_vector_of_length_one(files: ClipFiles, backend: ClipBackend) -> None:
    (answer,) = backend.infer([frame(grey=200)])
    assert isinstance(answer, Embedding)
    np.testing.assert_allclose(answer.vector, files.image_vector((200, 200, 200)), atol=2e-3)
    assert np.linalg.norm(answer.vector) == pytest.approx(1, abs=1e-6)
    assert answer.timings.infer_s > 0


def test_texts_get_vectors_of_the_same_space(files: ClipFiles, backend: ClipBackend) -> None:
    answers = backend.embed_texts(TEXTS)
    for text, answer in zip(TEXTS, answers, strict=True):
        np.testing.assert_allclose(answer.vector, files.text_vector(text), atol=1e-6)
    again = backend.embed_texts([*reversed(TEXTS), "bright"])
    np.testing.assert_array_equal(again[2].vector, answers[0].vector)
    assert len(again) == 4
    assert list(backend.embed_texts([])) == []


def test_a_text_encoder_without_a_mask_is_fed_tokens_alone(tmp_path: Path) -> None:
    files = clip_files(tmp_path, mask=False)
    backend = built(files)
    assert isinstance(backend, ClipBackend)
    backend.open()
    np.testing.assert_allclose(backend.embed_texts(["a photo"])[0].vector, files.text_vector("a photo"), atol=1e-6)
    backend.close()


def test_texts_asked_for_with_the_picture_are_its_classes(files: ClipFiles, backend: ClipBackend) -> None:
    (answer,) = backend.infer([asked(frame(grey=10), *TEXTS)])
    assert isinstance(answer, Classification)
    assert answer.names == TEXTS
    assert answer.scores.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(answer.scores, shares(files, 10, TEXTS), atol=0.03)


def test_every_frame_of_a_batch_has_its_own_texts(files: ClipFiles) -> None:
    backend = built(files, max_batch=3, logit_scale=2.0)
    assert isinstance(backend, ClipBackend)
    backend.open()
    first, second, third = backend.infer([asked(frame(grey=10), "dark", "bright"), frame(), asked(frame(), "bright")])
    assert isinstance(first, Classification)
    np.testing.assert_allclose(first.scores, shares(files, 10, ("dark", "bright"), 2.0), atol=2e-3)
    assert isinstance(second, Embedding)
    assert isinstance(third, Classification)
    assert third.scores.tolist() == [1.0]
    backend.close()


def test_configured_prompts_classify_every_picture_under_their_labels(files: ClipFiles) -> None:
    backend = built(files, prompts=("a photo of dark", "bright"), labels=("night", "day"), logit_scale=3.0)
    assert isinstance(backend, ClipBackend)
    backend.open()
    (answer,) = backend.infer([frame(grey=10)])
    assert isinstance(answer, Classification)
    assert answer.names == ("night", "day")
    np.testing.assert_allclose(answer.scores, shares(files, 10, ("a photo of dark", "bright"), 3.0), atol=2e-3)
    assert backend.info() == ModelInfo("classification", ("night", "day"), Size(32, 32), texts="labels")
    (own,) = backend.infer([asked(frame(grey=10), "photo")])
    assert isinstance(own, Classification)
    assert (own.names, own.scores.tolist()) == (("photo",), [1.0]), "a picture's own texts go first"
    backend.close()


def test_what_it_can_do_is_told_by_its_kind(files: ClipFiles, backend: ClipBackend) -> None:
    assert isinstance(backend, Servable)
    assert isinstance(backend, TextEncoder)
    assert backend.info() == ModelInfo("embedding", (), Size(32, 32))
    assert "4 numbers" in backend.describe()
    images = built(files, text_model=None, tokenizer=None)
    assert isinstance(images, Servable)
    assert not isinstance(images, TextEncoder)
    images.open()
    (answer,) = images.infer([asked(frame(grey=200), "dark")])
    assert isinstance(answer, Embedding), "without texts there is nothing to compare with"
    images.close()


def test_a_long_text_is_cut_to_what_the_encoder_takes(backend: ClipBackend) -> None:
    long, cut = backend.embed_texts(["a photo of dark bright bright bright bright", "a photo of dark bright"])
    np.testing.assert_allclose(long.vector, cut.vector, atol=1e-6)


@pytest.mark.parametrize("texts", [["dark"] * 1001, ["x" * 10_001]])
def test_too_much_text_is_refused(backend: ClipBackend, texts: list[str]) -> None:
    with pytest.raises(TransientError, match="more than 1000 texts"):
        backend.embed_texts(texts)


def test_a_picture_without_a_vector_is_an_error_and_not_a_guess(files: ClipFiles, backend: ClipBackend) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(files.model)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((3, 4), np.nan, np.float32), "weights"))
    onnx.save(model, files.model)
    broken = built(files)
    broken.open()
    with pytest.raises(TransientError, match="frame 3 of test: the model gave no vector"):
        broken.infer([frame(3)])
    broken.close()


def test_encoders_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    backend = built(clip_files(tmp_path, numbers=4, text_numbers=5))
    with pytest.raises(ConfigError, match=r"vectors of 5 numbers, the image encoder of 4.*belong together") as caught:
        backend.open()
    assert caught.value.key == "text_model"
    backend.close()


@pytest.mark.parametrize(
    ("keys", "key", "what"),
    [
        ({"text_model": "image.onnx"}, "text_model", "takes tokens"),
        ({"text_model": "gone.onnx"}, "text_model", "no such model file"),
        ({"tokenizer": "image.onnx"}, "tokenizer", "is no tokenizer.json"),
        ({"tokenizer": "gone.json"}, "tokenizer", "is no tokenizer.json"),
        ({"model": "text.onnx"}, "model", "one input is expected"),
        ({"preprocess": {}, "input_size": 64}, "input_size", "fixed at 32"),
    ],
)
def test_check_finds_what_does_not_fit(
    files: ClipFiles, tmp_path: Path, keys: dict[str, Any], key: str, what: str
) -> None:
    places = {name: tmp_path / value if isinstance(value, str) else value for name, value in keys.items()}
    table = {"model": files.model, "text_model": files.text_model, "tokenizer": files.tokenizer} | places
    config(files).check()
    with pytest.raises(ConfigError, match=what) as caught:
        ClipBackendConfig.model_validate(table).check()
    assert caught.value.key == key
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "keys",
    [{"tokenizer": None}, {"prompts": ("a",), "labels": ("b", "c")}, {"labels": ("b",)}, {"prompts": ("",)}],
)
def test_keys_that_make_no_sense_together_are_refused(files: ClipFiles, keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(files, **keys)


def test_without_the_package_the_extra_is_named(files: ClipFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"penstock\[clip\]") as caught:
        config(files).check()
    assert caught.value.key == "tokenizer"


def test_a_backend_that_is_not_open_says_so(files: ClipFiles) -> None:
    backend = built(files)
    assert isinstance(backend, ClipBackend)
    with pytest.raises(FatalError, match="not open"):
        backend.embed_texts(["dark"])
    with pytest.raises(FatalError, match="not open"):
        backend.infer([frame()])
