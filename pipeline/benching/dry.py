"""`DryContext`: what a component gets that is looked at and run outside of any pipeline."""

from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from pipeline.contracts.clock import Clock, SystemClock
from pipeline.contracts.packets import PacketRing

T = TypeVar("T")


class DryContext:
    """The `Context` of a component that nothing runs around. Made by the commands that measure; any thread.

    Args:
        name: of the component.
        data_dir: a folder that is thrown away afterwards.
    """

    def __init__(self, name: str, data_dir: Path) -> None:
        self.name = name
        self.clock: Clock = SystemClock()
        self.data_dir = data_dir
        self.continues = False
        self.said: list[str] = []
        """What it had to say."""

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """There is no loop here.

        Raises:
            RuntimeError: always.
        """
        coroutine.close()
        raise RuntimeError(f"no pipeline runs: {self.name} is only measured, and not asked for {timeout_s:g} s")

    def packets(self, source: str) -> PacketRing:
        """One that nobody reads."""
        del source
        return PacketRing()

    def warn(self, message: str) -> None:
        """Keep it for the page."""
        self.said.append(message)

    def fell_back(self, wanted: str, got: str, reason: str) -> None:
        """Keep it for the page."""
        self.said.append(f"{wanted} cannot be had, {got} is used: {reason}")

    def tell(self, state: str, detail: str, *, well: bool) -> None:
        """Keep it for the page where it is bad news."""
        if not well:
            self.said.append(f"{state}: {detail}")
