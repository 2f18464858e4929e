"""The server's certificate and key, read into what TLS needs, or the one problem why that cannot be done."""

import ssl

from pipeline.config.settings import ServerConfig
from pipeline.contracts.errors import ConfigError


def tls_context(server: ServerConfig) -> ssl.SSLContext | None:
    """What HTTPS is served with; None: plain HTTP.

    Raises:
        ConfigError: with the full key: a file is missing, unreadable, no PEM, or the two do not belong together.
    """
    cert, key = server.tls_cert, server.tls_key
    if cert is None or key is None:
        return None
    for path, name in ((cert, "server.tls_cert"), (key, "server.tls_key")):
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}", key=name) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a callback a key with a passphrase would ask for it on the terminal.
        context.load_cert_chain(cert, key, password=lambda: b"")
    except ssl.SSLError as error:
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        why = (
            "does not belong to tls_cert" if mismatch else f"cannot be used with {cert}: no valid PEM, or a passphrase"
        )
        raise ConfigError(f"{key} {why}", key="server.tls_key") from error
    return context
