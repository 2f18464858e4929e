"""Batches across sources in a running pipeline: of one kind, as large as the backend takes just now, nothing lost."""

from typing import Any

import pytest
from fakes import FakeBackend
from harness import Run, run


def _backend(this: Run) -> FakeBackend:
    backend = this.supervisor.topology.backends["model"].backend
    assert isinstance(backend, FakeBackend)
    return backend


def _sources() -> dict[str, dict[str, Any]]:
    sizes = [(16, 16), (32, 16), (16, 32)]
    return {f"cam{index}": {"frames": 40, "pixels": list(sizes[index % 3])} for index in range(7)}


@pytest.mark.parametrize("max_wait_s", [0.0, 0.002])
def test_a_batch_is_of_one_kind_and_every_source_keeps_its_order(max_wait_s: float) -> None:
    model = {"concurrency": 3, "max_batch": 4, "delay_s": 0.001, "kinds": "by size", "max_wait_s": max_wait_s}
    this = run({"sources": _sources(), "backends": {"model": model}})
    for name in _sources():
        assert this.seqs(source=name) == list(range(40))
    batches = _backend(this).sizes
    assert all(len(set(batch)) == 1 for batch in batches)
    assert max(len(batch) for batch in batches) > 1
    assert this.report.exit_code == 0


def test_without_kinds_a_batch_takes_what_is_there() -> None:
    this = run({"sources": _sources(), "backends": {"model": {"concurrency": 1, "max_batch": 8, "delay_s": 0.002}}})
    assert any(len(set(batch)) > 1 for batch in _backend(this).sizes)


def test_a_backend_that_fails_to_tell_the_kind_still_infers_every_frame() -> None:
    this = run({"sources": _sources(), "backends": {"model": {"max_batch": 4, "kinds": "bug"}}})
    for name in _sources():
        assert this.seqs(source=name) == list(range(40))


def test_a_batch_is_never_larger_than_the_backend_takes_by_then() -> None:
    model = {"concurrency": 1, "max_batch": 6, "delay_s": 0.002, "shrinks": True}
    this = run({"sources": _sources(), "backends": {"model": model}})
    sizes = [len(batch) for batch in _backend(this).sizes]
    assert all(size <= max(1, 6 - number) for number, size in enumerate(sizes))
    assert sum(sizes) == 7 * 40


def test_the_devices_of_a_backend_are_shown_once_it_is_open() -> None:
    this = run({"sources": {"cam": {"frames": 3}}, "backends": {"model": {"max_batch": 3}}})
    samples = this.scrape()
    for device in ("fake:0", "fake:1"):
        assert samples["penstock_backend_device_info", (("backend", "model"), ("device", device))] == 1
    assert samples["penstock_backend_max_batch_frames", (("backend", "model"),)] == 3
