"""JAX under ``jit``: ZLPR beside optax's sigmoid losses."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import Case, draw
from jax import Array
from measure import Candidate, Field, Memory, copying

from zlpr_jax import zlpr_loss

Loss = Callable[[Array, Array], Array]
VERSIONS = {"jax": jax.__version__, "optax": optax.__version__}
EXTRA_CASES: tuple[Case, ...] = ()
PEER = "optax BCE"


def field(case: Case, threads: int) -> Field:
    """The candidates for this case; optax takes floating targets, which are made beforehand."""
    logits, target = map(jnp.asarray, draw(case))
    logits = logits.astype(case.dtype)
    floating = target.astype(case.dtype)
    candidates = [
        candidate("zlpr", lambda s, t: zlpr_loss(s, t, axis=case.axes), logits, floating if case.soft else target),
        candidate(PEER, optax.sigmoid_binary_cross_entropy, logits, floating),
        candidate("optax focal", optax.sigmoid_focal_loss, logits, floating),
    ]
    return Field(candidates, copying(np.asarray(logits), threads))


def candidate(name: str, loss: Loss, logits: Array, target: Array) -> Candidate:
    """The mean of ``loss``, alone and with its gradient in the logits."""

    def mean(s: Array, t: Array) -> Array:
        return loss(s, t).mean()

    forward, both = jax.jit(mean), jax.jit(jax.value_and_grad(mean))
    passes = {
        "forward": lambda: jax.block_until_ready(forward(logits, target)),
        "forward+backward": lambda: jax.block_until_ready(both(logits, target)),
    }
    return Candidate(name, PEER, passes, lambda: Memory(peak=held(both.lower(logits, target).compile())))


def held(program: jax.stages.Compiled) -> int:
    """Bytes beyond the inputs, as XLA laid them out."""
    plan = program.memory_analysis()
    return plan.temp_size_in_bytes + plan.output_size_in_bytes
