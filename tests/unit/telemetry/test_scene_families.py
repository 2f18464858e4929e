"""The metrics of tracks, zones and lines."""

from pipeline.telemetry.metrics import Metrics
from pipeline.telemetry.readings import SceneReading
from pipeline.telemetry.scene_families import MAX_CLASSES, scene_families

MANY = {f"class_{n}": 1 for n in range(MAX_CLASSES + 10)}


def samples(*readings: SceneReading) -> dict[tuple[str, ...], float]:
    found = [sample for family in scene_families(readings) for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in found}


def test_each_count_has_its_names() -> None:
    reading = SceneReading(
        "gate", 3, {"door": {"person": 2, "car": 0}}, {"entry": {"in": {"person": 7}, "out": {"person": 0}}}, None
    )
    assert samples(reading) == {
        ("penstock_tracks", "gate"): 3,
        ("penstock_zone_occupancy", "gate", "door", "person"): 2,
        ("penstock_zone_occupancy", "gate", "door", "car"): 0,
        ("penstock_line_crossings_total", "gate", "entry", "in", "person"): 7,
        ("penstock_line_crossings_total", "gate", "entry", "out", "person"): 0,
    }


def test_the_number_of_classes_has_a_bound_and_nothing_is_left_out() -> None:
    found = samples(
        SceneReading("gate", None, {"door": MANY}, {"entry": {"in": {**MANY, "other": 5}, "out": {}}}, None)
    )
    assert len(found) == 2 * (MAX_CLASSES + 1)
    assert found["penstock_zone_occupancy", "gate", "door", "other"] == 10
    assert found["penstock_line_crossings_total", "gate", "entry", "in", "other"] == 15


def test_stays_are_measured_by_class_with_a_bound() -> None:
    metrics = Metrics("test")
    dwell = metrics.dwell("gate")
    for name in MANY:
        dwell.observe("door", name, 2.0)
    text = metrics.exposition()[0].decode()
    assert text.count("penstock_zone_dwell_seconds_count{") == MAX_CLASSES + 1
    assert 'penstock_zone_dwell_seconds_count{class="other",source="gate",zone="door"} 10.0' in text
    metrics.forget(source="gate")
    assert "penstock_zone_dwell_seconds_count{" not in metrics.exposition()[0].decode()
