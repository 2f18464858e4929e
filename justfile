# What there is to do here. `uv run --extra demo just` lists it.

_default:
    @just --list --unsorted

# Everything that must be green: format, lint, types, tests; the count of skipped tests stands at the end.
test: lint types
    pytest

# Format and lint.
lint:
    ruff format --check .
    ruff check .

# Types.
types:
    mypy

# Only the fast tests, for the moment between two edits.
quick:
    pytest tests/unit tests/contract tests/test_architecture.py -q

# Put code into the project's format and mend what the linter can mend.
fix:
    ruff format .
    ruff check --fix .

# Rewrite the golden cases under tests/cases; read the diff before you commit it.
golden:
    REWRITE_GOLDEN=1 pytest tests/integration/test_cases.py -q

# Penstock against the hand-written limit and the naive loop, interleaved; writes tests/bench/results/.
bench *ARGS:
    uv run --extra demo python -m tests.bench.run {{ ARGS }}

# What drawing costs, and what shrinking costs in time and in accuracy.
bench-parts:
    uv run --extra demo python tests/bench/draw.py
    uv run --extra demo python tests/bench/shrink.py

# Debian's packages that some tests want (they skip without): strace to see every connection that is opened.
setup-rigs:
    command -v strace || (apt-get update -qq && apt-get install -y -qq --no-install-recommends strace) \
      || echo "strace could not be installed: the test that needs it will be skipped"
