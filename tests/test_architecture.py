"""The import rule: which room of the code may import which."""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "sources", "sinks")
PLUGINS = ("pipeline.backends", "sources", "sinks")

# What each room may import of the others; third-party packages are free, but for the contracts.
RULE: dict[str, set[str]] = {
    "pipeline.contracts": set(),
    "pipeline.telemetry": {"pipeline.contracts"},
    "pipeline.registry": {"pipeline.contracts"},
    "pipeline.devices": {"pipeline.contracts"},
    "pipeline.models": {"pipeline.contracts", "pipeline.devices"},
    "pipeline.wire": {"pipeline.contracts"},
    "pipeline.analytics": {"pipeline.contracts", "pipeline.models"},
    "pipeline.config": {"pipeline.contracts", "pipeline.registry"},
    "pipeline.spool": {"pipeline.contracts"},
    "pipeline.runtime": {
        *("pipeline.contracts", "pipeline.telemetry", "pipeline.config", "pipeline.analytics", "pipeline.spool")
    },
    "pipeline.clients": {"pipeline.contracts", "pipeline.models", "pipeline.wire"},
    "pipeline.server": {
        *("pipeline.contracts", "pipeline.telemetry", "pipeline.runtime", "pipeline.wire", "pipeline.models")
    },
    "pipeline.testing": {"pipeline.contracts", "pipeline.models"},
    **{room: {"pipeline.contracts", "pipeline.devices", "pipeline.models", "pipeline.wire"} for room in PLUGINS},
}
CORE = {room for room in RULE if room not in PLUGINS and room != "pipeline.testing"}
# The command line and what only it uses: may import every core room, and each other.
TOP = {
    f"pipeline.{name}"
    for name in (
        "app",
        "cli",
        "__main__",
        "predict",
        "offer",
        "terminal",
        "inspection",
        "looking",
        "doctor",
        "version",
        "service",
        "serving",
        "top",
        "generate",
        "probe",
        "spooled",
        "quantize",
        "benching",
    )
}
CONTRACTS_MAY_USE = {*sys.stdlib_module_names, "numpy", "pydantic", "pydantic_core"}
CONTRACTS_MAY_USE_LATE = {"supervision"}  # for types, and inside of a function


