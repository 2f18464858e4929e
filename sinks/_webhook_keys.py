"""`WebhookKeys`: the keys of the sink `webhook`, and what of them must not be shown."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, ByteSize, Field, model_validator

from pipeline.contracts.component import FrozenModel
from pipeline.contracts.http import Headers, check_http, host_and_port
from pipeline.contracts.secret import MASK, SecretUrl
from pipeline.contracts.sender import SenderConfig
from pipeline.contracts.tls import TlsKeys
from sinks._style import DrawStep
from sinks._webhook_body import PICTURE_KEY, Form
from sinks._webhook_signature import WebhookSecrets
from sinks._webhook_template import Fields, Template

# `https://hooks.chat.example/services/T0/B0/kYd8aYd93hd7Zs01`: a part of a path that no person has thought of.
_TOKEN = re.compile(r"(?=[^/]*[0-9])(?=[^/]*[A-Za-z])[A-Za-z0-9._~%-]{16,}")


class WebhookUrl(SecretUrl):
    """A URL that may hold its key anywhere, as those of chats do: long parts of its path are not shown either."""

    __slots__ = ()

    def secrets(self) -> Iterator[str]:
        """See `SecretUrl.secrets`."""
        yield from super().secrets()
        for token in _TOKEN.findall(urlsplit(self.reveal()).path):
            yield from (token, unquote(token))

    def __str__(self) -> str:
        shown = super().__str__()
        path = urlsplit(self.reveal()).path
        return shown.replace(path, _TOKEN.sub(MASK, path), 1) if path else shown

    def __repr__(self) -> str:
        return f"WebhookUrl({str(self)!r})"


def _checked(url: WebhookUrl) -> WebhookUrl:
    check_http(url)
    return url


class BatchConfig(FrozenModel):
    """The `batch` of a webhook: several results of a source in one request."""

    max_items: int = Field(default=100, ge=1, le=10_000, description="at most so many in a request")
    max_wait_s: float = Field(default=1.0, ge=0, le=3600, description="so long may be waited for that many")
    max_bytes: Annotated[ByteSize, Field(ge=1024)] = Field(
        default=ByteSize(1 << 20), description="of a request's body, about; one result that is larger goes alone"
    )


class SnapshotConfig(FrozenModel):
    """The `snapshot` of a webhook: the picture that a result or event is about, as a JPEG."""

    format: Form = Field(
        default="inline", description=f'inline: base64 under the key "{PICTURE_KEY}"; multipart: a form of two parts'
    )
    max_size: int = Field(default=640, ge=16, le=16_384, description="the longest side, in pixels")
    boxes: bool = Field(default=True, description="draw; false: only hide what is to be hidden")
    draw: tuple[DrawStep, ...] | None = Field(
        default=None, description="what to draw, and how; boxes and labels if left out"
    )
    quality: int = Field(default=80, ge=1, le=95, description="of the JPEG, 1 to 95")


class WebhookKeys(TlsKeys, SenderConfig):
    """What can be said about a webhook; `sinks.webhook` makes the sink of it."""

    url: Annotated[WebhookUrl, AfterValidator(_checked)] = Field(description="who is told: http:// or https://")
    method: Literal["POST", "PUT", "PATCH"] = Field(default="POST", description="POST, PUT or PATCH")
    headers: Headers = Field(default={}, description="sent with every request; the values are secrets")
    secret: WebhookSecrets = Field(
        default=(),
        validate_default=False,
        description='signs each request: "whsec_...", or two of them while one '
        "takes the place of the other; unsigned if left out",
    )
    timeout_s: float = Field(default=10.0, gt=0, le=600, description="for one request, with its answer")
    concurrency: int = Field(default=4, ge=1, le=64, description="requests under way at once, of different sources")
    gzip: bool = Field(default=False, description="compress what is sent (Content-Encoding: gzip)")
    batch: BatchConfig | None = Field(
        default=None, description="several in a request, as an array; one request for each if left out"
    )
    fields: Fields | None = Field(
        default=None, min_length=1, description="only these keys of a result or event; all if left out"
    )
    template: Template | None = Field(
        default=None, description="a body of your own: texts in it may hold {source} or {predictions.0.class}"
    )
    snapshot: SnapshotConfig | None = Field(default=None, description="send the picture, too")

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        for name in self.headers:
            if name.lower().startswith("webhook-"):
                raise ValueError(f"headers: {name} is set by the program itself")
        if self.fields is not None and self.template is not None:
            raise ValueError("fields and template: one of them says what is sent")
        if self.snapshot is not None:
            if self.snapshot.format == "multipart" and self.batch is not None:
                raise ValueError('snapshot: format = "multipart" holds one result; with batch it is "inline"')
            if self.snapshot.format == "inline" and PICTURE_KEY in (self.template or self.fields or ()):
                raise ValueError(f"{PICTURE_KEY} is the key under which the picture is put")
        return self

    @property
    def server(self) -> str:
        """Host and port for logs and errors; nothing secret can be in them."""
        return host_and_port(self.url)

    def check(self) -> None:
        """Find certificates that cannot be read.

        Raises:
            ConfigError: with the key to blame.
        """
        if self.url.scheme == "https":
            self.tls_context()
