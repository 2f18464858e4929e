"""`multipart/form-data` (RFC 7578) out of a body that is already there: its parts as they are, nothing unquoted."""

import re
from typing import NamedTuple

from pipeline.server.inference.refusal import RefusedError

MAX_PARTS = 4_200  # max_pictures can be 4096, and there are fields beside the pictures
_MAX_HEAD_BYTES = 8_192
# RFC 2046, 5.1.1; with or without quotes, wherever it stands among the parameters.
_BOUNDARY = re.compile(r'boundary=(?:"([^"\r\n]{1,70})"|([0-9A-Za-z\'()+_,./:=?-]{1,70}))', re.IGNORECASE)
_PARAMETER = re.compile(r';\s*(name|filename)=(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))', re.IGNORECASE)


class Part(NamedTuple):
    """One part.

    Attributes:
        name: of the field; "" where it has none.
        filename: as the client calls it: a text to show, never a path; None where it is no file.
        content_type: in lower case, without parameters; "" where it has none.
        data: what is in it.
    """

    name: str
    filename: str | None
    content_type: str
    data: bytes


def boundary_of(content_type: str) -> bytes:
    """What stands between the parts.

    Raises:
        RefusedError: 400: it is no multipart/form-data, or does not say.
    """
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/") or found is None:
        raise RefusedError(400, "multipart/form-data with a boundary is wanted")
    return (found[1] or found[2]).encode("latin-1", "replace")


def parse_multipart(body: bytes, boundary: bytes) -> list[Part]:
    """All parts, in their order.

    Raises:
        RefusedError: 400: it is malformed; 413: too many parts.
    """
    malformed = RefusedError(400, "the multipart body is malformed")
    dashes = b"--" + boundary
    at = 0 if body.startswith(dashes) else body.find(b"\r\n" + dashes) + 2
    if at == 1:  # not found; what stands before the first boundary is ignored (RFC 2046)
        raise malformed
    parts: list[Part] = []
    while True:
        at += len(dashes)
        if body[at : at + 2] == b"--":
            return parts
        line_end = body.find(b"\r\n", at, at + 64)  # blanks may stand behind a boundary
        if line_end < 0 or body[at:line_end].strip(b" \t"):
            raise malformed
        if len(parts) >= MAX_PARTS:
            raise RefusedError(413, f"the multipart body has more than {MAX_PARTS} parts")
        head_end = body.find(b"\r\n\r\n", line_end, line_end + _MAX_HEAD_BYTES)
        end = body.find(b"\r\n" + dashes, line_end)
        if head_end < 0 or end < head_end + 2:
            raise malformed
        parts.append(_part(body[line_end + 2 : head_end], body[head_end + 4 : end]))
        at = end + 2


def _part(head: bytes, data: bytes) -> Part:
    name, filename, content_type = "", None, ""
    for line in head.decode("utf-8", "replace").split("\r\n"):
        key, _, value = line.partition(":")
        match key.strip().lower():
            case "content-disposition":
                for which, quoted, bare in _PARAMETER.findall(value):
                    text = quoted or bare
                    if which.lower() == "name":
                        name = text
                    else:
                        filename = text
            case "content-type":
                content_type = value.partition(";")[0].strip().lower()
    return Part(name, filename, content_type, data)
