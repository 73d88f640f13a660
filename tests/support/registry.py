"""The backends that pyproject.toml lists under ``tool.zlpr.backends``, where each key is explained."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ENTRIES = SETTINGS["tool"]["zlpr"]["backends"]
BACKENDS = {backend: {"name": name, **entry} for name, entry in ENTRIES.items() for backend in entry["harness"]}
"""By their names for ``--backend``, the entry of each."""

PACKAGES = tuple(dict.fromkeys(entry["package"] for entry in ENTRIES.values()))
FRAMEWORKS = sorted(
    {entry.get(key, "numpy") for entry in ENTRIES.values() for key in ("framework", "keras")} - {"numpy"}
)
"""By the names of their modules. NumPy is none: everything imports it."""


def packages_of(backends):
    """The core, and the packages that these backends test."""
    return tuple(dict.fromkeys(["zlpr_core", *(BACKENDS[name]["package"] for name in backends)]))


def folders_of(backends):
    """The folders of tests/frameworks that speak to these backends: one by the entry's name, and one for Keras."""
    entries = [BACKENDS[name] for name in backends]
    return {entry["name"] for entry in entries} | {"keras" for entry in entries if "keras" in entry}
