"""README.md: its Python runs, its commands parse, its files exist."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from hatband.__main__ import parser

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)


def test_the_python_of_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, str(README), "exec"), names)


@pytest.mark.parametrize("line", [line for block in blocks("console") for line in block.splitlines()])
def test_the_commands_of_the_readme_exist(line):
    words = shlex.split(line, comments=True)
    if words[:3] == ["python", "-m", "hatband"]:
        parser().parse_args(words[3:])
    elif "make" in words:
        targets = re.findall(r"^([a-z-]+):", (README.parent / "Makefile").read_text(), flags=re.MULTILINE)
        assert words[words.index("make") + 1] in targets


@pytest.mark.parametrize("extra", sorted(set(",".join(re.findall(r'pip install "\.\[(.+?)\]"', TEXT)).split(","))))
def test_the_extras_that_the_readme_installs_exist(extra):
    pyproject = tomllib.loads((README.parent / "pyproject.toml").read_text())
    assert extra in pyproject["project"]["optional-dependencies"]


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT))
def test_the_files_that_the_readme_links_to_exist(link):
    assert (README.parent / link).exists()


def test_the_first_two_commands_are_demo_and_test():
    commands = [line for block in blocks("console") for line in block.splitlines()]
    assert [command.split("#")[0].strip() for command in commands[:2]] == ["make demo", "make test"]
