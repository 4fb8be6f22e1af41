"""Doctests of modules that need an optional package are left out where it is absent; their tests name it and skip."""

from importlib.util import find_spec

MODULES = {"crepes": "src/hatband/integrations/crepes.py", "mapie": "src/hatband/integrations/mapie.py"}

# The pretended device can be registered once in a process: it is imported, never collected.
collect_ignore = ["tests/pretend_device.py"]
collect_ignore += [path for package, path in MODULES.items() if find_spec(package) is None]
