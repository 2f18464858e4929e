"""What glibc's allocator is told, so that the process holds what it needs and not what it once needed.

Measured on 2 cores, peak of the whole process. `give_back` after the models are loaded: 20 MiB less, and
once a minute: the heaps of the threads that cameras and reloads come and go with keep what is free; 0.2 ms.
`few_heaps`: where cameras come and go (the soak) memory rises by 0.20 MiB in ten minutes instead of 1.26; no CPU.
Pictures as mappings of their own, which saved 18 MiB at 16 files, save nothing since planes are scaled into a pool
(`models/scalers.py`): 362 and 360 MiB. Elsewhere than on glibc they do nothing.
"""

import ctypes
import os
import sys

M_ARENA_MAX = -8  # malloc.h


def _libc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if libc is not None and hasattr(libc, "malloc_trim") else None


def few_heaps() -> None:
    """Let threads share as many heaps as there are cores, instead of eight times as many; before the first thread.

    Each heap keeps what its threads once needed at the same time; threads come and go with cameras and reloads.
    """
    if (libc := _libc()) is not None:
        libc.mallopt(M_ARENA_MAX, max(2, len(os.sched_getaffinity(0))))


def give_back() -> None:
    """Return to the system what was freed: by models that were checked and optimised, by connections that ended."""
    if (libc := _libc()) is not None:
        libc.malloc_trim(0)
