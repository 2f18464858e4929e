"""A program that fills a spool and empties it, and says what it has done: `python spool_toy.py FILE COUNT [KEY=VALUE]`.

It writes `accepted N` on stdout for each parcel once the spool has taken it, `sent N` once the other side (this line)
has it, `failed WHAT` for each attempt that the disk refused, and `done` when all are in. A spool that fails is tried
again, as the sink around it does.
"""

import os
import sys
import threading
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from parcels import number_of, parcel  # noqa: E402

from pipeline.contracts.clock import SystemClock  # noqa: E402
from pipeline.contracts.sender import BufferConfig, Parcel  # noqa: E402
from pipeline.spool.errors import DamagedError, SpoolError  # noqa: E402
from pipeline.spool.store import Store  # noqa: E402

BATCH = 7


def tell(line: str) -> None:
    """One system call, so that a kill leaves no half of it."""
    os.write(1, f"{line}\n".encode())


def opened(path: Path, buffer: BufferConfig) -> Store:
    while True:
        try:
            return Store.open(path, buffer, SystemClock())
        except SpoolError as error:
            tell(f"failed open {error}")
            time.sleep(0.02)


def fill(store: Store, numbers: list[int], size: int) -> None:
    waiting: list[Parcel] = [parcel(number, size=size) for number in numbers]
    while waiting:
        try:
            done = store.append(waiting)
        except SpoolError as error:
            tell(f"failed append {error}")
            time.sleep(0.01)
            continue
        except DamagedError as error:
            tell(f"failed damaged {error}")
            store.mend(store.found)
            continue
        if not done.taken:
            tell("failed full")
            time.sleep(0.01)
            continue
        tell("\n".join(f"accepted {number_of(one)}" for one in waiting[: done.taken]))
        waiting = waiting[done.taken :]


def empty(store: Store, until: threading.Event) -> None:
    while not until.is_set() or store.pending:
        try:
            taken = store.take("cam", 3)
            if not taken:
                until.wait(0.001)
                continue
            tell("\n".join(f"sent {number_of(item.parcel)}" for item in taken))
            while True:
                try:
                    store.acknowledge([item.seq for item in taken])
                    break
                except SpoolError as error:
                    tell(f"failed acknowledge {error}")
                    time.sleep(0.01)
        except SpoolError as error:
            tell(f"failed take {error}")
            time.sleep(0.01)
        except DamagedError as error:
            tell(f"failed damaged {error}")
            store.mend(store.found)


def main() -> None:
    path, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    keys = dict(pair.split("=", 1) for pair in sys.argv[4:])
    sends, size = keys.pop("sends", "yes") == "yes", int(keys.pop("size", "300"))
    store = opened(path, BufferConfig.model_validate({"min_free_bytes": 0, **keys}))
    tell(f"opened {store.found.waiting} {store.found.lost}")
    filled = threading.Event()
    sender = threading.Thread(target=empty, args=(store, filled))
    if sends:
        sender.start()
    for start in range(first, first + count, BATCH):
        fill(store, list(range(start, min(first + count, start + BATCH))), size)
        if start % 70 == 0:
            try:
                store.tend()
            except SpoolError as error:
                tell(f"failed tend {error}")
    filled.set()
    if sends:
        sender.join()
    try:
        store.close()
    except SpoolError as error:
        tell(f"failed close {error}")
    tell("done")


if __name__ == "__main__":
    main()
