"""What a wrong configuration is reported as: one line for each fault, with its place, and never a secret."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.config.locate import Key, locate_keys
from pipeline.config.secrets import quoted
from pipeline.contracts.errors import ConfigError

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MIN_SCRUBBED_CHARS = 4  # shorter values are no secrets, and would blot out half of every message


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault.

    Attributes:
        file: the file as the user named it, or the environment variable; None when there is neither.
        line: 1-based; None where nothing in the file is to blame.
        column: 1-based; only known for what is no TOML.
        key: dotted, from the top of the file; "" if it is all of it.
        message: what is wrong, and what would be right; one line.
    """

    file: str | None
    line: int | None
    column: int | None
    key: str
    message: str

    def __str__(self) -> str:
        """`pipeline.toml:12: sources.gate.max_fpz: unknown key; did you mean max_fps?`."""
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        return ": ".join(part for part in (place, self.key, self.message) if part)


class ConfigProblems(ConfigError):  # noqa: N818 - it is many
    """All that is wrong with a configuration; its text has one line for each problem, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        unique = list(dict.fromkeys(problems))
        files = list(dict.fromkeys(problem.file for problem in unique))
        unique.sort(key=lambda problem: (problem.line is None, files.index(problem.file), problem.line or 0))
        self.problems = tuple(unique)
        super().__init__("\n".join(map(str, self.problems)), key=self.problems[0].key if self.problems else None)


@dataclass(frozen=True, slots=True)
class Places:
    """Where every key stands: in which file and line, or in which environment variable.

    Attributes:
        file: the file as the user named it; None: there is none.
        text: what stands in it, valid TOML.
        variables: the keys that an environment variable set, and its name.
        secrets: values that came from outside of the file, and how the file names them, e.g. `${CAM_PASS}`.
        written: for each text with variables in it what the file says, and what became of it.
        overlay: where the keys of the sources in `overlaid` stand instead.
        overlaid: names of sources that are not those of the file.
    """

    file: str | None = None
    text: str = ""
    variables: Mapping[Key, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    written: Mapping[Key, tuple[str, str]] = field(default_factory=dict)
    overlay: "Places | None" = None
    overlaid: frozenset[str] = frozenset()
    _lines: dict[Key, int] = field(default_factory=dict)

    def problem(self, key: Key, message: str) -> Problem:
        """The fault `message` of `key` with the place of that key, or of the nearest table around it."""
        dotted = ".".join(part if _BARE_KEY.fullmatch(part) else json.dumps(part) for part in key)
        for value, name in sorted(self.secrets.items(), key=lambda item: -len(item[0])):
            if len(value) >= _MIN_SCRUBBED_CHARS:
                message = message.replace(value, name)
        message = re.sub(r"\s*[\r\n]+\s*", "; ", message.strip())
        variable = self._variable(key)
        if variable is not None:
            return Problem(variable, None, None, dotted, message)
        if self.overlay is not None and len(key) > 1 and key[0] == "sources" and key[1] in self.overlaid:
            return self.overlay.problem(key, message)
        return Problem(self.file, self._line(key), None, dotted, message)

    def as_written(self, key: Key, message: str) -> str:
        """A message that quotes the value of `key`, quoting what stands in the file instead: `"${FPS}"`."""
        written, value = self.written.get(key, ("", ""))
        return message.replace(quoted(value), quoted(written)) if written else message

    def _variable(self, key: Key) -> str | None:
        """The variable that set the key or a table around it; for a table that only variables made, one of them."""
        around = next((self.variables[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.variables), None)
        if around is not None or not key or key in self._lines_of_file():
            return around
        return next((name for inner, name in self.variables.items() if inner[: len(key)] == key), None)

    def _line(self, key: Key) -> int | None:
        lines = self._lines_of_file()
        return next((lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in lines), None)

    def _lines_of_file(self) -> Mapping[Key, int]:
        if self.text and not self._lines:
            self._lines.update(locate_keys(self.text))
        return self._lines
