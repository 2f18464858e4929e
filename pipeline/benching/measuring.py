"""One `penstock bench` from beginning to end: stages, the whole at full speed, what follows, and the proof of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pipeline.benching.capacity import Costs, Facts, Share, advice, camera_cores, cameras, corrected, rates
from pipeline.benching.dry_run import Dry, Stage, dry_of, fast_file
from pipeline.benching.folder import passing_folder
from pipeline.benching.machine import cores, machine
from pipeline.benching.running import Ran, run_for
from pipeline.benching.stages import Stages, measure
from pipeline.config.settings import Settings
from pipeline.contracts.sink import SinkConfig
from pipeline.contracts.source import LiveSourceConfig
from pipeline.models.quantized import KEY as QUANTISED
from pipeline.version import version

QUIET_CORES = 0.2
"""When other processes keep more cores busy, what was measured is uncertain, and that is said."""

MAX_PROVED = 64
"""More cameras are not started to prove that they fit."""

Say = Callable[[str], object]


class Proof(NamedTuple):
    """What happened when so many cameras really ran, in real time.

    Attributes:
        cameras: how many.
        rate: frames of each that were to be inferred a second.
        ran: what was seen.
    """

    cameras: int
    rate: float
    ran: Ran

    @property
    def lost_ratio(self) -> float:
        """Of the frames that were wanted."""
        return self.ran.dropped / max(1, self.ran.dropped + self.ran.inferred)

    @property
    def conclusive(self) -> bool:
        """Whether it says something of this machine: others left the cores alone."""
        return self.ran.others_cores <= QUIET_CORES

    @property
    def carried(self) -> bool:
        """Whether they fit: hardly a frame was let go, and as many came as a clock would give."""
        wanted = self.cameras * self.rate * self.ran.seconds
        return self.lost_ratio <= 0.01 and self.ran.inferred >= 0.95 * wanted


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was found out.

    Attributes:
        machine: what it was measured on.
        version: of Penstock.
        stages: each alone.
        costs: of one frame, and of one camera.
        full: the whole at full speed.
        rate: frames of a camera that are inferred a second, as configured.
        carried: how many cameras at which rates.
        load: cores that the configuration itself needs in life; None: files take all that they can get.
        proof: the prediction, tried; None: there was no video to try it with.
        advice: what to change.
        notes: what was left out.
    """

    machine: str
    version: str
    stages: Stages
    costs: Costs
    full: Ran
    rate: float
    carried: tuple[tuple[float, int], ...]
    load: float | None
    proof: tuple[Proof, ...]
    advice: tuple[str, ...]
    notes: tuple[str, ...]


def bench(settings: Settings, seconds: float, say: Say) -> Measured:
    """Measure for about so many seconds, besides what models need to load.

    Raises:
        ConfigError: it cannot be measured, and why.
        ConfigProblems: something that was asked for cannot be had.
    """
    with passing_folder("penstock-bench-") as folder:
        say("looking at the sources ...")
        dry = dry_of(settings, folder, look_s=seconds * 0.1)
        say("measuring each stage ...")
        stages = measure(dry, folder, seconds * 0.25)
        full = run_for(dry.settings, seconds * 0.2, lambda: say("running all of it at full speed ..."))
        alone = costs_of(dry, stages, full)
        rate = sum(stage.rate for stage in dry.stages) / len(dry.stages)
        costs = _in_life(dry, alone, rate, folder, seconds * 0.1)
        carried = tuple((each, cameras(costs, each)) for each in rates(costs, round(rate, 2)))
        proof = _prove(dry, carried[0], folder, seconds * 0.2, say)
        if (
            proof and not proof[0].carried and proof[0].conclusive
        ):  # what really ran is right: all that was predicted shrinks alike
            carried = corrected(carried, proof[-1].cameras if proof[-1].carried else 0)
        live = any(isinstance(settings.sources[stage.name], LiveSourceConfig) for stage in dry.stages)
        in_life_s = costs.decode_s - alone.decode_s
        load = sum(camera_cores(_of_stage(costs, each, in_life_s), each.rate) for each in dry.stages) if live else None
        facts = facts_of(settings, dry, stages, live=live)
        return Measured(
            machine=machine(),
            version=version(),
            stages=stages,
            costs=costs,
            full=full,
            rate=rate,
            carried=carried,
            load=load,
            proof=proof,
            advice=tuple(advice(costs, facts)),
            notes=dry.notes,
        )


