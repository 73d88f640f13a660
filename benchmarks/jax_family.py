"""JAX under ``jit``: every loss, divergence and option of zlpr beside optax's binary cross-entropy, or two of it."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import Case, draw
from jax import Array
from jax_peers import VERSIONS, held
from measure import Candidate, Field, Memory, copying

import zlpr_jax as z

__all__ = ["EXTRA_CASES", "VERSIONS", "field"]
EXTRA_CASES: tuple[Case, ...] = ()
ONE, TWO = "optax BCE", "two optax BCE"


def field(case: Case, threads: int) -> Field:
    """The candidates for this case."""
    logits, target = map(jnp.asarray, draw(case))
    second = logits + jax.random.normal(jax.random.key(0), logits.shape)
    floating, weight = target.astype(case.dtype), jnp.linspace(0.5, 2, logits.shape[-1])
    alone = {
        ONE: lambda s: optax.sigmoid_binary_cross_entropy(s, floating),
        "zlpr": lambda s: z.zlpr_loss(s, target),
        "threshold": lambda s: z.zlpr_loss(s, target, threshold=0.5),
        "mask": lambda s: z.zlpr_loss(s, target, where=second < 3),
        "weight": lambda s: z.zlpr_loss(s, target, weight=weight),
        "pos_weight": lambda s: z.zlpr_loss(s, target, pos_weight=weight),
        "smoothing": lambda s: z.zlpr_loss(s, target, label_smoothing=1e-6),
        "ignore_index": lambda s: z.zlpr_loss(s, target, ignore_index=-100),
        "terms": lambda s: terms(s, target),
    }
    pairs = {
        TWO: lambda p, q: alone[ONE](p) + alone[ONE](q),
        "KL": z.kl_divergence,
        "symmetric KL": z.symmetric_kl_divergence,
        "zlpr_divergence": z.zlpr_divergence,
        "R-Drop": lambda p, q: z.rdrop_zlpr_loss(p, q, target),
        "naive symmetric KL": lambda p, q: ((jax.nn.sigmoid(p) - jax.nn.sigmoid(q)) * (p - q)).sum(-1),
        "optax KL": bernoulli,
    }
    learned = candidate(
        "learned threshold", lambda s, theta: z.zlpr_loss(s, target, threshold=theta), [logits, 0 * weight], ONE
    )
    candidates = [candidate(name, loss, [logits], ONE) for name, loss in alone.items()]
    candidates += [learned, *(candidate(name, loss, [logits, second], TWO) for name, loss in pairs.items())]
    return Field(candidates, copying(np.asarray(logits), threads))


def terms(logits: Array, target: Array) -> Array:
    """Both halves, as one who weighs them differently would use them."""
    positive, negative = z.zlpr_terms(logits, target)
    return positive + 2 * negative


def bernoulli(p: Array, q: Array) -> Array:
    """optax's ``kl_divergence`` of both outcomes of each label, from log-probabilities."""
    right, said = (jnp.stack([jax.nn.log_sigmoid(x), jax.nn.log_sigmoid(-x)], -1) for x in (p, q))
    return optax.losses.kl_divergence_with_log_targets(said, right).sum(-1)


def candidate(name: str, loss: Callable[..., Array], inputs: Sequence[Array], peer: str) -> Candidate:
    """The mean of ``loss``, alone and with its gradients."""

    def mean(*arrays: Array) -> Array:
        return loss(*arrays).mean()

    forward, both = jax.jit(mean), jax.jit(jax.value_and_grad(mean, argnums=tuple(range(len(inputs)))))
    passes = {
        "forward": lambda: jax.block_until_ready(forward(*inputs)),
        "forward+backward": lambda: jax.block_until_ready(both(*inputs)),
    }
    return Candidate(name, peer, passes, lambda: Memory(peak=held(both.lower(*inputs).compile())))
