import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.assemble import NAME_RULE
from pipeline.config.loader import from_tree, load
from pipeline.config.problems import ConfigProblems
from pipeline.config.settings import Settings
from pipeline.registry import NOTHING_INSTALLED, Registry

Load = Callable[..., Settings]
Faults = Callable[..., list[str]]


def test_the_shortest_file_has_all_defaults(load_text: Load, minimal: str, tmp_path: Path) -> None:
    settings = load_text(minimal)
    assert list(settings.sources) == ["gate"]
    assert settings.backend_of("gate") == settings.sources["gate"].backend == "local"
    assert settings.sources_of("events") == ("gate",)
    assert settings.server.address == ("127.0.0.1", 9464)
    assert settings.server.linger_s == 0
    assert settings.data_dir == tmp_path / "data"
    assert settings.shutdown_timeout_s == 10
    assert settings.path == tmp_path / "pipeline.toml"
    assert re.fullmatch("[0-9a-f]{12}", settings.config_hash)


def test_loading_creates_nothing(load_text: Load, minimal: str, tmp_path: Path) -> None:
    load_text(minimal)
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline.toml"]


def test_systemds_state_directory_is_where_data_goes(load_text: Load, minimal: str) -> None:
    assert load_text(minimal, {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}).data_dir == Path("/var/lib/a")


