"""What XLA sets aside for the loss and its gradient: here and not in the suite, as it differs from version to version."""

import os
import subprocess
import sys

import pytest

MEASURE = """
import jax, jax.numpy as jnp
from zlpr_jax import kl_divergence, rdrop_zlpr_loss, symmetric_kl_divergence, zlpr_divergence, zlpr_loss, zlpr_terms
jax.config.update("jax_enable_x64", False)
s = jnp.zeros(({rows}, {classes}), jnp.float32)
step = jax.jit(jax.value_and_grad(lambda s, other: {loss}, argnums={wrt}))
program = step.lower(s, {other}).compile()
assert "concatenate" not in program.as_text()
print(program.memory_analysis().temp_size_in_bytes / s.nbytes)
"""
BOTH = (0, 1)
CASES = {  # the loss, its other argument, what has a gradient, and arrays of the logits' size beside the gradients
    "hard": ("zlpr_loss(s, other).mean()", "s > 0", 0, 1),
    "soft": ("zlpr_loss(s, other).mean()", "s", 0, 1),
    "halves": ("sum(zlpr_terms(s, other)).mean()", "s > 0", 0, 1),
    "learned threshold": ("zlpr_loss(s, s > 0, threshold=other).mean()", "s[0]", BOTH, 1),
    "KL": ("kl_divergence(s, other).mean()", "s", BOTH, 0),
    "symmetric KL": ("symmetric_kl_divergence(s, other).mean()", "s", BOTH, 0),
    "own divergence": ("zlpr_divergence(s, other).mean()", "s", BOTH, 1),
    "R-Drop": ("rdrop_zlpr_loss(s, other, s > 0).mean()", "s", BOTH, 1),
}


@pytest.mark.parametrize(("loss", "other", "wrt", "most"), CASES.values(), ids=CASES)
@pytest.mark.parametrize(("rows", "classes"), [(256, 1000), (96, 9605)])
def test_room_for_one_array_of_the_logits_is_enough(rows, classes, loss, other, wrt, most):
    """In a process of its own with one device; conftest.py gives the tests of this folder eight."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    program = MEASURE.format(rows=rows, classes=classes, loss=loss, other=other, wrt=wrt)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= most + 0.02
