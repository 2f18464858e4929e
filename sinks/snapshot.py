"""`snapshot`: JPEG files: of each event the frame in which its object is seen best, or a picture now and then."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import ByteSize, Field, field_validator, model_validator

from pipeline.contracts.component import Context
from pipeline.contracts.errors import FatalError, PenstockError, TransientError
from pipeline.contracts.event import Event, ObjectEvent
from pipeline.contracts.frame import NoPicture
from pipeline.contracts.result import Classification, Detections, Result, label_of
from pipeline.contracts.sink import Emit, SinkConfig
from sinks._annotators import is_slow
from sinks._files import FinishedFiles, make_folder
from sinks._paths import EventPathTemplate, check_writable, display, fixed_root, item_path, known_path
from sinks._pictures import PictureFiles
from sinks._retention import Archive, KeepConfig, Retention
from sinks._style import DEFAULT_NAMES, AnnotatorName, DrawStep, style_of

if TYPE_CHECKING:
    from sinks._drawing import Drawing
    from sinks._jpeg import Box

_SUFFIXES = (".jpg", ".jpeg")
_MAX_OPEN = 10_000  # events of which a better picture may come


class SnapshotSinkConfig(SinkConfig):
    """Pictures as JPEG: of each event one, whole or cut out; or of results, as often as `limit` says."""

    takes_events: ClassVar[bool] = True

    type: Literal["snapshot"] = "snapshot"
    path: EventPathTemplate = Field(
        description="file name (.jpg); placeholders: {source}, {stem}, {date}, {hour}, {time}, {frame}, {event}, "
        "{class}, {track}; a file of the same name is replaced"
    )
    emit: Emit = Field(
        default="events", description='"events": one picture of each; "frames", "changes": one of each result'
    )
    when: Literal["best", "new", "end"] = Field(
        default="best",
        description='of an event: "best": at once, replaced whenever its object is seen better; "end": the best one, '
        'once it is over; "new": the first one',
    )
    crop: Literal["picture", "object"] = Field(default="picture", description="the whole picture, or the object alone")
    margin_ratio: float = Field(default=0.1, ge=0, le=2, description="around an object, as a share of its size")
    max_size: int | None = Field(default=None, ge=16, le=16_384, description="pixels of the longer side, at most")
    quality: int = Field(default=85, ge=1, le=95, description="of the JPEG: 95 is large, 50 is small")
    sidecar: bool = Field(default=False, description="write the event, or the result, as JSON beside it: NAME.json")
    annotators: tuple[AnnotatorName, ...] | None = Field(
        default=None, description="what to draw, by name; box and label if left out, nothing on an object alone"
    )
    draw: tuple[DrawStep, ...] | None = Field(
        default=None,
        description='what to draw and how, in place of annotators: { type = "blur", classes = [...] }, ...',
    )
    keep: KeepConfig | None = Field(default=None, description="remove older pictures; all are kept if left out")
    min_free_bytes: ByteSize = Field(default=ByteSize(64 << 20), description="leave so much of the disk free")

    @field_validator("path")
    @classmethod
    def _is_jpeg(cls, path: str) -> str:
        if Path(path).suffix.lower() not in _SUFFIXES:
            raise ValueError(f"the name must end in {' or '.join(_SUFFIXES)}")
        return path

    @model_validator(mode="before")
    @classmethod
    def _one_of_each_object(cls, values: Any) -> Any:
        """Not one more for each zone that it walks through, unless they are asked for."""
        if not isinstance(values, dict) or values.get("emit", "events") != "events":
            return values
        where = values.get("where") or {}
        if isinstance(where, dict) and not where.keys() & {"kinds", "zones", "lines"}:
            return {**values, "where": {**where, "kinds": ("object", "presence")}}
        return values

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.crop == "object" and self.emit != "events":
            raise ValueError('crop = "object" needs emit = "events": a result may have many objects')
        if "when" in self.model_fields_set and self.emit != "events":
            raise ValueError(f'when is about events, and emit is "{self.emit}"')
        return self

    def check(self) -> None:
        """Find a path that cannot be written.

        Raises:
            ConfigError: for the key `path`.
        """
        check_writable(self.path)

    def build(self, ctx: Context) -> "SnapshotSink":
        """Make the sink."""
        return SnapshotSink(self, ctx)

    def writes(self, source: str) -> Sequence[Path]:
        """The file for this source, where its name does not depend on what is seen."""
        path = known_path(self.path, source)
        return () if path is None else (path,)


@dataclass(slots=True)
class _Open:
    """An event that goes on, and where its picture is."""

    path: Path
    source: str


class SnapshotSink:
    """Draws, encodes and writes, each file whole or not at all; used by its runner's thread only."""

    wants_pictures = True

    def __init__(self, config: SnapshotSinkConfig, ctx: Context) -> None:
        self._config = config
        self._ctx = ctx
        usual = DEFAULT_NAMES if config.crop == "picture" else ()
        self._style = style_of(usual if config.annotators is None else config.annotators, config.draw)
        self._drawing: Drawing | None = None
        archive = Archive(config.path, lambda name: (name, False), bases_close=True)
        self._retention = Retention(archive, config.keep, ctx)
        self._files = PictureFiles(config.min_free_bytes, sidecar=config.sidecar)
        self._archive = archive
        self._open: OrderedDict[str, _Open] = OrderedDict()  # by the event's id, the oldest first
        self._finished = FinishedFiles()

    def open(self) -> None:
        """Make the folder, and finish what a killed process left.

        Raises:
            TransientError, FatalError: the folder cannot be made.
        """
        from sinks._drawing import Drawing

        self._drawing = Drawing(self._style)
        if self._style.slow_names and is_slow():
            self._ctx.warn(
                f"the annotators {', '.join(self._style.slow_names)} are slow without OpenCV; "
                "install opencv-python-headless to make them fast"
            )
        make_folder(fixed_root(self._config.path))
        found = [path for path in map(self._files.salvage, self._archive.parts()) if path is not None]
        if found:
            self._ctx.warn(f"{len(found)} pictures that were being written are complete: the first is {found[0]}")

    def write(self, results: Sequence[Result]) -> None:
        """Write a picture of each result.

        Raises:
            TransientError: one or more could not be written.
            FatalError: it will not work until someone acts.
        """
        failures: list[PenstockError] = []
        for result in results:
            name, track = _told_most(result)
            path = item_path(
                self._config.path,
                result.frame,
                result.frame.captured_at,
                event=result.id,
                class_name=name,
                track=track,
            )
            try:
                self._put(path, result, final=True)
            except PenstockError as error:
                failures.append(error)
        if failures:
            raise next((error for error in failures if isinstance(error, FatalError)), failures[0])

    def notice(self, event: Event) -> None:
        """Write, replace or finish the picture of what an object does; other events have none.

        Raises:
            TransientError: it could not be written.
            FatalError: it will not work until someone acts.
        """
        if not isinstance(event, ObjectEvent):
            return
        if event.phase == "end":
            self._end(event.event_id, event)
        elif event.phase == "once":
            self._put(self._path(event), event, final=True)
        elif event.event_id not in self._open:
            self._begin(event)
        elif self._config.when != "new" and _is_best(event):
            self._put(self._open[event.event_id].path, event, final=self._config.when == "best")

    def tick(self) -> None:
        """Remove what is too much by now."""
        self._sweep()

    def release(self, source: str) -> None:
        """Finish the pictures of a source that was removed."""
        for event_id in [event_id for event_id, one in self._open.items() if one.source == source]:
            self._end(event_id)
        if self._drawing is not None:
            self._drawing.forget(source)

    def close(self) -> None:
        """Finish every picture.

        Raises:
            FatalError: with what is not complete.
        """
        failures = []
        for event_id in list(self._open):
            try:
                self._end(event_id)
            except PenstockError as error:
                failures.append(str(error))
        if failures:
            raise FatalError("; ".join(failures[:3]))

    def written(self) -> Sequence[str]:
        """The first files, and how many more there are."""
        return self._finished.shown()

    def _begin(self, event: ObjectEvent) -> None:
        path = self._path(event)
        self._put(path, event, final=self._config.when != "end")
        self._open[event.event_id] = _Open(path, event.source)
        if len(self._open) > _MAX_OPEN:
            self._end(next(iter(self._open)))

    def _end(self, event_id: str, event: ObjectEvent | None = None) -> None:
        one = self._open.pop(event_id, None)
        if one is None:
            return
        if self._config.when == "end":
            self._finished.add(self._files.finish(one.path))
        if event is not None:
            self._files.describe(one.path, event)

    def _path(self, event: ObjectEvent) -> Path:
        return item_path(
            self._config.path,
            event.frame,
            event.began_at,
            event=event.event_id,
            class_name=event.class_name,
            track=event.tracker_id,
        )

    def _put(self, path: Path, item: Result | ObjectEvent, *, final: bool) -> None:
        if self._drawing is None or isinstance(item.frame.picture, NoPicture):
            raise TransientError(f"{display(path)}: there is no picture to write")
        jpeg = self._drawing.jpeg(
            item,
            max_size=self._config.max_size,
            quality=self._config.quality,
            crop=self._crop(item) if isinstance(item, ObjectEvent) else None,
        )
        self._files.put(path, jpeg, item, final=final)
        if final:
            self._finished.add(path)

    def _crop(self, event: ObjectEvent) -> "Box | None":
        if self._config.crop == "picture":
            return None
        left, top, right, bottom = event.xyxy
        x, y = (right - left) * self._config.margin_ratio, (bottom - top) * self._config.margin_ratio
        return left - x, top - y, right + x, bottom + y

    def _sweep(self) -> None:
        for path in self._retention.sweep([one.path for one in self._open.values()]):
            self._files.forget(path)


def _is_best(event: ObjectEvent) -> bool:
    """Whether this message's frame shows the object better than any before."""
    return event.result is not None and event.best.result_id == event.result.id


def _told_most(result: Result) -> tuple[str, int | None]:
    """The class and the number of what the model is most sure of."""
    match result.prediction:
        case Detections() as found if len(found):
            return found.label(0), None if found.tracker_id is None else int(found.tracker_id[0])
        case Classification(scores=scores, names=names) if len(scores):
            return label_of(names, int(scores.argmax())), None
        case _:
            return "none", None
