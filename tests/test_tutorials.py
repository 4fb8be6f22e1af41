"""tutorials/: every script runs from an empty folder, leaves nothing there, and warns of nothing."""

import runpy
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.py"))
NEEDS = {"05_pytorch": "torch", "04_pipelines_and_tables": "pandas", "01_quick_start": "pandas"}


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_in_an_empty_folder_and_leaves_it_empty(path, tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")

    assert not list(tmp_path.iterdir())
