"""What ``tests/mutants.py`` breaks: for some backends of the registry, a table of the same name."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """A piece of text that stands once in a file, what to put in its place, and the tests that should notice."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()  # paths in tests/; those of the table where there are none
