"""Imports run one way through the package: docs/architecture.md is its map.

The two tables of that page are read here, so that the map cannot drift from the code.
"""

import ast
import itertools
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fmalign_jax"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
COMMANDS = 9
WORD = "__main__"  # the word `fmalign`, which starts the commands
FACES = ("default_config",)  # names that users' files import, over what moved


def _rows(header: str) -> list[list[str]]:
    """Returns the cells of a table of the page, by the header it begins with."""
    lines = itertools.dropwhile(lambda line: line != header, PAGE.splitlines())
    table = list(itertools.takewhile(lambda line: line.startswith("|"), lines))
    assert len(table) > 2, header
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def _names(cell: str) -> list[str]:
    return [name.rstrip("/") for name in re.findall(r"`([a-z_/]+)`", cell)]


FLOORS = {
    name: int(row)
    for row, wings, _ in _rows("| Row | Wing | What lives there |")
    for name in _names(wings)
}
RANKS = {
    _names(wing)[0]: [_names(rank) for rank in order.split("<")]
    for wing, order in _rows("| Wing | Order inside, from the ground up |")
}


def _imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def _name(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {
    _name(path): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name not in ("__init__.py", f"{WORD}.py")
}


def _floor_of(module: str) -> int | None:
    parts = module.split(".")
    if parts[0] != "fmalign_jax" or len(parts) < 2:
        return None
    return FLOORS.get(parts[1])


def test_the_top_floor_holds_commands_and_little_else():
    commands = {name for name, floor in FLOORS.items() if floor == COMMANDS}
    top = {path.stem for path in PACKAGE.glob("*.py")}
    shared = {"cli", "flags", "arguments", "structs", "progress"}
    assert top == {"__init__", WORD, *shared, *FACES, *commands}
    assert len(commands) == 10


def test_every_module_has_its_place():
    homeless = [name for name in MODULES if _floor_of(name) is None]
    assert homeless == [f"fmalign_jax.{name}" for name in FACES]


def test_the_map_names_only_what_is_there():
    folders = {_name(path.parent) for path in PACKAGE.rglob("__init__.py")}
    there = {name.removeprefix("fmalign_jax.") for name in {*MODULES, *folders}}
    named = set(FLOORS) | {
        f"{wing.replace('/', '.')}.{name}"
        for wing, ranks in RANKS.items()
        for name in itertools.chain(*ranks)
    }
    assert named <= there


def test_imports_run_down_only():
    wrong = [
        f"{here} imports {imported}"
        for here, path in MODULES.items()
        for imported in _imports(path)
        if _floor_of(imported) is not None
        and imported.split(".")[1] != here.split(".")[1]
        and here.split(".")[1] not in FACES
        and _floor_of(imported) >= _floor_of(here)
        and (here, imported.rpartition(".")[0]) != _ASKS
        and (here, imported) != _ASKS
    ]
    assert not wrong


_ASKS = ("fmalign_jax.monitor", "fmalign_jax.early_warning")
"""The one command that may import another: a monitor that is given a run."""


@pytest.mark.parametrize("wing", RANKS)
def test_the_order_inside_a_wing(wing):
    ranks = {name: i for i, names in enumerate(RANKS[wing]) for name in names}
    prefix = f"fmalign_jax.{wing.replace('/', '.')}."
    own = [name for name in MODULES if name.startswith(prefix)]
    assert own

    def unit(module: str) -> str:
        return module.removeprefix(prefix).split(".")[0]

    assert {unit(name) for name in own} == set(ranks)
    wrong = [
        f"{here} imports {imported}"
        for here in own
        for imported in _imports(MODULES[here])
        if imported.startswith(prefix)
        and unit(imported) in ranks
        and unit(imported) != unit(here)
        and ranks[unit(imported)] >= ranks[unit(here)]
    ]
    assert not wrong


def test_every_wing_has_its_order():
    wings = {name for name, floor in FLOORS.items() if floor < COMMANDS}
    folders = {name for name in wings if (PACKAGE / name).is_dir()}
    assert folders <= set(RANKS)


def test_data_knows_neither_jax_nor_models():
    wrong = [
        name
        for name, path in MODULES.items()
        if name.startswith(("fmalign_jax.data.", "fmalign_jax.config."))
        and any(i.split(".")[0] in ("jax", "flax", "optax") for i in _imports(path))
    ]
    assert not wrong


def test_structs_need_no_jax():
    packages = {name.split(".")[0] for name in _imports(PACKAGE / "structs.py")}
    assert packages == {"__future__", "collections", "dataclasses", "numpy", "typing"}


def test_importing_the_library_defines_no_flag():
    """A user's script may have a --config of its own and read a finished run."""
    commands = {f"fmalign_jax.{name}" for name, floor in FLOORS.items() if floor == 9}
    library = sorted(set(MODULES) - commands)
    code = (
        "import importlib, sys\n"
        "from absl import flags\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "ours = [module for module in flags.FLAGS.flags_by_module_dict()\n"
        "        if 'fmalign' in module or 'config_flags' in module]\n"
        "assert not ours, ours\n"
        "assert 'config' not in flags.FLAGS and 'workdir' not in flags.FLAGS\n"
        "from ml_collections import config_flags\n"
        "config_flags.DEFINE_config_file('config')\n"
    )
    command = [sys.executable, "-c", code, *library]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
