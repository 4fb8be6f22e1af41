"""The recipes of CONTRIBUTING.md: their code, and what they define as a module that objects can be pickled from."""

import ast
import re
import sys
from pathlib import Path
from types import ModuleType

GUIDE = Path(__file__).parents[1] / "CONTRIBUTING.md"
TEXT = GUIDE.read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
NAME = "recipes_of_the_guide"
_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)


def _defined() -> ModuleType:
    """Return a module of the imports, classes and functions of all recipes, registrations included; nothing is run."""
    module = ModuleType(NAME)
    sys.modules[module.__name__] = module
    for block in BLOCKS:
        body = ast.parse(block).body
        kept = [node for node in body if isinstance(node, _DEFINITIONS) or _registers(node)]
        exec(compile(ast.Module(kept, type_ignores=[]), str(GUIDE), "exec"), vars(module))
    return module


def _registers(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and ".register(" in ast.unparse(node)


# Doctests import this file a second time; objects pickle only if their classes were made once.
RECIPES = sys.modules.get(NAME) or _defined()
