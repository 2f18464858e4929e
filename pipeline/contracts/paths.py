"""Paths in a config: relative ones count from its file, `pkg:PACKAGE/inside` from a package; and making folders."""

import contextlib
import importlib.util
import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, ValidationInfo

PACKAGE_PREFIX = "pkg:"

FILE_MODE = 0o640
FOLDER_MODE = 0o750


def make_folders(folder: Path) -> None:
    """Make `folder` and those above it that are missing, for the owner and the group (0750).

    Raises:
        OSError: it cannot be made.
    """
    missing = []
    while not folder.is_dir() and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    for step in reversed(missing):
        step.mkdir(mode=FOLDER_MODE, exist_ok=True)  # `parents=True` would make those above with the default mode


def resolve_text(text: str, base_dir: Path) -> str:
    """`text` as an absolute path (a glob pattern stays one): from `base_dir`, the home (`~`) or an installed package.

    Raises:
        ValueError: a `pkg:` path names a package that is not installed, or leaves it.
    """
    if "\0" in text or not text:
        raise ValueError("a path cannot be empty or hold a NUL")
    if text.startswith(PACKAGE_PREFIX):
        return str(_inside_package(text))
    path = Path(text)
    with contextlib.suppress(RuntimeError):  # `~nobody` is the home of nobody: then it is a name like any other
        path = path.expanduser()
    return str(base_dir / path)


def _inside_package(text: str) -> Path:
    package, _, inside = text.removeprefix(PACKAGE_PREFIX).partition("/")
    if not package.isidentifier() or not inside:
        raise ValueError(f"{text!r} is not of the form pkg:PACKAGE/inside/path")
    spec = importlib.util.find_spec(package)  # a top-level name: finds the package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the package {package!r} of {text!r} is not installed")
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    path = (root / inside).resolve()
    if not path.is_relative_to(root):
        raise ValueError(f"{text!r} leaves the package")
    return path


def refuse_url(text: str) -> None:
    """A URL is no path, and as one it would be shown in messages, with its password.

    Raises:
        ValueError: it is one.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise ValueError("is a URL; the path of a file or folder is needed")


def base_dir_of(info: ValidationInfo) -> Path:
    """The folder that relative paths count from: that of the config file; the working directory without one."""
    context = info.context or {}
    base_dir = context.get("base_dir")
    return base_dir if isinstance(base_dir, Path) else Path.cwd()


def _resolve_path(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    refuse_url(value)
    return Path(resolve_text(value, base_dir_of(info)))


def _resolve_pattern(value: object, info: ValidationInfo) -> object:
    return resolve_text(value, base_dir_of(info)) if isinstance(value, str) else value


ConfigPath = Annotated[Path, BeforeValidator(_resolve_path)]
"""A file or folder named in a config, absolute after validation."""

ConfigPattern = Annotated[str, BeforeValidator(_resolve_pattern)]
"""A file, folder or glob pattern named in a config, absolute after validation."""
