"""What XLA sets aside for the loss and its gradient: here and not in the suite, as it differs from version to version."""

import jax
import jax.numpy as jnp
import pytest

from zlpr_jax import zlpr_loss


@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize("shape", [(256, 1000), (96, 9605)])
def test_room_for_one_array_of_the_logits_is_enough(shape, labels):
    logits = jnp.zeros(shape, jnp.float32)
    step = jax.jit(jax.value_and_grad(lambda s, t: zlpr_loss(s, t).mean()))
    program = step.lower(logits, logits if labels == "soft" else logits > 0).compile()
    assert program.memory_analysis().temp_size_in_bytes <= 1.02 * logits.nbytes
    assert "concatenate" not in program.as_text()
