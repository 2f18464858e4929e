"""`SpreadFeed`: one model on several GPUs: each picture where it lies, or where there is least to do."""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence

from pipeline.backends._onnx.feed import Feed, Placed, Ran
from pipeline.backends._onnx.session import DeviceLostError
from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError, FatalError, PenstockError
from pipeline.contracts.frame import Frame
from pipeline.contracts.surface import OnDevice


class _Place:
    """A device with its feed; guarded by the owner's lock."""

    def __init__(self, device: str, feed: Feed) -> None:
        self.device = device
        self.feed = feed
        self.busy = 0
        self.lost = False


class SpreadFeed:
    """Made when a backend opens; used by its workers, two for each device.

    A device that is lost (fell off the bus, or its context failed: it stays failed for as long as the process lives) is
    left out from then on, and its batch is run by another one: said aloud each time. After the last GPU the CPU is
    taken where the config allows that.

    Args:
        feeds: for each device ("cuda:0") a feed.
        last_resort: makes the feed of the CPU; None: the backend ends with its last device.
        ctx: of the backend.
    """

    def __init__(self, feeds: Mapping[str, Feed], *, last_resort: Callable[[], Feed] | None, ctx: Context) -> None:
        self._places = [_Place(device, feed) for device, feed in feeds.items()]
        self._last_resort = last_resort
        self._ctx = ctx
        self._lock = threading.Lock()
        self._replacing = threading.Lock()

    @property
    def device(self) -> str:
        """Where it runs now: "cuda:0", "cuda:0,cuda:1" or "cpu"."""
        with self._lock:
            return ",".join(place.device for place in self._places if not place.lost) or "none"

    def run(self, batch: Sequence[Frame], places: Sequence[Placed]) -> Ran:
        """See `Feed`."""
        while True:
            place = self._enter(batch)
            try:
                return place.feed.run(batch, places)
            except DeviceLostError as error:
                self._lose(place, str(error))
            finally:
                with self._lock:
                    place.busy -= 1

    def close(self) -> None:
        """See `Feed`. Feeds of lost devices are closed only here: letting go of memory on a dead device can take the
        process along, and here it ends anyway, or the device was never as dead as that."""
        with self._lock:
            places, self._places = self._places, []
        with contextlib.ExitStack() as all_of_them:
            for place in places:
                if place.lost:  # what it says to that is known
                    all_of_them.enter_context(contextlib.suppress(OSError, PenstockError))
                all_of_them.callback(place.feed.close)

    def _enter(self, batch: Sequence[Frame]) -> _Place:
        picture = batch[0].picture
        home = f"cuda:{picture.surface.device}" if isinstance(picture, OnDevice) else None
        with self._lock:
            alive = [place for place in self._places if not place.lost]
            if not alive:
                raise FatalError("no device is left to run the model on")
            found = next((place for place in alive if place.device == home), None)
            place = found or min(alive, key=lambda each: each.busy)
            place.busy += 1
            return place

    def _lose(self, lost: _Place, reason: str) -> None:
        """Leave the device out; returns once there is another one.

        Raises:
            FatalError: there is none.
        """
        with self._replacing:  # who else lost it waits here for what comes in its place
            if lost.lost:
                return
            rest = [place for place in self._places if place is not lost and not place.lost]
            if not rest:
                self._take_last_resort(reason)
            with self._lock:
                lost.lost = True
            self._ctx.fell_back(lost.device, self.device, reason)

    def _take_last_resort(self, reason: str) -> None:
        if self._last_resort is None:
            raise FatalError(reason)
        make, self._last_resort = self._last_resort, None
        try:
            place = _Place("cpu", make())
        except (PenstockError, OSError) as error:
            if not isinstance(error, ConfigError | FatalError | OSError):
                raise
            raise FatalError(f"{reason}; and on the CPU: {error}") from error
        with self._lock:
            self._places.append(place)