def test_relative_paths_count_from_the_files_folder(
    load_text: Load, minimal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    settings = load_text(minimal)
    assert list(settings.sources["gate"].reads()) == [tmp_path / "in.mp4"]


def test_every_fault_is_reported_at_once_in_the_order_of_the_file(faults: Faults) -> None:
    text = """\
[defaults.source]
max_fps = "fast"
[defaults.sauce]
x = 1

[sources.Gate-1]
type = "file"
[sources.gate]
type = "camra"
[sources.door]
type = "camera"
max_fpz = 5
stride = true
queue = { max_frames = 0, when_fll = "block" }
crop = [1,
  2, "x", 4]
tcp = "maybe"
[sources.yard]
path = "x"
[backends]
local = { type = "model", device = "gpu", classes = [1], threads = 1.5, zones = [{ label = "x" }] }
[sinks.x]
type = "lines"
path = "out/{day}.jsonl"
sources = ["dor"]
[server]
linger = 3
[sever]
"""
    assert faults(text) == [
        'pipeline.toml:2: defaults.source.max_fps: must be a number, got "fast"',
        "pipeline.toml:3: defaults.sauce: unknown key; did you mean source?",
        f"pipeline.toml:6: sources.Gate-1: {NAME_RULE}",
        "pipeline.toml:9: sources.gate.type: there is no source type 'camra'; did you mean camera?",
        "pipeline.toml:10: sources.door.url: is missing",
        "pipeline.toml:12: sources.door.max_fpz: unknown key; did you mean max_fps?",
        "pipeline.toml:13: sources.door.stride: must be a number, got true or false",
        "pipeline.toml:14: sources.door.queue.when_fll: unknown key; did you mean when_full?",
        "pipeline.toml:14: sources.door.queue.max_frames: must be 1 or more, got 0",
        'pipeline.toml:15: sources.door.crop.2: must be a whole number, got "x"',
        'pipeline.toml:17: sources.door.tcp: must be true or false, got "maybe"',
        "pipeline.toml:18: sources.yard.type: is missing; it can be camera or file",
        "pipeline.toml:21: backends.local.model: is missing",
        "pipeline.toml:21: backends.local.zones.0.points: is missing",
        "pipeline.toml:21: backends.local.device: must be 'cpu' or 'cuda', got \"gpu\"",
        "pipeline.toml:21: backends.local.classes.0: must be a text, got 1",
        "pipeline.toml:21: backends.local.threads: must be a whole number, got 1.5",
        "pipeline.toml:24: sinks.x.path: it can hold {source}, and no other braces",
        "pipeline.toml:25: sinks.x.sources: there is no source 'dor'; did you mean door?",
        "pipeline.toml:27: server.linger: unknown key; did you mean linger_s?",
        "pipeline.toml:28: sever: unknown key; did you mean server?",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = [1,\n2", "pipeline.toml:2: invalid TOML: unclosed array"),
        ("a = 1\nb = = 2", "pipeline.toml:2:5: invalid TOML: invalid value"),
        ("[a]\n[a]", "pipeline.toml:2:3: invalid TOML: cannot declare ('a',) twice"),
        (b"a = 1\nb = '\xff'", "pipeline.toml:2: is not UTF-8 text"),
        (f"a = {'9' * 5000}", "pipeline.toml: invalid TOML: a number is too long"),
        (f"a = {'[' * 20_000}", "pipeline.toml: invalid TOML: nested too deep"),
        ("a" + ".a" * 2_000 + " = 1", "pipeline.toml: tables are nested over 32 deep"),
        ("#" * 1_100_000, "pipeline.toml: is larger than 1048576 bytes: that is no config"),
    ],
)
def test_what_is_no_config_is_refused_in_one_line(faults: Faults, text: str | bytes, expected: str) -> None:
    assert faults(text) == [expected]


def test_a_file_with_a_byte_order_mark_is_read(load_text: Load, minimal: str) -> None:
    assert load_text(b"\xef\xbb\xbf" + minimal.encode()).sources


def test_a_file_that_is_not_there_is_refused_in_one_line(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(ConfigProblems, match=r"none\.toml: no such file; name the config on the command line$"):
        load(tmp_path / "none.toml", registry=registry, environ={})
    with pytest.raises(ConfigProblems, match=r": is a folder, not a config file$"):
        load(tmp_path, registry=registry, environ={})
    with pytest.raises(ConfigProblems, match=r": cannot be read: it is no file name$"):
        load(tmp_path / "a\0b", registry=registry, environ={})


def test_an_empty_file_lacks_one_of_each(faults: Faults) -> None:
    assert faults("") == [
        "pipeline.toml: sources: there is no source; add a table [sources.NAME] with a type: camera or file",
        "pipeline.toml: backends: there is no backend; add a table [backends.NAME] with a type: model",
        "pipeline.toml: sinks: there is no sink; add a table [sinks.NAME] with a type: lines or silent",
    ]


def test_what_is_no_table_is_named(faults: Faults, minimal: str) -> None:
    backends_and_sinks = minimal.split("\n\n", 1)[1]
    text = f'sources = 3\ndefaults = "x"\n{backends_and_sinks}[backends.x]\ntype = 5\n[sinks]\ny = [1]\n'
    assert faults(text) == [
        "pipeline.toml:1: sources: must be a table, got 3",
        'pipeline.toml:2: defaults: must be a table, got "x"',
        "pipeline.toml:11: backends.x.type: must be a text, got 5",
        "pipeline.toml:13: sinks.y: must be a table, got a list",
    ]


def test_without_any_plugin_the_answer_is_how_to_install_them(tmp_path: Path, minimal: str) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_text(minimal)
    with pytest.raises(ConfigProblems) as caught:
        load(path, registry=Registry(()), environ={})
    assert [problem.message for problem in caught.value.problems] == [NOTHING_INSTALLED]


def test_defaults_are_inherited_by_components_that_know_the_key(load_text: Load, minimal: str) -> None:
    settings = load_text(f"""\
[defaults.source]
max_fps = 10
tcp = false
queue = {{ max_frames = 4, when_full = "block" }}
[sources.door]
type = "camera"
url = "x"
max_fps = 2.5
queue = {{ max_frames = 9 }}
{minimal}""")
    door, gate = settings.sources["door"], settings.sources["gate"]
    assert (gate.max_fps, gate.queue.max_frames) == (10, 4)
    assert (door.max_fps, door.queue.max_frames, door.queue.when_full) == (2.5, 9, "block")
    assert "tcp" not in gate.model_dump()


def test_a_default_that_nobody_knows_is_an_error(faults: Faults, minimal: str) -> None:
    text = f'[defaults.source]\ntcp = false\nmax_fp = 5\ntype = "file"\n{minimal}'
    assert faults(text) == [
        "pipeline.toml:2: defaults.source.tcp: no source of this file has this key",
        "pipeline.toml:3: defaults.source.max_fp: no source of this file has this key; did you mean max_fps?",
        "pipeline.toml:4: defaults.source.type: every component says its own type",
    ]


def test_a_wrong_default_is_reported_once_and_where_it_stands(faults: Faults, minimal: str) -> None:
    text = f'[defaults.source]\nqueue = {{ max_frames = 0 }}\n{minimal}[sources.b]\ntype = "file"\npath = "x"\n'
    assert faults(text) == ["pipeline.toml:2: defaults.source.queue.max_frames: must be 1 or more, got 0"]


def test_variables_are_replaced_in_values(load_text: Load, minimal: str, tmp_path: Path) -> None:
    text = minimal.replace("in.mp4", "${DIR}/in.mp4") + '[server]\nlinger_s = "${LINGER:-2.5}"\n'
    settings = load_text(text, {"DIR": "videos"})
    assert list(settings.sources["gate"].reads()) == [tmp_path / "videos/in.mp4"]
    assert settings.server.linger_s == 2.5


def test_a_variable_that_is_not_set_is_the_only_fault_of_its_key(faults: Faults, minimal: str) -> None:
    text = minimal.replace('"m.onnx"', '"${MODEL}"') + 'sources = ["${GATE:?which one?}"]\n'
    assert faults(text) == [
        "pipeline.toml:7: backends.local.model: the variable MODEL is not set",
        "pipeline.toml:12: sinks.events.sources.0: the variable GATE is not set: which one?",
    ]


def test_what_a_plugins_validator_raises_is_a_fault_of_its_key(faults: Faults, minimal: str) -> None:
    assert faults(minimal.replace(".jsonl", ".jsonlx")) == ["pipeline.toml:11: sinks.events.path: ends in x"]


def test_a_message_quotes_the_variable_and_not_its_value(faults: Faults, minimal: str) -> None:
    text = minimal + '[server]\nlinger_s = "${LINGER}"\n'
    assert faults(text, {"LINGER": "hunter22"}) == [
        'pipeline.toml:13: server.linger_s: must be a number, got "${LINGER}"'
    ]


@pytest.mark.parametrize(
    "line",
    [
        'max_fps = "rtsp://user:hunter22@host/x"',
        'max_fps = "http://host/?token=hunter22"',
        'token = "hunter22"',
        'password = ["hunter22"]',
        'max_fps = "${CAM_PASS}"',
        'queue = "${CAM_PASS}"',
        'type = "${CAM_PASS}"',
        'max_fps = "x${CREDENTIAL}"',
    ],
)
def test_a_secret_is_in_no_message(faults: Faults, tmp_path: Path, line: str) -> None:
    (tmp_path / "CREDENTIAL").write_text("hunter22")
    kind = "" if line.startswith("type") else 'type = "camera"\n'
    text = f'[sources.gate]\n{kind}{line}\nurl = "x"\n'
    found = faults(text, {"CAM_PASS": "hunter22", "CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert any("sources.gate" in fault for fault in found)
    assert "hunter22" not in "\n".join(found)


def test_a_hostile_key_cannot_break_the_line(faults: Faults, minimal: str) -> None:
    known = "type, sources, queue, emit, where, limit, update_every_s, notices, path"
    assert faults(minimal + '"evil\\n\\u001b[31m" = 1\n') == [
        f'pipeline.toml:12: sinks.events."evil\\n\\u001b[31m": unknown key; known are {known}'
    ]


def test_a_source_names_its_backend_where_there_are_several(faults: Faults, load_text: Load, minimal: str) -> None:
    two = minimal + '[backends.cloud]\ntype = "model"\nmodel = "n.onnx"\n'
    assert faults(two) == [
        "pipeline.toml:1: sources.gate.backend: is missing; with several backends each source names one: local, cloud"
    ]
    assert faults(two.replace('"in.mp4"', '"in.mp4"\nbackend = "clout"')) == [
        "pipeline.toml:4: sources.gate.backend: there is no backend 'clout'; did you mean cloud?"
    ]
    assert load_text(two.replace('"in.mp4"', '"in.mp4"\nbackend = "cloud"')).backend_of("gate") == "cloud"


def test_a_fallback_is_not_what_a_source_without_a_backend_means(faults: Faults, load_text: Load, minimal: str) -> None:
    cloud = '[backends.cloud]\ntype = "model"\nmodel = "n.onnx"\nfallback = "local"\n'
    assert load_text(minimal + cloud).backend_of("gate") == "cloud"
    third = '[backends.third]\ntype = "model"\nmodel = "o.onnx"\n'
    assert any("each source names one: local, cloud, third" in fault for fault in faults(minimal + cloud + third))


def test_an_empty_list_of_sources_is_refused(faults: Faults, minimal: str) -> None:
    assert faults(minimal + "sources = []\n") == [
        "pipeline.toml:12: sinks.events.sources: is empty; name a source, or leave it out for all of them"
    ]


def test_two_sinks_cannot_write_to_one_file(faults: Faults, minimal: str, tmp_path: Path) -> None:
    text = minimal + '[sinks.again]\ntype = "lines"\npath = "./out/../out/gate.jsonl"\n'
    expected = f"it would write to {tmp_path}/out/../out/gate.jsonl, and so does sink events"
    assert faults(text) == [f"pipeline.toml:14: sinks.again.path: {expected}".replace(f"{tmp_path}/", "")]


def test_a_sink_cannot_write_over_what_a_source_reads_whatever_it_is_called(
    faults: Faults, minimal: str, tmp_path: Path
) -> None:
    (tmp_path / "in.mp4").write_bytes(b"video")
    (tmp_path / "link.jsonl").hardlink_to(tmp_path / "in.mp4")
    text = minimal.replace("out/{source}.jsonl", "link.jsonl")
    assert faults(text) == [
        "pipeline.toml:11: sinks.events.path: it would write over link.jsonl, which source gate reads"
    ]


def test_two_sinks_of_different_sources_can_share_a_template(load_text: Load, minimal: str) -> None:
    text = minimal.replace('.jsonl"', '.jsonl"\nsources = ["gate"]') + (
        '[sources.door]\ntype = "file"\npath = "d.mp4"\n'
        '[sinks.other]\ntype = "lines"\npath = "out/{source}.jsonl"\nsources = ["door"]\n'
    )
    assert load_text(text).sources_of("other") == ("door",)


def test_many_may_write_to_the_null_device(load_text: Load, minimal: str) -> None:
    text = minimal.replace("out/{source}.jsonl", "/dev/null") + '[sinks.b]\ntype = "lines"\npath = "/dev/null"\n'
    assert load_text(text).sinks


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        ("0.0.0.0:9464", "0.0.0.0 can be reached from other machines, which needs a token: add a table"),
        ("example.org:80", "example.org can be reached from other machines"),
        ("[::]:80", ":: can be reached from other machines"),
        ("9464", 'must be "host:port"'),
        (":9464", 'must be "host:port"'),
        ("127.0.0.1:x", 'must be "host:port"'),
        ("127.0.0.1:65536", 'must be "host:port"'),
        ("::1:9464", 'must be "host:port"'),
        ("", 'must be "host:port"'),
    ],
)
def test_the_server_listens_on_this_machine_only(faults: Faults, minimal: str, listen: str, message: str) -> None:
    (fault,) = faults(f'{minimal}[server]\nlisten = "{listen}"\n')
    assert fault.startswith(f"pipeline.toml:13: server.listen: {message}")


@pytest.mark.parametrize(
    ("listen", "address"),
    [("localhost:0", ("localhost", 0)), ("[::1]:80", ("::1", 80)), ("127.9.9.9:1", ("127.9.9.9", 1)), ("off", None)],
)
def test_addresses_of_this_machine_are_taken(load_text: Load, minimal: str, listen: str, address: object) -> None:
    assert load_text(f'{minimal}[server]\nlisten = "{listen}"\n').server.address == address


def test_the_server_can_stay_up_until_it_is_stopped(load_text: Load, faults: Faults, minimal: str) -> None:
    assert load_text(minimal + "[server]\nlinger_s = inf\n").server.linger_s is None
    assert load_text(minimal, {"PENSTOCK_SERVER__LINGER_S": "inf"}).server.linger_s is None
    assert faults(minimal + "[server]\nlinger_s = nan\n")
    assert faults(minimal + "[server]\nlinger_s = -1\n")


def test_tables_in_memory_are_taken_as_they_are(tmp_path: Path, registry: Registry) -> None:
    tree = {
        "sources": {"a": {"type": "file", "path": "${A}.mp4"}},
        "backends": {"b": {"type": "model", "model": "m.onnx"}},
        "sinks": {"c": {"type": "silent"}},
    }
    environ = {"PENSTOCK_FOO": "1", "A": "x"}
    settings = from_tree(tree, base_dir=tmp_path, registry=registry, environ=environ)
    assert list(settings.sources["a"].reads()) == [tmp_path / "${A}.mp4"]
    assert settings.path is None
    with pytest.raises(ConfigProblems) as caught:
        from_tree({**tree, "sinks": {"c": {"type": "silent", "x": 1}}}, base_dir=tmp_path, registry=registry)
    assert str(caught.value) == (
        "sinks.c.x: unknown key; known are type, sources, queue, emit, where, limit, update_every_s, notices"
    )
