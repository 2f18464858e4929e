"""What must never be shown, and how it is kept from showing: secret types, and texts with credentials masked."""

import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, SecretBytes, SecretStr
from pydantic import Secret as GenericSecret
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

Secret = SecretStr
"""A password or token in a config: shown as `**********`, read with `.get_secret_value()`."""

MASK = "***"
MIN_LEARNT_CHARS = 4  # a shorter secret, blotted out wherever it occurs, would leave no message readable
MAX_LEARNT = 4096  # forms of secrets; the oldest go first

_SECRET_NAME = re.compile(
    r"(^|_)(pass|passwd|password|passphrase|pwd|secret|token|key|apikey|credential|credentials|auth|authorization|cookie)s?$"
)
# Names in a query are other people's: `access_token`, `X-Amz-Signature`, `accessKey`, `pwd1`.
_SECRET_QUERY_NAME = re.compile(
    r"pass|pwd|psw|secret|token|auth|credential|signature|cookie|(key|sig)\d*$", re.IGNORECASE
)

# What stands before the last @ of the host's part. A password may hold @, quotes and colons as they are.
_USER_INFO = re.compile(r"(://)([^\s/?#]*)@")
# `rtsp://user:pa/ss@host`: with / ? or # as it is in the password, the "port" is no number.
_UNESCAPED_USER_INFO = re.compile(r"(://)([^\s/?#:@]*:(?!\d*[/?#])[^\s/?#@]*[/?#][^\s]*)@")
_ESCAPED_USER_INFO = re.compile(r"(%3A%2F%2F)((?:(?!%2F|%40)[^\s/&])+)%40", re.IGNORECASE)
_QUERY_VALUE = re.compile(r"([?&;/]|%26|%3F)([A-Za-z0-9._~\[\]-]+)(=|%3D)((?:(?!%26)[^&;#\s\"'<>])+)", re.IGNORECASE)
# Some cameras: `/user=admin_password=secret_channel=1_stream=0.sdp`.
_UNDERSCORED_VALUE = re.compile(r"(_(?:password|passwd|pwd|pass)=)[^&#\s/\"'<>]+", re.IGNORECASE)
_AUTHORIZATION = re.compile(r"\b(Basic|Bearer)\s+[A-Za-z0-9+/=._~-]{6,}", re.IGNORECASE)


def is_secret_name(key: str) -> bool:
    """Whether what stands under this key must not be shown: `password`, `api_key`, `hmac_secret`, `auth_token`."""
    return _SECRET_NAME.search(key.lower().replace("-", "_")) is not None


def is_secret(value: object) -> bool:
    """Whether the value is of a type that hides all of what it holds."""
    return isinstance(value, (GenericSecret, SecretStr, SecretBytes))


def redact(text: str) -> str:
    """The text with the credentials masked that any URL in it holds: `rtsp://user:***@host/live?token=***`.

    Masks the password (or, without one, all) in front of the host, values in the query with a telling name, and what
    follows `Basic` and `Bearer`; in percent-encoded URLs too. What is no URL's part it cannot know: see `Redactor`.
    """
    if "://" in text or "%3A%2F%2F" in text or "%3a%2f%2f" in text:
        text = _UNESCAPED_USER_INFO.sub(_hide_user_info, text)
        text = _USER_INFO.sub(_hide_user_info, text)
        text = _ESCAPED_USER_INFO.sub(_hide_escaped_user_info, text)
    if "=" in text or "%3" in text:
        text = _UNDERSCORED_VALUE.sub(rf"\g<1>{MASK}", text)
        text = _QUERY_VALUE.sub(_hide_query_value, text)
    return _AUTHORIZATION.sub(rf"\g<1> {MASK}", text)


