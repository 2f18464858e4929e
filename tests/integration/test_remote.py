"""A pipeline with a backend elsewhere: whatever that server does, every frame is accounted for, nobody else waits."""

import asyncio
from typing import Any

import pytest
from harness import Run, run
from misbehaving_server import (
    BOMB,
    CUT,
    DRIP,
    GARBAGE,
    HANG,
    HTML,
    HUGE,
    JUNK,
    NAN,
    RESET,
    WELL,
    MisbehavingServer,
    Reply,
    json_body,
    redirect,
    status,
)
from toy_remote import ToyConfig, toy_answer

from pipeline.contracts.backend import BackendReading, Measured

QUICK = {"max_attempts": 2, "min_s": 0.001, "max_s": 0.002}


def far(server: MisbehavingServer, **keys: Any) -> dict[str, Any]:
    return {"type": "toy", "url": server.url, "retries": QUICK, "circuit": {"failures": 1000}, "timeout_s": 1.0, **keys}


def reading(this: Run, name: str = "far") -> BackendReading:
    backend = this.supervisor.topology.backends[name].backend
    assert isinstance(backend, Measured)
    return backend.read()


def outcomes(this: Run, source: str = "cam") -> dict[str, int]:
    (account,) = [account for account in this.report.sources if account.name == source]
    return {outcome: count for outcome, count in account.outcomes.items() if count}


def test_every_frame_comes_back_in_order() -> None:
    with MisbehavingServer(toy_answer) as server:
        server.then(*(Reply(delay_s=0.01 * (7 * index % 5)) for index in range(40)))
        done = run(
            {"sources": {"cam": {"frames": 40}}, "backends": {"far": far(server, max_concurrent_requests=6)}},
            plugins=[ToyConfig],
        )
        assert done.seqs() == list(range(40))
        assert outcomes(done) == {"inferred": 40}
        assert {(result.backend, result.model) for result in done.sink().results} == {("far", "toy/1")}
        samples = done.scrape()
        assert samples["penstock_backend_attempts_total", (("backend", "far"), ("code", "ok"))] == 40
        assert samples["penstock_backend_sent_bytes_total", (("backend", "far"),)] == sum(
            len(asked.body) for asked in server.asked
        )


@pytest.mark.parametrize(
    ("reply", "code", "attempts"),
    [
        (status(503), "server_error", 2),
        (status(429), "rate_limited", 2),
        (status(504), "server_error", 2),
        (status(500), "server_error", 1),
        (status(400, "no"), "rejected", 1),
        (status(401), "auth", 1),
        (status(404), "not_found", 1),
        (redirect("/elsewhere"), "rejected", 1),
        (json_body([]), "bad_answer", 1),
        (json_body({"boxes": [{}]}), "bad_answer", 1),
        (HTML, "bad_answer", 1),
        (JUNK, "bad_answer", 1),
        (GARBAGE, "bad_answer", 1),
        (NAN, "bad_answer", 1),
        (HUGE, "too_large", 1),
        (BOMB, "too_large", 1),
        (CUT, "connection", 2),
        (RESET, "connection", 2),
        (HANG, "timeout", 1),
        (DRIP, "timeout", 1),
    ],
    ids=lambda value: str(value)[:30],
)
def test_each_fault_has_its_name_and_the_ledger_balances(reply: Reply, code: str, attempts: int) -> None:
    with MisbehavingServer(toy_answer) as server:
        server.then(*[reply] * (4 * attempts))
        keys = far(server, max_concurrent_requests=1, timeout_s=0.3)
        done = run({"sources": {"cam": {"frames": 12}}, "backends": {"far": keys}}, plugins=[ToyConfig])
        found = reading(done).requests
        failed = outcomes(done)["failed_backend"]
        if code == "timeout":  # so do those that waited behind it
            assert found[code] == failed >= 4
        elif attempts == 1:
            assert found[code] == failed == 4
        else:  # the attempts of two frames may mix
            assert found[code] == 4 * attempts
        assert found["ok"] == 12 - failed
        assert done.scrape()["penstock_backend_attempts_total", (("backend", "far"), ("code", code))] == found[code]
        assert outcomes(done)["failed_backend"] + outcomes(done)["inferred"] == 12
        assert done.seqs() == sorted(done.seqs())


