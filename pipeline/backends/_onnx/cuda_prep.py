"""`Preps`: small sessions that turn planes in a device's memory into one row of a model's input; made when needed."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.backends._onnx.session import Session
from pipeline.models.graph_nodes import CannotComposeError
from pipeline.models.graph_planes import SLOT, PlanesIn, SlotOut, planes_graph

MOST_GEOMETRIES = 16
"""Sessions that are kept. A camera has one geometry; each session holds handles of CUDA's libraries, some megabytes."""

_AGAIN_S = 60.0  # after a session did not start: the device may have had no memory for it just then
_EXCHANGE_S = 2.0  # a stream whose pictures change size all the time must not have a session made for each of them


class Where(NamedTuple):
    """A device as onnxruntime names it: ("cuda", 0)."""

    kind: str
    number: int


class _Prep(NamedTuple):
    session: Session
    binding: Any  # onnxruntime.IOBinding


class Preps:
    """Made by `DeviceFeed`; any thread, one at a time within.

    All sessions work in one stream, and each run ends when its work is done. Runs of the model overlap with that: they
    have streams of their own.

    Args:
        make: loads a graph for the device; None where it does not start there.
        where: the device whose memory is bound.
        now_s: a monotonic clock.
        refused: told once for each reason why pictures cannot be read on the device.
        most: sessions that are kept.
    """

    def __init__(
        self,
        make: Callable[[bytes], Session | None],
        where: Where,
        now_s: Callable[[], float],
        refused: Callable[[str], None],
        most: int = MOST_GEOMETRIES,
    ) -> None:
        self._make = make
        self._where = where
        self._now_s = now_s
        self._refused = refused
        self._most = most
        self._made: OrderedDict[tuple[PlanesIn, SlotOut], _Prep | None] = OrderedDict()
        self._not_before: dict[tuple[PlanesIn, SlotOut], float] = {}
        self._told: set[str] = set()
        self._exchanged_at = now_s() - _EXCHANGE_S
        self._lock = threading.Lock()

    def put(self, planes: PlanesIn, addresses: Sequence[int], slot: SlotOut, row_address: int) -> bool:
        """Turn planes into the row; done when it returns. False: not here, take the way through the host.

        Args:
            planes: how the planes lie.
            addresses: where; one for each of `planes.tensors`.
            slot: what the model wants.
            row_address: where it wants that.

        Raises:
            Exception: what onnxruntime raises.
        """
        with self._lock:
            prep = self._of(planes, slot)
            if prep is None:
                return False
            bound = prep.binding
            for tensor, address in zip(planes.tensors, addresses, strict=True):
                bound.bind_input(tensor.name, *self._where, _type(tensor.dtype), list(tensor.shape), address)
            row = slot.tensor
            bound.bind_output(SLOT, *self._where, _type(row.dtype), list(row.shape), row_address)
            prep.session.run_with_iobinding(bound)
            return True

    def close(self) -> None:
        """Let all sessions go."""
        with self._lock:
            self._made.clear()

    def _of(self, planes: PlanesIn, slot: SlotOut) -> _Prep | None:
        key = (planes, slot)
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        if key in self._not_before and self._now_s() < self._not_before[key]:
            return None
        if len(self._made) >= self._most:
            if self._now_s() - self._exchanged_at < _EXCHANGE_S:
                return None
            self._exchanged_at = self._now_s()
            self._made.popitem(last=False)
        try:
            session = self._make(planes_graph(planes, slot))
        except CannotComposeError as error:
            self._refuse(str(error))
            self._made[key] = None
            return None
        if session is None:
            self._refuse("onnxruntime could not start it there")
            if len(self._not_before) >= self._most:
                self._not_before.clear()
            self._not_before[key] = self._now_s() + _AGAIN_S
            return None
        found = self._made[key] = _Prep(session, session.io_binding())
        return found

    def _refuse(self, reason: str) -> None:
        if reason not in self._told and len(self._told) < self._most:
            self._told.add(reason)
            self._refused(reason)


def _type(name: str) -> type[np.generic]:
    return np.dtype(name).type