def room_of(module: str) -> str:
    """`pipeline.config.loader` -> `pipeline.config`, `sinks.jsonl` -> `sinks`, `numpy.typing` -> `numpy`."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "pipeline" else parts[0]


def imports(tree: ast.AST, module: str, late: bool = False) -> Iterator[tuple[str, bool]]:
    """Each imported module, wherever in the file, and whether it is in a function or under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.rsplit(".", node.level)[0] if node.level else ""
            name = ".".join(filter(None, (package, node.module)))
            # `from pipeline import config` names the room in the list behind it.
            names = [f"{name}.{alias.name}" for alias in node.names] if name in PACKAGES else [name]
            yield from ((found, late) for found in names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports(ast.Module(node.body, []), module, late=True)
            yield from imports(ast.Module(node.orelse, []), module, late)
        else:
            yield from imports(node, module, late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def fault(module: str, imported: str, late: bool) -> str | None:
    """What is wrong with one import; None if it is allowed."""
    room, target = room_of(module), room_of(imported)
    inside = target.split(".")[0] in PACKAGES and target not in {"pipeline", "pipeline.__version__"}
    if room == "pipeline.contracts" and not inside:
        allowed = CONTRACTS_MAY_USE | (CONTRACTS_MAY_USE_LATE if late else set())
        return None if target.split(".")[0] in allowed else f"{module} imports {imported}: contracts stay light"
    if room in PLUGINS and target == room and not private(imported):
        return f"{module} imports {imported}: a plugin imports no other plugin"
    if not inside or room in {target, "pipeline"}:
        return None
    if target not in RULE and target not in TOP:
        return f"{module} imports {imported}: there is no rule for {target}"
    allowed = CORE | TOP if room in TOP else RULE.get(room, set())
    return None if target in allowed else f"{module} imports {imported}: {room} may not import {target}"


def private(module: str) -> bool:
    return any(part.startswith("_") for part in module.split("."))


def check_rule(root: Path) -> list[str]:
    """Every broken import under `root`, and a cycle between rooms if there is one."""
    faults = []
    graph: dict[str, set[str]] = {}
    for path in sorted(found for package in PACKAGES for found in (root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        module = ".".join(parts)  # `pipeline.config.__init__` for a package, so that relative imports count right
        room = room_of(module.removesuffix(".__init__"))
        if room not in RULE and room not in TOP and room != "pipeline":
            faults.append(f"{module}: there is no rule for {room}")
        for imported, late in imports(ast.parse(path.read_text()), module):
            problem = fault(module.removesuffix(".__init__"), imported, late)
            faults += [problem] if problem else []
            target = room_of(imported)
            if target in RULE and target != room:
                graph.setdefault(room, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        faults.append(f"rooms import each other: {' -> '.join(error.args[1])}")
    return faults


def test_every_room_imports_only_what_it_may() -> None:
    assert check_rule(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("pipeline/contracts/x.py", "import aiohttp", "pipeline.contracts.x imports aiohttp: contracts stay light"),
        ("pipeline/contracts/x.py", "import supervision", "contracts stay light"),
        (
            "pipeline/contracts/x.py",
            "from pipeline.models import y",
            "pipeline.contracts may not import pipeline.models",
        ),
        ("pipeline/config/x.py", "from ..runtime.y import z", "pipeline.config may not import pipeline.runtime"),
        ("pipeline/config/__init__.py", "from ..server import y", "pipeline.config may not import pipeline.server"),
        ("pipeline/runtime/x.py", "def f():\n    import sinks.jsonl", "pipeline.runtime may not import sinks"),
        ("pipeline/runtime/x.py", "from pipeline import backends", "pipeline.runtime may not import pipeline.backends"),
        ("pipeline/app.py", "from sources.file import y", "pipeline.app may not import sources"),
        ("pipeline/cli.py", "import pipeline.testing", "pipeline.cli may not import pipeline.testing"),
        ("sinks/x.py", "from pipeline.telemetry.logs import y", "sinks may not import pipeline.telemetry"),
        ("sinks/x.py", "from sinks.jsonl import y", "a plugin imports no other plugin"),
        ("sinks/x.py", "from sinks import jsonl", "a plugin imports no other plugin"),
        ("sources/x.py", "from sinks._files import y", "sources may not import sinks"),
        ("pipeline/misc/x.py", "", "pipeline.misc.x: there is no rule for pipeline.misc"),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, file: str, line: str, expected: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line)
    (found,) = check_rule(tmp_path)
    assert found.endswith(expected)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (
            "pipeline/contracts/x.py",
            "import numpy.typing\nfrom typing import TYPE_CHECKING\nfrom pydantic import Field",
        ),
        ("pipeline/contracts/x.py", "if TYPE_CHECKING:\n    import supervision as sv"),
        ("pipeline/contracts/x.py", "class A:\n    def f(self):\n        import supervision as sv"),
        ("pipeline/contracts/x.py", "from pipeline.contracts.frame import Frame\nfrom .frame import Frame"),
        ("sinks/x.py", "from sinks._files import y\nimport av\nfrom pipeline.wire.results import z"),
        ("pipeline/app.py", "from pipeline.runtime.x import y\nfrom pipeline import __version__, config"),
        ("pipeline/server/x.py", "import aiohttp\nfrom pipeline.telemetry.metrics import Metrics"),
    ],
)
def test_what_is_allowed_is_not_found(tmp_path: Path, file: str, line: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line)
    assert check_rule(tmp_path) == []


def test_rooms_that_import_each_other_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULE, "pipeline.registry", {"pipeline.config"})
    for file, line in (("config/a.py", "import pipeline.registry"), ("registry.py", "import pipeline.config.a")):
        (tmp_path / "pipeline" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pipeline" / file).write_text(line)
    (found,) = check_rule(tmp_path)
    assert found.startswith("rooms import each other: ")
