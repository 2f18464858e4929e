"""`Streams`: the running pipeline's own sources, as far as a protocol of the inference server shows them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.runtime.control import Control
from pipeline.runtime.tapping import Taps


@dataclass(frozen=True, slots=True)
class Streams:
    """The running pipeline's sources. Made by who makes the server.

    Attributes:
        control: takes orders; None: this run takes none.
        status: what stands in /api/v1/status.
        taps: lets results be listened to; None: it does not.
        sources_by_api: sources may be put and deleted.
    """

    control: Control | None = None
    status: Callable[[], Mapping[str, Any]] = field(default=lambda: {"sources": []})
    taps: Taps | None = None
    sources_by_api: bool = False
