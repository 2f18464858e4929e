"""What follows from the stages and the run at full speed."""

from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.benching.capacity import Costs, camera_cores
from pipeline.benching.dry_run import Dry, Stage
from pipeline.benching.measuring import _of_stage, costs_of
from pipeline.benching.running import Ran
from pipeline.benching.stages import Decoded, Modelled, Stages
from pipeline.contracts.frame import Size

CLIP_S, MODEL_S, REST_S = 0.001, 0.014, 0.005
"""CPU seconds a frame of what was measured: decoding the clip, the model, all else."""


def camera(live_decode_s: float | None, fps: float = 30.0) -> Stage:
    return Stage("gate", cast("Any", None), fps, fps, live_decode_s, video=Path("clip.mp4"))


def costs(*live_decode_s: float | None) -> Costs:
    cameras = tuple(camera(each) for each in live_decode_s)
    model = Modelled("local", "a model", "cpu", 0.0, MODEL_S, 0.0, MODEL_S, None)
    decoded = tuple(Decoded(each.name, Size(1280, 720), CLIP_S, each) for each in cameras)
    full = Ran(10.0, 100 * (CLIP_S + MODEL_S + REST_S), 100, 100, 0, ("cpu",))
    return costs_of(Dry(cast("Any", None), cameras, ()), Stages(decoded, (model,), ()), full)


def test_a_camera_costs_what_its_own_pictures_take_to_decode_and_not_what_the_clip_does() -> None:
    dear, cheap = costs(0.004), costs(None)
    assert cheap.frame_s == pytest.approx(0.020)
    assert dear.frame_s == pytest.approx(0.023)
    assert {share.stage: share.cpu_s for share in dear.all_shares} == pytest.approx(
        {"decode": 0.004, "shrink": 0.0, "infer": MODEL_S, "read": 0.0, "the rest": REST_S}
    )
    assert camera_cores(dear, 30) == pytest.approx(30 * 0.023)
    # Frames that are not inferred cost their decoding, those that are all that comes after it.
    assert camera_cores(dear, 5) == pytest.approx(30 * 0.004 + 5 * (MODEL_S + REST_S))


def test_each_camera_of_the_configuration_counts_with_its_own_decoding() -> None:
    both = costs(0.002, 0.006)
    load = [camera_cores(_of_stage(both, camera(each, 10.0), 0.001), 10.0) for each in (0.002, 0.006)]
    assert load == pytest.approx([10 * (0.003 + MODEL_S + REST_S), 10 * (0.007 + MODEL_S + REST_S)])
