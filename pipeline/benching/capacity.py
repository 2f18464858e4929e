"""From what a frame costs to how many cameras fit, what holds them up, and what to change; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

USABLE_RATIO = 0.9
"""Of all cores: the rest is for moments in which all cameras come at once, and for the system."""

BUSY_RATIO = 0.75
"""A pipeline at full speed that keeps fewer cores busy is held up by something else: a GPU, a disk, one thread."""

RATES_FPS = (30.0, 15.0, 5.0, 1.0)


class Share(NamedTuple):
    """What one stage takes of a frame: "decode", "shrink", "infer", "read", "sink NAME" or "the rest"."""

    stage: str
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured.

    Attributes:
        cores: how many there are.
        fps: camera's frames a second.
        decode_s: CPU seconds that reading one of its frames takes.
        frame_s: CPU seconds of one frame from packet to sink, in the whole pipeline at full speed.
        full_fps: results a second of the whole pipeline at full speed.
        busy_cores: how many cores that kept busy.
        shares: the stages, measured alone, one frame each.
        others_cores: how many cores other processes kept busy meanwhile.
    """

    cores: int
    fps: float
    decode_s: float
    frame_s: float
    full_fps: float
    busy_cores: float
    shares: tuple[Share, ...]
    others_cores: float = 0.0

    @property
    def cpu_bound(self) -> bool:
        """Whether cores are what runs out."""
        return self.busy_cores >= BUSY_RATIO * (self.cores - self.others_cores)

    @property
    def bottleneck(self) -> Share:
        """The stage that takes most."""
        return max(self.shares, key=lambda share: share.cpu_s)

    @property
    def all_shares(self) -> tuple[Share, ...]:
        """With what the stages alone do not explain: Penstock itself, and caches that others use, too."""
        rest = self.frame_s - sum(share.cpu_s for share in self.shares)
        return (*self.shares, Share("the rest", rest)) if rest > 0 else self.shares


def camera_cores(costs: Costs, rate: float) -> float:
    """Cores that one camera keeps busy when `rate` of its frames are inferred each second: all are decoded."""
    rate = min(rate, costs.fps)
    return costs.fps * costs.decode_s + rate * max(0.0, costs.frame_s - costs.decode_s)


def cameras(costs: Costs, rate: float) -> int:
    """How many such cameras this machine carries."""
    by_cores = USABLE_RATIO * costs.cores / camera_cores(costs, rate)
    if costs.cpu_bound:
        return int(by_cores)
    return int(min(by_cores, USABLE_RATIO * costs.full_fps / min(rate, costs.fps)))


def rates(costs: Costs, configured: float) -> list[float]:
    """The rates worth telling: the configured one first."""
    others = [rate for rate in RATES_FPS if rate < costs.fps + 0.5 and abs(rate - configured) > 0.05 * configured]
    return [configured, *others]


def corrected(carried: Sequence[tuple[float, int]], proved: int) -> tuple[tuple[float, int], ...]:
    """The prediction, once fewer cameras than the first line says were seen to be carried: all shrink alike."""
    first = carried[0][1]
    return tuple((rate, count * proved // first) for rate, count in carried)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the configuration, for advice.

    Attributes:
        on_gpu: the model runs on a GPU.
        dynamic: the model takes any size of input.
        side_px: longer side of its input; None: nobody knows.
        square: a dynamic model is fed the whole square.
        quantised: the model is INT8 already.
        float_model: it is float32, so that it could be.
        sampled: `max_fps` or `stride` is set.
        gated: `motion` is set.
        live: sources are cameras.
        model: how the config names it.
        drawing: names of sinks that draw and encode video.
    """

    on_gpu: bool = False
    dynamic: bool = False
    side_px: int | None = None
    square: bool = False
    quantised: bool = False
    float_model: bool = False
    sampled: bool = False
    gated: bool = False
    live: bool = False
    model: str = ""
    drawing: tuple[str, ...] = ()


def advice(costs: Costs, facts: Facts) -> list[str]:
    """What to change to get more, most promising first."""
    if not costs.cpu_bound:
        return _not_cores(facts)
    slowest = costs.bottleneck.stage
    found: list[str] = []
    if slowest == "infer" and not facts.on_gpu:
        found += _infer(facts)
    elif slowest == "decode":
        found.append("let the cameras send a smaller picture (a substream): decoding costs by pixels")
        found.append('decode on a GPU where there is one: decode = "cuda" or "vaapi"')
    elif slowest.startswith("sink "):
        found.append(f"{slowest} takes most: write fewer frames (emit, where, limit), or encode less: see its keys")
    elif slowest in {"shrink", "read"}:
        found.append("a smaller picture from the camera costs less to shrink")
    rate = 5.0
    if facts.live and not facts.sampled and costs.fps > 2 * rate:
        gain = camera_cores(costs, costs.fps) / camera_cores(costs, rate)
        found.append(f"max_fps = {rate:g}: {gain:.1f} times as many cameras; few scenes need more")
    if facts.live and not facts.gated:
        found.append("motion = {}: nothing is inferred while nothing moves")
    return found


def _infer(facts: Facts) -> list[str]:
    found = []
    if facts.dynamic and facts.square:
        found.append('input_shape = "auto": the input has the shape of the picture, x1.6 for 16:9 at no loss')
    if facts.dynamic and facts.side_px is not None and facts.side_px > 320:
        smaller = max(320, facts.side_px * 2 // 3 // 32 * 32)
        gain = (facts.side_px / smaller) ** 2
        found.append(f"input_size = {smaller}: about {gain:.1f} times as fast; small objects are lost first")
    if facts.float_model and not facts.quantised:
        found.append(f"penstock quantize {facts.model} --calibrate VIDEO: 8 bits; it says what that costs and wins")
    found.append("a GPU, or a smaller model of the family")
    return found


def _not_cores(facts: Facts) -> list[str]:
    if facts.on_gpu:
        return ["the GPU holds it up: a smaller model or input_size, or another GPU"]
    return ["cores are left over: more sources at once, or more workers, will use them"]


def verdict(costs: Costs, carried: Sequence[tuple[float, int]]) -> list[str]:
    """In plain words: what is the bottleneck, and how many cameras fit at which rate."""
    worst = costs.bottleneck
    names = {"infer": "inference", "decode": "decoding", "shrink": "shrinking pictures", "read": "reading the answers"}
    name = names.get(worst.stage, worst.stage)
    if costs.cpu_bound:
        first = f"{name} is the bottleneck: {worst.cpu_s * 1e3:.1f} of {costs.frame_s * 1e3:.1f} ms of CPU a frame"
    else:
        first = (
            f"something else than cores is the bottleneck: {costs.full_fps:.1f} frames/s keep {costs.busy_cores:.1f} "
            f"of {costs.cores} cores busy"
        )
    parts = [f"{count} camera{'s' * (count != 1)} at {rate:g} frame{'s' * (rate != 1)}/s" for rate, count in carried]
    return [first, f"this box carries {', or '.join(parts)}"]
