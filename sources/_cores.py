"""`cores`: as many pictures are decoded on the CPU at once as there are cores, whatever the number of sources."""

import os
from queue import SimpleQueue


class Cores:
    """`with cores:` waits until fewer than `count` others are inside, about as long as one picture takes to decode.

    Made once for the process; entered by any thread, not twice by the same. What is done inside ends by itself: it
    waits for no other thread and no device.
    """

    def __init__(self, count: int) -> None:
        # In C, for it is used for each frame: a `Semaphore` is itself Python, and holds the interpreter's lock.
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(count):
            self._free.put(None)

    def __enter__(self) -> None:
        self._free.get()

    def __exit__(self, *_: object) -> None:
        self._free.put(None)


cores = Cores(len(os.sched_getaffinity(0)))
"""More decoders than cores only interrupt each other, and who is interrupted with the interpreter's lock in hand stops
all of them: see DECISIONS 128. The cores are one for all sources, and so is this."""
