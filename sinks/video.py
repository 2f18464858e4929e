"""`video`: annotated or clean video files, H.264, HEVC or AV1 in MP4, MOV, Matroska or MPEG-TS."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, ByteSize, Field, field_validator, model_validator

from pipeline.contracts.component import Context, endless_is_none
from sinks._clips import ClipPlan, ClipSink
from sinks._container import FORMATS, Layout
from sinks._copying import CopyPlan, CopySink
from sinks._encoder import Codec
from sinks._film import SegmentConfig, VideoPlan, VideoSink
from sinks._paths import (
    PLACEHOLDERS,
    EventPathTemplate,
    check_writable,
    known_path,
    placeholders,
)
from sinks._recording import RecordingConfig
from sinks._retention import KeepConfig
from sinks._segment import FileRules
from sinks._showing import ShowingConfig

_Interval = Annotated[Annotated[float, Field(gt=0, le=3600)] | None, BeforeValidator(endless_is_none)]


class VideoSinkConfig(ShowingConfig, RecordingConfig):
    """The source's video with boxes and labels, its time stamps and its sound; or clips of it around events."""

    file_per_source: ClassVar[bool] = True

    type: Literal["video"] = "video"
    path: EventPathTemplate = Field(
        description="file name (.mp4, .mov, .mkv, .ts); placeholders: {source}, {stem}, {date}, {hour}; of clips also "
        "{time}, {event}, {class}, {track}, {frame}; pictures of another size and the next input file begin "
        "NAME-0002.mp4"
    )
    codec: Codec = Field(default="h264", description="h264, hevc or av1")
    audio: bool = Field(default=True, description="copy the sound of a file")
    layout: Layout = Field(
        default="hybrid",
        description="of MP4 and MOV: hybrid: in fragments while it is written, so that it survives a crash, and an "
        "ordinary file when it is complete; fragmented: stays so; plain: nothing of it survives a crash",
    )
    segment: SegmentConfig | None = Field(
        default=None,
        description="when a file is finished and NAME-20260131T120000Z.mp4 begun (UTC of its first picture); one file "
        "for each input if left out",
    )
    keep: KeepConfig | None = Field(default=None, description="which finished files are removed; none if left out")
    fsync_interval_s: _Interval = Field(
        default=5.0, description="what is older than this survives a power cut; inf: the system writes when it likes"
    )
    min_free_bytes: Annotated[ByteSize, Field(ge=1 << 20)] = Field(
        default=ByteSize(64 << 20), description="leave so much of the disk free"
    )

    @field_validator("path")
    @classmethod
    def _known_format(cls, path: str) -> str:
        if Path(path).suffix.lower() not in FORMATS:
            raise ValueError(f"the name must end in {', '.join(FORMATS)}, which settles the format")
        return path

    @model_validator(mode="after")
    def _clips_fit_together(self) -> Self:
        if self.record == "events" and self.content != "clean":
            raise ValueError(
                'record = "events" cuts clips out of the encoded stream: set content = "clean"; for pictures with '
                "boxes of each event there is the sink `snapshot`"
            )
        if not self.encode and self.content != "clean":
            raise ValueError('encode = false writes no drawings: set content = "clean"')
        if self.record == "all" and (names := placeholders(self.path) - PLACEHOLDERS.keys()):
            raise ValueError(f'path: {{{min(names)}}} is filled by events only: record = "events"')
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.codec == "av1" and Path(self.path).suffix.lower() == ".ts":
            raise ValueError("codec: AV1 cannot stand in MPEG-TS; write .mp4 or .mkv")
        largest = None if self.segment is None else self.segment.max_bytes
        if self.keep is not None and self.keep.max_bytes is not None and largest and self.keep.max_bytes < largest:
            raise ValueError("keep.max_bytes is less than one file may be (segment.max_bytes)")
        names = placeholders(self.path)
        if (
            self.record == "all"
            and self.keep is not None
            and self.segment is None
            and ("stem" in names or not names & {"date", "hour"})
        ):
            raise ValueError(
                "keep: there is nothing to remove: set segment, or a path with {date} or {hour}, no {stem}"
            )
        return self

    def check(self) -> None:
        """Find a path that cannot be written.

        Raises:
            ConfigError: for the key `path`.
        """
        check_writable(self.path)

    def build(self, ctx: Context) -> "VideoSink | ClipSink | CopySink":
        """Make the sink."""
        if self.record == "all" and not self.encode:
            segment = self.segment
            return CopySink(
                CopyPlan(
                    path=self.path,
                    audio=self.audio,
                    ring_bytes=self.ring_bytes,
                    min_free_bytes=self.min_free_bytes,
                    every_s=None if segment is None else segment.every_s,
                    max_bytes=None if segment is None else segment.max_bytes,
                    keep=self.keep,
                ),
                ctx,
            )
        if self.record == "all":
            video = VideoPlan(self.path, self.codec, self.rules(), self.segment, self.keep)
            return VideoSink(video, self, ctx)
        plan = ClipPlan(
            path=self.path,
            pre_roll_s=self.pre_roll_s,
            post_roll_s=self.post_roll_s,
            max_clip_s=self.max_clip_s,
            audio=self.audio,
            ring_bytes=self.ring_bytes,
            min_free_bytes=self.min_free_bytes,
            keep=self.keep,
        )
        return ClipSink(plan, ctx)

    def writes(self, source: str) -> Sequence[Path]:
        """The first file for this source, where its name does not depend on the frames."""
        path = None if self.segment is not None else known_path(self.path, source)
        return () if path is None else (path,)

    def rules(self) -> FileRules:
        """The same for files."""
        return FileRules(self.layout, self.audio, self.min_free_bytes, self.fsync_interval_s)
