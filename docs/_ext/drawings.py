"""Figures: each script in docs/figures draws one, anew for every build, and ``drawing`` shows it."""

import runpy
import sys
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

FIGURES = Path(__file__).parents[1] / "figures"
DRAWN = FIGURES.parent / "_build" / "figures"


class Drawing(Directive):
    """``drawing:: name``, with the caption as its content.

    The SVG becomes part of the page, where its ``currentColor`` is that of the text, in light and in dark.
    """

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """A figure with its caption."""
        script = FIGURES / f"{self.arguments[0]}.py"
        self.state.document.settings.env.note_dependency(str(script))
        svg = (DRAWN / f"{script.stem}.svg").read_text(encoding="utf-8")
        figure = nodes.figure("", nodes.raw("", svg, format="html"), align="center")
        paragraph = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, paragraph)
        figure += nodes.caption("", "", *paragraph[0].children)
        return [figure]


def draw(_app: Sphinx) -> None:
    """Run every script, as by hand."""
    sys.path.insert(0, str(FIGURES))
    for script in sorted(FIGURES.glob("[!_]*.py")):
        runpy.run_path(str(script), run_name="__main__")


def setup(app: Sphinx) -> dict[str, bool]:
    """The figures are there before the first page is read."""
    app.connect("builder-inited", draw)
    app.add_directive("drawing", Drawing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
