"""`Sampling`: which frames of a source `stride` and `max_fps` take, told by their place and time alone."""


class Sampling:
    """Takes every n-th frame, and of those at most so many a second: the rule behind `stride` and `max_fps`.

    Pure. The runner samples by it; a source may use one of its own to know before decoding what will be left out. Only
    a frame that is taken changes it: who leaves out frames that it would not take gets the same ones.

    Args:
        stride: every how many frames.
        max_fps: how many frames of a second; None: all.
    """

    def __init__(self, stride: int = 1, max_fps: float | None = None) -> None:
        self._stride = stride
        self._period_s = None if max_fps is None else 1.0 / max_fps
        self._first: int | None = None
        self._due_s: float | None = None

    def takes(self, place: int, at_s: float) -> bool:
        """Whether to infer this frame; called for each, in order, at most once.

        Args:
            place: which frame of the source it is; the first that is asked for is taken, if its time is right.
            at_s: its time in seconds.
        """
        if self._first is None:
            self._first = place
        on_stride = (place - self._first) % self._stride == 0
        return on_stride and (self._period_s is None or self._is_due(at_s, self._period_s))

    def _is_due(self, now_s: float, period_s: float) -> bool:
        slack_s = min(0.001, 0.05 * period_s) + 1e-6  # containers round time stamps, some to milliseconds
        jumped_back = self._due_s is not None and now_s < self._due_s - 2 * period_s
        if self._due_s is not None and not jumped_back and now_s < self._due_s - slack_s:
            return False
        # The next one is due on the grid of the periods, so that 30 fps at max_fps = 25 gives 25 and not 15; after a
        # gap the grid begins anew.
        grid_s = now_s if self._due_s is None or jumped_back else self._due_s
        self._due_s = (grid_s if now_s - grid_s < period_s else now_s) + period_s
        return True
