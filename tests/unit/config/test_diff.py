from pathlib import Path
from typing import Any

from fakes import FakeBackendConfig, FakeSinkConfig, FakeSourceConfig, LiveFakeConfig
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.diff import diff, is_rebuilt
from pipeline.config.loader import from_tree
from pipeline.config.settings import Settings
from pipeline.registry import Registry

REGISTRY = Registry.of(FakeSourceConfig, LiveFakeConfig, FakeBackendConfig, FakeSinkConfig)


def _settings(sources: dict[str, dict[str, Any]], **core: Any) -> Settings:
    tree: dict[str, Any] = {
        "sources": {name: {"type": "fake", **table} for name, table in sources.items()},
        "backends": {"model": {"type": "fake"}},
        "sinks": {"keep": {"type": "fake", **core.pop("keep", {})}},
        "server": {"listen": "off"},
    }
    return from_tree(tree | core, base_dir=Path("/x"), registry=REGISTRY, environ={})


TABLES = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.fixed_dictionaries({}, optional={"stride": st.integers(1, 3), "type": st.sampled_from(["fake", "live"])}),
    min_size=1,
)


@given(old=TABLES, new=TABLES)
@settings(deadline=None, max_examples=60)
def test_what_is_changed_added_and_removed_is_all_that_differs(
    old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]]
) -> None:
    before, after = _settings(old), _settings(new)
    plan = diff(before, after)
    assert diff(after, after).lines() == []
    assert set(plan.names("source", "added")) == set(new) - set(old)
    assert set(plan.names("source", "removed")) == set(old) - set(new)
    changed = {name for name in set(old) & set(new) if before.sources[name] != after.sources[name]}
    assert set(plan.names("source", "changed")) == changed
    assert [change.kind for change in plan.changes] == ["source"] * len(plan.changes)
    assert {str(change) for change in diff(after, before).changes if change.action == "added"} == {
        f"source {name}: added" for name in set(old) - set(new)
    }


def test_the_keys_that_differ_are_named_and_never_their_values() -> None:
    plan = diff(_settings({"a": {}, "b": {}}), _settings({"a": {"stride": 3, "max_fps": 4.0}, "b": {"type": "live"}}))
    assert plan.lines() == ["source a: changed (stride, max_fps)", "source b: changed (type)"]


def test_what_only_a_restart_puts_in_force_is_said() -> None:
    new = _settings({"a": {}}, server={"listen": "127.0.0.1:9999"}, shutdown_timeout_s=3.0, data_dir="/elsewhere")
    assert diff(_settings({"a": {}}), new).lines() == [
        "shutdown_timeout_s: changed",
        "data_dir: changed, takes effect at the next start",
        "server: changed, takes effect at the next start",
    ]


def test_a_sink_whose_sources_or_queue_differ_is_connected_anew_and_not_rebuilt() -> None:
    plain = FakeSinkConfig(type="fake")
    assert not is_rebuilt(plain, plain.model_copy(update={"sources": ("a",)}), "sink")
    assert is_rebuilt(plain, plain.model_copy(update={"delay_s": 1.0}), "sink")
    assert is_rebuilt(FakeBackendConfig(), FakeBackendConfig(max_wait_s=1.0), "backend")
