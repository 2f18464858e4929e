"""What a mistake is called: each message says what would be right."""

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.config.crosscheck import check_files
from pipeline.config.explain import explain
from pipeline.contracts.analysis import ZoneConfig
from sinks.hls import HlsSinkConfig
from sinks.snapshot import SnapshotSinkConfig
from sinks.video import VideoSinkConfig

SQUARE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))


class Table(BaseModel):
    """A table within a table."""

    every_s: float = 1.0
    max_bytes: int = Field(default=1 << 20, ge=1 << 20)


class Whole(BaseModel):
    """The table around it."""

    model_config = ConfigDict(extra="forbid")

    segment: Table | None = None
    share: float = Field(default=0.5, le=0.25)


def faults_of(model: type[BaseModel], raw: dict[str, Any]) -> dict[str, str]:
    """Key and message of each fault."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(raw, context={})
    return {".".join(key): message for key, message in explain(caught.value, model, raw)}


def test_who_writes_a_value_for_a_table_is_told_its_keys() -> None:
    assert faults_of(Whole, {"segment": "1h"}) == {"segment": 'must be a table (every_s, max_bytes), got "1h"'}


def test_limits_are_numbers_as_one_writes_them() -> None:
    assert faults_of(Whole, {"segment": {"max_bytes": 0}, "share": 1}) == {
        "segment.max_bytes": "must be 1048576 or more, got 0",
        "share": "must be 0.25 or less, got 1",
    }


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"type": "bluur"}, "type: there is no 'bluur'; did you mean blur?"),
        ({"color": "red"}, "type: is missing"),
        ({"type": "box", "color": "red"}, 'must be "class", "track" or "#rrggbb", got "red"'),
    ],
)
def test_what_cannot_be_drawn_is_named(step: dict[str, Any], message: str) -> None:
    assert list(faults_of(VideoSinkConfig, {"type": "video", "path": "/x/a.mp4", "draw": [step]}).values()) == [message]


@pytest.mark.parametrize(
    ("polygon", "fault"),
    [
        (((0, 0), (1, 1), (1, 0), (0, 1)), "its edges cross each other: name the corners in turn, around the area"),
        (((0, 0), (0.5, 0.5), (1, 1)), "it has no area: its corners lie on one line"),
    ],
)
def test_a_polygon_in_which_nobody_can_be_is_refused(polygon: Any, fault: str) -> None:
    assert faults_of(ZoneConfig, {"polygon": polygon}) == {"polygon": fault}


@pytest.mark.parametrize(
    "polygon",
    [
        SQUARE,
        SQUARE[::-1],
        ((0, 0), (0.5, 0), (1, 0), (1, 1)),  # a corner that is none
        ((0, 0), (1, 0), (1, 1), (0.9, 1), (0.9, 0.1), (0.1, 0.1), (0.1, 1), (0, 1)),  # a U
    ],
)
def test_an_honest_polygon_is_taken(polygon: Any) -> None:
    assert len(ZoneConfig(polygon=polygon).polygon) == len(polygon)


@pytest.mark.parametrize("path", ["/x/{source}/../../a.jpg", "/x/{date}/../../../etc/a.jpg"])
def test_a_path_cannot_climb_out_of_its_folder(path: str) -> None:
    (fault,) = faults_of(SnapshotSinkConfig, {"type": "snapshot", "path": path}).values()
    assert fault == "it leads out of its folder: take away the .. behind a placeholder"


def test_when_is_about_events() -> None:
    raw = {"type": "snapshot", "path": "/x/a.jpg", "emit": "frames", "when": "end"}
    assert list(faults_of(SnapshotSinkConfig, raw).values()) == ['when is about events, and emit is "frames"']


@pytest.mark.parametrize(("kind", "suffix"), [(HlsSinkConfig, "m3u8"), (VideoSinkConfig, "mp4")])
def test_two_cameras_do_not_go_into_one_video(kind: Any, suffix: str) -> None:
    def told(path: str, **keys: Any) -> list[str]:
        sink = kind.model_validate({"path": f"/x/{path}.{suffix}", **keys}, context={})
        said: list[str] = []
        parts: Any = SimpleNamespace(sources={}, sinks={"rec": sink}, declared={"source": ("gate", "yard")})
        check_files(parts, lambda key, message: said.append(f"{'.'.join(key)}: {message}"))
        return said

    assert told("all") == ["sinks.rec.path: two sources would go into one file: put {source} into the name"]
    assert told("{source}") == told("all", sources=["gate"]) == []


@pytest.mark.parametrize("size", ["lots", "5 parsecs", ""])
def test_a_size_that_is_none_is_told_how_one_looks(size: str) -> None:
    raw = {"type": "snapshot", "path": "/x/a.jpg", "min_free_bytes": size}
    (fault,) = faults_of(SnapshotSinkConfig, raw).values()
    assert fault == f'must be a number of bytes, or a text like "256MiB", got "{size}"'
