"""What stays float, what does not, and which models are refused."""

import collections
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conv_detector import SIDE, conv_detector
from makers import brightness_model

from pipeline.contracts.errors import ConfigError
from pipeline.quantize import graph
from pipeline.quantize.calibration import Calibration

METADATA = {"names": "{0: 'thing', 1: 'other'}"}


def feeds(seed: int = 0) -> dict[str, np.ndarray]:
    return {"images": np.random.default_rng(seed).random((1, 3, SIDE, SIDE), np.float32)}


def calibrated(model: onnx.ModelProto, pictures: int = 4) -> Calibration:
    watch = Calibration(model, graph.watchable(model), feeds())
    for seed in range(pictures):
        watch.look(feeds(seed))
    return watch


def quantised(tmp_path: Path, kept: graph.Kept, name: str = "m.onnx") -> Path:
    model = graph.prepare(conv_detector(tmp_path / name), tmp_path)
    target = tmp_path / "int8.onnx"
    graph.quantise(model, calibrated(model).ranges("minmax"), kept, folder=tmp_path, target=target, metadata=METADATA)
    return target


def run(path: Path, *, optimised: bool = True) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, feeds(99))
    return np.asarray(output)


def test_the_first_and_last_convolutions_keep_their_float_weights(tmp_path: Path) -> None:
    model = onnx.load(quantised(tmp_path, graph.Kept(2, 1)))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    is_float = [node.input[1] in weights for node in convolutions]
    assert is_float == [True, True, False, False, False, False, False, True]
    for node, own in zip(convolutions, is_float, strict=True):
        assert own or makers[node.input[1]].op_type == "DequantizeLinear"


def test_weights_have_a_scale_for_each_channel(tmp_path: Path) -> None:
    model = onnx.load(quantised(tmp_path, graph.Kept(1, 1)))
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    scales = [
        sizes[node.input[1]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and kinds.get(node.input[0]) == onnx.TensorProto.INT8
    ]
    assert scales == [16] * 6


def test_coordinates_and_scores_are_not_put_on_one_scale(tmp_path: Path) -> None:
    model = onnx.load(quantised(tmp_path, graph.Kept(2, 1)))
    makers = {name: node for node in model.graph.node for name in node.output}
    last = makers["output0"]
    assert last.op_type == "Concat"
    assert makers[last.input[1]].op_type == "Sigmoid"


@pytest.mark.parametrize("kept", [graph.Kept(2, 1), graph.Kept(1, 2), graph.Kept(4, 2), graph.Kept(20, 3)])
def test_onnxruntime_quantises_nothing_more_by_itself(tmp_path: Path, kept: graph.Kept) -> None:
    path = quantised(tmp_path, kept)
    # Of a float convolution between 8-bit tensors it would make a coarse one, and the answers would differ.
    assert np.abs(run(path) - run(path, optimised=False))[:, 4:].max() < 0.05


def test_all_that_leads_to_a_float_convolution_is_float_and_so_is_its_activation() -> None:
    def node(kind: str, inputs: str, output: str) -> onnx.NodeProto:
        return onnx.helper.make_node(kind, inputs.split(), [output], name=f"{kind} {output}")

    nodes = [
        *(node("Slice", "images", "s"), node("Conv", "s w", "c0"), node("Sigmoid", "c0", "g0")),
        *(node("Mul", "c0 g0", "m0"), node("Split", "m0", "h"), node("Concat", "h m0", "b0")),
        *(node("Conv", "b0 w", "c1"), node("Sigmoid", "c1", "g1"), node("Mul", "c1 g1", "m1")),
        *(node("Conv", "m1 w", "c2"), node("Relu", "c2", "r2"), node("Conv", "r2 w", "c3")),
        node("Concat", "c3 c3", "output0"),
    ]
    value = onnx.helper.make_tensor_value_info("output0", onnx.TensorProto.FLOAT, None)
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "m", [], [value]))
    assert graph.kept_nodes(model, graph.Kept(2, 1)) == {
        *("Slice s", "Conv c0", "Sigmoid g0", "Mul m0", "Split h", "Concat b0", "Conv c1", "Sigmoid g1", "Mul m1"),
        *("Relu r2", "Conv c3", "Concat output0"),
    }


def test_it_computes_about_the_same(tmp_path: Path) -> None:
    path = quantised(tmp_path, graph.Kept(2, 1))
    found, wanted = run(path), run(tmp_path / "m.onnx")
    assert np.corrcoef(found[:, 4:].ravel(), wanted[:, 4:].ravel())[0, 1] > 0.95
    assert np.array_equal(found[:, :4], wanted[:, :4])


def test_metadata_is_what_was_asked_for(tmp_path: Path) -> None:
    model = onnx.load(quantised(tmp_path, graph.Kept(2, 1)))
    assert {each.key: each.value for each in model.metadata_props} == METADATA


def test_an_old_operator_set_is_brought_up(tmp_path: Path) -> None:
    model = graph.prepare(conv_detector(tmp_path / "old.onnx", opset=11), tmp_path)
    assert model.opset_import[0].version >= graph.MIN_OPSET


def test_the_inside_is_watched_in_groups_when_it_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = graph.prepare(conv_detector(tmp_path / "m.onnx"), tmp_path)
    whole = calibrated(model).ranges("percentile")
    monkeypatch.setattr("pipeline.quantize.calibration.GROUP_BYTES", 100_000)
    watch = Calibration(model, graph.watchable(model), feeds())
    assert len(watch._sessions) > 3
    for seed in range(4):
        watch.look(feeds(seed))
    assert watch.ranges("percentile") == whole


def test_ranges_are_those_of_the_tensors(tmp_path: Path) -> None:
    model = graph.prepare(conv_detector(tmp_path / "m.onnx"), tmp_path)
    found = calibrated(model).ranges("minmax")
    sigmoids = [node.output[0] for node in model.graph.node if node.op_type == "Sigmoid"]
    assert all(found[name].low == 0 and 0.4 < found[name].high <= 1 for name in sigmoids)
    assert found["images"].low == 0.0
    assert found["images"].high == pytest.approx(1.0, abs=1e-3)
    assert collections.Counter(node.op_type for node in model.graph.node)["Conv"] == 8


def test_a_model_that_cannot_be_quantised_is_refused_in_one_line(tmp_path: Path) -> None:
    cases = {
        "no convolutions": brightness_model(tmp_path / "b.onnx"),
        "float16": conv_detector(tmp_path / "h.onnx", half=True),
        "quantised already": quantised(tmp_path, graph.Kept(2, 1)),
    }
    for words, path in cases.items():
        with pytest.raises(ConfigError, match=words) as found:
            graph.prepare(path, tmp_path)
        assert found.value.key == "model"
        assert "\n" not in str(found.value)
