"""Pages of measurements are made by scripts that exist, and every recipe of the justfile runs something that exists.

A page that nobody can make again is a claim: each stands in the table of `tests/bench/README.md` with its command.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BENCH = ROOT / "tests" / "bench"
RESULTS = BENCH / "results"
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", BENCH / "README.md", *sorted(RESULTS.glob("*.md"))]


def recipes(text: str) -> dict[str, str]:
    """By name, what each recipe of a justfile runs."""
    found: dict[str, str] = {}
    name = None
    for line in text.splitlines():
        head = re.match(r"([a-z_][a-z0-9_-]*)[^:]*:(?!=)", line)
        if head is not None:
            name = head[1]
            found[name] = ""
        elif name is not None and line.startswith(" "):
            found[name] += line + "\n"
    return found


def scripts(commands: str) -> Iterator[Path]:
    """The files of our own that these commands run with Python."""
    for module, path in re.findall(r"python3? (?:-m (tests\.[\w.]+)|(tests/[\w/]+\.py))", commands):
        yield ROOT / (path or module.replace(".", "/") + ".py")


def pages() -> dict[str, str]:
    """By page, the command that makes it, as the table says."""
    rows = re.findall(r"^\| `([\w.]+)` \| [^|]* \| `([^`]+)` \|$", (BENCH / "README.md").read_text(), re.MULTILINE)
    return dict(rows)


RECIPES = recipes((ROOT / "justfile").read_text())


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_what_a_recipe_runs_is_there(name: str) -> None:
    assert [path.relative_to(ROOT) for path in scripts(RECIPES[name]) if not path.is_file()] == []


def test_every_page_stands_in_the_readme_with_its_command() -> None:
    told = {page.partition(".")[0] for page in pages()}
    assert sorted(path.name for path in RESULTS.iterdir() if path.stem not in told) == []


@pytest.mark.parametrize("page", sorted(pages()))
def test_a_page_is_written_by_the_command_that_is_told(page: str) -> None:
    command = pages()[page]
    if command.startswith("just "):
        command = RECIPES[command.split()[1]]
    assert [path for path in scripts(command) if path.is_file() and page in path.read_text()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_recipe_that_is_told_of_is_there(document: Path) -> None:
    told = re.findall(r"(?:`|^ {4})just ([a-z-]+)", document.read_text(), re.MULTILINE)
    assert sorted(set(told) - set(RECIPES)) == []


def test_what_is_looked_for_is_found() -> None:
    text = "a NAMES='': b (c 'd')\n    python3 tests/x.py {{ NAMES }}\n\nb:\n    uv run python -m tests.x.y --write\n"
    assert list(recipes(text)) == ["a", "b"]
    assert [list(scripts(body)) for body in recipes(text).values()] == [
        [ROOT / "tests" / "x.py"],
        [ROOT / "tests" / "x" / "y.py"],
    ]
    assert len(list(scripts(RECIPES["bench-parts"]))) >= 7
