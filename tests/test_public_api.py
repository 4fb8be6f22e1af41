"""The public names: listed where they are defined to be, documented, with an example that runs as a doctest."""

import enum
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import hatband

SOURCE = Path(hatband.__file__).parent
# Folders that offer names; the others are rooms of the house, and the commands are reached through the command line.
OFFERS = [path.parent.name for path in SOURCE.glob("*/__init__.py") if "__all__" in path.read_text()]
FOLDERS = sorted(set(OFFERS) - {"commands"})
PACKAGES = ["hatband", *(f"hatband.{folder}" for folder in FOLDERS)]


def is_ours(value: object) -> bool:
    """Classes and functions that this package defines."""
    return (inspect.isclass(value) or inspect.isfunction(value)) and str(value.__module__).partition(".")[
        0
    ] == "hatband"


def needs_no_example(value: object) -> bool:
    """Warnings, errors, enumerations, and what a user implements rather than calls: abstract classes, protocols."""
    if not inspect.isclass(value):
        return False
    plain = issubclass(value, (Exception, enum.Enum)) or inspect.isabstract(value)
    return plain or bool(getattr(value, "_is_protocol", False))


def public_objects() -> dict[str, object]:
    return {
        f"{package}.{name}": getattr(import_module(package), name)
        for package in PACKAGES
        for name in import_module(package).__all__
        if is_ours(getattr(import_module(package), name))
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_all_lists_what_the_package_offers(package):
    module = import_module(package)
    offered = {name for name, value in vars(module).items() if not name.startswith("_") and is_ours(value)}
    assert len(module.__all__) == len(set(module.__all__))
    assert all(hasattr(module, name) for name in module.__all__)
    assert offered == {name for name in module.__all__ if is_ours(getattr(module, name))}


@pytest.mark.parametrize("name", sorted(public_objects()))
def test_every_public_object_says_what_it_is(name):
    assert inspect.getdoc(public_objects()[name])


@pytest.mark.parametrize(
    "name", sorted(name for name, value in public_objects().items() if not needs_no_example(value))
)
def test_every_public_object_shows_an_example(name):
    assert ">>>" in inspect.getdoc(public_objects()[name])


def test_the_version_is_the_one_of_the_distribution():
    pyproject = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert f'version = "{hatband.__version__}"' in pyproject
