"""Makes the virtual environments in which the vendors' own clients and servers run (`just conformance-setup`).

The tests that want one which could not be made are skipped, and quote the reason.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from environments import Environments

RIGS = Environments(
    project="penstock-rigs",
    command="just conformance-setup",
    pins=Path(__file__).with_name("pins"),
    # The quick and much used ones first: who waits for one need not wait for all.
    names=("sdk", "hf24", "hf17", "triton", "roboflow", "sly", "sdk037", "rfs", "pytriton"),
)

if __name__ == "__main__":
    raise SystemExit(RIGS.main(sys.argv[1:]))
