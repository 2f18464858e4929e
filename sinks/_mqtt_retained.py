"""`Retained`: what the broker keeps about each source (its state, how many are there) and for Home Assistant."""

import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from pipeline.contracts.event import Event, SourceEvent
from pipeline.contracts.result import Detections, Result
from sinks._topics import Names, plain

MIN_INTERVAL_S = 1.0
"""So often at most are counts told that change with every frame."""

MAX_ENTITIES = 200
"""So many classes and zones are shown to Home Assistant; a model with 1,000 classes would fill its screens."""

_PICTURES_COME = ["running", "frozen", "black", "moved"]


@dataclass(frozen=True, slots=True)
class RetainedTopics:
    """Where it goes; None: it is not told. `state` and `counts` hold {source}.

    Attributes:
        status: where "online" and "offline" stand.
        state: what a source does.
        counts: how many objects are there.
        discovery: the prefix that Home Assistant listens to.
    """

    status: str
    state: str | None
    counts: str | None
    discovery: str | None


class Retained:
    """Made by the sink. Told of every item by the thread that packs; asked by any thread for what to publish.

    It is never in the spool: what a broker that was away has to learn is how things are now.
    """

    def __init__(self, topics: RetainedTopics, names: Names, client_id: str) -> None:
        self._topics = topics
        self._names = names
        self._node = plain(client_id)
        self._lock = threading.Lock()
        self._now: dict[str, bytes] = {}
        self._told: dict[str, tuple[bytes, float]] = {}  # since the connection came up: what, and when
        self._hasty: set[str] = set()  # topics of what changes with every frame
        self._state: dict[str, str] = {}
        self._content: dict[str, str] = {}
        self._entities: set[str] = set()
        self.overflown = False

    def see(self, item: Result | Event) -> None:
        """Learn from an item how things are."""
        with self._lock:
            match item:
                case SourceEvent(kind="state"):
                    self._state[item.source] = item.value
                    self._put_state(item.source)
                case SourceEvent():
                    self._content[item.source] = item.value
                    self._put_state(item.source)
                case Result():
                    source = item.frame.source
                    if source not in self._state:  # it was running before anybody told us
                        self._state[source] = "running"
                        self._put_state(source)
                    if self._topics.counts is not None and isinstance(item.prediction, Detections):
                        self._put_counts(source, item, item.prediction)
                case _:
                    pass

    def renew(self) -> None:
        """A connection came up, or Home Assistant was started: all of it is to be told again."""
        with self._lock:
            self._told.clear()

    def due(self, now_s: float) -> list[tuple[str, bytes]]:
        """What is to be published now (monotonic): topic and body, discovery first. It counts as told."""
        with self._lock:
            due = []
            for topic, body in self._now.items():
                told, at_s = self._told.get(topic, (None, -MIN_INTERVAL_S))
                if body != told and (topic not in self._hasty or now_s - at_s >= MIN_INTERVAL_S):
                    self._told[topic] = (body, now_s)
                    due.append((topic, body))
            return sorted(due, key=lambda one: not one[0].endswith("/config"))

    def _put_state(self, source: str) -> None:
        if self._topics.state is None:
            return
        state, content = self._state.get(source, "running"), self._content.get(source, "ok")
        word = content if state == "running" and content != "ok" else state
        topic = self._names.fixed(self._topics.state, source)
        self._now[topic] = word.encode()
        for entity, component, about in (
            ("connection", "binary_sensor", _CONNECTION),
            ("problem", "binary_sensor", _PROBLEM),
        ):
            self._show(source, entity, component, {**about, "state_topic": topic})

    def _put_counts(self, source: str, result: Result, found: Detections) -> None:
        assert self._topics.counts is not None  # noqa: S101 - for the type checker; asked by the caller
        topic = self._names.fixed(self._topics.counts, source)
        self._hasty.add(topic)
        classes = Counter(found.label(row) for row in range(len(found)))
        occupancy: Mapping[str, Mapping[str, int]] = {} if result.scene is None else result.scene.occupancy
        zones = {zone: {"count": sum(inside.values()), "classes": dict(inside)} for zone, inside in occupancy.items()}
        self._now[topic] = json.dumps({"classes": classes, "zones": zones}, separators=(",", ":")).encode()
        for name in classes:
            self._show(source, f"class_{name}", "sensor", _count(name, topic, f"['classes'][{_quoted(name)}]"))
        for zone, inside in occupancy.items():
            path = f"['zones'][{_quoted(zone)}]"
            value = f"{{{{ 'ON' if (value_json{path}['count'] | default(0)) > 0 else 'OFF' }}}}"
            occupied = {"name": zone, "device_class": "occupancy", "state_topic": topic, "value_template": value}
            self._show(source, f"zone_{zone}", "binary_sensor", occupied)
            for name in inside:
                about = _count(f"{zone} {name}", topic, f"{path}['classes'][{_quoted(name)}]")
                self._show(source, f"zone_{zone}_{name}", "sensor", about)

    def _show(self, source: str, entity: str, component: str, about: Mapping[str, Any]) -> None:
        """Have Home Assistant show one more thing of a source. Format: its MQTT discovery, one topic an entity."""
        if self._topics.discovery is None:
            return
        entity = f"{source}_{plain(entity)}"
        if entity in self._entities:
            return
        if len(self._entities) >= MAX_ENTITIES:
            self.overflown = True
            return
        self._entities.add(entity)
        config = {
            **about,
            "unique_id": f"{self._node}_{entity}",
            "availability_topic": self._topics.status,
            "device": {"identifiers": [f"{self._node}_{source}"], "name": source, "manufacturer": "Penstock"},
            "origin": {"name": "Penstock", "sw_version": version("penstock")},
        }
        self._now[f"{self._topics.discovery}/{component}/{self._node}/{entity}/config"] = json.dumps(config).encode()


_CONNECTION = {
    "name": "Connection",
    "device_class": "connectivity",
    "entity_category": "diagnostic",
    "value_template": f"{{{{ 'ON' if value in {_PICTURES_COME} else 'OFF' }}}}",
}
_PROBLEM = {
    "name": "Problem",
    "device_class": "problem",
    "entity_category": "diagnostic",
    "value_template": "{{ 'OFF' if value == 'running' else 'ON' }}",
}


def _count(name: str, topic: str, path: str) -> dict[str, str]:
    value = f"{{{{ value_json{path} | default(0) }}}}"
    return {"name": name, "state_class": "measurement", "state_topic": topic, "value_template": value}


def _quoted(name: str) -> str:
    """As a string of Home Assistant's templates (Jinja2 takes JSON's escapes)."""
    return json.dumps(name)
