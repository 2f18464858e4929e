"""What glibc's allocator is told, so that the process holds what it needs and not what it once needed.

Measured on 2 cores, peak of the whole process. `give_back` after the models are loaded: 20 MiB less, and
once a minute: the heaps of the threads that cameras and reloads come and go with keep what is free; 0.2 ms.
`map_pictures` with 16 files of 720p: 348 MiB instead of 375; but what is mapped anew for each frame is touched anew
page by page, 0.6 ms of CPU a frame for yolox_nano at 416, so it is for many sources only. Elsewhere than on glibc both
do nothing.
"""

import ctypes
import sys

M_MMAP_THRESHOLD = -3  # malloc.h
PICTURE_BYTES = 1 << 20


def _libc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if libc is not None and hasattr(libc, "malloc_trim") else None


def map_pictures() -> None:
    """Let blocks as large as a picture be mappings of their own, which return to the system when they are let go.

    By default glibc raises the threshold with the first large block that is freed; from then on pictures come from the
    heaps of the threads, which fragment. Called once, before the first picture.
    """
    if (libc := _libc()) is not None:
        libc.mallopt(M_MMAP_THRESHOLD, PICTURE_BYTES)


def give_back() -> None:
    """Return to the system what was freed: by models that were checked and optimised, by connections that ended."""
    if (libc := _libc()) is not None:
        libc.malloc_trim(0)
