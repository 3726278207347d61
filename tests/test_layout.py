"""The house has one natural way through it: imports run only down this list."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "fmalign_jax"

# From the ground up. Modules of one row do not import each other, except inside the
# packages, whose own order is checked by the absence of cycles.
FLOORS = [
    [
        "structs",
        "imports",
        "pairs",
        "default_config",
        "command_config",
        "config_check",
        "variations",
    ],
    ["data"],
    ["models"],
    ["losses"],
    ["objectives"],
    ["metrics"],
    ["inputs", "sharding"],
    ["resident"],
    ["train_state"],
    ["train_step", "integrity"],
    ["checkpoint", "interruption", "reporting", "run_directory"],
    ["command"],
    ["prepare"],
    ["linear_head", "scores", "labelled", "frozen"],
    ["heads"],
    ["labelled_validation"],
    ["validation"],
    ["train"],
    ["pictures", "restored", "oracle"],
    ["evaluation_report"],
    ["evaluation_files"],
    ["evaluate"],
    ["sweeps", "lead", "warning", "run_report"],
    ["sweep", "lead_time", "early_warning", "monitor", "report"],
]


def _imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def _modules() -> list[pathlib.Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


def _floor_of(module: str) -> int | None:
    parts = module.split(".")
    if parts[0] != "fmalign_jax" or len(parts) < 2:
        return None
    floors = [i for i, names in enumerate(FLOORS) if parts[1] in names]
    return floors[0] if floors else None


def _name(path: pathlib.Path) -> str:
    relative = path.relative_to(PACKAGE.parent).with_suffix("")
    return ".".join(relative.parts)


def test_every_module_has_its_place():
    homeless = [_name(p) for p in _modules() if _floor_of(_name(p)) is None]
    assert not homeless


def test_imports_run_down_only():
    wrong = []
    for path in _modules():
        here = _name(path)
        for imported in _imports(path):
            floor, own = _floor_of(imported), _floor_of(here)
            if floor is None or imported.split(".")[1] == here.split(".")[1]:
                continue
            if floor >= own:
                wrong.append(f"{here} imports {imported}")
    assert not wrong


def test_no_cycles_inside_packages():
    graph = {_name(p): _imports(p) for p in _modules()}

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        for name in graph.get(start, ()):
            if name == goal or (
                name not in seen and reaches(name, goal, seen | {name})
            ):
                return True
        return False

    cyclic = [name for name in graph if reaches(name, name, {name})]
    assert not cyclic


def test_data_knows_neither_jax_nor_models():
    wrong = [
        _name(path)
        for path in sorted((PACKAGE / "data").rglob("*.py"))
        if any(i.split(".")[0] in ("jax", "flax", "optax") for i in _imports(path))
    ]
    assert not wrong


def test_structs_need_no_jax():
    packages = {name.split(".")[0] for name in _imports(PACKAGE / "structs.py")}
    assert packages == {"__future__", "collections", "dataclasses", "numpy", "typing"}
