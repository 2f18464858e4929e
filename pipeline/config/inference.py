"""The `[server.inference]` table: in which ways clients may use the models, and what they may take."""

import re
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from pipeline.contracts.component import FrozenModel
from pipeline.contracts.paths import ConfigPath

OFF = "off"


def off_is_none(value: object) -> object:
    """What is `"off"` is not there."""
    return None if value == OFF else value


def _mount(value: str | None) -> str | None:
    """`/hf/` as `/hf`, `/` as nothing."""
    if value is None:
        return None
    path = value.rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9._-]+)*", path):
        raise ValueError(f'must be a path such as "/hf", "/" for none, or "{OFF}"')
    return path


Mount = Annotated[str | None, BeforeValidator(off_is_none), AfterValidator(_mount)]


def _address(value: str) -> str:
    """`https://app.supervisely.com/` without the slash; whose it is, is in no error text."""
    parts = urlsplit(value)
    _ = parts.port  # it raises where that is none
    if parts.scheme not in ("http", "https") or not parts.hostname or not value.isprintable() or " " in value:
        raise ValueError('must be an address such as "https://app.supervisely.com"')
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("must be an address without user, query and fragment; a token belongs into supervisely_token")
    return value.rstrip("/")


def _sendable(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be one word of ASCII, to fit into an HTTP header")
    return value


class InferenceConfig(FrozenModel):
    """The `[server.inference]` table: the models, offered to clients of other servers."""

    enabled: bool = Field(default=True, description="offer models to clients")
    roboflow: Mount = Field(default="", description='path in front of the Roboflow routes, or "off"')
    huggingface: Mount = Field(default="/hf", description='path in front of the Hugging Face routes, or "off"')
    supervisely: Mount = Field(default="/sly", description='path in front of the Supervisely routes, or "off"')
    kserve: Mount = Field(default="", description='path in front of the KServe routes (/v2), or "off"')
    supervisely_platform: Annotated[str, AfterValidator(_address)] | None = Field(
        default=None, description="Supervisely platform whose pictures clients may name by id; none if left out"
    )
    supervisely_token: Annotated[SecretStr, AfterValidator(_sendable)] | None = Field(
        default=None, description="for requests that bring no token of the platform; what it sees, all clients may use"
    )
    workflows: ConfigPath | None = Field(
        default=None, description="folder with Roboflow workflows that clients may run by name: WORKSPACE/ID.json"
    )
    max_body_bytes: int = Field(default=64 << 20, ge=1024, le=4 << 30, description="the longest request that is read")
    max_pixels: int = Field(default=50_000_000, ge=1, description="a picture with more is refused before it is decoded")
    max_pictures: int = Field(default=64, ge=1, le=4096, description="pictures in one request")
    max_waiting: int = Field(default=64, ge=1, le=4096, description="pictures of all clients that may wait for a model")
    priority: int = Field(default=0, ge=-100, le=100, description="of the clients' pictures beside the cameras' frames")
    timeout_s: float = Field(default=60.0, gt=0, le=3600, description="how long one request may take")
    allow_urls: bool = Field(default=False, description="fetch pictures that a request names by URL")
    url_hosts: tuple[str, ...] = Field(
        default=(), description="hosts from which pictures may be fetched; any public one if left out"
    )
    allow_private_urls: bool = Field(
        default=False, description="also from private and loopback addresses; only for hosts in url_hosts"
    )

    @model_validator(mode="after")
    def _has_a_platform_for_its_token(self) -> Self:
        if self.supervisely_token is not None and self.supervisely_platform is None:
            raise ValueError("supervisely_token is good for nothing without supervisely_platform")
        return self
