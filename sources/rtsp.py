"""The source `rtsp`: a camera over RTSP, with TCP, UDP or TLS."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.contracts.component import Context
from pipeline.contracts.paths import ConfigPath
from pipeline.contracts.secret import Secret, SecretUrl
from sources._live import LiveSource, Plan
from sources._live_config import DecodedLiveConfig, checked_scheme, checked_tls, with_login
from sources._live_tls import Tls

_SCHEMES = ("rtsp", "rtsps")


class RtspSourceConfig(DecodedLiveConfig):
    """A camera over RTSP: H.264, H.265 or MJPEG; sound is ignored.

    User and password stand in `url`, or in `user` and `password`, which need no percent encoding.
    """

    type: Literal["rtsp"]
    url: SecretUrl = Field(description="rtsp://HOST[:PORT]/PATH, or rtsps:// for TLS", examples=["rtsp://10.0.0.5/ch1"])
    user: str | None = Field(default=None, min_length=1, description="user name, if it is not in the url")
    password: Secret | None = Field(default=None, description="password, if it is not in the url")
    transport: Literal["tcp", "udp", "tls"] | None = Field(
        default=None, description='how the media come: "tcp" (default), "udp", or "tls" (default for rtsps://)'
    )
    ca_file: ConfigPath | None = Field(
        default=None, description="with TLS: the certificates that the camera's must be signed by (PEM)"
    )
    verify: bool = Field(
        default=True, description="with TLS: false accepts any certificate; anybody on the way can then read along"
    )

    @field_validator("url")
    @classmethod
    def _url_of_a_camera(cls, url: SecretUrl) -> SecretUrl:
        return checked_scheme(url, _SCHEMES)

    @model_validator(mode="after")
    def _one_meaning(self) -> Self:
        with_login(self.url, self.user, self.password)
        if self.url.scheme == "rtsps" and self.transport in ("tcp", "udp"):
            raise ValueError(
                f'an rtsps:// url comes over TLS: leave out transport = "{self.transport}", or use rtsp://'
            )
        self._tls()
        return self

    def check(self) -> None:
        """Find a CA file that cannot be read. Whether the camera is there is not asked: it may come later.

        Raises:
            ConfigError: key `ca_file`.
        """
        if (tls := self._tls()) is not None:
            tls.check()

    def build(self, ctx: Context) -> LiveSource:
        """Make the source; connects to nothing."""
        if not self.verify:
            ctx.warn("verify = false: the camera's certificate is not checked, anybody on the way can read along")
        return LiveSource(self.plan(), ctx)

    def _tls(self) -> Tls | None:
        used = self.url.scheme == "rtsps" or self.transport == "tls"
        return checked_tls(used=used, verify=self.verify, ca_file=self.ca_file)

    def plan(self) -> Plan:
        """How to open it."""
        tls = self._tls()
        transport = "tls" if tls else self.transport or "tcp"
        options = {
            "rtsp_transport": "udp" if transport == "udp" else "tcp",
            "allowed_media_types": "video",  # sound that goes on would hide that the picture stands still
            "analyzeduration": "500000",
            "timeout": str(int(self.open_timeout_s * 1e6)),
            "max_delay": "200000",  # UDP: wait so long for a packet that was overtaken, in microseconds
            "buffer_size": "2097152",  # UDP: a keyframe of a large picture comes in one burst
        }
        url = with_login(self.url, self.user, self.password)
        if tls and url.scheme == "rtsp":
            url = SecretUrl(url.reveal().replace("rtsp://", "rtsps://", 1))
        return self.common_plan(url, shown=str(self.url), transport=transport, demuxer="rtsp", options=options, tls=tls)
