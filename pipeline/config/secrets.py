"""What in a config is secret: told by the name of its key, by its type, or by being part of a URL."""

import json
import re

from pydantic import Secret, SecretBytes, SecretStr

MAX_SHOWN_CHARS = 60

_SECRET_NAME = re.compile(
    r"(^|_)(pass|passwd|password|passphrase|pwd|secret|token|key|apikey|credential|credentials|auth|authorization|cookie)s?$"
)
_USER_INFO = re.compile(r"(?<=://)[^/?#\s]*@")
_QUERY_VALUE = re.compile(r"([?&;])([^=&;#\s]+)=([^&;#\s]*)")


def is_secret_name(key: str) -> bool:
    """Whether what stands under this key must not be shown: `password`, `api_key`, `hmac_secret`, `auth_token`."""
    return _SECRET_NAME.search(key.lower().replace("-", "_")) is not None


def is_secret(value: object) -> bool:
    """Whether the value is of a type that hides what it holds."""
    return isinstance(value, (Secret, SecretStr, SecretBytes))


def without_credentials(text: str) -> str:
    """A text without what URLs in it say about who asks: user, password, and query values with a secret name."""

    def hide(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}=" if is_secret_name(match[2]) else match[0]

    return _QUERY_VALUE.sub(hide, _USER_INFO.sub("", text)) if "://" in text else text


def quoted(text: str) -> str:
    """A text as a message quotes it: in quotes, in one line, short, and without credentials."""
    text = without_credentials(text)
    text = text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 3]}..."
    return json.dumps(text, ensure_ascii=not text.isprintable())
