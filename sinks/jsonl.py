"""`jsonl`: results as lines of JSON in files."""

import json
from typing import Literal

from pipeline.contracts.component import Context
from pipeline.contracts.event import Event
from pipeline.contracts.result import Result
from pipeline.wire.results import event_line, to_line
from sinks._lines import LinesConfig, LinesSink


class JsonlSinkConfig(LinesConfig):
    """Lines of JSON (a Roboflow response with an envelope), one for each result."""

    type: Literal["jsonl"] = "jsonl"

    def build(self, ctx: Context) -> LinesSink:
        """Make the sink."""
        return LinesSink(self.files(ctx, is_whole=_is_json), _lines_of)


def _lines_of(item: Result | Event) -> list[str]:
    return [(to_line(item) if isinstance(item, Result) else event_line(item)) + "\n"]


def _is_json(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False
