"""`Handling`: what a source's runner does with its frames and failures, as its table in pipeline.toml says."""

from dataclasses import dataclass

from pipeline.analytics.liveness import ContentWatch
from pipeline.analytics.motion import MotionGate
from pipeline.contracts.source import LiveSourceConfig, Source, SourceConfig
from pipeline.runtime.backoff import Backoff
from pipeline.runtime.sampling import Sampler


@dataclass(frozen=True, slots=True)
class Handling:
    """Made by the topology for one runner, used by its thread.

    Attributes:
        sampler: which frames are worth inferring by their time stamps.
        gate: which of those are, by what moves in them; None: all.
        content: what the pictures look like; None: nobody looks.
        backoff: the delays between attempts; None: the usual ones.
        give_up_at_once: a first attempt that fails is the last.
        silence_s: no frame for longer is a stall; None: it may take its time.
        max_staleness_s: a frame that is older is wanted no more; None: it may take its time.
        rests: the source may give fewer frames while the gate sees nothing move.
        stride: of the sampler.
    """

    sampler: Sampler
    gate: MotionGate | None = None
    content: ContentWatch | None = None
    backoff: Backoff | None = None
    give_up_at_once: bool = False
    silence_s: float | None = None
    max_staleness_s: float | None = None
    rests: bool = False
    stride: int = 1

    @classmethod
    def of(cls, config: SourceConfig, source: Source) -> "Handling":
        """From the keys that every source has, and those of live ones."""
        sampler = Sampler(config.stride, config.max_fps)
        gate = MotionGate(config.motion) if config.motion is not None else None
        content = ContentWatch(config.liveness) if source.live and config.liveness.enabled else None
        if not isinstance(config, LiveSourceConfig):
            return cls(sampler, gate, content, max_staleness_s=config.max_staleness_s)
        return cls(
            sampler,
            gate,
            content,
            Backoff(config.reconnect.min_s, config.reconnect.max_s),
            give_up_at_once=config.on_startup_error == "error",
            silence_s=config.stall_timeout_s,
            max_staleness_s=config.max_staleness_s,
            rests=config.motion is not None and config.motion.decode == "keyframes",
            stride=config.stride,
        )
