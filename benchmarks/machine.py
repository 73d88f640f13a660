"""What measured numbers depend on: the processor, Python and the versions. The study states it too."""

import platform
from pathlib import Path

from zlpr_core import __version__


def machine(versions: dict[str, str], threads: int) -> dict[str, str | int]:
    """What the numbers depend on."""
    stated = ", ".join(f"{name} {number}" for name, number in ({"zlpr": __version__} | versions).items())
    return {"cpu": cpu(), "threads": threads, "python": platform.python_version(), "versions": stated}


def cpu() -> str:
    """Its name and its widest vectors, where the system tells them: a ratio depends on both."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    facts = {name.strip(): fact.strip() for name, _, fact in (line.partition(":") for line in lines)}
    flags = facts.get("flags", facts.get("Features", "")).split()
    widest = next((vectors for vectors in ("avx512f", "avx2", "sve", "asimd") if vectors in flags), "")
    return " ".join(filter(None, (facts.get("model name", platform.processor()), widest)))