def costs_of(dry: Dry, stages: Stages, full: Ran) -> Costs:
    """The average camera and frame."""
    decoded = stages.decoded
    decode_s = sum(each.stage.live_decode_s or each.cpu_s for each in decoded) / len(decoded)
    # At full speed clips stand in for cameras, whose own pictures may cost several times as much to decode.
    clips_s = sum(each.cpu_s for each in decoded) / len(decoded)
    frame_s = max(decode_s, full.cpu_s / max(1, full.inferred) + decode_s - clips_s)
    model = stages.modelled
    shares = [
        Share("decode", decode_s),
        Share("shrink", sum(each.shrink_s for each in model) / len(model)),
        Share("infer", sum(max(0.0, each.cpu_s - each.shrink_s - each.read_s) for each in model) / len(model)),
        Share("read", sum(each.read_s for each in model) / len(model)),
        *(Share(f"sink {each.name}", each.cpu_s) for each in stages.written),
    ]
    fps = sum(stage.fps for stage in dry.stages) / len(dry.stages)
    return Costs(cores(), fps, decode_s, frame_s, full.fps, full.cores, tuple(shares), full.others_cores)


def _in_life(dry: Dry, costs: Costs, rate: float, folder: Path, seconds: float) -> Costs:
    """The costs with what a frame costs that comes when it comes: half of the cameras that should fit, for a moment.

    At full speed threads hardly sleep and caches are warm; a camera's frame wakes them up, 30 times a second.
    """
    if any(stage.video is None for stage in dry.stages):
        return costs
    count = min(MAX_PROVED, max(1, cameras(costs, rate) // 2))
    ran = run_for(_in_real_time(dry, count, rate, folder / "life"), seconds)
    if not ran.decoded:
        return costs
    inferring_s = ran.inferred * max(0.0, costs.frame_s - costs.decode_s)
    decode_s = max(costs.decode_s, (ran.cpu_s - inferring_s) / ran.decoded)
    return replace(costs, decode_s=decode_s, frame_s=costs.frame_s + decode_s - costs.decode_s)


def _of_stage(costs: Costs, stage: Stage, in_life_s: float) -> Costs:
    """With this camera's own rate and decoding in place of the average, and what life adds to that."""
    decode_s = costs.decode_s if stage.live_decode_s is None else stage.live_decode_s + in_life_s
    return replace(costs, fps=stage.fps, decode_s=decode_s, frame_s=costs.frame_s + decode_s - costs.decode_s)


def facts_of(settings: Settings, dry: Dry, stages: Stages, *, live: bool) -> Facts:
    """What advice may depend on, of the model that takes longest."""
    slowest = max(stages.modelled, key=lambda each: each.infer_s)
    description, config = slowest.description, dry.settings.backends[slowest.name]
    own = [settings.sources[stage.name] for stage in dry.stages]
    return Facts(
        on_gpu=slowest.device not in {"cpu", "unknown"},
        dynamic=description is not None and description.dynamic_size,
        side_px=None if description is None else max(description.input_size),
        square=getattr(config, "input_shape", "") == "square",
        quantised=description is not None
        and (QUANTISED in description.file.metadata or "QuantizeLinear" in description.file.operators),
        float_model=description is not None and description.image.dtype == "float32",
        sampled=all(each.max_fps is not None or each.stride > 1 for each in own),
        gated=all(each.motion is not None for each in own),
        live=live,
        model=str(getattr(config, "model", slowest.name)),
    )


def _prove(dry: Dry, predicted: tuple[float, int], folder: Path, seconds: float, say: Say) -> tuple[Proof, ...]:
    """Run as many cameras as were predicted; where that is too many, once more with as many as it carried."""
    rate, count = predicted
    if not count or any(stage.video is None for stage in dry.stages):
        return ()
    tried: list[Proof] = []
    for attempt in range(2):
        count = min(count, MAX_PROVED)
        say(f"running {count} camera{'s' * (count != 1)} at {rate:g} frames/s, in real time ...")
        tried.append(Proof(count, rate, run_for(_in_real_time(dry, count, rate, folder / f"proof{attempt}"), seconds)))
        if tried[-1].carried or count == 1 or not tried[-1].conclusive:
            break
        count = max(1, min(count - 1, int(count * tried[-1].ran.inferred / (count * rate * tried[-1].ran.seconds))))
    return tuple(tried)


def _in_real_time(dry: Dry, count: int, rate: float, folder: Path) -> Settings:
    folder.mkdir()
    sources = {}
    for number in range(count):
        stage = dry.stages[number % len(dry.stages)]
        if stage.video is not None:
            sources[f"camera{number + 1}"] = fast_file(stage.video, stage.config, pace="realtime", max_fps=rate)
    sinks = {name: _for_many(each, folder) for name, each in dry.settings.sinks.items()}
    return replace(dry.settings, sources=sources, sinks=sinks)


def _for_many(config: SinkConfig, folder: Path) -> SinkConfig:
    """The sink for cameras of other names: each has a file of its own."""
    path = Path(str(dict(config)["path"]))
    name = path.name if "{source}" in str(path) else f"{{source}}-{path.name}"
    return config.model_copy(update={"sources": None, "path": str(folder / config.type / name)})
