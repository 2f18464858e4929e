"""`Port`: a producer's end of a queue that can be moved to another queue while the producer is at work."""

from typing import Generic, TypeVar

from pipeline.runtime.queue import Lane

T = TypeVar("T")


class Port(Generic[T]):
    """A producer's end that can be moved to another lane, of any queue, while the producer is at work.

    `put` and `wait_for_room` belong to the producer's thread; `move` and `close` to the main thread.
    """

    def __init__(self, lane: Lane[T]) -> None:
        self.lane = lane

    def put(
        self, item: T, nbytes: int = 0, since: float | None = None, *, wait: bool = True, force: bool = False
    ) -> str | None:
        """Hand over an item: None; or the reason why it was refused: it ended there, and no other will be taken."""
        while True:
            lane = self.lane
            if lane.put(item, nbytes, since, wait=wait, force=force):
                return None
            if lane is self.lane:
                return lane.closed_reason

    def wait_for_room(self) -> bool:
        """See `Lane.wait_for_room`."""
        while True:
            lane = self.lane
            if lane.wait_for_room():
                return True
            if lane is self.lane:
                return False

    def move(self, lane: Lane[T]) -> None:
        """From now on items go there; what is in the lane before it is still taken."""
        before, self.lane = self.lane, lane
        before.close()

    def close(self, last: T | None = None) -> None:
        """No more will come, but this."""
        self.lane.close(last)
