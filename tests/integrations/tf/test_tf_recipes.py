"""Every block of the Keras page runs as it stands."""

import pages


@pages.every_block("docs/keras.md")
def test_recipe(page, block):
    pages.check(page, block)