class SecretUrl:
    """A URL that may hold credentials: str, repr and JSON show `rtsp://user:***@host/live`, only `reveal` shows all.

    Made by validation of a config (from a text) or by a plugin; never changes; equality is by value.

    Raises:
        ValueError: it is no URL; the message does not quote it.
    """

    __slots__ = ("_value",)
    _value: str

    def __init__(self, value: str) -> None:
        object.__setattr__(self, "_value", _checked(value))

    def reveal(self) -> str:
        """The URL with its credentials: for the library that opens it, and for nothing else."""
        return self._value

    @property
    def scheme(self) -> str:
        """`rtsp`, in lower case."""
        return urlsplit(self._value).scheme.lower()

    @property
    def host(self) -> str:
        """Without brackets, in lower case; "" where a URL only names a port to listen on."""
        return urlsplit(self._value).hostname or ""

    @property
    def port(self) -> int | None:
        """As written; None: the scheme's own."""
        return urlsplit(self._value).port

    @property
    def username(self) -> str | None:
        """Without percent encoding; None: there is none."""
        name = urlsplit(self._value).username
        return None if name is None else unquote(name)

    @property
    def password(self) -> SecretStr | None:
        """Without percent encoding; None: there is none."""
        password = urlsplit(self._value).password
        return None if password is None else SecretStr(unquote(password))

    def with_credentials(self, username: str, password: SecretStr | None) -> Self:
        """The same URL with this user and password in place of its own; any character is fine, it is encoded."""
        parts = urlsplit(self._value)
        secret = "" if password is None else f":{quote(password.get_secret_value(), safe='')}"
        _, _, where = parts.netloc.rpartition("@")
        return type(self)(parts._replace(netloc=f"{quote(username, safe='')}{secret}@{where}").geturl())

    def secrets(self) -> Iterator[str]:
        """What in it must not be shown, in the forms in which it might turn up."""
        parts = urlsplit(self._value)
        hidden = parts.password or (parts.username if parts.username and parts.password is None else None)
        if hidden:
            yield from (hidden, unquote(hidden))
        for match in _QUERY_VALUE.finditer(self._value):
            if _SECRET_QUERY_NAME.search(match[2]):
                yield from (match[4], unquote(match[4]), unquote_plus(match[4]))

    def __str__(self) -> str:
        return redact(self._value)

    def __repr__(self) -> str:
        return f"SecretUrl({redact(self._value)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretUrl) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a SecretUrl never changes")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a SecretUrl never changes")

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self._value,)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validated, serialization=core_schema.to_string_ser_schema(when_used="json")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "format": "uri"}

    @classmethod
    def _validated(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise PydanticKnownError("string_type")
        return cls(value)


class Redactor:
    """Masks known secrets wherever they turn up, and credentials in URLs: the last line of defence of every log.

    Made by the app, which tells it the secrets of each configuration; called from every thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forms: dict[str, None] = {}
        self._pattern: re.Pattern[str] | None = None

    def learn(self, secrets: Iterable[str]) -> None:
        """Mask these from now on, also percent-encoded, percent-decoded, as JSON and as Python would write them."""
        forms = [form for secret in secrets for form in _forms(secret) if len(form) >= MIN_LEARNT_CHARS]
        with self._lock:
            self._forms.update(dict.fromkeys(forms))
            while len(self._forms) > MAX_LEARNT:
                del self._forms[next(iter(self._forms))]
            longest_first = sorted(self._forms, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """The text without any secret that is known, and without the credentials of URLs."""
        pattern = self._pattern
        return redact(text if pattern is None else pattern.sub(MASK, text))


def secrets_in(value: Any) -> Iterator[str]:
    """All secrets in a config: of secret types, in URLs, and texts under a name like `password`."""
    if isinstance(value, SecretUrl):
        yield from value.secrets()
    elif isinstance(value, (SecretStr, SecretBytes, GenericSecret)):
        hidden = value.get_secret_value()
        yield hidden.decode(errors="replace") if isinstance(hidden, bytes) else str(hidden)
    elif isinstance(value, BaseModel):
        yield from secrets_in({name: getattr(value, name) for name in type(value).model_fields})
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if isinstance(inner, str) and is_secret_name(str(name)):
                yield inner
            yield from secrets_in(inner)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for inner in value:
            yield from secrets_in(inner)
    elif isinstance(value, str) and "://" in value:
        try:
            yield from SecretUrl(value).secrets()
        except ValueError:  # no URL after all
            return


def _forms(secret: str) -> set[str]:
    plain = {secret, unquote(secret)}
    encoded = {form for text in plain for form in (quote(text, safe=""), quote(text), quote_plus(text))}
    escaped = {form for text in plain for form in (json.dumps(text)[1:-1], repr(text)[1:-1])}
    return {form for text in plain | encoded | escaped for form in (text, text.strip())}


def _checked(value: str) -> str:
    if any(character.isspace() or not character.isprintable() for character in value):
        raise ValueError("a URL holds no spaces or control characters: write %20 for a space")
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError as error:
        raise ValueError(
            "is no valid URL: what follows the host must be a port number; in a user name or password write / as %2F, "
            "? as %3F, # as %23, @ as %40 and : as %3A"
        ) from error
    if not parts.scheme or not parts.netloc:
        raise ValueError(
            "is no URL of the form scheme://host/path, for example rtsp://camera.lan/stream1 or http://10.0.0.9:9464"
        )
    return value


def _hide_user_info(match: re.Match[str]) -> str:
    user, colon, _ = match[2].partition(":")
    return f"{match[1]}{user}:{MASK}@" if colon else f"{match[1]}{MASK}@"


def _hide_escaped_user_info(match: re.Match[str]) -> str:
    user, colon, _ = re.sub("%3a", ":", match[2], flags=re.IGNORECASE).partition(":")
    return f"{match[1]}{user}%3A{MASK}%40" if colon else f"{match[1]}{MASK}%40"


def _hide_query_value(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{match[3]}{MASK}" if _SECRET_QUERY_NAME.search(match[2]) else match[0]
