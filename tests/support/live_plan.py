"""A file read as if it were a camera."""

from pathlib import Path

from sources._decoding import Decoding
from sources._live import Plan


def plan(path: Path, max_fps: float | None = None, decode: str = "cpu") -> Plan:
    """A file read as if it were live: its end is a lost connection."""
    return Plan(
        address=path,
        shown="clip",
        transport="file",
        open_timeout_s=5,
        first_frame_timeout_s=5,
        stall_timeout_s=5,
        decoding=Decoding(decode, 1, 10**8, low_delay=True),
        on_corrupt="flag",
        max_fps=max_fps,
    )
