"""The program's entry: `penstock`, or `python -m pipeline`."""

import sys


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
