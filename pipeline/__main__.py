"""The program's entry: `penstock`, or `python -m pipeline`."""

import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    from pipeline.cli import run_command_line

    sys.exit(run_command_line())


if __name__ == "__main__":
    main()
