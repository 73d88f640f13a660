"""The same numbers in any order of tests. One thread: models this small only wait for the others on busy cores."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
