"""The TLS keys of whatever connects: what is trusted, what is refused before the start, what is said of it."""

import ssl
from pathlib import Path

import pytest
import trustme
from pydantic import ValidationError

from pipeline.contracts.errors import ConfigError
from pipeline.contracts.tls import TlsKeys, tls_fault


def test_the_system_or_an_authority_of_ones_own_is_trusted(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    assert TlsKeys().tls_context().verify_mode is ssl.CERT_REQUIRED
    own = TlsKeys(ca_file=tmp_path / "ca.pem").tls_context()
    assert own.check_hostname
    assert own.cert_store_stats()["x509_ca"] == 1
    assert TlsKeys(verify_tls=False).tls_context().verify_mode is ssl.CERT_NONE


def test_a_key_needs_its_certificate() -> None:
    with pytest.raises(ValidationError, match="client_cert"):
        TlsKeys(client_key=Path("k.pem"))


def test_a_certificate_and_a_key_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    authority = trustme.CA()
    one, other = authority.issue_cert("a.example"), authority.issue_cert("b.example")
    one.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    for key, name in ((one.private_key_pem, "right"), (other.private_key_pem, "wrong")):
        key.write_to_path(tmp_path / f"{name}.pem")
    TlsKeys(client_cert=tmp_path / "cert.pem", client_key=tmp_path / "right.pem").tls_context()
    with pytest.raises(ConfigError, match="fit together") as caught:
        TlsKeys(client_cert=tmp_path / "cert.pem", client_key=tmp_path / "wrong.pem").tls_context()
    assert caught.value.key == "client_cert"


def test_files_that_are_missing_or_hold_nothing_are_named(tmp_path: Path) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    for name, words in (("none.pem", "no such file"), ("junk.pem", "no certificates")):
        with pytest.raises(ConfigError, match=words) as caught:
            TlsKeys(ca_file=tmp_path / name).tls_context()
        assert caught.value.key == "ca_file"


def test_why_there_is_no_tls_is_told_in_a_few_words() -> None:
    verification = ssl.SSLCertVerificationError(1, "long")
    verification.verify_message = "certificate has expired"
    assert tls_fault(verification) == "certificate has expired"
    assert tls_fault(ssl.SSLError(1, "nothing said")) == "SSLError"
    assert tls_fault(OSError("x")) == "OSError"
