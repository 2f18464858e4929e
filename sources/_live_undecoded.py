"""`Undecoded`: how many frames of a live stream were never decoded because nobody would have wanted them."""

# H.264 and H.265 hold back 16 pictures at most: what so many were given behind does not come any more.
_MOST_HELD_BACK = 32


class Undecoded:
    """Made by the source, told by its connections, one after another, in its thread; `count` may be asked by any.

    A packet of video is one frame. Counted are

    - packets that the decoder was not given, or was given only because others build on them, after they had been kept
      while nothing moved;
    - packets that it was given and told to pass over unless others build on them (`skip_frame`), and whose frame did
      not come. Only the decoder knows which they are: each is waited for by its time stamp until the decoder cannot
      hold it back any more;
    - what the decoder held back when it was emptied because keyframes will do from there on, or did until there.

    A packet that fails to decode is none of these, nor is one whose frame did not come though it was asked for. What
    the decoder held back when a connection broke down is nobody's.
    """

    def __init__(self) -> None:
        self._count = 0
        self._given: dict[int, bool] = {}  # by time stamp: whether the decoder may pass it over
        self._last_pts: int | None = None

    @property
    def count(self) -> int:
        """So many up to now; it only grows."""
        return self._count

    def begin_connection(self) -> None:
        """A new decoder, and time stamps of another kind."""
        self._given.clear()
        self._last_pts = None

    def leave_out(self, packets: int = 1) -> None:
        """Packets are not given to the decoder, or only because others build on them."""
        self._count += packets

    def give(self, pts: int | None, *, only_reference: bool) -> None:
        """A packet is given to the decoder, which may pass it over if `only_reference`."""
        if pts is None:
            return
        self._given[pts] = only_reference
        if len(self._given) > _MOST_HELD_BACK:
            self._count += self._given.pop(next(iter(self._given)))

    def come(self, pts: int | None) -> None:
        """This frame came out of the decoder."""
        if pts is not None:
            self._given.pop(pts, None)
            self._last_pts = pts

    def fail(self, pts: int | None) -> None:
        """This packet failed."""
        if pts is not None:
            self._given.pop(pts, None)

    def throw_away(self) -> None:
        """The decoder is emptied: what it holds is not wanted."""
        last = self._last_pts
        self._count += sum(passed or (last is not None and pts > last) for pts, passed in self._given.items())
        self._given.clear()

    def end(self) -> None:
        """The connection ends, or the decoder is given up: what would be shown behind its last frame is unknown."""
        last = self._last_pts
        self._count += sum(passed and last is not None and pts < last for pts, passed in self._given.items())
        self._given.clear()
