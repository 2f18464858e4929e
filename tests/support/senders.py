"""What tests of senders share: opening them with some keys, and packing numbered results."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pipeline.contracts.component import Context
from pipeline.contracts.sender import Parcel, Sender, SenderConfig
from pipeline.testing import frame, result

S = TypeVar("S", bound=Sender)


@contextmanager
def senders(kind: type[SenderConfig], sender: type[S], ctx: Context, **usual: Any) -> Iterator[Callable[..., S]]:
    """A function that opens senders of this kind, with `usual` and further keys; all are closed at the end."""
    made: list[S] = []

    def make(**keys: Any) -> S:
        config = kind.model_validate({**usual, **keys})
        config.check()
        one = config.build(ctx)
        assert isinstance(one, sender)
        made.append(one)
        one.open()
        return one

    yield make
    for one in made:
        one.close()


def packed(sender: Sender, count: int, *, first: int = 0, source: str = "gate") -> list[Parcel]:
    """Results of the frames from `first` on, as the sender packs them."""
    return [sender.pack(result(frame(seq, source=source))) for seq in range(first, first + count)]
