"""Runs a whole pipeline in the test's own process, from tables to report, and checks the ledger whatever happens."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakes import FakeBackendConfig, FakeSink, FakeSinkConfig, FakeSourceConfig, LiveFakeConfig
from prometheus_client.parser import text_string_to_metric_families

from pipeline.config.loader import from_tree
from pipeline.contracts.backend import BackendConfig
from pipeline.contracts.clock import SystemClock
from pipeline.contracts.sink import SinkConfig
from pipeline.contracts.source import SourceConfig
from pipeline.registry import Registry
from pipeline.runtime.report import Report
from pipeline.runtime.supervisor import Supervisor
from pipeline.telemetry.events import Events
from pipeline.telemetry.metrics import Metrics

During = Callable[["Run"], Coroutine[Any, Any, None]]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass
class Run:
    """One run of a pipeline of fakes; `report` is there when it is over."""

    supervisor: Supervisor
    metrics: Metrics
    report: Report

    def sink(self, name: str = "keep") -> FakeSink:
        """The fake sink of that name."""
        sink = self.supervisor.topology.sinks[name].sink
        assert isinstance(sink, FakeSink)
        return sink

    def seqs(self, sink: str = "keep", source: str = "cam") -> list[int]:
        """The numbers of one source's frames in the order in which a sink was given their results."""
        return [result.frame.seq for result in self.sink(sink).results if result.frame.source == source]

    async def until(self, done: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Wait in the loop until it is so."""
        async with asyncio.timeout(timeout_s):
            while not done():  # noqa: ASYNC110  (what is waited for happens in other threads)
                await asyncio.sleep(0.005)

    def scrape(self) -> Samples:
        """All samples of /metrics, by name and labels."""
        body, _ = self.metrics.exposition()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }

    def check_ledger(self, samples: Samples) -> None:
        """The ledger's equation, as a stranger would check it: from the metrics alone."""
        for name in self.supervisor.settings.sources:
            decoded = samples["penstock_frames_decoded_total", (("source", name),)]
            settled = sum(
                value
                for (metric, labels), value in samples.items()
                if metric == "penstock_frames_total" and ("source", name) in labels
            )
            assert decoded == settled + samples["penstock_frames_in_flight", (("source", name),)]
        for name in self.supervisor.settings.sinks:
            counts = {
                dict(labels)["outcome"]: value
                for (metric, labels), value in samples.items()
                if metric == "penstock_sink_results_total" and ("sink", name) in labels
            }
            accepted = counts.pop("accepted") + counts.pop("restored")
            assert accepted == sum(counts.values()) + samples["penstock_sink_pending", (("sink", name),)]
        for name in self.supervisor.topology.ledger.clients:
            asked = samples["penstock_client_frames_asked_total", (("backend", name),)]
            settled = sum(
                value
                for (metric, labels), value in samples.items()
                if metric == "penstock_client_frames_total" and ("backend", name) in labels
            )
            assert asked == settled + samples["penstock_client_frames_in_flight", (("backend", name),)]


def run(
    tree: dict[str, Any],
    during: During | None = None,
    plugins: Sequence[type[SourceConfig | BackendConfig | SinkConfig]] = (),
) -> Run:
    """Run a pipeline of fakes to its end; `during` runs beside it in the loop, `plugins` are there besides the fakes.

    The ledger is checked at the end of every run: it balances, nothing is in flight, and the metrics say the same.
    """
    if "models" not in tree:
        tree.setdefault("sources", {"cam": {}})
        tree.setdefault("backends", {"model": {}})
        tree.setdefault("sinks", {"keep": {}})
    for kind in ("sources", "backends", "sinks", "models"):
        for table in tree.get(kind, {}).values():
            table.setdefault("type", "fake")
    tree.setdefault("server", {"listen": "off"})
    registry = Registry.of(FakeSourceConfig, LiveFakeConfig, FakeBackendConfig, FakeSinkConfig, *plugins)
    settings = from_tree(tree, base_dir=Path.cwd(), registry=registry)
    metrics, clock = Metrics("test"), SystemClock()
    supervisor = Supervisor(settings, events=Events(clock), metrics=metrics, clock=clock)
    this = Run(supervisor, metrics, Report([], [], [], [], [], [], [], abandoned=False))

    def stop_if_failed(beside: asyncio.Task[None]) -> None:
        if not beside.cancelled() and beside.exception() is not None:
            supervisor.stop("the test failed")

    async def both() -> Report:
        beside = asyncio.create_task(during(this)) if during is not None else None
        if beside is not None:
            beside.add_done_callback(stop_if_failed)
        report = await supervisor.run()
        if beside is not None:
            await beside
        return report

    this.report = asyncio.run(both())
    assert this.report.faults == []
    assert all(account.open == 0 for account in [*this.report.sources, *this.report.sinks, *this.report.clients])
    this.check_ledger(this.scrape())
    return this
