"""What the answers of the Hugging Face inference protocol on texts, tables and sound hold."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scored:
    """A label with its score: of texts, and of sound."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Span:
    """An answer found in a text, or in a document's words, from character (word) `start` to `end`."""

    answer: str
    score: float
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Filled:
    """What may stand in place of the mask."""

    sequence: str
    score: float
    token: int
    token_str: str


@dataclass(frozen=True, slots=True)
class Entity:
    """A name, place or the like in a text; `grouped`: of several tokens."""

    label: str
    score: float
    word: str
    start: int | None
    end: int | None
    grouped: bool = True


@dataclass(frozen=True, slots=True)
class TableAnswer:
    """An answer found in a table, and in which of its cells."""

    answer: str
    coordinates: tuple[tuple[int, ...], ...]
    cells: tuple[str, ...]
    aggregator: str | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was said; `chunks`: text, from second, to second."""

    text: str
    chunks: tuple[tuple[str, float | None, float | None], ...] | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A reply, and all that was said before it."""

    generated_text: str
    generated_responses: tuple[str, ...] = ()
    past_user_inputs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """How well each label fits a text; `sequence`, the text itself, is told by the older form alone."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    sequence: str | None = None


Answer = (
    Span
    | TableAnswer
    | Transcript
    | Conversation
    | ZeroShot
    | str
    | tuple[Scored, ...]
    | tuple[Span, ...]
    | tuple[Filled, ...]
    | tuple[Entity, ...]
    | tuple[float, ...]
    | tuple[str, ...]
)
