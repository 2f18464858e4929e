"""What a sink asks for, checked against what it can take and what its sources have."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from fakes import FakeBackendConfig, FakeSinkConfig, FakeSourceConfig

from pipeline.config.loader import load
from pipeline.config.problems import ConfigProblems
from pipeline.config.schema import json_schema
from pipeline.config.settings import Settings
from pipeline.contracts.component import Context
from pipeline.contracts.sink import Sink, SinkConfig
from pipeline.registry import Registry


class LinesConfig(SinkConfig):
    type: Literal["lines"]

    def build(self, ctx: Context) -> Sink:
        raise NotImplementedError


REGISTRY = Registry.of(FakeSourceConfig, FakeBackendConfig, LinesConfig, FakeSinkConfig)

BASE = """\
[sources.gate]
type = "fake"
tracking = {}
[sources.gate.zones.door]
polygon = [[0, 0], [1, 0], [1, 1]]
[sources.gate.lines.kerb]
start = [0, 0]
end = [1, 1]
[sources.yard]
type = "fake"
[sources.yard.zones.lawn]
polygon = [[0, 0], [1, 0], [1, 1]]
[backends.local]
type = "fake"
[sinks.out]
"""
ATTENTIVE = BASE + 'type = "fake"\n'
LINES = BASE + 'type = "lines"\n'

Try = Callable[[str], Settings | list[str]]


@pytest.fixture
def attempt(tmp_path: Path) -> Try:
    def attempt(text: str) -> Settings | list[str]:
        path = tmp_path / "pipeline.toml"
        path.write_text(text)
        try:
            return load(path, registry=REGISTRY, environ={})
        except ConfigProblems as problems:
            return [f"{problem.key}: {problem.message}" for problem in problems.problems]

    return attempt


@pytest.mark.parametrize(
    "keys",
    [
        'emit = "events"',
        'emit = "changes"\nnotices = ["sources", "daemon"]\nlimit = { cooldown_s = 10, per_minute = 0.5 }',
        'emit = "events"\nwhere = { zones = ["door", "lawn"], lines = ["kerb"], classes = ["car"], min_age_s = 2 }',
        'emit = "events"\nsources = ["yard"]\nwhere = { zones = ["lawn"], kinds = ["presence"] }',
        'where = { zones = ["lawn"], min_area_ratio = 0.5, max_area_ratio = 0.5 }',
    ],
)
def test_what_can_be_had_is_taken(attempt: Try, keys: str) -> None:
    assert isinstance(attempt(ATTENTIVE + keys), Settings)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (LINES + 'emit = "events"', 'sinks.out.emit: a sink of type lines takes no events, only "frames" or "changes"'),
        (LINES + 'notices = ["daemon"]', "sinks.out.notices: a sink of type lines takes none"),
        (ATTENTIVE + 'emit = "evnts"', "sinks.out.emit: must be 'frames', 'events' or 'changes', got \"evnts\""),
        (ATTENTIVE + 'notices = ["deamon"]', "sinks.out.notices.0: must be 'sources' or 'daemon', got \"deamon\""),
        (
            ATTENTIVE + 'where = { zones = ["dor"] }',
            "sinks.out.where.zones: none of its sources has a zone 'dor'; did you mean door?",
        ),
        (
            ATTENTIVE + 'sources = ["yard"]\nwhere = { zones = ["kitchen"] }',
            "sinks.out.where.zones: none of its sources has a zone 'kitchen'; there is lawn",
        ),
        (
            ATTENTIVE + "where = { zones = [] }",
            "sinks.out.where.zones: is empty; name a zone, or leave it out for all of them",
        ),
        (
            ATTENTIVE + 'emit = "events"\nsources = ["yard"]\nwhere = { lines = ["kerb"] }',
            "sinks.out.where.lines: none of its sources has a line 'kerb'",
        ),
        (ATTENTIVE + 'where = { lines = ["kerb"] }', 'sinks.out.where.lines: is about events, and emit is "frames"'),
        (ATTENTIVE + 'where = { kinds = ["zone"] }', 'sinks.out.where.kinds: is about events, and emit is "frames"'),
        (
            ATTENTIVE + 'sources = ["yard"]\nwhere = { min_age_s = 1 }',
            "sinks.out.where.min_age_s: needs objects that are tracked: give one of its sources a table `tracking`",
        ),
        (
            ATTENTIVE + "where = { min_area_ratio = 0.5, max_area_ratio = 0.4 }",
            "sinks.out.where: min_area_ratio = 0.5 must not be greater than max_area_ratio = 0.4",
        ),
        (ATTENTIVE + "update_every_s = 0", "sinks.out.update_every_s: must be greater than 0, got 0"),
        (ATTENTIVE + "limit = { per_minute = 0 }", "sinks.out.limit.per_minute: must be greater than 0, got 0"),
        (ATTENTIVE + "where = { clases = [] }", "sinks.out.where.clases: unknown key; did you mean classes?"),
    ],
)
def test_what_cannot_be_had_is_one_clear_line(attempt: Try, text: str, fault: str) -> None:
    assert attempt(text) == [fault]


def test_what_is_wrong_with_a_source_is_not_blamed_on_the_sink(attempt: Try) -> None:
    faults = attempt(
        ATTENTIVE.replace("tracking = {}", "tracking = {}\nfps = 'x'", 1) + 'where = { zones = ["no_such"] }'
    )
    assert isinstance(faults, list)
    assert [fault.partition(":")[0] for fault in faults] == ["sources.gate.fps"]


def test_never_is_written_inf(attempt: Try) -> None:
    settings = attempt(ATTENTIVE + "update_every_s = inf")
    assert isinstance(settings, Settings)
    assert settings.sinks["out"].update_every_s is None
    again = type(settings.sinks["out"]).model_validate(settings.sinks["out"].model_dump())
    assert again == settings.sinks["out"]


def test_the_schema_knows_every_key() -> None:
    definitions = json_schema(REGISTRY)["$defs"]
    keys = definitions["FakeSinkConfig"]["properties"]
    assert keys["emit"]["anyOf"][0]["enum"] == ["frames", "events", "changes"]
    update = _flat(keys["update_every_s"])
    assert {"exclusiveMinimum": 0, "type": "number"} in update
    assert {"type": "null"} in update
    where = definitions["WhereConfig"]["properties"]
    assert {
        "classes",
        "min_confidence",
        "zones",
        "lines",
        "kinds",
        "min_area_ratio",
        "max_area_ratio",
        "min_age_s",
    } == set(where)


def _flat(schema: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """All branches of a schema."""
    if "anyOf" not in schema:
        return [schema]
    return [leaf for branch in schema["anyOf"] for leaf in _flat(branch)]
