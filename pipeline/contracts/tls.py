"""The keys by which a plugin says whom it believes over TLS and who it is itself, and the context made of them."""

import ssl
from typing import Self

from pydantic import Field, model_validator

from pipeline.contracts.component import FrozenModel
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.paths import ConfigPath


class TlsKeys(FrozenModel):
    """The TLS keys of whatever connects to a server; a config takes them by inheriting from this beside its own kind.

    `check` of that config calls `tls_context`, so that a certificate that cannot be read is found before the start.
    Whoever opens with `verify_tls = false` says so each time, with `unverified`.
    """

    ca_file: ConfigPath | None = Field(default=None, description="the certificates to trust (PEM); the system's if out")
    verify_tls: bool = Field(default=True, description="false: take any certificate")
    client_cert: ConfigPath | None = Field(default=None, description="our own certificate (chain) in PEM")
    client_key: ConfigPath | None = Field(default=None, description="its private key in PEM, without a passphrase")

    @model_validator(mode="after")
    def _key_has_its_certificate(self) -> Self:
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("client_key needs client_cert")
        return self

    def tls_context(self) -> ssl.SSLContext:
        """What a connection over TLS is made with.

        Raises:
            ConfigError: keys `ca_file`, `client_cert`.
        """
        try:
            context = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        except FileNotFoundError as error:
            raise ConfigError(f"{self.ca_file}: there is no such file", key="ca_file") from error
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{self.ca_file}: holds no certificates that can be read (PEM)", key="ca_file") from error
        if not self.verify_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_cert is not None:
            key = None if self.client_key is None else str(self.client_key)
            try:
                # A passphrase would be asked for on the terminal: an empty one makes that an error.
                context.load_cert_chain(str(self.client_cert), key, password="")
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(
                    f"{self.client_cert}: no certificate and private key that fit together and can be read (PEM, "
                    "without a passphrase)",
                    key="client_cert",
                ) from error
        return context


def unverified(where: str) -> str:
    """The warning of each start with `verify_tls = false`, about the server at `where`."""
    return f"verify_tls = false: whoever answers for {where} is believed"


def tls_fault(error: BaseException) -> str:
    """Why there is no TLS connection, in a few words, from what `ssl` or aiohttp raised."""
    cause: BaseException | None = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    return getattr(cause, "reason", None) or type(cause).__name__
