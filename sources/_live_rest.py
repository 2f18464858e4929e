"""`Rest`: which packets of a live stream are decoded while nothing moves: pure, told by sizes, times and the gate."""

from collections import deque
from enum import Enum

from sources._live_growth import Growth

_GAPS = 4  # keyframe intervals that must be seen before anything is left out
_SLACK = 1.05  # 60 frames are 2 s at 30 a second and 2.002 at 29.97
_AWAKE_S = 1.0  # what woke it is looked at for so long at the least
_WINDOW_S = 0.25
_MOST_UNSTAMPED = 100  # the first packets of RTSP have no time stamps, either
_FEWEST_IN_WINDOW = 2


class Step(Enum):
    """What becomes of a packet.

    Attributes:
        DECODE: it is decoded behind the one before it.
        LEAVE_OUT: it is not decoded.
        ALONE: a keyframe, decoded by itself; what was kept before it is not wanted any more.
        KEEP: it is not decoded, but may have to be: see the others.
        LOOK: what was kept is decoded up to this one, whose frame is wanted; the decoder then forgets it again.
        WAKE: what was kept is decoded up to this one; from here on everything is wanted.
    """

    DECODE = "decode"
    LEAVE_OUT = "leave out"
    ALONE = "alone"
    KEEP = "keep"
    LOOK = "look"
    WAKE = "wake"


class Rest:
    """Decides for each packet of one connection. Made by the reader, used by its thread only.

    It rests once the keyframes have come regularly, the packets' usual weight is known, and the gate says that nothing
    moves; always from a keyframe on. It wakes when the gate sees something move, when packets grow, and when the
    rhythm breaks. A false alarm costs the group at hand: the next keyframe finds it at rest again.

    Args:
        keepalive_s: so often a frame is wanted though nothing moves; None: it never rests.
        longest_gap_s: a decoded frame must come at least this often; keyframes that are rarer will not do.
    """

    def __init__(self, keepalive_s: float | None, longest_gap_s: float) -> None:
        self.resting = False
        self._is_off = keepalive_s is None
        # With rarer keyframes than are wanted anyway, as much would be decoded as without.
        self._longest_gap_s = _SLACK * min(longest_gap_s, longest_gap_s if keepalive_s is None else keepalive_s)
        self._growth = Growth()
        self._last_key_s: float | None = None
        self._leads = False  # whether all since it were shown before it
        self._key_gaps_s: deque[float] = deque(maxlen=_GAPS)
        self._still = False
        self._due_s: float | None = None
        self._awake_until_s: float | None = None
        self._why_not: str | None = None
        self._unstamped = 0

    @property
    def why_not(self) -> str | None:
        """Why it will never rest on this stream as it comes; None: nothing speaks against it."""
        return self._why_not

    def takes(self, size_bytes: int, at_s: float | None, *, is_keyframe: bool) -> Step:
        """What to do with the next packet; called once for each, in order. May change `resting`.

        Args:
            size_bytes: its size.
            at_s: its time stamp in seconds of the stream; None: unknown.
            is_keyframe: whether it can be decoded without any other.
        """
        if self._is_off:
            return Step.DECODE
        self._unstamped += at_s is None
        broken = self._rhythm_broken_by(at_s)
        if broken is not None:
            self._why_not = broken
        if at_s is None or (broken is not None and not is_keyframe):
            was_resting = self.resting
            self.begin_again()
            return Step.WAKE if was_resting and not is_keyframe else Step.DECODE
        if broken is not None:
            self.begin_again()
        if is_keyframe:
            return self._takes_keyframe(size_bytes, at_s)
        grew = self._growth.takes(size_bytes, is_keyframe=False)
        return self._takes_other(at_s, grew=grew) if self.resting else Step.DECODE

    def judged(self, for_s: float, at_s: float | None) -> None:
        """What the gate saw in the frame that was given last.

        Args:
            for_s: 0: something moves; else nothing does, and in so many seconds a frame is wanted.
            at_s: the frame's time stamp.
        """
        if self._is_off:
            return
        self._still = for_s > 0
        self._due_s = at_s + for_s if self._still and at_s is not None else None
        self._growth.judged(moves=not self._still)

    def wake(self, at_s: float) -> Step:
        """Rest no more, for a while at least; `at_s` is the time stamp of the packet from which on all is wanted."""
        self.resting = False
        self._awake_until_s = at_s + _AWAKE_S
        return Step.WAKE

    def begin_again(self) -> None:
        """The rhythm is broken: all is decoded until it is known again."""
        self.resting = False
        self._last_key_s = self._awake_until_s = self._due_s = None
        self._key_gaps_s.clear()
        self._growth.forget_group()

    def give_up(self, why: str) -> None:
        """It cannot rest on this stream."""
        self.begin_again()
        self._is_off, self._why_not = True, why

    def _takes_keyframe(self, size_bytes: int, at_s: float) -> Step:
        if self._last_key_s is not None:
            gap_s = at_s - self._last_key_s
            if gap_s <= 0:
                self.begin_again()
            else:
                self._note_gap(gap_s)
        self._last_key_s, self._leads = at_s, True
        self._growth.takes(size_bytes, is_keyframe=True)
        self.resting = (
            self._still
            and self._why_not is None
            and len(self._key_gaps_s) == _GAPS
            and self._growth.is_learnt
            and (self._awake_until_s is None or at_s >= self._awake_until_s)
        )
        return Step.ALONE if self.resting else Step.DECODE

    def _takes_other(self, at_s: float, *, grew: bool) -> Step:
        if grew or not self._still:
            return self.wake(at_s)
        if self._due_s is not None and at_s >= self._due_s:
            self._due_s = None
            return Step.LOOK
        return Step.KEEP

    def _note_gap(self, gap_s: float) -> None:
        packets = self._growth.places
        self._key_gaps_s.append(gap_s)
        if packets:
            self._growth.window = max(_FEWEST_IN_WINDOW, round(_WINDOW_S * packets / gap_s))
        if len(self._key_gaps_s) == _GAPS:
            self._why_not = "every frame is a keyframe" if packets == 1 else None

    def _rhythm_broken_by(self, at_s: float | None) -> str | None:
        """What a packet of this time has against resting; frames may be shown before the keyframe that they follow."""
        if at_s is None:
            return "it has no time stamps" if self._unstamped > _MOST_UNSTAMPED else None
        if self._last_key_s is None:
            return None
        since_key_s = at_s - self._last_key_s
        if since_key_s > self._longest_gap_s:
            return f"its keyframes are more than {self._longest_gap_s:.1f} s apart"
        # Those that are shown before it come first, behind it.
        self._leads = self._leads and since_key_s <= 0
        jumped = since_key_s < (-self._longest_gap_s if self._leads else 0)
        return "its time stamps jump" if jumped else None
