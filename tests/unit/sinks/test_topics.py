from dataclasses import replace

import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.contracts.event import Best, DaemonEvent, ObjectEvent, SourceEvent
from pipeline.testing import frame, result
from sinks._topics import Names, NameTemplate, host_name, line_parcel, plain

CROSSING = ObjectEvent(
    id="a" * 32,
    event_id="b" * 32,
    phase="once",
    kind="crossing",
    source="gate",
    class_name="fork lift/#+",
    tracker_id=3,
    began_at=1.7e9,
    at=1.7e9,
    frame=frame(4, source="gate"),
    confidence=0.9,
    xyxy=(1, 2, 3, 4),
    best=Best("c" * 32, 4, 0.16, 1.7e9, 0.9, (1, 2, 3, 4)),
    line="door",
    direction="in",
    count=1,
)
DOWN = SourceEvent("d" * 32, "gate", "state", "reconnecting", "TIMEOUT", "no frame", 1.7e9)
RELOAD = DaemonEvent("e" * 32, "penstock", "reload", "ok", "", 1.7e9)


def test_placeholders_are_filled_in_for_everything_that_is_sent() -> None:
    names = Names("alerts")
    template = "{sink}/{source}/{kind}/{event}/{phase}/{class}/{line}/{zone}"
    assert names.of(template, result(frame(source="gate"))) == "alerts/gate/results/none/none/none/none/none"
    assert names.of(template, CROSSING) == "alerts/gate/events/crossing/once/fork_lift___/door/none"
    assert names.of(template, DOWN) == "alerts/gate/notices/state/none/none/none/none"
    assert names.of(template, RELOAD) == "alerts/daemon/notices/reload/none/none/none/none"
    assert names.fixed("{host}/{sink}") == f"{host_name()}/alerts"


@pytest.mark.parametrize("text", ["a/b", "+", "#", "a.b", "*", ">", "a b", "x\0y", "\n", "\u732b", "$SYS", "{x}"])
def test_nothing_that_a_broker_knows_as_separator_or_wildcard_is_filled_in(text: str) -> None:
    event = replace(CROSSING, class_name=text)
    filled = Names("alerts").of("p/{class}", event).removeprefix("p/")
    assert filled
    assert set(filled) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert len(plain("x" * 5000)) == 100
    assert plain("") == "none"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("p/{sauce}", "there is no placeholder {sauce} here"),
        ("p/{source!r}", "there is no placeholder {source}"),
        ("p/{source:>9}", "there is no placeholder {source}"),
        ("p/{source.x}", "there is no placeholder {source.x}"),
        ("p/{", "a brace that is meant"),
        ("", "must not be empty"),
        ("a\nb", "control characters"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_refused_in_one_line(template: str, says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(NameTemplate).validate_python(template)
    assert says in str(caught.value)


def test_a_parcel_carries_the_line_the_source_and_what_it_is() -> None:
    parcel = line_parcel(result(frame(7, source="gate")), "topic")
    assert (parcel.id, parcel.source, parcel.kind, parcel.about) == (f"{7:032x}", "gate", "result", "topic")
    assert parcel.body.startswith(b'{"schema":"penstock.result/1"')
    assert [(one.source, one.kind) for one in (line_parcel(CROSSING), line_parcel(DOWN), line_parcel(RELOAD))] == [
        ("gate", "event"),
        ("gate", "notice"),
        ("", "notice"),
    ]
