"""JAX under ``jit``: a linear layer and its loss in one, beside the dense layer with optax's binary cross-entropy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import FEATURES, Case
from jax import Array
from jax_peers import VERSIONS, held
from measure import Candidate, Field, Memory, copying

import zlpr_jax as z

__all__ = ["EXTRA_CASES", "VERSIONS", "field"]
EXTRA_CASES: tuple[Case, ...] = ()
PEER = "dense BCE"


def field(case: Case, threads: int) -> Field:
    """The candidates for this case, with three labels a row."""
    random = np.random.default_rng(0)
    rows, classes = case.shape
    shapes = (rows, FEATURES), (FEATURES, classes), (classes,)
    arrays = [jnp.asarray(random.standard_normal(shape, np.float32)) / FEATURES**0.25 for shape in shapes]
    ids = jnp.asarray(random.integers(classes, size=(rows, 3)))
    hot = z.multi_hot(ids, classes)
    floating = hot.astype(jnp.float32)
    losses = {
        PEER: lambda x, k, b, _: optax.sigmoid_binary_cross_entropy(x @ k + b, floating),
        "dense zlpr": lambda x, k, b, _: z.zlpr_loss(x @ k + b, hot),
        "zlpr": lambda x, k, b, _: z.linear_zlpr_loss(x, k, hot, bias=b),
        "zlpr, class ids": lambda x, k, b, ids: z.sparse_linear_zlpr_loss(x, k, ids, bias=b),
    }
    candidates = [candidate(name, loss, arrays, ids) for name, loss in losses.items()]
    return Field(candidates, copying(np.zeros(case.shape, np.float32), threads))


def candidate(name: str, loss: Callable[..., Array], arrays: list[Array], ids: Array) -> Candidate:
    """Forward and backward of the mean; the peak counts the gradients."""
    both = jax.jit(jax.value_and_grad(lambda *a: loss(*a, ids).mean(), argnums=(0, 1, 2)))
    passes = {"forward+backward": lambda: jax.block_until_ready(both(*arrays))}
    return Candidate(name, PEER, passes, lambda: Memory(peak=held(both.lower(*arrays).compile())))
