import pytest
from fake_cuda import fake_gpus

from pipeline.devices.decoders import Decoders
from pipeline.devices.driver import DeviceError


def test_sessions_are_spread_the_least_loaded_gpu_first() -> None:
    decoders = Decoders(fake_gpus(2)[0])
    leases = [decoders.lease(None) for _ in range(3)]
    assert [lease.gpu.device for lease in leases] == ["cuda:0", "cuda:1", "cuda:0"]
    leases[0].close()
    leases[2].close()
    assert decoders.lease(None).gpu.device == "cuda:0"
    assert decoders.lease(0).gpu.device == "cuda:0"
    assert decoders.lease(None).gpu.device == "cuda:1"


def test_a_lease_that_is_closed_twice_counts_once() -> None:
    decoders = Decoders(fake_gpus(1)[0])
    lease = decoders.lease(0)
    decoders.lease(0)
    lease.close()
    lease.close()
    assert decoders.open_sessions() == {0: 1}


def test_so_many_sessions_and_no_more() -> None:
    decoders = Decoders(fake_gpus(1)[0], most=2)
    first = decoders.lease(None)
    decoders.lease(0)
    with pytest.raises(DeviceError, match="cuda:0 decodes 2 streams already"):
        decoders.lease(None)
    first.close()
    decoders.lease(None)


def test_a_gpu_without_memory_takes_no_more() -> None:
    gpus, driver = fake_gpus(1, total_bytes=100)
    decoders = Decoders(gpus)
    driver.push(1)
    driver.allocate(95)
    driver.pop()
    with pytest.raises(DeviceError, match="cuda:0 has 0 MiB of memory left"):
        decoders.lease(0)
    assert decoders.open_sessions() == {}


@pytest.mark.parametrize(("devices", "number"), [(0, None), (0, 0), (2, 2)])
def test_a_gpu_that_is_not_there_is_told(devices: int, number: int | None) -> None:
    decoders = Decoders(fake_gpus(devices)[0])
    with pytest.raises(DeviceError, match=r"no GPU|no cuda"):
        decoders.lease(number)
