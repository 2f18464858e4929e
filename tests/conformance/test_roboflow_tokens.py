"""A server with tokens and `inference-sdk`: its API key is our token, wherever the client puts it."""

from pathlib import Path

import answering
from asking import picture_file

from tests.conformance.harness import Ours, vendor

MODELS = """
    [models.boxes]
    type = "answering"
    aliases = ["det/1"]
"""
TOKENS = """
    [server.tokens.client]
    token = "client-token-0123456789"
    scopes = ["infer"]
"""
CLIENT = """
    import warnings
    warnings.simplefilter("ignore")
    from inference_sdk import InferenceConfiguration, InferenceHTTPClient

    def outcome(key, mode, transport):
        http = InferenceHTTPClient(api_url=args.url, api_key=key)
        http.configure(InferenceConfiguration(api_key_transport=transport))
        if mode == "v0":
            http.select_api_v0()
        try:
            return len(http.infer(args.picture, model_id="det/1")["predictions"])
        except Exception as error:
            return [getattr(error, "status_code", None), str(getattr(error, "api_message", None))]

    ways = [(mode, transport) for mode in ("v0", "v1") for transport in (None, "header", "both")]
    answer({
        kind: [outcome(key, mode, transport) for mode, transport in ways]
        for kind, key in (("right", "client-token-0123456789"), ("wrong", "another-token-0123456789"))
    })
"""


def test_the_clients_key_is_our_token_in_every_transport(tmp_path: Path) -> None:
    answering.install(tmp_path)
    picture = tmp_path / "a.jpg"
    picture.write_bytes(picture_file())
    with Ours(tmp_path, MODELS, server=TOKENS) as server:
        server.ready()
        found = vendor("sdk", CLIENT, url=server.url, picture=str(picture))
        log = server.log()
    assert found["right"] == [2] * 6
    for status, message in found["wrong"]:
        assert status == 401
        assert "token" in message
    assert "client-token" not in log
