"""Whatever stands in a config, the answer is settings or problems of one line each, never a traceback."""

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.loader import from_tree, load
from pipeline.config.problems import ConfigProblems
from pipeline.registry import Registry

WORDS = [
    *("sources", "backends", "sinks", "defaults", "server", "log", "data_dir", "source", "backend", "sink", "type"),
    *(
        "camera",
        "file",
        "model",
        "lines",
        "url",
        "path",
        "queue",
        "max_frames",
        "max_fps",
        "stride",
        "classes",
        "zones",
    ),
    *("listen", "linger_s", "level", "gate", "local", "events", "crop", "password", "device", "points", "label"),
]
KEYS = st.sampled_from(WORDS) | st.text(max_size=5)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([*WORDS, "${A}", "${B:?x}", "${", "127.0.0.1:1", "{source}", "pkg:x/y", "~nobody/x", "\0"])
    | st.text(max_size=8)
    | st.datetimes()
    | st.times()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def component(types: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda keys, kind: {**keys, "type": kind}, st.dictionaries(KEYS, VALUES, max_size=5), st.sampled_from(types)
    )


def tables(types: list[str]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(["gate", "local", "events"]) | KEYS, component(types) | VALUES, max_size=3)


TREES = st.fixed_dictionaries(
    {},
    optional={
        "sources": tables(["camera", "file", "x"]) | VALUES,
        "backends": tables(["model", "x"]) | VALUES,
        "sinks": tables(["lines", "silent", "x"]) | VALUES,
        "defaults": st.dictionaries(KEYS, VALUES) | VALUES,
        "server": VALUES,
        "log": VALUES,
        "data_dir": VALUES,
        "other": VALUES,
    },
)


def assert_plain(problems: ConfigProblems) -> None:
    assert problems.problems
    for problem in problems.problems:
        assert problem.message
        assert str(problem).splitlines() == [str(problem)]


@settings(max_examples=150, deadline=None)
@given(TREES)
def test_any_tree_gives_settings_or_problems(registry: Registry, tree: dict[str, Any]) -> None:
    try:
        from_tree(tree, base_dir=Path("/nowhere"), registry=registry, environ={})
    except ConfigProblems as problems:
        assert_plain(problems)


LINES = st.sampled_from(
    [
        *("[sources.gate]", "[[sources.gate]]", 'type = "file"', 'type = "camera"', "path = '''", "'''", "[sources]"),
        *(
            'path = "a"',
            "crop = [",
            "1,",
            "]",
            "[backends.local]",
            'type = "model"',
            'model = "${A}"',
            "# x",
            "",
            "\ufeff",
        ),
        *("queue = { max_frames = 0 }", "queue.max_frames = 1", "[sinks]", "b = { type = 'lines', path = 'x' }", "="),
    ]
)
VARIABLES = st.dictionaries(
    st.lists(st.sampled_from(["SOURCES", "GATE", "QUEUE", "MAX_FRAMES", "PATH", "", "X"]), min_size=1, max_size=4).map(
        lambda parts: "PENSTOCK_" + "__".join(parts)
    ),
    st.text(max_size=6),
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(LINES, max_size=14), VARIABLES)
def test_any_file_and_environment_give_settings_or_problems(
    registry: Registry, tmp_path_factory: Any, lines: list[str], environ: dict[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text("\n".join(lines))
    try:
        load(path, registry=registry, environ=environ)
    except ConfigProblems as problems:
        assert_plain(problems)
