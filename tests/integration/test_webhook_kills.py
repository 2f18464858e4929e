"""`kill -9` at random moments: what the webhook's spool accepted arrives, once more often than not, in order."""

from pathlib import Path

import pytest

from tests.kills import webhook


@pytest.mark.timeout(120)
def test_what_was_accepted_before_a_kill_arrives_in_order_and_unchanged(tmp_path: Path) -> None:
    figures = webhook.run(tmp_path, 10, results=400, faults=webhook.failing(seed=3), seed=3)
    assert figures["lost"] == 0
    assert figures["results"] >= 400
    assert figures["seen committed at a kill"] > 0, "no kill found anything waiting: the experiment shows nothing"
    assert figures["answers lost"] > 0
    assert figures["refused, dead letters"] > 0
