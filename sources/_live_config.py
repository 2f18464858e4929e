"""The keys that live sources read through PyAV have in common, and what their URLs must be like."""

from abc import ABC
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pipeline.contracts.secret import Secret, SecretUrl
from pipeline.contracts.source import LiveSourceConfig
from sources._decoding import DecodeWish, Decoding, LoopFilterWish
from sources._live import Plan
from sources._live_tls import Tls


class DecodedLiveConfig(LiveSourceConfig, ABC):
    """The keys of connecting and decoding."""

    can_rest: ClassVar[bool] = True
    open_timeout_s: float = Field(default=10.0, gt=0, le=600, description="give up connecting after so long")
    first_frame_timeout_s: float = Field(
        default=10.0, gt=0, le=600, description="no picture for so long after connecting is a failure: TIMEOUT"
    )
    decode: DecodeWish = "auto"
    loop_filter: LoopFilterWish = "all"
    decode_threads: int = Field(
        default=1, ge=1, le=64, description="threads that decode; more than one help only where pictures are sliced"
    )
    max_pixels: int = Field(default=100_000_000, ge=1, description="refuse pictures with more pixels than this")

    def common_plan(
        self,
        address: SecretUrl | Path,
        *,
        shown: str,
        transport: str,
        demuxer: str | None,
        options: Mapping[str, str],
        tls: Tls | None = None,
    ) -> Plan:
        """How to open it, with the limits that are set here."""
        return Plan(
            address=address,
            shown=shown,
            transport=transport,
            demuxer=demuxer,
            options=options if tls is None else {**options, **tls.options()},
            tls=tls,
            open_timeout_s=self.open_timeout_s,
            first_frame_timeout_s=self.first_frame_timeout_s,
            stall_timeout_s=self.stall_timeout_s,
            decoding=Decoding(
                wish=self.decode,
                threads=self.decode_threads,
                max_pixels=self.max_pixels,
                loop_filter=self.loop_filter,
                low_delay=True,
            ),
            on_corrupt=self.on_corrupt,
            # Every n-th frame can only be told where all of them are decoded.
            max_fps=self.max_fps if self.stride == 1 else None,
            rest_keepalive_s=self.motion.keepalive_s if self.motion and self.motion.decode == "keyframes" else None,
        )


def checked_scheme(url: SecretUrl, schemes: Sequence[str], *, host_needed: bool = True) -> SecretUrl:
    """The URL, if it can be meant.

    Raises:
        ValueError: another scheme, or no host; without what the URL holds of credentials.
    """
    if url.scheme not in schemes:
        wanted = ", ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"the url begins with {url.scheme}://, not with {wanted}")
    if host_needed and not url.host:
        raise ValueError(f"the url names no host: {url.scheme}://HOST[:PORT]/PATH")
    return url


def with_login(url: SecretUrl, user: str | None, password: Secret | None) -> SecretUrl:
    """The URL with user and password in it.

    Raises:
        ValueError: they are given twice, or a password alone.
    """
    if user is None:
        if password is not None:
            raise ValueError("a password needs a user: set user too")
        return url
    if url.username is not None:
        raise ValueError("user is set, and the url names one too: keep one of them")
    return url.with_credentials(user, password)


def checked_tls(*, used: bool, verify: bool, ca_file: Path | None) -> Tls | None:
    """How TLS is done; None without it.

    Raises:
        ValueError: keys for TLS where there is none, or keys that contradict each other.
    """
    if not used:
        if ca_file is not None or not verify:
            raise ValueError("ca_file and verify belong to TLS, which this url does not use")
        return None
    if not verify and ca_file is not None:
        raise ValueError("verify = false and ca_file contradict each other: keep one of them")
    return Tls(verify=verify, ca_file=ca_file)