@pytest.mark.parametrize("fault", [HANG, DRIP, RESET, Reply(delay_s=3), status(503)], ids=lambda value: str(value)[:30])
def test_a_slow_or_dead_server_never_delays_another_sources_frames(fault: Reply) -> None:
    figures: dict[str, Any] = {}

    async def during(this: Run) -> None:
        def seen() -> int:
            return len(this.seqs(source="near"))

        await this.until(lambda: seen() > 5)
        for phase, reply in (("well", WELL), ("faulty", fault)):
            server.always(reply)
            before = seen()
            await asyncio.sleep(2.0)
            figures[phase] = seen() - before
        this.supervisor.stop("enough")

    with MisbehavingServer(toy_answer) as server:
        live = {"type": "live", "endless": True, "fps": 25}
        done = run(
            {
                "sources": {"near": {**live, "backend": "local"}, "cam": {**live, "backend": "far"}},
                "backends": {"far": far(server, timeout_s=1.0), "local": {"type": "fake"}},
            },
            during,
            plugins=[ToyConfig],
        )
    assert figures["faulty"] >= 0.8 * figures["well"], figures
    late = [result.latency_s for result in done.sink().results if result.frame.source == "near"]
    assert sorted(late)[int(0.95 * len(late))] < 0.5, "the other's time-out is 1 s"
    assert done.seqs() == sorted(done.seqs())


def test_frames_go_to_the_fallback_while_the_circuit_is_open_and_come_back() -> None:
    async def during(this: Run) -> None:
        def said_by_last() -> str:
            results = this.sink().results
            return results[-1].backend if results else ""

        await this.until(lambda: said_by_last() == "far")
        server.always(status(500))
        await this.until(lambda: said_by_last() == "local")
        await this.until(lambda: reading(this).requests["circuit_open"] > 10)
        asked = len(server.asked)
        server.always(WELL)
        await this.until(lambda: said_by_last() == "far")
        figures["asked"] = len(server.asked) - asked
        await this.until(lambda: this.scrape()["penstock_backend_fallback_active", (("backend", "far"),)] == 0)
        this.supervisor.stop("enough")

    figures: dict[str, int] = {}
    with MisbehavingServer(toy_answer) as server:
        keys = far(server, fallback="local", circuit={"failures": 3, "open_s": 0.4, "max_open_s": 0.4})
        done = run(
            {
                "sources": {"cam": {"type": "live", "endless": True, "fps": 50, "backend": "far"}},
                "backends": {"far": keys, "local": {"type": "fake"}},
            },
            during,
            plugins=[ToyConfig],
        )
        assert done.seqs() == list(range(len(done.seqs()))), "no frame was lost, none came out of order"
        assert outcomes(done) == {"inferred": len(done.seqs())}
        backends = [result.backend for result in done.sink().results]
        assert {"far", "local"} == set(backends)


def test_a_server_that_is_not_there_at_the_start_is_asked_again_until_it_is() -> None:
    async def during(this: Run) -> None:
        await this.until(lambda: this.sink().results != [])
        assert {result.backend for result in this.sink().results} == {"local"}
        server.up()
        await this.until(lambda: this.sink().results[-1].backend == "far")
        this.supervisor.stop("enough")

    with MisbehavingServer(toy_answer) as server:
        server.down()
        done = run(
            {
                "sources": {"cam": {"type": "live", "endless": True, "fps": 25, "backend": "far"}},
                "backends": {"far": far(server, fallback="local", asks_first=True), "local": {"type": "fake"}},
            },
            during,
            plugins=[ToyConfig],
        )
    assert done.seqs() == sorted(done.seqs())


def test_a_stop_does_not_wait_for_a_server_that_hangs() -> None:
    async def during(this: Run) -> None:
        await this.until(lambda: len(server.asked) >= 1)
        this.supervisor.stop("enough")

    with MisbehavingServer(toy_answer) as server:
        server.always(HANG)
        done = run(
            {
                "sources": {"cam": {"type": "live", "endless": True, "fps": 25}},
                "backends": {"far": far(server, timeout_s=1.0)},
                "shutdown_timeout_s": 5,
            },
            during,
            plugins=[ToyConfig],
        )
        assert done.report.late == []
        assert done.seqs() == []
