"""Penstock: video under control, from cameras to a model and on to whoever needs the answer."""

import os

# onnxruntime 1.29 and later open connections by themselves unless this stands in the environment before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
