"""The keys of backends elsewhere: what is refused, with which words, and what TLS is made of them."""

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from looped import LoopedContext
from pydantic import ValidationError
from toy_remote import ToyConfig, toy

from pipeline.backends._http_config import HttpBackendConfig
from pipeline.contracts.errors import BackendErrorCode, ConfigError, TransientError
from pipeline.contracts.secret import secrets_in
from pipeline.testing import frame


def config(**keys: Any) -> ToyConfig:
    return ToyConfig.model_validate({"url": "http://there", **keys})


@pytest.mark.parametrize(
    "keys",
    [
        {"url": "ftp://there"},
        {"url": "there:9001"},
        {"url": "http://"},
        {"url": "http://there/#part"},
        {"headers": {"X Y": "1"}},
        {"headers": {"Content-Length": "1"}},
        {"headers": {"X": "a\r\nB: c"}},
        {"timeout_s": 0},
        {"max_concurrent_requests": 0},
        {"max_size": 1},
        {"format": "bmp"},
        {"jpeg_quality": 0},
        {"retries": {"min_s": 3, "max_s": 2}},
        {"retries": {"attempts": 3}},
        {"circuit": {"open_s": 90}},
        {"client_key": "/k.pem"},
    ],
)
def test_what_cannot_be_meant_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**keys)


def test_every_key_says_what_it_is() -> None:
    assert all(field.description for name, field in HttpBackendConfig.model_fields.items() if name != "type")
    assert not config().serve


def test_secrets_are_known_to_who_masks_them() -> None:
    made = config(url="http://user:pass-word@there/?api_key=k-e-y", headers={"X-Key": "h-e-a-d"})
    assert {"pass-word", "k-e-y", "h-e-a-d"} <= set(secrets_in(made))
    assert made.where == "there"
    assert config(url="http://[::1]:8000/x").where == "[::1]:8000"


def test_files_of_certificates_are_looked_at_by_check(tmp_path: Path) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    for keys, key in (
        ({"ca_file": tmp_path / "none.pem"}, "ca_file"),
        ({"ca_file": tmp_path / "junk.pem"}, "ca_file"),
        ({"client_cert": tmp_path / "junk.pem"}, "client_cert"),
        ({"client_cert": tmp_path / "none.pem"}, "client_cert"),
    ):
        with pytest.raises(ConfigError) as caught:
            config(url="https://there", **keys).check()
        assert caught.value.key == key
    config(url="https://there").check()


class Https:
    """A web server with a certificate, in a thread's loop."""

    def __init__(self, ctx: LoopedContext, context: ssl.SSLContext) -> None:
        from aiohttp import web

        async def answer(request: web.Request) -> web.Response:
            await request.read()
            self.peers.append(request.transport.get_extra_info("peercert") if request.transport else None)
            return web.json_response({"boxes": []})

        async def start() -> int:
            app = web.Application()
            app.router.add_post("/infer", answer)
            self._runner = web.AppRunner(app)
            await self._runner.setup()
            site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
            await site.start()
            port: int = self._runner.addresses[0][1]
            return port

        self.peers: list[Any] = []
        self._ctx = ctx
        self.port = ctx.call(start(), 10)

    def close(self) -> None:
        self._ctx.call(self._runner.cleanup(), 10)


def test_tls_is_verified_unless_it_is_switched_off_which_is_told_each_time(tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    mine = authority.issue_cert("penstock")
    mine.private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    wrong = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    stranger.issue_cert("elsewhere.example").configure_cert(wrong)
    with LoopedContext("web", tmp_path) as loop:
        good, bad = Https(loop, context), Https(loop, wrong)
        try:
            trusted: dict[str, Any] = {"ca_file": tmp_path / "ca.pem", "client_cert": tmp_path / "me.pem"}
            with toy(tmp_path, url=f"https://127.0.0.1:{good.port}", **trusted) as (backend, _, ctx):
                backend.infer([frame()])
                assert good.peers[-1]["subject"]
                assert ctx.warnings == []
            for port, keys in ((good.port, {}), (bad.port, trusted)):
                with toy(tmp_path, url=f"https://127.0.0.1:{port}", **keys) as (backend, _, _):
                    with pytest.raises(TransientError) as caught:
                        backend.infer([frame()])
                    assert caught.value.code is BackendErrorCode.TLS
                    assert backend.read().retries == 0
            with toy(tmp_path, url=f"https://127.0.0.1:{bad.port}", verify_tls=False) as (backend, _, ctx):
                backend.infer([frame()])
                assert len(ctx.warnings) == 1
                assert "verify_tls" in ctx.warnings[0]
        finally:
            good.close()
            bad.close()
