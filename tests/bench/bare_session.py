"""A session and nothing else: import ONNX Runtime, load a model, run it once; the memory that a model costs anyway."""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported

import numpy as np
import onnxruntime

from tests.bench.measure import peak_rss_mib


def main() -> None:
    """Run it and print the peak memory as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--input", type=int, nargs=2, default=(640, 640), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    session = onnxruntime.InferenceSession(options.model, providers=["CPUExecutionProvider"])
    session.run(None, {session.get_inputs()[0].name: np.zeros((1, 3, *options.input), np.float32)})
    json.dump({"peak_rss_mib": peak_rss_mib()}, sys.stdout)


if __name__ == "__main__":
    main()
