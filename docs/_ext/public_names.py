"""Every public name of the four packages has its entry in the reference, and nothing else has."""

import tomllib
from importlib import import_module
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import SphinxError

SETTINGS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = {entry["package"] for entry in SETTINGS["tool"]["zlpr"]["backends"].values()}


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """Raise for the names that are missing, and for those that are not public."""
    objects = env.domains["py"].objects.items()
    entries = {name for name, entry in objects if entry.objtype in ("class", "function") and not entry.aliased}
    public = {f"{package}.{name}" for package in PACKAGES for name in import_module(package).__all__}
    for names, problem in (
        (public - entries, "Public, but not in docs/api"),
        (entries - public, "In docs/api, but not public"),
    ):
        if names:
            msg = f"{problem}: {', '.join(sorted(names))}."
            raise SphinxError(msg)


def setup(app: Sphinx) -> dict[str, bool]:
    """Once every page was read."""
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
