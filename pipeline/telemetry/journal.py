"""systemd's journal, spoken to in its native protocol: a datagram of fields for each event.

Format: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
MAX_FIELD_BYTES = 48 * 1024  # a datagram must fit into the socket's buffer: of a long traceback the end counts
SEND_TIMEOUT_S = 0.5


def is_stderr_journal(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether stderr is the stream that systemd connected to the journal, and not one that somebody redirected."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # no stderr at all, closed, or one without a file
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


class Journal:
    """A connection to the journal. Made by `logs.set_up`; used under its handler's lock.

    A journal that takes nothing for half a second costs that line, not the pipeline its threads: what was lost is said
    with the next line that gets through.
    """

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path
        self._lost = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(SEND_TIMEOUT_S)

    def send(self, priority: int, fields: Mapping[str, str]) -> bool:
        """Write one entry; False: it is not to be had this way, write it elsewhere."""
        lost = {"PENSTOCK_LOST_LINES": str(self._lost)} if self._lost else {}
        entry = {"PRIORITY": str(priority), "SYSLOG_IDENTIFIER": "penstock", **fields, **lost}
        data = b"".join(_field(name, value) for name, value in entry.items())
        try:
            self._socket.sendto(data, str(self._path))
        except (TimeoutError, BlockingIOError):
            self._lost += 1
            return True
        except OSError:
            return False
        self._lost = 0
        return True

    def close(self) -> None:
        """Let go of the socket."""
        with contextlib.suppress(OSError):
            self._socket.close()


def _field(name: str, value: str) -> bytes:
    """`NAME=value`, or with the value's length where it has several lines."""
    data = value.encode("utf-8", "backslashreplace")
    data = data if len(data) <= MAX_FIELD_BYTES else b"[...] " + data[-MAX_FIELD_BYTES:]
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
