"""Every block of the PyTorch page runs as it stands."""

import os

import pages
from torch_page import PAGE


@pages.every_block(PAGE)
def test_recipe(page, block):
    pages.check(page, block, env={**os.environ, "OMP_NUM_THREADS": "1"})
