"""The keys of clips: what is recorded around events, and what does not go together with that."""

from abc import ABC
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ByteSize, Field, model_validator

from pipeline.contracts.sink import SinkConfig


class RecordingConfig(SinkConfig, ABC):
    """The keys of a sink that can record clips."""

    takes_events: ClassVar[bool] = True

    record: Literal["all", "events"] = Field(
        default="all",
        description='"events": clips around what objects do, as the camera encoded them (content = "clean")',
    )
    encode: bool = Field(
        default=True,
        description='false: with content = "clean", what a camera sends is recorded as it is: costs next to nothing',
    )
    pre_roll_s: float = Field(default=5.0, ge=0, le=300, description="of clips: at least so much from before the event")
    post_roll_s: float = Field(default=5.0, ge=0, le=300, description="of clips: so much from after its end")
    max_clip_s: float = Field(default=300.0, ge=1, le=86_400, description="a longer clip goes on in the next file")
    ring_bytes: Annotated[ByteSize, Field(ge=1 << 20)] = Field(
        default=ByteSize(64 << 20), description="of clips: memory for each live source, for what was before an event"
    )

    @model_validator(mode="before")
    @classmethod
    def _clips_are_about_events(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("record") == "events":
            return {"emit": "events", **values}
        return values

    @model_validator(mode="after")
    def _events_are_recorded(self) -> Self:
        if (self.record == "events") != (self.emit == "events"):
            raise ValueError('record = "events" and emit = "events" belong together')
        if self.notices:
            raise ValueError("notices: nothing of them can be seen in a video")
        return self
