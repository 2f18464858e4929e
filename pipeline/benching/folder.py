"""`passing_folder`: a folder for files in between, gone at the end, also where a signal is the end."""

import contextlib
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

_ENDS = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def passing_folder(prefix: str) -> Iterator[Path]:
    """Make the folder for the commands that measure; `kill` and a closed terminal end them as Ctrl-C does, tidily.

    Args:
        prefix: of its name.

    Raises:
        SystemExit: such a signal came; the code says which, as a shell would.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():  # others may not ask for signals
        before = {number: signal.signal(number, _end) for number in _ENDS if _is_default(number)}
    try:
        with tempfile.TemporaryDirectory(prefix=prefix) as name:
            yield Path(name)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_default(number: signal.Signals) -> bool:
    return signal.getsignal(number) is signal.SIG_DFL  # `nohup` ignores SIGHUP


def _end(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)
