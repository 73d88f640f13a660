"""The recipes of docs/numpy.md."""

import pages


@pages.every_block("docs/numpy.md")
def test_recipe(page, block):
    pages.check(page, block)
