"""`push`: a live video to a server of others, over RTSP, RTMP, SRT or UDP."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from pipeline.contracts.component import Context
from pipeline.contracts.errors import ConfigError, FatalError, PenstockError, TransientError
from pipeline.contracts.http import host_and_port
from pipeline.contracts.result import Result
from pipeline.contracts.secret import SecretUrl
from pipeline.contracts.tls import TlsKeys, unverified
from sinks._pushing import SCHEMES, Pushing, Target, can_send
from sinks._showing import Showing, ShowingConfig, write_each
from sinks._track import Kind

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 30.0
_SOURCE = "{source}"


class PushSinkConfig(TlsKeys, ShowingConfig):
    """The source's video with boxes and labels, live to a media server."""

    type: Literal["push"] = "push"
    url: SecretUrl = Field(
        description="where to: rtsp://, rtsps://, rtmp://, rtmps://, srt:// or udp://; {source} in it is the source's "
        "name",
        examples=["rtsp://10.0.0.9:8554/{source}"],
    )
    codec: Literal["h264", "hevc"] = Field(default="h264", description="h264 or hevc")
    keyframe_s: float = Field(default=2.0, ge=0.2, le=60, description="viewers can begin at each key frame")
    timeout_s: float = Field(default=5.0, ge=0.5, le=60, description="how long one answer or write may take")

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: SecretUrl) -> SecretUrl:
        if url.scheme not in SCHEMES or not url.host:
            raise ValueError(f"must begin with {', '.join(f'{scheme}://' for scheme in SCHEMES)} and name a host")
        return url

    def check(self) -> None:
        """Find several sources on one URL, certificates that cannot be read, a protocol that is not there.

        Raises:
            ConfigError: for the keys `url`, `ca_file`, `client_cert`.
        """
        if self.sources is not None and len(self.sources) > 1 and _SOURCE not in self.url.reveal():
            raise ConfigError(f"{len(self.sources)} sources cannot go to one URL: put {_SOURCE} into it", key="url")
        if self.url.scheme in {"rtsps", "rtmps"}:
            self.tls_context()
        check_protocol(self.url)

    def build(self, ctx: Context) -> "PushSink":
        """Make the sink."""
        return PushSink(self, ctx)


class PushSink:
    """Draws, encodes and sends; used by its runner's thread only.

    While the server is away, results fail, and it is asked again after 1 s to 30 s: what is live is not kept.
    """

    wants_pictures = True

    def __init__(self, config: PushSinkConfig, ctx: Context) -> None:
        self._config = config
        self._ctx = ctx
        self._showing: Showing | None = None
        self._live: dict[str, Pushing] = {}
        self._owners: dict[SecretUrl, str] = {}
        self._wait_s: dict[str, float] = {}
        self._again_at: dict[str, float] = {}

    def open(self) -> None:
        """Look for the encoder and the protocol; the server is asked at the first picture.

        Raises:
            ConfigError: this FFmpeg cannot encode the codec, or does not speak the protocol.
        """
        config = self._config
        check_protocol(config.url)
        encoding = config.encoding(config.codec, ahead="none", keyframe_s=config.keyframe_s)
        self._showing = Showing(config, encoding, self._ctx)
        if not config.verify_tls and config.url.scheme in {"rtsps", "rtmps"}:
            self._ctx.warn(unverified(host_and_port(config.url)))

    def write(self, results: Sequence[Result]) -> None:
        """Draw, encode and send."""
        write_each(results, self._write)

    def release(self, source: str) -> None:
        """Hang up for a source that was removed."""
        if self._showing is not None:
            self._showing.forget(source)
        current = self._live.pop(source, None)
        if current is not None:
            current.close()
        self._wait_s.pop(source, None)
        self._again_at.pop(source, None)
        self._owners = {url: owner for url, owner in self._owners.items() if owner != source}

    def close(self) -> None:
        """Hang up."""
        for current in self._live.values():
            current.close()
        self._live.clear()

    def written(self) -> Sequence[str]:
        """Nothing is left of it."""
        return ()

    def _write(self, result: Result) -> None:
        if self._showing is None:
            raise FatalError("the sink is not open")
        source = result.frame.source
        now = self._ctx.clock.monotonic()
        if now < self._again_at.get(source, now):
            raise TransientError(f"{self._config.url} is away; asked again in {self._again_at[source] - now:.0f} s")
        planes = result.frame.picture.yuv420p()
        kind = Kind.of(result.frame, planes)
        current = self._live.get(source)
        if current is not None and current.kind != kind:
            current.close()
            current = None
        try:
            if current is None:
                current = self._live[source] = self._begin(result, kind, self._showing)
            self._showing.fill(current.canvas(), result, planes)
            current.write(result.frame)
        except TransientError as error:
            self._lost(source, error, now)
            raise
        except FatalError as error:
            self._lost(source, error, now)
            if self._showing.fall_back(error):
                raise TransientError(str(error)) from error
            raise
        if self._wait_s.pop(source, None) is not None:
            self._ctx.tell("connected", f"{self._config.url} takes {source} again", well=True)

    def _begin(self, result: Result, kind: Kind, showing: Showing) -> Pushing:
        source = result.frame.source
        url = SecretUrl(self._config.url.reveal().replace(_SOURCE, source))
        owner = self._owners.setdefault(url, source)
        if owner != source:
            raise FatalError(f"{owner} and {source} go to one URL, {url}: put {_SOURCE} into it")
        tls = self._config.tls_context() if url.scheme == "rtsps" else None
        ca_file = None if self._config.ca_file is None else str(self._config.ca_file)
        target = Target(url, self._config.timeout_s, tls, ca_file, self._config.verify_tls)
        return Pushing(target, result.frame, kind, encoding=showing.encoding, encoder=showing.encoder)

    def _lost(self, source: str, error: PenstockError, now: float) -> None:
        """Hang up, and wait longer each time before the next attempt."""
        current = self._live.pop(source, None)
        if current is not None:
            current.close()
        before = self._wait_s.get(source)
        if before is None:
            self._ctx.tell("disconnected", str(error), well=False)
        wait_s = self._wait_s[source] = _FIRST_WAIT_S if before is None else min(2 * before, _LONGEST_WAIT_S)
        self._again_at[source] = max(now, self._ctx.clock.monotonic()) + wait_s


def check_protocol(url: SecretUrl) -> None:
    """Find out whether this FFmpeg speaks the protocol.

    Raises:
        ConfigError: it does not.
    """
    if not can_send(url.scheme):
        raise ConfigError(f"this FFmpeg does not speak {url.scheme}; rtsp and rtmp it does", key="url")
