"""What importing loads, and the direction of imports between layers."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

import hatband

SOURCE = Path(hatband.__file__).parent

# Lower layers first. A module imports from layers above its own line never, from its own line only what stands to its
# left, and within its own package what does not lead back to it.
LAYERS = [
    ["checks", "arrays"],
    ["linalg"],
    ["formulas"],
    ["geometry"],
    ["fitted"],
    ["scales"],
    ["conformal"],
    ["diagnostics", "valuation", "influence"],
    ["nn", "distributed", "integrations", "displays", "datasets"],
    ["commands", "__init__", "__main__"],
]
# These two stand on the ground together: checks name arrays, and arrays are checked.
GROUND = {"arrays", "checks"}
RANK = {name: (level, position) for level, line in enumerate(LAYERS) for position, name in enumerate(line)}


def modules() -> dict[str, Path]:
    """Dotted name -> file, `hatband` itself included."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ["hatband", *path.relative_to(SOURCE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """Names of our modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & set(known) or {node.module}
    return found & set(known)


def layer(name: str) -> str:
    """Top-level name inside hatband: `hatband.linalg.qr` -> `linalg`, `hatband` -> `__init__`."""
    return [*name.split("."), "__init__"][1]


def test_every_module_has_a_layer():
    assert {layer(name) for name in modules()} <= set(RANK)


def test_imports_point_to_lower_layers_only():
    known = modules()
    wrong = [
        f"{name} imports {imported}"
        for name, path in known.items()
        for imported in imports_of(path, known)
        if layer(imported) != layer(name) and not points_down(layer(name), layer(imported))
    ]
    assert not wrong


def points_down(importer: str, imported: str) -> bool:
    return RANK[imported] < RANK[importer] or {importer, imported} == GROUND


def test_no_imports_go_in_circles():
    known = modules()
    graph = {name: imports_of(path, known) for name, path in known.items()}
    order = list(TopologicalSorter(graph).static_order())
    assert set(order) == set(known)


def test_the_walk_would_see_an_import_upwards(tmp_path):
    probe = tmp_path / "probe.py"
    probe.write_text("def f():\n    from hatband.conformal import SplitConformalRegressor\n")
    assert imports_of(probe, modules()) == {"hatband.conformal"}
    upwards = pairwise(name for line in LAYERS for name in line)
    assert not any(points_down(low, high) for low, high in upwards if {low, high} != GROUND)


def test_importing_hatband_loads_no_optional_package():
    # pandas is not in this list: scikit-learn loads it where it is installed.
    optional = {"torch", "mapie", "crepes", "dask", "distributed", "matplotlib", "skops", "polars"}
    code = f"import sys, hatband; print(*sorted({optional!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


CORE_ONLY = """
import sys

ABSENT = {"torch", "mapie", "crepes", "dask", "distributed", "matplotlib", "skops", "polars", "pandas"}
ABSENT |= {"jaxtyping", "beartype"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ImportError(name)

sys.meta_path.insert(0, Absent())
import hatband, hatband.__main__, hatband.displays
"""


def test_the_core_and_the_commands_import_with_the_core_dependencies_alone():
    done = subprocess.run([sys.executable, "-c", CORE_ONLY], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
