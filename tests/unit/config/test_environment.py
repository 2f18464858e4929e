from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.environment import value_of
from pipeline.config.settings import Settings

Load = Callable[..., Settings]
Faults = Callable[..., list[str]]


def test_a_variable_overrides_a_key_of_the_file(load_text: Load, minimal: str) -> None:
    environ = {
        "PENSTOCK_SOURCES__GATE__MAX_FPS": "5",
        "PENSTOCK_SOURCES__GATE__QUEUE__MAX_FRAMES": "7",
        "PENSTOCK_SERVER__LISTEN": "[::1]:80",
        "PENSTOCK_SINKS__EVENTS__SOURCES": '["gate"]',
        "PENSTOCK_DEFAULTS__SOURCE__STRIDE": "3",
    }
    settings = load_text(minimal, environ)
    gate = settings.sources["gate"]
    assert (gate.max_fps, gate.queue.max_frames, gate.stride) == (5, 7, 3)
    assert settings.server.address == ("::1", 80)
    assert settings.sinks["events"].sources == ("gate",)


def test_an_override_wins_over_a_variable_in_the_file_that_is_not_set(
    load_text: Load, minimal: str, tmp_path: Path
) -> None:
    text = minimal.replace("in.mp4", "${VIDEO:?which?}")
    settings = load_text(text, {"PENSTOCK_SOURCES__GATE__PATH": "a$$.mp4"})
    assert list(settings.sources["gate"].reads()) == [tmp_path / "a$$.mp4"]


@pytest.mark.parametrize(
    ("variable", "fault"),
    [
        ("PENSTOCK_SOURCES__GATE__MAX_FSP", "sources.gate.max_fsp: unknown key; did you mean max_fps?"),
        ("PENSTOCK_SOURCES__GAET__MAX_FPS", "sources.gaet.max_fps: there is no source 'gaet'; did you mean gate?"),
        ("PENSTOCK_SOURCE__GATE__MAX_FPS", "source: unknown key; did you mean sources?"),
        ("PENSTOCK_SERVR", "servr: unknown key; did you mean server?"),
        ("PENSTOCK_SOURCES__GATE__PATH__X", 'sources.gate.path.x: path is no table here, but "in.mp4"'),
        ("PENSTOCK_SERVER____X", 'server."".x: a part of the name is empty; write PENSTOCK_TABLE__NAME__KEY'),
        ("PENSTOCK_SERVER__LINGER_S", 'server.linger_s: must be a number, got "much"'),
    ],
)
def test_a_wrong_variable_is_named_with_the_nearest_key(
    faults: Faults, minimal: str, variable: str, fault: str
) -> None:
    found = faults(minimal, {variable: "much"})
    assert found[0].startswith(f"{variable}: ")
    assert found[0].endswith(fault)


def test_a_variable_with_far_too_many_parts_is_refused(faults: Faults, minimal: str) -> None:
    assert faults(minimal, {"PENSTOCK_A" + "__A" * 2_000: "x"}) == ["pipeline.toml: tables are nested over 32 deep"]


def test_variables_of_others_are_left_alone(load_text: Load, minimal: str) -> None:
    environ = {
        "PENSTOCK_SERVICE_HOST": "10.0.0.1",
        "PENSTOCK_SERVICE_PORT_HTTP": "80",
        "PENSTOCK_PORT": "tcp://10.0.0.1:80",
        "PENSTOCK_PORT_80_TCP_ADDR": "10.0.0.1",
        "_PENSTOCK_COMPLETE": "bash_source",
        "PENSTOCK_VIDEO": "used.mp4",
    }
    text = minimal.replace("in.mp4", "${PENSTOCK_VIDEO}")
    assert load_text(text, environ).sources["gate"].reads()[0].name == "used.mp4"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", "5"),
        ("0123", "0123"),
        ('["a", "b"]', ["a", "b"]),
        ("{ a = 1 }", {"a": 1}),
        ('{"a": [1, null]}', {"a": [1, None]}),
        ("[::1]:80", "[::1]:80"),
        ("{source}.jsonl", "{source}.jsonl"),
        ("[" * 20_000, "[" * 20_000),
        ('{"a":' * 20_000, '{"a":' * 20_000),
    ],
)
def test_only_lists_and_tables_are_more_than_text(text: str, value: object) -> None:
    assert value_of(text) == value
