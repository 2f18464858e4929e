"""`Sampler`: which frames of a source are worth inferring, decided on the time stamp before any pixel is touched."""

from pipeline.contracts.frame import Frame
from pipeline.contracts.sampling import Sampling


class Sampler:
    """Takes every n-th frame, and of those at most so many a second. One for each source, used by its thread only."""

    def __init__(self, stride: int = 1, max_fps: float | None = None) -> None:
        self._sampling = Sampling(stride, max_fps)

    def takes(self, frame: Frame) -> bool:
        """True when this frame is to be inferred; called once for each frame, in order."""
        return self._sampling.takes(frame.seq, frame.decoded_at if frame.pts_s is None else frame.pts_s)
