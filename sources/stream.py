"""The source `stream`: MJPEG and MPEG-TS over HTTP, HLS, RTMP, SRT and UDP, read as live."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.contracts.component import Context
from pipeline.contracts.paths import ConfigPath
from pipeline.contracts.secret import Secret, SecretUrl
from sources._live import LiveSource, Plan
from sources._live_config import DecodedLiveConfig, checked_scheme, checked_tls, with_login
from sources._live_tls import Tls

# Per scheme: the protocols that FFmpeg may use for it, also for what a playlist or a redirect names. Never `file`.
_WEB = "http,https,tcp,tls,crypto"
_PROTOCOLS = {
    "http": _WEB,
    "https": _WEB,
    "rtmp": "rtmp,rtmpt,tcp,http",
    "rtmps": "rtmps,rtmp,tls,tcp",
    "srt": "srt,udp",
    "udp": "udp",
    "tcp": "tcp",
}
# Demuxers that read what they are given, and `hls`, which may follow its playlist over the protocols above.
_FORMATS = "aac,flv,live_flv,h264,hevc,hls,jpeg_pipe,matroska,webm,mjpeg,mov,mpegts,mpeg,mpegvideo,mpjpeg,ogg"
_TLS_SCHEMES = ("https", "rtmps")


class StreamSourceConfig(DecodedLiveConfig):
    """A live stream that is no RTSP: what FFmpeg can open, by its URL."""

    type: Literal["stream"]
    url: SecretUrl = Field(
        description="http(s)://, rtmp(s)://, srt://, udp:// or tcp://", examples=["http://10.0.0.5/video.mjpg"]
    )
    user: str | None = Field(default=None, min_length=1, description="user name, if it is not in the url")
    password: Secret | None = Field(default=None, description="password, if it is not in the url")
    format: Literal["mpjpeg", "mjpeg", "mpegts", "hls", "flv", "h264", "hevc"] | None = Field(
        default=None, description="what the stream is; set it where it is not recognised, or only slowly"
    )
    ca_file: ConfigPath | None = Field(
        default=None, description="with https: the certificates that the server's must be signed by (PEM)"
    )
    verify: bool = Field(
        default=True, description="with https: false accepts any certificate; anybody on the way can then read along"
    )
    stall_timeout_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=10.0,
        description="no frame for so long is a failure, and the source is opened anew; longer than an HLS segment",
    )

    @field_validator("url")
    @classmethod
    def _url_of_a_stream(cls, url: SecretUrl) -> SecretUrl:
        if url.scheme in ("rtsp", "rtsps"):
            raise ValueError('an rtsp:// url is read by type = "rtsp"')
        return checked_scheme(url, tuple(_PROTOCOLS), host_needed=url.scheme != "udp")

    @model_validator(mode="after")
    def _one_meaning(self) -> Self:
        with_login(self.url, self.user, self.password)
        self._tls()
        return self

    def check(self) -> None:
        """Find a CA file that cannot be read. Whether the stream is there is not asked: it may come later.

        Raises:
            ConfigError: key `ca_file`.
        """
        if (tls := self._tls()) is not None:
            tls.check()

    def build(self, ctx: Context) -> LiveSource:
        """Make the source; connects to nothing."""
        if not self.verify:
            ctx.warn("verify = false: the server's certificate is not checked, anybody on the way can read along")
        return LiveSource(self.plan(), ctx)

    def plan(self) -> Plan:
        """How to open it."""
        scheme = self.url.scheme
        limit_us = str(int(self.open_timeout_s * 1e6))
        options = {
            "protocol_whitelist": _PROTOCOLS[scheme],
            "format_whitelist": _FORMATS,
            "analyzeduration": "1000000",
            "rw_timeout": limit_us,
        }
        if scheme in ("tcp", "udp"):
            options["timeout"] = limit_us
        return self.common_plan(
            with_login(self.url, self.user, self.password),
            shown=str(self.url),
            transport=scheme,
            demuxer=self.format,
            options=options,
            tls=self._tls(),
        )

    def _tls(self) -> Tls | None:
        return checked_tls(used=self.url.scheme in _TLS_SCHEMES, verify=self.verify, ca_file=self.ca_file)
