"""The other end of webhooks: an oracle that writes down what arrived, and fails, refuses and vanishes as it is told."""

import gzip
import hashlib
import json
import random
import ssl
import threading
from asyncio import StreamWriter
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from misbehaving_server import WELL, Asked, MisbehavingServer, Reply, status
from standardwebhooks import Webhook

Outcome = Literal["taken", "lost ack", "later", "refused"]
"""taken: answered with 200. lost ack: taken, but the answer never comes. later, refused: not taken."""

LOST_ACK = Reply(reset=True)
LATER = (status(500), status(503, Retry_After="0"), status(429, Retry_After="0"))
REFUSED = status(422, "not this one")


@dataclass(frozen=True)
class Item:
    """One result or event as it arrived."""

    id: str
    digest: str
    document: dict[str, Any]

    @property
    def source(self) -> str:
        return str(self.document["source"])


@dataclass(frozen=True)
class Arrival:
    """One request that was read in full."""

    id: str
    items: tuple[Item, ...]
    at: float
    outcome: Outcome


Decide = Callable[[Asked, Sequence[Item]], tuple[Outcome, Reply]]


def well(_: Asked, __: Sequence[Item]) -> tuple[Outcome, Reply]:
    """Take everything."""
    return "taken", Reply(204, body=b"")


class Faults:
    """Decides at random, always the same for a seed: a share fails, a share loses its answer, some are never taken.

    Args:
        seed: another one, other faults.
        later: the share that is answered with 500, 503 or 429.
        lost_acks: the share that is taken and not answered.
        refuse: of each so many one is refused, always the same ones; 0: none.
        delay_s: before it answers that it took something.
    """

    def __init__(
        self, seed: int, *, later: float = 0.0, lost_acks: float = 0.0, refuse: int = 0, delay_s: float = 0.0
    ) -> None:
        self._rng = random.Random(seed)
        self._delay_s = delay_s
        self._later, self._lost_acks, self._refuse = later, lost_acks, refuse

    def refuses(self, item: Item) -> bool:
        """Whether it is never taken, however often it comes."""
        return bool(self._refuse) and int(hashlib.sha256(item.id.encode()).hexdigest(), 16) % self._refuse == 0

    def __call__(self, asked: Asked, items: Sequence[Item]) -> tuple[Outcome, Reply]:
        """See `Decide`; called in the server's loop."""
        drawn = self._rng.random()
        if drawn < self._later:
            return "later", self._rng.choice(LATER)
        if any(self.refuses(item) for item in items):
            return "refused", REFUSED
        if drawn < self._later + self._lost_acks:
            return "lost ack", LOST_ACK
        outcome, reply = well(asked, items)
        return outcome, replace(reply, delay_s=self._delay_s)


class WebhookReceiver(MisbehavingServer):
    """Takes webhooks; every request is checked and written down. Its switches work besides.

    Args:
        decide: what becomes of a request.
        secret: with which each must be signed, by the verdict of the public `standardwebhooks`; None: unsigned.
        tls: it speaks HTTPS with this.
    """

    def __init__(self, decide: Decide = well, *, secret: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(lambda _: Reply(204, body=b""), tls)
        self.decide = decide
        self._secret = secret
        self._arrived = threading.Condition()
        self.arrivals: list[Arrival] = []
        self.wrong: list[str] = []
        """What no sender may do, in words."""

    def wait(self, done: Callable[[], bool], limit_s: float = 20.0) -> None:
        """Wait until what has arrived is enough.

        Raises:
            AssertionError: it is not within the limit.
        """
        with self._arrived:
            assert self._arrived.wait_for(done, limit_s), f"not within {limit_s:g} s: {len(self.arrivals)} arrived"

    def taken(self) -> dict[str, list[Arrival]]:
        """By the items' ids: the requests in which they were taken, at least one each."""
        found: dict[str, list[Arrival]] = defaultdict(list)
        for arrival in list(self.arrivals):
            if arrival.outcome in ("taken", "lost ack"):
                for item in arrival.items:
                    found[item.id].append(arrival)
        return dict(found)

    def count(self, outcome: Outcome) -> int:
        """How many requests ended so."""
        return sum(arrival.outcome == outcome for arrival in list(self.arrivals))

    def firsts(self) -> dict[str, list[Item]]:
        """By source: all that came, in the order in which it came first, whatever became of it."""
        seen: set[str] = set()
        found: dict[str, list[Item]] = defaultdict(list)
        for arrival in list(self.arrivals):
            for item in arrival.items:
                if item.id not in seen:
                    seen.add(item.id)
                    found[item.source].append(item)
        return dict(found)

    async def _reply(self, asked: Asked, reply: Reply, writer: StreamWriter) -> bool:
        if reply is WELL:
            reply = self._note(asked)
        return await super()._reply(asked, reply, writer)

    def _note(self, asked: Asked) -> Reply:
        headers = asked.headers
        body = gzip.decompress(asked.body) if headers.get("content-encoding") == "gzip" else asked.body
        if self._secret is not None:
            try:
                Webhook(self._secret).verify(body, headers)
            except Exception as error:  # noqa: BLE001 - whatever its verdict is, it is ours
                self.wrong.append(f"signature of {headers.get('webhook-id')}: {error!r}")
        items = _items(body, headers)
        outcome, reply = self.decide(asked, items)
        with self._arrived:
            self.arrivals.append(Arrival(headers.get("webhook-id", ""), items, asked.at, outcome))
            self._arrived.notify_all()
        return reply


def _items(body: bytes, headers: dict[str, str]) -> tuple[Item, ...]:
    if not headers.get("content-type", "").startswith("application/json"):
        return (Item(headers.get("webhook-id", ""), _digest(body), {}),)
    found = json.loads(body)
    if isinstance(found, list):
        return tuple(Item(str(one.get("id", "")), _digest(json.dumps(one).encode()), one) for one in found)
    return (Item(str(found.get("id", "")), _digest(body), found),)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
