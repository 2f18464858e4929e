"""What clients of the inference server may take, as `[server.inference]` says."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InferenceLimits:
    """The values of `[server.inference]`, and what follows from them.

    Attributes:
        max_body_bytes: the longest body that is read, after it is unpacked; also the largest file that is fetched.
        max_pixels: a picture with more is refused before it is decoded.
        max_pictures: pictures in one request.
        max_waiting: pictures of all clients that may wait for a model.
        timeout_s: how long one request may take once its body is there.
        allow_urls: pictures that a request names by URL are fetched.
        url_hosts: only from these hosts; none: from any that has a public address.
        allow_private_urls: those hosts may have private addresses.
        body_s: how long a client may take for a body, apart from what `body_bytes_per_s` grants it.
        body_bytes_per_s: a client that sends at least so fast is never cut off.
        answer_s: how long a client may take to read the answer, apart from what `body_bytes_per_s` grants it.
        fetch_s: how long it may take in all to fetch a file.
        decoders: pictures that are decoded at once.
    """

    max_body_bytes: int = 64 << 20
    max_pixels: int = 50_000_000
    max_pictures: int = 64
    max_waiting: int = 64
    timeout_s: float = 60.0
    allow_urls: bool = False
    url_hosts: tuple[str, ...] = ()
    allow_private_urls: bool = False
    body_s: float = 12.0
    body_bytes_per_s: float = 65_536.0
    answer_s: float = 15.0
    fetch_s: float = 10.0
    decoders: int = 2

    @property
    def bodies_bytes(self) -> int:
        """Of all bodies and fetched files that are held at once: two of the longest, but enough for many short ones."""
        return max(2 * self.max_body_bytes, 64 << 20)

    @property
    def pictures_bytes(self) -> int:
        """Of all decoded pictures that are held at once: four of the largest, but enough for many small ones."""
        return max(4 * 3 * self.max_pixels, 256 << 20)
