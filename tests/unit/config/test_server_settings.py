"""The `[server]` table: who may ask, under which names, and with what certificate."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.config.check import check
from pipeline.config.problems import ConfigProblems
from pipeline.config.settings import Settings

Load = Callable[..., Settings]
Faults = Callable[..., list[str]]

SECRET = "0123456789abcdef"  # noqa: S105
TOKEN = f'[server.tokens.ops]\ntoken = "{SECRET}"\nscopes = ["read", "control"]\n'


def test_a_token_opens_the_server_to_other_machines(load_text: Load, minimal: str) -> None:
    server = load_text(f'{minimal}[server]\nlisten = "0.0.0.0:9464"\n{TOKEN}').server
    assert server.address == ("0.0.0.0", 9464)  # noqa: S104
    assert server.is_exposed
    token = server.tokens["ops"]
    assert (token.token.get_secret_value(), token.scopes, token.expires) == (SECRET, ("read", "control"), None)
    assert SECRET not in repr(server)


def test_by_default_nobody_but_this_machine_can_ask_and_sources_are_not_the_apis(load_text: Load, minimal: str) -> None:
    server = load_text(minimal).server
    assert (server.is_exposed, server.tokens, server.sources_by_api) == (False, {}, False)


def test_a_token_can_come_from_the_environment_and_expire(load_text: Load, minimal: str) -> None:
    text = (
        f'{minimal}[server.tokens.x]\ntoken = "${{API_TOKEN}}"\nscopes = ["metrics"]\nexpires = 2027-01-01T00:00:00Z\n'
    )
    token = load_text(text, {"API_TOKEN": SECRET}).server.tokens["x"]
    assert token.token.get_secret_value() == SECRET
    assert token.expires == datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ((SECRET, "short-secret"), "server.tokens.ops.token: must be at least 16 characters long"),
        ((SECRET, "a token with spaces"), "server.tokens.ops.token: can hold letters, digits and -._~+/= only"),
        (('["read", "control"]', "[]"), "server.tokens.ops.scopes: must be at least 1 long"),
        (('"control"', '"admin"'), "server.tokens.ops.scopes.1: must be 'metrics', 'read', 'control' or 'infer'"),
        (("scopes", "scope"), "server.tokens.ops.scope: unknown key; did you mean scopes?"),
        (("scopes", "expires = 2027-01-01T00:00:00\nscopes"), "server.tokens.ops.expires: "),
        (
            ("[server.tokens.ops]", f'[server.tokens.a]\ntoken = "{SECRET}"\nscopes = ["read"]\n[server.tokens.ops]'),
            "server.tokens: a and ops are the same token",
        ),
        (("[server.tokens.ops]", '[server]\ntls_cert = "c.pem"\n[server.tokens.ops]'), "server: tls_cert and"),
        (("[server.tokens.ops]", '[server]\ntls_key = "c.pem"\n[server.tokens.ops]'), "server.tls_key: tls_cert and"),
    ],
)
def test_what_is_wrong_with_it_is_one_line_without_the_token(
    faults: Faults, minimal: str, change: tuple[str, str], fault: str
) -> None:
    found = faults(minimal + TOKEN.replace(*change))
    assert any(f": {fault}" in line for line in found), found
    assert not any(secret in line for line in found for secret in (SECRET, "short-secret", "with spaces"))


def certificate(folder: Path, name: str = "tls", passphrase: bytes = b"") -> str:
    """A certificate and its key in `folder`; the lines of [server] that use them."""
    trustme = pytest.importorskip("trustme", reason="the package trustme is not installed")
    from cryptography.hazmat.primitives import serialization as to

    made = trustme.CA().issue_cert("box.lan")
    key = made.private_key_pem.bytes()
    if passphrase:
        locked = to.BestAvailableEncryption(passphrase)
        key = to.load_pem_private_key(key, None).private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, locked)
    (folder / f"{name}.key").write_bytes(key)
    (folder / f"{name}.pem").write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    return f'tls_cert = "{name}.pem"\ntls_key = "{name}.key"\n'


def check_faults(load_text: Load, text: str, folder: Path) -> list[str]:
    for name in ("m.onnx", "in.mp4"):
        (folder / name).touch()
    try:
        check(load_text(text))
    except ConfigProblems as problems:
        return str(problems).replace(f"{folder}/", "").split("\n")
    return []


def test_a_certificate_and_its_key_pass_the_check(load_text: Load, minimal: str, tmp_path: Path) -> None:
    text = f'{minimal}[server]\nlisten = "127.0.0.1:0"\n{certificate(tmp_path)}'
    assert check_faults(load_text, text, tmp_path) == []


def test_a_certificate_that_cannot_be_used_is_found_by_the_check(load_text: Load, minimal: str, tmp_path: Path) -> None:
    own = certificate(tmp_path)
    certificate(tmp_path, "other")
    certificate(tmp_path, "locked", b"hush-hush")
    server = f'{minimal}[server]\nlisten = "127.0.0.1:0"\n'

    def found(tls: str) -> list[str]:
        return [line.partition(": ")[2] for line in check_faults(load_text, server + tls, tmp_path)]

    assert found(own.replace("tls.key", "other.key")) == ["server.tls_key: other.key does not belong to tls_cert"]
    assert found(own.replace("tls.pem", "gone.pem")) == [
        "server.tls_cert: gone.pem cannot be read: No such file or directory"
    ]
    unusable = "server.tls_key: {} cannot be used with {}: no valid PEM, or a passphrase"
    assert found(own.replace("tls.", "locked.")) == [unusable.format("locked.key", "locked.pem")]
    assert found(own.replace("tls.pem", "m.onnx")) == [unusable.format("tls.key", "m.onnx")]
