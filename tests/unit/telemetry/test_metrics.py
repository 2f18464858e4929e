from typing import NamedTuple

from pipeline.telemetry.metrics import MAX_CLASSES, Metrics
from pipeline.testing import detections


def test_the_classes_of_detections_are_bounded() -> None:
    metrics = Metrics("test")
    counter = metrics.detections("cam")
    names = tuple(f"class {index}" for index in range(MAX_CLASSES + 50))
    for index in range(len(names)):
        found = detections((0, 0, 1, 1), names=names)
        found.class_id[:] = index
        counter.count(found)
    text = metrics.exposition()[0].decode()
    samples = [line for line in text.splitlines() if line.startswith("penstock_detections_total{")]
    assert len(samples) == MAX_CLASSES + 1
    assert 'penstock_detections_total{class="other",source="cam"} 50.0' in text


def test_a_scrape_speaks_openmetrics_when_it_is_asked_to() -> None:
    body, content_type = Metrics("test").exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert Metrics("test").exposition()[1].startswith("text/plain")


def test_bytes_copied_from_and_to_each_gpu_are_read_at_the_scrape() -> None:
    class Copies(NamedTuple):
        to_device: int
        to_host: int

    metrics = Metrics("test")
    copied: dict[str, Copies] = {}
    metrics.read_devices(lambda: copied)
    assert "penstock_device_copy_bytes_total{" not in metrics.exposition()[0].decode()
    copied["cuda:1"] = Copies(5, 7)
    text = metrics.exposition()[0].decode()
    assert 'penstock_device_copy_bytes_total{device="cuda:1",direction="to_device"} 5.0' in text
    assert 'penstock_device_copy_bytes_total{device="cuda:1",direction="to_host"} 7.0' in text
