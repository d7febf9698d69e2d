"""Imports point down only: the floors of the house as a table, held against the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = (  # highest first; what stands on one floor may import its neighbours, without a cycle
    "flows",
    "tasks",
    "gswa.train",
    "gswa.planner gswa.planning gswa.dryruns gswa.attempt gswa.number_formats gswa.evaluate gswa.report gswa.export gswa.intake "
    "gswa.pairs gswa.writers gswa.settle gswa.preprocess gswa.console gswa.advice",
    "gswa.corpus gswa.examples gswa.formats gswa.forms gswa.passages gswa.recipe gswa.splits gswa.chunking gswa.parts gswa.aligned "
    "gswa.measure gswa.spans gswa.uncut gswa.sentences gswa.lengths gswa.conservation gswa.cursor gswa.hardware gswa.profiles "
    "gswa.models gswa.calibration gswa.forecast gswa.flops gswa.candidates gswa.ladder "
    "gswa.basemodel",
    "gswa.backends",
    "gswa.dataset gswa.memory gswa.tokens gswa.order gswa.packing",
    "gswa.rundir gswa.workspace gswa.cgroup gswa.disk gswa.nvidia",
    "gswa.config gswa.errors gswa.records gswa.files",
)
LEVELS = {name: level for level, floor in enumerate(FLOORS) for name in floor.split()}
KNOW_PREFECT = ("flows", "tasks", "gswa.train")
UPWARD = {("gswa.train", "flows")}  # the front door starts the flow, inside the one command that needs it


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for top in ("flows", "tasks", "gswa") for path in (ROOT / top).rglob("*.py")}


def imports(name: str) -> Iterator[str]:
    """Everything the module imports, also late and relatively, as full module names."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


def room(name: str) -> str:
    """The entry of the table that a module belongs to; the name itself where there is none."""
    return next((entry for entry in LEVELS if name == entry or name.startswith(entry + ".")), name)


def test_every_module_has_a_floor():
    assert [name for name in MODULES if name != "gswa" and room(name) not in LEVELS] == []


@pytest.mark.parametrize("name", [name for name in MODULES if name != "gswa"])
def test_imports_point_down_only(name):
    for found in imports(name):
        if found.split(".")[0] == "prefect":
            assert room(name) in KNOW_PREFECT, f"{name} imports {found}: only flows, tasks and gswa/train.py know Prefect"
        elif found in MODULES and found != "gswa" and (room(name), room(found)) not in UPWARD:
            assert LEVELS[room(found)] >= LEVELS[room(name)], f"{name} imports {found}, which stands on a higher floor"


def test_no_module_imports_itself_in_a_circle():
    below = {name: {found for found in imports(name) if found in MODULES} - {name} for name in MODULES}
    while leaves := {name for name, found in below.items() if not found}:
        below = {name: found - leaves for name, found in below.items() if name not in leaves}
    assert sorted(below) == []
