"""TLS for live sources: FFmpeg's options for it, and what is wrong where it fails, which FFmpeg does not tell."""

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.secret import SecretUrl

_DEBIAN_CA_FILE = "/etc/ssl/certs/ca-certificates.crt"
_PORTS = {"rtsps": 322, "https": 443, "rtmps": 443}


@dataclass(frozen=True, slots=True)
class Tls:
    """How the other side proves who it is.

    Attributes:
        verify: False takes any certificate.
        ca_file: the certificates to trust; None: the system's.
    """

    verify: bool = True
    ca_file: Path | None = None

    def check(self) -> None:
        """Find a file without certificates.

        Raises:
            ConfigError: key `ca_file`.
        """
        if self.ca_file is None:
            return
        try:
            ssl.create_default_context(cafile=str(self.ca_file))
        except FileNotFoundError as error:
            raise ConfigError(f"{self.ca_file}: there is no such file", key="ca_file") from error
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{self.ca_file}: holds no certificates that can be read (PEM)", key="ca_file") from error

    def options(self) -> dict[str, str]:
        """For FFmpeg, which verifies nothing unless it is told to, and then against one file."""
        if not self.verify:
            return {"tls_verify": "0"}
        known = str(self.ca_file or ssl.get_default_verify_paths().cafile or _DEBIAN_CA_FILE)
        return {"tls_verify": "1", "ca_file": known}

    def fault(self, url: SecretUrl, timeout_s: float) -> str | None:
        """Why no TLS connection comes about: a handshake of our own, after FFmpeg's ended in "input or output error".

        Args:
            url: only host and port are used.
            timeout_s: for the connection and for the handshake.

        Returns:
            A few words; None where it is not TLS that fails.
        """
        context = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            with (
                socket.create_connection((url.host, url.port or _PORTS[url.scheme]), timeout_s) as plain,
                context.wrap_socket(plain, server_hostname=url.host),
            ):
                return None
        except ssl.SSLCertVerificationError as error:
            return f"its certificate is not trusted: {error.verify_message}"
        except ssl.SSLError:
            return "the other side does not speak TLS here, or none of our versions of it"
        except TimeoutError:
            return "no answer to the TLS handshake"
        except OSError:
            return None
