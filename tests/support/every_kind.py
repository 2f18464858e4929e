"""What the contract suites of sinks and senders go through: every plugin, and every kind of prediction."""

from dataclasses import replace
from importlib.metadata import entry_points

import numpy as np

from pipeline.contracts.result import Classification, Detections, Embedding, Prediction, SemanticMask, Text
from pipeline.testing import detections

SINKS = sorted(entry_points(group="penstock.sinks"), key=lambda point: point.name)
PREDICTIONS: tuple[Prediction, ...] = (
    detections(),
    detections((8, 8, 24, 24), (-5, -5, 900, 900)),
    Detections(np.full((1, 4), np.nan, np.float32), np.array([np.nan], np.float32), np.array([-7], np.int32)),
    replace(detections((8, 8, 24, 24), names=("a\n\x1b[2J" + "\u732b" * 300,)), tracker_id=np.array([1], np.int32)),
    Classification(np.array([0.2, 0.8], np.float32), ("a", "b")),
    Classification(np.array([0.2, 0.8], np.float32), ("a", "b"), multi_label=True),
    Classification(np.zeros(0, np.float32)),
    SemanticMask(np.zeros((48, 64), np.int32), ("a",)),
    Embedding(np.array([0.5, np.inf], np.float32)),
    Text("a\x00b\n"),
)
