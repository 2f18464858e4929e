"""The program's entry: `penstock`, or `python -m pipeline`."""

import os
import sys

# A product of small matrices (the masks of twenty objects) takes 1.2 ms of one core, and 32 to 36 ms of all where NumPy
# spreads it: its threads spin. Set before NumPy is imported; the cores have work enough.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        from pipeline.cli import run_command_line

        code = run_command_line()
    except KeyboardInterrupt:  # while Python was still importing
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
