"""Where requests go, and what is in them."""

import pytest

from pipeline.backends._http import Request
from pipeline.backends._http_body import body_of, target
from pipeline.contracts.secret import SecretUrl


@pytest.mark.parametrize(
    ("base", "path", "query", "expected"),
    [
        ("http://h", "", (), "http://h/"),
        ("http://h:9001/", "/infer", (), "http://h:9001/infer"),
        ("https://h/base/", "infer", (("a", "1"),), "https://h/base/infer?a=1"),
        ("https://h/base", "", (), "https://h/base"),
        ("http://h/?key=k", "/x", (("b", None), ("c", "ö &=/")), "http://h/x?key=k&c=%C3%B6%20%26%3D%2F"),
        ("http://u:p@h/x", "/y", (), "http://h/x/y"),
        ("http://h", "/a b/ü?/#", (), "http://h/a%20b/%C3%BC%3F/%23"),
        ("http://h", "/a%2Fb", (), "http://h/a%2Fb"),
        ("http://u:p@H:80/x", "http://h:80/else", (("q", "1"),), "http://H:80/else?q=1"),
        ("http://[::1]:9/x", "/y", (), "http://[::1]:9/x/y"),
    ],
)
def test_the_url_is_put_together(
    base: str, path: str, query: tuple[tuple[str, str | None], ...], expected: str
) -> None:
    assert target(SecretUrl(base), Request("POST", path, query)) == expected


@pytest.mark.parametrize("path", ["http://other/x", "https://h/x", "http://h:81/x", "http://h@other/x", "ftp://h/x"])
def test_an_answer_cannot_send_us_to_another_server(path: str) -> None:
    with pytest.raises(ValueError, match="another server"):
        target(SecretUrl("http://h"), Request("GET", path))


def test_json_is_strict() -> None:
    assert body_of(Request("POST", "", json={"a": [1, "ö"]})) == (b'{"a":[1,"\\u00f6"]}', "application/json")
    assert body_of(Request("GET", "")) == (None, None)
    with pytest.raises(ValueError, match="JSON"):
        body_of(Request("POST", "", json={"a": float("nan")}))
