"""Which packets of a live stream need no decoding where only few frames are wanted: pure, told by time stamps."""

from collections import deque
from enum import Enum
from itertools import pairwise

_GAPS = 4  # keyframe intervals that must agree before the rest is left out
_FRAMES = 48  # frames that are looked at before non-reference frames are left out
_MIN_B_SHARE = 0.25
_SLACK_S = 0.002  # time stamps are rounded
_LONGEST_GAP_S = 1.0  # who looks at the pictures' contents wants one a second


class Decode(Enum):
    """What is decoded: everything, all but frames that no other needs, or keyframes only."""

    ALL = "all"
    REFERENCES = "references"
    KEYFRAMES = "keyframes"


class Skipping:
    """Decides for each packet of one connection. Made by the reader, used by its thread only.

    The frames that are left still come at least once in every period of `max_fps`, so that the sampler behind finds
    as many as without: keyframes alone will do where they are frequent enough (each frame of MJPEG is one), else all
    but the B-frames. Nothing is left out before the stream has shown its rhythm, and when the rhythm breaks,
    everything is decoded from the next keyframe on.

    Args:
        max_fps: how many frames a second are wanted; None: all.
        longest_gap_s: a decoded frame must come at least this often.
    """

    def __init__(self, max_fps: float | None, longest_gap_s: float) -> None:
        self._period_s = None if max_fps is None else min(1 / max_fps, longest_gap_s, _LONGEST_GAP_S)
        self.mode = Decode.ALL
        self._waits_for_keyframe = False
        self._last_key_s: float | None = None
        self._key_gaps_s: deque[float] = deque(maxlen=_GAPS)
        self._last_decoded_s: float | None = None
        self._frames: deque[tuple[float, bool]] = deque(maxlen=_FRAMES)
        self._b_frames = 0  # among them
        self._references_will_do = True

    def wants(self, at_s: float | None, is_keyframe: bool) -> bool:
        """Whether to decode the packet; called once for each, in order. May change `mode`.

        Args:
            at_s: its time stamp in seconds of the stream; None: unknown.
            is_keyframe: whether it can be decoded without any other.
        """
        if self._period_s is None or at_s is None:
            return is_keyframe or not (self.mode is Decode.KEYFRAMES or self._waits_for_keyframe)
        if is_keyframe:
            self._note_keyframe(at_s, self._period_s)
        elif self.mode is Decode.KEYFRAMES and self._is_late(at_s, self._period_s):
            self._decode_all()
        if self.mode is Decode.KEYFRAMES:
            return is_keyframe and self._is_due(at_s, self._period_s)
        if self._waits_for_keyframe and not is_keyframe:
            return False
        self._waits_for_keyframe = False
        return True

    def decoded(self, at_s: float | None, is_b: bool) -> None:
        """A frame was decoded. May change `mode`.

        Args:
            at_s: its time stamp in seconds of the stream.
            is_b: whether it is a B-frame.
        """
        if self._period_s is None or at_s is None or self.mode is Decode.KEYFRAMES:
            return
        if len(self._frames) == _FRAMES:
            self._b_frames -= self._frames[0][1]
        self._frames.append((at_s, is_b))
        self._b_frames += is_b
        if self.mode is Decode.REFERENCES:
            if len(self._frames) > 1 and not self._fits(at_s - self._frames[-2][0], self._period_s):
                self.mode = Decode.ALL
                self._references_will_do = False  # what is left out was not what it seemed: never again
            return
        many_b = self._b_frames >= _FRAMES * _MIN_B_SHARE
        if self._references_will_do and many_b and len(self._frames) == _FRAMES:
            others_s = [stamp_s for stamp_s, b in self._frames if not b]
            gaps_s = [later - earlier for earlier, later in pairwise(others_s)]
            if all(self._fits(gap_s, self._period_s) for gap_s in gaps_s):
                self.mode = Decode.REFERENCES
                self._forget_frames()

    def pause(self) -> None:
        """For reasons of others less is decoded for a while: what comes after it does not follow what came before."""
        self._forget_frames()

    def _forget_frames(self) -> None:
        self._frames.clear()
        self._b_frames = 0

    def _note_keyframe(self, at_s: float, period_s: float) -> None:
        if self._last_key_s is not None:
            gap_s = at_s - self._last_key_s
            if gap_s <= 0:  # a jump
                self._key_gaps_s.clear()
            else:
                self._key_gaps_s.append(gap_s)
        self._last_key_s = at_s
        fits = all(self._fits(gap_s, period_s) for gap_s in self._key_gaps_s)
        if self.mode is Decode.KEYFRAMES and not fits:
            self._decode_all()
        elif self.mode is not Decode.KEYFRAMES and fits and len(self._key_gaps_s) == _GAPS:
            self.mode = Decode.KEYFRAMES
            self._last_decoded_s = None

    def _decode_all(self) -> None:
        self.mode = Decode.ALL
        self._waits_for_keyframe = True
        self._key_gaps_s.clear()
        self._forget_frames()

    def _is_due(self, at_s: float, period_s: float) -> bool:
        """False where the keyframe after this one is early enough."""
        gap_s = max(self._key_gaps_s, default=period_s)
        if self._last_decoded_s is not None and 0 <= at_s + gap_s - self._last_decoded_s <= period_s + _SLACK_S:
            return False
        self._last_decoded_s = at_s
        return True

    def _is_late(self, at_s: float, period_s: float) -> bool:
        """Whether the next keyframe should have come before `at_s`, or time jumped; B-frames may lie before theirs."""
        return self._last_key_s is not None and not -period_s <= at_s - self._last_key_s <= period_s + _SLACK_S

    @staticmethod
    def _fits(gap_s: float, period_s: float) -> bool:
        return 0 < gap_s <= period_s + _SLACK_S
