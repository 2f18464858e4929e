"""Device choice, thread counts and wheel conflicts: pure decisions."""

from pathlib import Path

import pytest

from pipeline.backends._onnx.device import (
    CPU_CHOICE,
    choose_device,
    cuda_options,
    fallback,
    further_gpus,
    usable_cores,
    wheel_conflict,
)
from pipeline.contracts.errors import ConfigError

BOTH = ("CUDAExecutionProvider", "CPUExecutionProvider")


@pytest.mark.parametrize(
    ("device", "devices", "expected"),
    [
        ("cpu", 2, "cpu"),
        ("auto", 2, "cuda:0"),
        ("auto", 0, "cpu"),
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_the_device_is_the_one_asked_for(device: str, devices: int, expected: str) -> None:
    choice = choose_device(device, "fail", None, BOTH, devices)
    assert (choice.device, choice.fell_back) == (expected, None)
    assert choice.must_have == choice.providers[0][0]
    assert choice.providers[-1][0] == "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("device", "available", "devices", "reason"),
    [
        ("cuda", BOTH, 0, "no NVIDIA driver or no GPU"),
        ("cuda:2", BOTH, 2, "there are 2 GPUs, the first is cuda:0"),
        ("cuda", BOTH[1:], 1, "install onnxruntime-gpu"),
    ],
)
def test_cuda_that_cannot_be_had_is_an_error_or_a_warning(
    device: str, available: tuple[str, ...], devices: int, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        choose_device(device, "fail", None, available, devices)
    assert caught.value.key == "device"
    choice = choose_device(device, "warn", None, available, devices)
    assert choice.device == "cpu"
    assert choice.fell_back is not None
    assert choice.fell_back[:2] == (device if ":" in device else "cuda:0", "cpu")
    assert reason in choice.fell_back.reason


def test_providers_of_the_config_are_taken_as_they_are_or_refused() -> None:
    wanted = ("OpenVINOExecutionProvider", "CPUExecutionProvider")
    choice = choose_device("auto", "fail", wanted, (*wanted, "CUDAExecutionProvider"), 1)
    assert (choice.device, choice.must_have) == (wanted[0], wanted[0])
    with pytest.raises(ConfigError, match="no OpenVINOExecutionProvider here; it has CPUExecutionProvider") as caught:
        choose_device("auto", "fail", wanted, ("CPUExecutionProvider",), 1)
    assert caught.value.key == "providers"


@pytest.mark.parametrize(
    ("quota", "limit"), [("max 100000", None), ("150000 100000", 2), ("5000 100000", 1), ("?", None)]
)
def test_a_container_keeps_no_more_cores_busy_than_it_may(tmp_path: Path, quota: str, limit: int | None) -> None:
    path = tmp_path / "cpu.max"
    free = usable_cores(path)
    path.write_text(quota)
    assert usable_cores(path) == (free if limit is None else min(free, limit))


def test_two_wheels_of_onnxruntime_are_a_conflict_and_its_parts_are_none() -> None:
    assert wheel_conflict({"onnxruntime-gpu", "numpy"}) is None
    assert wheel_conflict({"onnxruntime", "onnxruntime-extensions"}) is None
    text = wheel_conflict({"onnxruntime", "onnxruntime-gpu"})
    assert text is not None
    assert "onnxruntime and onnxruntime-gpu are both installed" in text


def test_a_gpu_that_auto_cannot_use_is_said_aloud_and_no_gpu_is_nothing_to_say() -> None:
    without_cuda = choose_device("auto", "fail", None, BOTH[1:], 1)
    assert (without_cuda.device, without_cuda.fell_back and without_cuda.fell_back.wanted) == ("cpu", "cuda:0")
    assert fallback("auto", "fail", "its libraries are missing").fell_back == (
        "cuda:0",
        "cpu",
        "its libraries are missing",
    )
    assert choose_device("auto", "fail", None, BOTH, 0).fell_back is None


@pytest.mark.parametrize(
    ("device", "expected"), [("auto", ["cuda:1", "cuda:2"]), ("cuda", ["cuda:1", "cuda:2"]), ("cuda:0", [])]
)
def test_a_model_runs_on_all_gpus_unless_one_is_named(device: str, expected: list[str]) -> None:
    first = choose_device(device, "fail", None, BOTH, 3, max_gpu_bytes=1 << 30)
    further = further_gpus(device, first, 3)
    assert [choice.device for choice in further] == expected
    for choice in further:
        options = dict(choice.providers)["CUDAExecutionProvider"]
        assert options["device_id"] == choice.gpu
        assert options["gpu_mem_limit"] == 1 << 30


def test_what_runs_on_the_cpu_or_on_listed_providers_is_not_spread() -> None:
    assert further_gpus("auto", CPU_CHOICE, 3) == ()
    listed = choose_device("auto", "fail", BOTH, BOTH, 3)
    assert (listed.gpu, further_gpus("auto", listed, 3)) == (None, ())


def test_convolutions_are_only_searched_for_where_there_is_one_shape() -> None:
    assert cuda_options(0, fixed_shape=True, max_bytes=None)["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert cuda_options(0, fixed_shape=False, max_bytes=None)["cudnn_conv_algo_search"] == "HEURISTIC"
    assert "gpu_mem_limit" not in cuda_options(0, fixed_shape=True, max_bytes=None)
