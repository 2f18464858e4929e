"""Standard Webhooks: the headers by which a receiver knows who sent a message, and that nobody changed it. Pure.

Format: the Standard Webhooks specification 1.0 (github.com/standard-webhooks/standard-webhooks): HMAC-SHA256 over
`id.timestamp.body`, in base64, after `v1,`; several signatures are separated by a space.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, SecretStr

PREFIX = "whsec_"
MIN_KEY_BYTES, MAX_KEY_BYTES = 24, 64
"""As the specification has it."""


def key_of(secret: SecretStr) -> bytes:
    """The key that a secret of the form `whsec_BASE64` stands for.

    Raises:
        ValueError: it has another form, or the key is too short or too long; the message does not quote it.
    """
    text = secret.get_secret_value()
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True) if text.startswith(PREFIX) else None
    except (binascii.Error, ValueError):
        key = None
    if key is None:
        raise ValueError(
            f'must be "{PREFIX}" and base64 behind it; make one with: echo {PREFIX}$(openssl rand -base64 32)'
        )
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise ValueError(f"holds {len(key)} bytes: the standard wants {MIN_KEY_BYTES} to {MAX_KEY_BYTES}")
    return key


def _listed(value: object) -> object:
    return [value] if isinstance(value, str | SecretStr) else value


def _usable(secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if not 1 <= len(secrets) <= 2:
        raise ValueError("is one secret, or two while one takes the place of the other")
    for secret in secrets:
        key_of(secret)
    return secrets


WebhookSecrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_listed), AfterValidator(_usable)]
"""One secret of the form `whsec_...`, or two of them: each signs, so that receivers can go over to the new one."""


class Signer:
    """Makes the headers of an attempt. Made by the sink; used by any thread.

    Args:
        secrets: that sign, each of them; none: then there is no signature, only the identifier and the time.
    """

    def __init__(self, secrets: Sequence[SecretStr]) -> None:
        self._keys = [key_of(secret) for secret in secrets]

    def headers(self, message_id: str, unix_s: float, body: bytes) -> dict[str, str]:
        """The headers that go with `body`, sent now.

        Args:
            message_id: the same at every attempt: who has seen it may leave out this one.
            unix_s: of this attempt.
            body: as the receiver's program gets it: before it is compressed.
        """
        stamp = str(int(unix_s))
        found = {"webhook-id": message_id, "webhook-timestamp": stamp}
        if self._keys:
            signed = b".".join((message_id.encode("ascii"), stamp.encode("ascii"), body))
            macs = (hmac.digest(key, signed, "sha256") for key in self._keys)
            found["webhook-signature"] = " ".join(f"v1,{base64.b64encode(mac).decode('ascii')}" for mac in macs)
        return found
