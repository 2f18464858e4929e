"""`Orders`: what a source's thread is told from outside: stop, pause, go on, begin anew."""

import threading


class Orders:
    """Given by the main thread, heeded by one source's thread. Each attempt to read has an event that interrupts it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._interrupt = threading.Event()
        self._stopping = False
        self._paused = False

    @property
    def stopping(self) -> bool:
        """True once told to stop."""
        return self._stopping

    @property
    def paused(self) -> bool:
        """True while paused."""
        return self._paused

    def stop(self) -> None:
        """No more, for good."""
        with self._changed:
            self._stopping = True
            self._interrupt.set()
            self._changed.notify_all()

    def pause(self, *, interrupt: bool) -> None:
        """No more until `resume`; `interrupt` ends the present attempt, too."""
        with self._changed:
            self._paused = True
            if interrupt:
                self._interrupt.set()

    def resume(self) -> None:
        """Go on."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def interrupt(self) -> None:
        """End the present attempt, or the waiting for the next one."""
        with self._changed:
            self._interrupt.set()

    def next_attempt(self) -> threading.Event | None:
        """Wait while paused; then what interrupts the attempt that begins now, or None when told to stop."""
        with self._changed:
            if not self._wait_while_paused():
                return None
            self._interrupt = threading.Event()
            return self._interrupt

    def wait_while_paused(self) -> bool:
        """False when told to stop."""
        with self._changed:
            return self._wait_while_paused()

    def _wait_while_paused(self) -> bool:
        while self._paused and not self._stopping:
            self._changed.wait()
        return not self._stopping
