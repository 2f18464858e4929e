"""The metric family of GPUs: how many bytes were copied between them and the host."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Copies(Protocol):
    """Bytes copied from and to one device."""

    @property
    def to_device(self) -> int:
        """Pictures, mostly: of sources that decode on the CPU."""
        ...

    @property
    def to_host(self) -> int:
        """Answers of models, and the pictures that a sink asked for."""
        ...


class DeviceCollector(Collector):
    """Reads the counts at the moment of a scrape. Made by `Metrics`; called by the thread that scrapes.

    Args:
        read: the counts by the device's name; only devices in use are in it.
    """

    def __init__(self, read: Callable[[], Mapping[str, Copies]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Nothing: the name is not clashing, and the first scrape tells it."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """One family, with two samples for each device."""
        copied = CounterMetricFamily(
            "penstock_device_copy_bytes",
            "Bytes copied between the host and a GPU: to_device or to_host.",
            labels=["device", "direction"],
        )
        for device, copies in self._read().items():
            copied.add_metric([device, "to_device"], copies.to_device)
            copied.add_metric([device, "to_host"], copies.to_host)
        yield copied
