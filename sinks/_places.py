"""`Places`: which file each source writes to now, by the sink's path template."""

from pathlib import Path

from pipeline.contracts.event import DaemonEvent, Event, ObjectEvent
from pipeline.contracts.frame import Frame
from sinks._paths import event_path, path_for, placeholders


class Places:
    """Made by a sink that writes files; used by its runner's thread only.

    Attributes:
        only: the one file, where the template has no placeholder.
    """

    def __init__(self, template: str) -> None:
        self._template = template
        self._changes = bool(placeholders(template) - {"source"})
        self._path_of: dict[str, Path] = {}
        self.only = None if placeholders(template) else Path(template.format())

    def for_frame(self, frame: Frame) -> Path:
        """The file for what is said of this frame.

        Raises:
            FatalError: a link leads out of the template's folder.
        """
        path = self._path_of.get(frame.source)
        if path is None or self._changes:
            path = self._path_of[frame.source] = path_for(self._template, frame)
        return path

    def for_event(self, event: Event) -> Path:
        """The file for this event: that of its frame, else that to which its source writes now; raises likewise."""
        if isinstance(event, ObjectEvent):
            return self.for_frame(event.frame)
        source = event.component if isinstance(event, DaemonEvent) else event.source
        path = self._path_of.get(source)
        if path is None:
            path = self._path_of[source] = event_path(self._template, source, event.at)
        return path

    def leave(self, source: str) -> None:
        """This source writes no more."""
        self._path_of.pop(source, None)

    def leave_all(self) -> None:
        """It is over."""
        self._path_of.clear()
        self.only = None

    def in_use(self) -> set[Path]:
        """The files that somebody writes to, or will."""
        return {*self._path_of.values(), *(() if self.only is None else (self.only,))}
