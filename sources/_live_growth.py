"""`Growth`: whether a stream's packets weigh more than they did while nothing moved: pure, told by sizes."""

import math
from collections import deque
from itertools import zip_longest
from statistics import median

_GROUPS = 8  # of the last groups in which nothing moved the middle weight is taken, place by place
_FEWEST_GROUPS = 3
_HIGHS = 16  # of so many groups it is known how far they rose above that by themselves
_LEAST_RISE = math.log(1.15)
_MARGIN = 1.5
_LEAST_MORE_BYTES = 256  # the packets of a painted picture weigh next to nothing, and twice as much is nothing, too
_MOST_PLACES = 1024


class Growth:
    """Weighs the last packets of one connection. Made by `Rest`, used by its reader's thread.

    Something that begins to move costs bits before anything is decoded. How many packets cost while nothing moves is
    learnt place by place in the group of pictures: a P-frame weighs many times a B-frame, and those behind a keyframe
    more than those in front of the next. By how much they rise above that though nothing moves is learnt, too: the
    second highest rise of the last groups and half as much again is what tells nothing. So what woke it falsely twice
    does not wake it again, and one strange group does not make it deaf. With a constant bit rate nothing ever grows.
    """

    def __init__(self) -> None:
        self.window = 2
        """So many packets are weighed together; the keyframe is none of them."""
        self._sizes: list[int] | None = None  # of the group at hand; None before the first keyframe
        self._high = 0.0
        self._moved = False
        self._unjudged: tuple[list[int], float] | None = None
        self._groups: deque[list[int]] = deque(maxlen=_GROUPS)
        self._usual: list[float] = []
        self._highs: deque[float] = deque(maxlen=_HIGHS)

    @property
    def is_learnt(self) -> bool:
        """Whether it is known what packets weigh while nothing moves."""
        return len(self._groups) >= _FEWEST_GROUPS

    @property
    def places(self) -> int:
        """Packets of the group at hand up to now."""
        return len(self._sizes or ())

    def forget_group(self) -> None:
        """What comes up to the next keyframe belongs to no group: packets are missing, or time jumped."""
        self._sizes = self._unjudged = None
        self._high, self._moved = 0.0, False

    def takes(self, size_bytes: int, *, is_keyframe: bool) -> bool:
        """One more packet; whether the last ones weigh more than while nothing moved."""
        if is_keyframe:
            if self._sizes is not None:
                self._unjudged = None if self._moved else (self._sizes, self._high)
            self._sizes, self._high, self._moved = [size_bytes], 0.0, False
            return False
        if self._sizes is None or len(self._sizes) >= _MOST_PLACES:
            return False
        self._sizes.append(size_bytes)
        first, end = max(1, len(self._sizes) - self.window), len(self._sizes)
        if not self.is_learnt or end > len(self._usual):
            return False
        weight, usual = sum(self._sizes[first:end]), sum(self._usual[first:end])
        if weight - usual < _LEAST_MORE_BYTES:
            return False
        rise = math.log(weight / max(usual, 1.0))
        self._high = max(self._high, rise)
        return rise > self._allowed_rise()

    def judged(self, *, moves: bool) -> None:
        """Whether something moved in the frame that was looked at last: the groups up to it are learnt from, or not."""
        self._moved = self._moved or moves
        unjudged, self._unjudged = self._unjudged, None
        if moves or unjudged is None:
            return
        sizes, high = unjudged
        if self.is_learnt:
            self._highs.append(high)
        self._groups.append(sizes)
        places = zip_longest(*self._groups)
        self._usual = [median(size for size in sizes if size is not None) for sizes in places]

    def _allowed_rise(self) -> float:
        highest = sorted(self._highs)[-2:]
        return max(_LEAST_RISE, _MARGIN * highest[0] if len(highest) == 2 else 0.0)
