"""`${VAR}` in the values of a config: from the environment, or from the credentials that systemd hands over."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pipeline.config.locate import Key
from pipeline.config.secrets import is_secret_name

MAX_CREDENTIAL_BYTES = 1_048_576  # systemd's own limit for one credential

# `$$`, a whole `${VAR}` with or without `:-default` or `:?message`, or a `${` that is neither.
_PART = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<operator>[-?])(?P<rest>[^}]*))?\}|\$\{")


@dataclass(slots=True)
class Interpolation:
    """Replaces variables in a tree of values and keeps account of what it replaced.

    `${VAR}` is the variable's value, and an error where it is not set; `${VAR:-default}` is `default` where it is not
    set or empty; `${VAR:?message}` is an error with that message where it is not set or empty. `$$` is one dollar, any
    other dollar stands for itself. What a variable holds is not looked through again. Keys are left alone.

    Attributes:
        environ: where variables are looked up first; then as files of that name in `$CREDENTIALS_DIRECTORY`.
        problems: key and message of what could not be replaced; the message names variables, never values.
        secrets: what was put in and must never be shown, and how the file names it: what systemd handed over, and
            variables with a name like `CAM_PASSWORD`; also without percent encoding.
        used: the names of all variables that the file asks for.
        written: for each text with a variable in it what the file says and what became of it, by key.
    """

    environ: Mapping[str, str]
    problems: list[tuple[Key, str]] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    written: dict[Key, tuple[str, str]] = field(default_factory=dict)

    def tree(self, value: Any, key: Key = ()) -> Any:
        """A copy of `value` (tables, arrays, scalars) with all variables replaced."""
        if isinstance(value, Mapping):
            return {name: self.tree(inner, (*key, str(name))) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.tree(inner, (*key, str(index))) for index, inner in enumerate(value)]
        return self._text(value, key) if isinstance(value, str) and "$" in value else value

    def _text(self, text: str, key: Key) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[0] == "$$":
                return "$"
            if match["name"] is None:
                self.problems.append((key, "${ begins no variable here; write ${VAR}, or $$ for a dollar"))
                return match[0]
            return self._variable(match["name"], match["operator"], match["rest"], key)

        result = _PART.sub(replace, text)
        self.written[key] = (text, result)
        return result

    def _variable(self, name: str, operator: str | None, rest: str | None, key: Key) -> str:
        self.used.add(name)
        try:
            value = self._look_up(name)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            self.problems.append((key, f"the credential {name} cannot be read: {reason or 'unknown reason'}"))
            return ""
        if value is None or (operator and not value):
            if operator == "-":
                return rest or ""
            state = "is not set" if value is None else "is empty"
            self.problems.append((key, f"the variable {name} {state}{f': {rest}' if rest else ''}"))
            return ""
        if name not in self.environ or is_secret_name(name):
            self.secrets.update({value: f"${{{name}}}", unquote(value): f"${{{name}}}"})
        return value

    def _look_up(self, name: str) -> str | None:
        if name in self.environ:
            return self.environ[name]
        folder = self.environ.get("CREDENTIALS_DIRECTORY")
        path = Path(folder) / name if folder else None
        if path is None or not path.is_file():
            return None
        with path.open("rb") as file:
            content = file.read(MAX_CREDENTIAL_BYTES + 1)
        if len(content) > MAX_CREDENTIAL_BYTES:
            raise ValueError("too long")
        return content.decode().removesuffix("\n").removesuffix("\r")
