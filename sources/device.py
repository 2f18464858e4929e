"""The source `device`: a camera at this machine, through Video4Linux."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from pipeline.contracts.component import Context
from pipeline.contracts.paths import ConfigPath
from sources._live import LiveSource, Plan
from sources._live_config import DecodedLiveConfig


class DeviceSourceConfig(DecodedLiveConfig):
    """A USB camera or a capture card.

    What is not set is left to the driver. `v4l2-ctl --list-formats-ext` tells what a device can do; at high
    resolutions USB cameras reach their full rate only with `input_format = "mjpeg"`.
    """

    type: Literal["device"]
    exclusive: bool = Field(default=True, description="as for every live source; a device has one reader at a time")
    path: ConfigPath = Field(
        default=Path("/dev/video0"), description="the device; names under /dev/v4l/by-id do not change"
    )
    size: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$")] | None = Field(
        default=None, description="width and height to ask for", examples=["1280x720"]
    )
    fps: float | None = Field(default=None, gt=0, le=1000, description="frame rate to ask for")
    input_format: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,20}$")] | None = Field(
        default=None, description="pixel format or codec to ask for", examples=["mjpeg", "yuyv422", "h264"]
    )

    def build(self, ctx: Context) -> LiveSource:
        """Make the source; opens nothing."""
        return LiveSource(self.plan(), ctx)

    def plan(self) -> Plan:
        """How to open it."""
        options = {"video_size": self.size, "input_format": self.input_format}
        options["framerate"] = None if self.fps is None else f"{self.fps:g}"
        return self.common_plan(
            self.path,
            shown=str(self.path),
            transport="v4l2",
            demuxer="v4l2",
            options={name: value for name, value in options.items() if value is not None},
        )
