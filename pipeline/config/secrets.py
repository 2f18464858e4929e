"""What in a config is secret: told by the name of its key, by its type, or by being part of a URL."""

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.contracts.secret import is_secret, is_secret_name, redact, secrets_in

if TYPE_CHECKING:
    from pipeline.config.settings import Settings

MAX_SHOWN_CHARS = 60

_USER_INFO = re.compile(r"(?<=://)[^/?#\s]*@")
# Of one value all that stands before its last @ is hidden, also where the password holds what no URL may hold.
_ANY_USER_INFO = re.compile(r"(?<=://).*@", re.DOTALL)
_QUERY_VALUE = re.compile(r"([?&;])([^=&;#\s]+)=([^&;#\s]*)")


def without_credentials(text: str) -> str:
    """A text without what URLs in it say about who asks: user, password, and query values with a secret name."""

    def hide(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}=" if is_secret_name(match[2]) else match[0]

    return _QUERY_VALUE.sub(hide, _USER_INFO.sub("", text)) if "://" in text else text


def quoted(text: str) -> str:
    """A text as a message quotes it: in quotes, in one line, short, and without credentials."""
    text = redact(_ANY_USER_INFO.sub("", without_credentials(text)))
    text = text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 3]}..."
    return json.dumps(text, ensure_ascii=not text.isprintable())


def secrets_of(settings: "Settings") -> Iterator[str]:
    """Every secret of a configuration, for the `Redactor`: what variables put in, and what stands in the file."""
    yield from settings.places.secrets
    yield from secrets_in([settings.server, *settings.sources.values(), *settings.backends.values()])
    yield from secrets_in(list(settings.sinks.values()))


__all__ = ["is_secret", "is_secret_name", "quoted", "secrets_of", "without_credentials"]
