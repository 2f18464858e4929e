"""Nothing is lost between Penstock and a real Mosquitto when both are killed; in full: `just kills`."""

from pathlib import Path

import pytest
from mosquitto import MISSING

from tests.kills import mqtt

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


def test_nothing_is_lost_when_penstock_and_the_broker_are_killed(tmp_path: Path) -> None:
    figures = mqtt.run(tmp_path, 6, results=400)
    assert figures["lost"] == 0
    assert figures["results"] >= 400
    assert figures["kills of the broker"] == 2
