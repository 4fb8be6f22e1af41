"""tutorials/: every script runs from an empty folder, leaves nothing there, and warns of nothing."""

import ast
import importlib
import runpy
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.py"))
NEEDS = {"05_pytorch": "torch", "04_pipelines_and_tables": "pandas", "01_quick_start": "pandas"}


@pytest.fixture(params=TUTORIALS, ids=lambda path: path.stem)
def path(request):
    pytest.importorskip("matplotlib").use("Agg")
    pytest.importorskip(NEEDS.get(request.param.stem, "hatband"))
    return request.param


def test_a_tutorial_compiles_and_every_name_that_it_imports_is_there(path):
    code = ast.parse(path.read_text(), str(path))
    imports = [node for node in ast.walk(code) if isinstance(node, ast.ImportFrom)]
    missing = [
        f"{node.module}.{name.name}"
        for node in imports
        for name in node.names
        if not hasattr(importlib.import_module(node.module), name.name)
    ]

    compile(code, str(path), "exec")
    assert [node for node in imports if node.module.startswith("hatband")]
    assert not missing


@pytest.mark.slow
def test_a_tutorial_runs_in_an_empty_folder_and_leaves_it_empty(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")

    assert not list(tmp_path.iterdir())
