"""What XLA sets aside for the loss and its gradient: here and not in the suite, as it differs from version to version."""

import os
import subprocess
import sys

import pytest

MEASURE = """
import jax, jax.numpy as jnp
from zlpr_jax import zlpr_loss
jax.config.update("jax_enable_x64", False)
logits = jnp.zeros(({rows}, {classes}), jnp.float32)
step = jax.jit(jax.value_and_grad(lambda s, t: zlpr_loss(s, t).mean()))
program = step.lower(logits, logits if {soft} else logits > 0).compile()
assert "concatenate" not in program.as_text()
print(program.memory_analysis().temp_size_in_bytes / logits.nbytes)
"""


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("rows", "classes"), [(256, 1000), (96, 9605)])
def test_room_for_one_array_of_the_logits_is_enough(rows, classes, soft):
    """In a process of its own with one device; conftest.py gives the tests of this folder eight."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    program = MEASURE.format(rows=rows, classes=classes, soft=soft)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 1.02
