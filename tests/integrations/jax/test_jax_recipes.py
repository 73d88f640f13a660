"""Every block of the JAX page runs as it stands."""

import pages


@pages.every_block("docs/jax.md")
def test_recipe(page, block):
    pages.check(page, block)
