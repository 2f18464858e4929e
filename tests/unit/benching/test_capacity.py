"""What follows from what a frame costs."""

from dataclasses import replace

import pytest

from pipeline.benching.capacity import Costs, Facts, Share, advice, camera_cores, cameras, corrected, rates, verdict

COSTS = Costs(
    cores=2,
    fps=30.0,
    decode_s=0.0025,
    frame_s=0.0129,
    full_fps=150.0,
    busy_cores=1.95,
    shares=(Share("decode", 0.0025), Share("shrink", 0.001), Share("infer", 0.0071), Share("read", 0.0003)),
)


def test_a_camera_costs_every_decode_and_what_is_inferred() -> None:
    assert camera_cores(COSTS, 30) == pytest.approx(30 * 0.0129)
    assert camera_cores(COSTS, 5) == pytest.approx(30 * 0.0025 + 5 * 0.0104)
    assert camera_cores(COSTS, 99) == camera_cores(COSTS, 30)


def test_so_many_cameras_fit_that_a_tenth_of_the_cores_is_left() -> None:
    assert cameras(COSTS, 30) == int(0.9 * 2 / (30 * 0.0129)) == 4
    assert cameras(COSTS, 5) == 14
    for rate in (1.0, 5.0, 15.0, 30.0):
        assert (
            cameras(COSTS, rate) * camera_cores(COSTS, rate)
            <= 1.8
            < (cameras(COSTS, rate) + 1) * camera_cores(COSTS, rate)
        )


def test_where_cores_are_left_over_the_rate_of_results_is_the_limit() -> None:
    gpu = replace(COSTS, busy_cores=0.5, full_fps=100.0, frame_s=0.003)
    assert not gpu.cpu_bound
    assert cameras(gpu, 30) == 3
    assert "something else than cores is the bottleneck" in verdict(gpu, [(30.0, 3)])[0]


def test_cores_that_others_kept_busy_are_not_held_against_it() -> None:
    crowded = replace(COSTS, busy_cores=0.8, others_cores=1.1)
    assert crowded.cpu_bound
    assert not replace(crowded, others_cores=0.0).cpu_bound


def test_the_verdict_names_the_stage_and_the_cameras() -> None:
    assert verdict(COSTS, [(15.0, 5), (30.0, 1), (1.0, 9)]) == [
        "inference is the bottleneck: 7.1 of 12.9 ms of CPU a frame",
        "this box carries 5 cameras at 15 frames/s, or 1 camera at 30 frames/s, or 9 cameras at 1 frame/s",
    ]


def test_what_the_stages_do_not_explain_is_the_rest() -> None:
    assert COSTS.all_shares[-1].stage == "the rest"
    assert sum(share.cpu_s for share in COSTS.all_shares) == pytest.approx(COSTS.frame_s)
    assert replace(COSTS, frame_s=0.001).all_shares == COSTS.shares


def test_the_configured_rate_comes_first_and_no_rate_is_higher_than_the_cameras() -> None:
    assert rates(COSTS, 30.0) == [30.0, 15.0, 5.0, 1.0]
    assert rates(replace(COSTS, fps=10.0), 4.0) == [4.0, 5.0, 1.0]


def test_a_prediction_that_did_not_hold_shrinks_as_a_whole() -> None:
    assert corrected([(5.0, 12), (30.0, 4), (1.0, 25)], 9) == ((5.0, 9), (30.0, 3), (1.0, 18))
    assert corrected([(5.0, 12), (30.0, 4)], 0) == ((5.0, 0), (30.0, 0))


def test_advice_is_of_what_is_not_done_yet() -> None:
    plain = Facts(dynamic=True, side_px=640, square=True, float_model=True, live=True, model="people.onnx")
    told = "\n".join(advice(COSTS, plain))
    for word in ('input_shape = "auto"', "input_size = 416", "penstock quantize people.onnx", "max_fps", "motion"):
        assert word in told
    done = Facts(dynamic=False, quantised=True, float_model=True, sampled=True, gated=True, live=True)
    assert advice(COSTS, done) == ["a GPU, or a smaller model of the family"]


def test_advice_follows_the_bottleneck() -> None:
    decoding = replace(COSTS, shares=(Share("decode", 0.009), Share("infer", 0.002)))
    assert "substream" in advice(decoding, Facts())[0]
    film = replace(COSTS, shares=(*COSTS.shares, Share("sink film", 0.02)))
    assert advice(film, Facts())[0].startswith("sink film takes most")
    assert "GPU" in advice(replace(COSTS, busy_cores=0.2), Facts(on_gpu=True))[0]
