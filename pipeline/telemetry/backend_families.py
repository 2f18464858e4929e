"""The metric families of backends: what clients asked of them, and how those elsewhere are."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pipeline.contracts.backend import BackendReading, Circuit
from pipeline.contracts.errors import BackendErrorCode
from pipeline.telemetry.readings import BackendState


def backend_families(backends: Iterable[BackendState]) -> Iterator[Metric]:
    """All of them, each with its samples at this moment."""
    states = list(backends)
    yield from _client_families(states)
    yield from _elsewhere_families([(each.name, each.elsewhere) for each in states if each.elsewhere is not None])
    fallback = GaugeMetricFamily(
        "penstock_backend_fallback_active", "1 while another backend answers for it.", labels=["backend"]
    )
    device = GaugeMetricFamily(
        "penstock_backend_device_info", "1 for each device that the model runs on.", labels=["backend", "device"]
    )
    batch = GaugeMetricFamily(
        "penstock_backend_max_batch_frames", "So many frames may go into one run, just now.", labels=["backend"]
    )
    for each in states:
        fallback.add_metric([each.name], each.on_fallback)
        for name in each.devices:
            device.add_metric([each.name, name], 1)
        if each.max_batch is not None:
            batch.add_metric([each.name], each.max_batch)
    yield from (fallback, device, batch)


def _client_families(states: Iterable[BackendState]) -> Iterator[Metric]:
    asked = CounterMetricFamily(
        "penstock_client_frames_asked", "Pictures that clients sent for a model.", labels=["backend"]
    )
    frames = CounterMetricFamily(
        "penstock_client_frames", "Pictures of clients, by how they ended.", labels=["backend", "outcome"]
    )
    in_flight = GaugeMetricFamily("penstock_client_frames_in_flight", "Those on their way.", labels=["backend"])
    for state in states:
        if state.clients is None:
            continue
        asked.add_metric([state.name], state.clients.entered)
        in_flight.add_metric([state.name], state.clients.open)
        for outcome, count in state.clients.outcomes.items():
            frames.add_metric([state.name, outcome], count)
    yield from (asked, frames, in_flight)


def _elsewhere_families(readings: list[tuple[str, BackendReading]]) -> Iterator[Metric]:
    circuit = GaugeMetricFamily(
        "penstock_backend_circuit_state", "1 for the state that it is in.", labels=["backend", "state"]
    )
    window = GaugeMetricFamily(
        "penstock_backend_window_requests", "Requests that may be under way, found by trying.", labels=["backend"]
    )
    in_flight = GaugeMetricFamily("penstock_backend_in_flight_requests", "Requests under way.", labels=["backend"])
    sent = CounterMetricFamily("penstock_backend_sent_bytes", "Bytes of request bodies.", labels=["backend"])
    attempts = CounterMetricFamily(
        "penstock_backend_attempts",
        "Requests sent, retries included, by what became of them.",
        labels=["backend", "code"],
    )
    retries = CounterMetricFamily("penstock_backend_retries", "Requests that were sent again.", labels=["backend"])
    budget = GaugeMetricFamily(
        "penstock_backend_budget_used", "Requests and bytes counted against today's budget.", labels=["backend", "of"]
    )
    for name, reading in readings:
        for state in Circuit:
            circuit.add_metric([name, state.value], reading.circuit is state)
        window.add_metric([name], reading.window)
        in_flight.add_metric([name], reading.in_flight)
        sent.add_metric([name], reading.bytes_sent)
        for code in ("ok", *(each.value for each in BackendErrorCode)):
            attempts.add_metric([name, code], reading.requests.get(code, 0))
        retries.add_metric([name], reading.retries)
        budget.add_metric([name, "requests"], reading.requests_today)
        budget.add_metric([name, "bytes"], reading.bytes_today)
    yield from (circuit, window, in_flight, sent, attempts, retries, budget)
