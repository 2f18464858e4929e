"""`csv`: a row for each object, for spreadsheets and quick counts."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.contracts.component import Context
from pipeline.contracts.event import Event
from pipeline.contracts.result import Result
from sinks._lines import LinesConfig, LinesSink
from sinks._rows import Value, check_columns, default_columns, rows_of

Delimiter = Literal[",", ";", "\t"]

_END = "\r\n"
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NO_LINE_BREAKS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029], " ")


class CsvSinkConfig(LinesConfig):
    """Rows of comma-separated values with a header, one for each object."""

    type: Literal["csv"] = "csv"
    columns: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(check_columns)] | None = Field(
        default=None, description="which columns, in this order; those that fit `emit` and `notices` if left out"
    )
    delimiter: Delimiter = Field(default=",", description='what stands between two cells: ",", ";" or a tab')
    empty_frames: bool = Field(default=False, description="a row without an object for frames in which nothing is")
    escape_formulas: bool = Field(
        default=True, description="texts that a spreadsheet would take for a formula get a ' in front"
    )

    def build(self, ctx: Context) -> LinesSink:
        """Make the sink."""
        columns = self.columns or default_columns(events=self.emit == "events", notices=bool(self.notices))
        form = _Form(columns, self.delimiter, empty_frames=self.empty_frames, escape_formulas=self.escape_formulas)
        return LinesSink(self.files(ctx, head=form.head().encode()), form.lines_of)


class _Form:
    """How a row is written. Made by the config; used by the sink's thread.

    A row is one line: line breaks and other control characters within a cell become spaces, so that a torn end can be
    told, and `wc -l` counts rows. Format: RFC 4180.
    """

    def __init__(
        self, columns: tuple[str, ...], delimiter: Delimiter, *, empty_frames: bool, escape_formulas: bool
    ) -> None:
        self._columns = columns
        self._delimiter = delimiter
        self._empty_frames = empty_frames
        self._escape_formulas = escape_formulas

    def head(self) -> str:
        """The first line."""
        return self._delimiter.join(self._columns) + _END

    def lines_of(self, item: Result | Event) -> list[str]:
        """The lines of one result or event."""
        columns, delimiter = self._columns, self._delimiter
        return [
            delimiter.join([self._cell(row.get(column)) for column in columns]) + _END
            for row in rows_of(item, empty_frames=self._empty_frames)
        ]

    def _cell(self, value: Value) -> str:
        match value:
            case None:
                return ""
            case bool():
                return "true" if value else "false"
            case str():
                return self._text(value)
            case _:
                return repr(value)

    def _text(self, text: str) -> str:
        text = text.translate(_NO_LINE_BREAKS)
        # What a model or a server says may reach a spreadsheet that carries it out. Source: OWASP, "CSV injection".
        if self._escape_formulas and text.lstrip().startswith(_FORMULA):
            text = "'" + text
        if '"' in text or self._delimiter in text:
            return '"' + text.replace('"', '""') + '"'
        return text
