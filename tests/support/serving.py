"""The HTTP server in front of a pipeline that is none: it notes the orders and answers as a test tells it to."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from pipeline.contracts.clock import SystemClock
from pipeline.runtime.control import ReloadOutcome
from pipeline.server.access import Access
from pipeline.server.app import Limits, Server
from pipeline.server.views import Commands, Health
from pipeline.telemetry.events import Events

HASH = "0123456789ab"


def source(name: str) -> dict[str, Any]:
    """A source as /api/v1/sources shows it."""
    return {
        "name": name,
        "type": "fake",
        "state": "reconnecting",
        "code": "TIMEOUT",
        "error": "no answer",
        "content": "ok",
        "required": False,
        "backend": "local",
        "last_frame_at": 1.5e9,
        "last_frame_age_s": 2.5,
        "decoded": 7,
        "outcomes": {"inferred": 7},
        "skipped": 0,
        "in_flight": 0,
        "queued": 0,
        "queue_capacity": 4,
        "scene": {
            "tracks": 1,
            "zones": {"door": {"person": 1}},
            "lines": {"entry": {"in": {"person": 3}, "out": {}}},
            "resumed_after_s": None,
        },
        "details": {"codec": "h264", "width_px": 1920, "fps": 12.5},
    }


@dataclass
class FakeControl:
    """A `Control` with sources by name; `outcome` is how every change ends, unless `gate` keeps it waiting."""

    sources: dict[str, Any] = field(default_factory=lambda: {"gate": {}, "door": {}})
    config_hash: str = HASH
    outcome: ReloadOutcome | None = None
    orders: list[tuple[Any, ...]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def pause(self, source: str) -> bool:
        return self._tell("pause", source)

    def resume(self, source: str) -> bool:
        return self._tell("resume", source)

    def restart(self, source: str) -> bool:
        return self._tell("restart", source)

    async def reload(self, why: str) -> ReloadOutcome:
        outcome = await self._change("reload", why)
        return ReloadOutcome(True, self.config_hash) if outcome.conflict else outcome

    async def put_source(self, name: str, table: Mapping[str, Any], if_match: str | None) -> ReloadOutcome:
        outcome = await self._change("put", name, dict(table), if_match)
        if outcome.ok:
            self.sources[name] = table
        return outcome

    async def delete_source(self, name: str, if_match: str | None) -> ReloadOutcome | None:
        return await self._change("delete", name, if_match) if name in self.sources else None

    def _tell(self, order: str, name: str) -> bool:
        self.orders.append((order, name))
        return name in self.sources

    async def _change(self, *order: Any) -> ReloadOutcome:
        if self.gate is not None:
            await self.gate.wait()
        self.orders.append(order)
        self.changed.set()
        if_match = order[-1] if order[0] in ("put", "delete") else None
        if if_match not in (None, self.config_hash):
            return ReloadOutcome(False, self.config_hash, conflict=True)
        return self.outcome or ReloadOutcome(True, "ba9876543210", ("source gate: changed (max_fps)",))

    def status(self) -> dict[str, Any]:
        """What /api/v1/status shows."""
        return {
            "version": "1.0",
            "config_hash": self.config_hash,
            "uptime_s": 1.5,
            "stopping": False,
            "sources": [source(name) for name in self.sources],
            "backends": [
                {
                    "name": "local",
                    "model": "m.onnx",
                    "ready": True,
                    "error": None,
                    "on_fallback": False,
                    "devices": ["cpu"],
                }
            ],
            "sinks": [
                {
                    "name": "s",
                    "open": True,
                    "state": "ready",
                    "error": None,
                    "trouble": None,
                    "accepted": 1,
                    "restored": 0,
                    "outcomes": {},
                    "pending": 1,
                    "spool": None,
                },
                {
                    "name": "far",
                    "open": True,
                    "state": "ready",
                    "error": None,
                    "trouble": None,
                    "accepted": 3,
                    "restored": 0,
                    "outcomes": {"dead_lettered": 2},
                    "pending": 1,
                    "spool": {
                        "bytes": 100,
                        "capacity_bytes": 1 << 20,
                        "oldest_at": 1.8e9,
                        "oldest_age_s": 2.5,
                        "dead_letters": 1,
                        "dead_letters_dropped": 1,
                        "corrupt": 0,
                    },
                },
            ],
        }


def make_server(control: FakeControl, *, takes_orders: bool = True, **options: Any) -> Server:
    """A server on a free port; `options` are those of `Server`, and `sources_by_api`, `source_schema`."""
    of_commands = {name: options.pop(name) for name in ("sources_by_api", "source_schema") if name in options}
    return Server(
        ("127.0.0.1", 0),
        metrics=lambda _: (b"# EOF\n", "text/plain; version=0.0.4; charset=utf-8"),
        status=control.status,
        live=lambda: Health(ok=True, checks={"backend local": "ok"}),
        ready=lambda: Health(ok=True, checks={"running": "ok"}, sources=[brief("gate")]),
        commands=Commands(control if takes_orders else None, Events(SystemClock()), **of_commands),
        access=options.pop("access", Access()),
        version="1.0",
        limits=options.pop("limits", Limits()),
        **options,
    )


def brief(name: str) -> dict[str, Any]:
    """A source as /readyz shows it."""
    whole = source(name)
    return {key: whole[key] for key in ("name", "state", "code", "last_frame_age_s", "required")}


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    text: str
    data: bytes = b""

    @property
    def body(self) -> Any:
        """The JSON in it."""
        return json.loads(self.text)


Ask = Callable[..., Awaitable[Answer]]


def serve(server: Server | Callable[[], Server], test: Callable[[Ask], Awaitable[None]]) -> None:
    """Run `test` beside a started server (or one that is made on the loop), which is closed whatever happens."""

    async def main() -> None:
        under_test = server() if callable(server) else server
        await under_test.start()
        try:
            async with aiohttp.ClientSession() as session:

                async def ask(method: str, path: str, **options: Any) -> Answer:
                    async with session.request(method, under_test.url + path, **options) as response:
                        data = await response.read()
                        return Answer(response.status, response.headers, data.decode(errors="replace"), data)

                await test(ask)
        finally:
            await under_test.close()

    asyncio.run(main(), debug=True)
