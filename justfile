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

# Penstock against the hand-written limit and its rivals, interleaved, under ten minutes; writes tests/bench/results/.
bench *ARGS: bench-setup
    uv run --extra demo python -m tests.bench.run {{ ARGS }}

# The rivals, each in an environment of its own (1.5 GB, once); what cannot be installed is told, and is no failure.
bench-setup *NAMES:
    python3 tests/bench/setup.py {{ NAMES }}

# The path on the GPU against the device's own limits; without one it says so and measures nothing.
bench-gpu *ARGS:
    uv run --extra demo python -m tests.bench.gpu {{ ARGS }}

# Single choices: drawing, shrinking, skipping, tracking, graphs, batches, 8 bits.
bench-parts:
    uv run --extra demo python tests/bench/draw.py
    uv run --extra demo python tests/bench/shrink.py
    uv run --extra demo python tests/bench/skip.py
    uv run --extra demo python tests/bench/tracking.py
    uv run --extra demo python -m tests.bench.graph
    uv run --extra demo python -m tests.bench.rewrite
    uv run --extra demo python tests/bench/batches.py --write
    uv run --extra demo python tests/bench/int8.py

# Every way into a model (square, rectangle, in the graph, INT8) against reference boxes and labelled pictures.
bench-accuracy *ARGS:
    uv run --extra demo python -m tests.bench.accuracy {{ ARGS }}

# What options of a session, threads and batches cost on this CPU.
bench-sessions:
    uv run --extra demo python tests/bench/sessions.py

# The experiments of tests/scorecard against the real program, three rounds each: `just scorecard 1,2,28-31`.
scorecard ROWS="" *ARGS:
    uv run --extra demo python -m tests.scorecard.run --rows "{{ ROWS }}" {{ ARGS }}

# Cameras that fail, reloads and slow sinks at an accelerated pace; memory, threads and the ledger are watched.
soak MINUTES="20":
    uv run --extra demo python -m tests.soak.run {{ MINUTES }}

# `kill -9` at 50 random moments of a run into a webhook that fails, and into Mosquitto, which is killed too; writes tests/kills/RESULTS.md with --write.
kills *ARGS:
    uv run --extra demo python -m tests.kills.run {{ ARGS }}

# Four cameras on a second Penstock that is stopped, killed, slowed and answers 429; writes tests/remote/RESULTS.md.
remote MINUTES="5":
    uv run --extra demo python -m tests.remote.run {{ MINUTES }} --write

# A backend elsewhere against the ideal of its window; writes tests/bench/results/remote.md.
bench-remote:
    uv run --extra demo python -m tests.bench.remote --write

# Half a million results into a spool while the receiver is away, then out of it; writes tests/bench/results/spool.md.
bench-spool *ARGS:
    uv run --extra demo python -m tests.bench.spool {{ ARGS }} --write

# What some tests want of Debian (they skip without): as root, with apt.
setup-rigs: (_packages "mosquitto mosquitto-clients redis-server strace iproute2 nftables systemd") _prometheus

# What `just scorecard` wants on top.
setup-scorecard: setup-rigs (_packages "fiu-utils libfaketime gcc libc6-dev stress-ng zzuf mmdebstrap systemd-container") _schemathesis

_packages NAMES:
    #!/bin/sh
    apt-get update -qq || echo "apt-get update failed: what is missing cannot be installed"
    for name in {{ NAMES }}; do
        dpkg -s "$name" >/dev/null 2>&1 || apt-get install -y -qq --no-install-recommends "$name" >/dev/null \
          || echo "$name could not be installed: what needs it will be skipped"
    done

# What asks the API anything, in an environment of its own: it wants other versions of what the tests use.
_schemathesis:
    #!/bin/sh
    to="${XDG_CACHE_HOME:-$HOME/.cache}/penstock-rigs/venvs/schemathesis"
    [ -x "$to/bin/schemathesis" ] && exit 0
    uv venv -q "$to" && uv pip install -q --python "$to/bin/python" "schemathesis==4.32.5" \
      || echo "schemathesis could not be installed: row 46 of the scorecard will not run"

# The programs only, in a folder of their own: the package would start a service.
_prometheus:
    #!/bin/sh
    to="${XDG_CACHE_HOME:-$HOME/.cache}/penstock-rigs/prometheus"
    [ -x "$to/usr/bin/promtool" ] && exit 0
    work=$(mktemp -d)
    (cd "$work" && apt-get -o APT::Sandbox::User=root download -qq prometheus && mkdir -p "$to" && dpkg -x prometheus_*.deb "$to") \
      || echo "prometheus could not be fetched: the tests that need it will be skipped"
    rm -rf "$work"

# The vendors' own clients and servers, each in an environment of its own: what tests/conformance wants (else it skips).
conformance-setup *NAMES:
    python tests/conformance/setup.py {{ NAMES }}

# Every feature of the vendors' documents, shown by their own programs; writes tests/conformance/REPORT.md.
conformance-report *ARGS: conformance-setup
    uv run --extra demo python -m tests.conformance.report {{ ARGS }}

# The shipped unit under a real systemd, as root; writes tests/systemd/RESULTS.md.
systemd: setup-scorecard
    uv run --extra demo python -m tests.systemd.run --write
