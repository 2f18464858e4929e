import tomllib

import pytest

from pipeline.config.schema import Schema, json_schema
from pipeline.registry import Plugin, Registry

jsonschema = pytest.importorskip("jsonschema", reason="the package jsonschema is not installed")

GOOD = [
    '[defaults.source]\nmax_fps = 5\ntcp = true\npath = "a"\n[server]\nlisten = "off"\n',
    '[sources.cam]\ntype = "camera"\nurl = "x"\nqueue = { max_frames = 2 }\nmax_fps = "${FPS:-5}"\n',
    "[defaults.source]\nurl = 'x'\n[sources.cam]\ntype = 'camera'\n",
]
BAD = [
    "[sever]\n",
    "[defaults.sources]\n",
    "[defaults.source]\nmax_fp = 5\n",
    '[sources.cam]\ntype = "camra"\n',
    '[sources.cam]\ntype = "camera"\nmax_fpz = 3\n',
    '[sources.cam]\ntype = "camera"\nstride = 0\n',
    '[sources.cam]\ntype = "camera"\nqueue = { max_framez = 3 }\n',
    '[sources.Cam]\ntype = "camera"\n',
    '[sources.cam]\nurl = "x"\n',
]


@pytest.fixture
def schema(registry: Registry) -> Schema:
    return json_schema(registry)


def test_it_is_a_valid_schema_that_takes_the_shortest_file(schema: Schema, minimal: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(tomllib.loads(minimal))


@pytest.mark.parametrize("text", GOOD)
def test_it_takes_what_the_loader_takes(schema: Schema, minimal: str, text: str) -> None:
    jsonschema.Draft202012Validator(schema).validate(tomllib.loads(text + minimal))


@pytest.mark.parametrize("text", BAD)
def test_it_refuses_what_the_loader_refuses(schema: Schema, minimal: str, text: str) -> None:
    assert not jsonschema.Draft202012Validator(schema).is_valid(tomllib.loads(text + minimal))


def test_every_key_of_a_component_says_what_it_does(schema: Schema) -> None:
    found = schema["$defs"]["FileConfig"]["properties"]
    assert found["stride"]["description"] == "take every n-th frame; the others are sampled out"
    assert found["stride"]["default"] == 1


def test_a_plugin_that_does_not_load_has_no_part_in_it(minimal: str) -> None:
    assert json_schema(Registry([Plugin("source", "x", "no_such_module:X", "broken 1.0")]))["$defs"]


def test_the_schema_of_the_installed_plugins_takes_the_shipped_file(request: pytest.FixtureRequest) -> None:
    shipped = request.config.rootpath / "pipeline.toml"
    schema = json_schema(Registry.load())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(tomllib.loads(shipped.read_text()))
