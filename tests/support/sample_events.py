"""Events that tests of sinks write: one of each kind, with every field that it can have."""

from pipeline.contracts.event import Best, DaemonEvent, ObjectEvent, SourceEvent
from pipeline.testing import frame

BEST = Best("b" * 32, 7, 0.28, 1_700_000_000.28, 0.95, (0, 0, 10, 20))

OBJECT_EVENT = ObjectEvent(
    id="e" * 32,
    event_id="f" * 32,
    phase="end",
    kind="zone",
    source="gate",
    class_name="car",
    tracker_id=3,
    began_at=1_700_000_000.0,
    at=1_700_000_002.5,
    frame=frame(50, source="gate").released(),
    confidence=0.8,
    xyxy=(8, 8, 24, 24),
    best=BEST,
    zone="drive",
    zones=("drive", "yard"),
)
SOURCE_EVENT = SourceEvent("1" * 32, "gate", "state", "reconnecting", "TIMEOUT", "no\nanswer", 1_700_000_000.0)
DAEMON_EVENT = DaemonEvent("2" * 32, "backend local", "fallback", "taken", "=to cloud", 1_700_000_001.0)
