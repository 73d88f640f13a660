"""The navigation of the site: what docs/index.md links to, section by section.

Written as toctrees into the index it would show as such on a code host, which reads the same files.
"""

import re

from sphinx.application import Sphinx

SECTION = re.compile(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", flags=re.DOTALL | re.MULTILINE)
TOCTREE = "\n```{{toctree}}\n:hidden:\n:caption: {}\n\n{}\n```\n"


def add(_app: Sphinx, page: str, source: list[str]) -> None:
    """A hidden toctree for each section of the index that links to whole pages in a table."""
    if page != "index":
        return
    for title, text in SECTION.findall(source[0]):
        rows = "".join(line for line in text.splitlines() if line.startswith("|"))
        if linked := re.findall(r"\]\(([\w/-]+)\.md\)", rows):
            source[0] += TOCTREE.format(title, "\n".join(linked))


def setup(app: Sphinx) -> dict[str, bool]:
    """Before each page is parsed."""
    app.connect("source-read", add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
