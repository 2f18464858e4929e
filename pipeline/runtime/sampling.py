"""`Sampler`: which frames of a source are worth inferring, decided on the time stamp before any pixel is touched."""

from pipeline.contracts.frame import Frame


class Sampler:
    """Takes every n-th frame, and of those at most so many a second. One for each source, used by its thread only."""

    def __init__(self, stride: int = 1, max_fps: float | None = None) -> None:
        self._stride = stride
        self._period_s = None if max_fps is None else 1.0 / max_fps
        self._seen = 0
        self._due_s: float | None = None

    def takes(self, frame: Frame) -> bool:
        """True when this frame is to be inferred; called once for each frame, in order."""
        on_stride = self._seen % self._stride == 0
        self._seen += 1
        return on_stride and (self._period_s is None or self._is_due(frame, self._period_s))

    def _is_due(self, frame: Frame, period_s: float) -> bool:
        now_s = frame.decoded_at if frame.pts_s is None else frame.pts_s
        slack_s = min(0.001, 0.05 * period_s) + 1e-6  # containers round time stamps, some to milliseconds
        jumped_back = self._due_s is not None and now_s < self._due_s - 2 * period_s
        if self._due_s is not None and not jumped_back and now_s < self._due_s - slack_s:
            return False
        # The next one is due on the grid of the periods, so that 30 fps at max_fps = 25 gives 25 and not 15; after a
        # gap the grid begins anew.
        grid_s = now_s if self._due_s is None or jumped_back else self._due_s
        self._due_s = (grid_s if now_s - grid_s < period_s else now_s) + period_s
        return True
