"""The keys of decoding that sources have in common, and `Decoding`, what they come to."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

_WISH = r"auto|cpu|cuda(:[0-9]{1,2})?|vaapi|v4l2m2m"

LoopFilter = Literal["all", "references", "none"]


def _known(value: str) -> str:
    if not re.fullmatch(_WISH, value):
        raise ValueError('use "auto", "cpu", "cuda", "cuda:0" for the first of several GPUs, "vaapi" or "v4l2m2m"')
    return value


DecodeWish = Annotated[
    str,
    AfterValidator(_known),
    Field(
        description='which decoder: "auto": a GPU\'s where there is one, else "cpu"; "cuda", "cuda:N", "vaapi" or '
        '"v4l2m2m" for a certain one: where that cannot be had, the CPU decodes, which is logged and counted',
        json_schema_extra={"pattern": f"^({_WISH})$"},
    ),
]

LoopFilterWish = Annotated[
    LoopFilter,
    Field(
        description='which frames the CPU smooths after decoding: "all", as the stream asks for; "references": those '
        'that others build on; "none": saves most, and the picture drifts until the next keyframe'
    ),
]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How one stream is decoded. Made by a source's config, never changed.

    Attributes:
        wish: as in the key `decode`.
        threads: how many threads decode on the CPU.
        max_pixels: larger pictures are refused by the decoder.
        loop_filter: as in the key.
        low_delay: hold back no frame for the sake of speed.
    """

    wish: str
    threads: int
    max_pixels: int
    loop_filter: LoopFilter = "all"
    low_delay: bool = False
