"""JAX on a GPU: the device time of ``value_and_grad`` under ``jit``, and the wall time of a step, beside optax's BCE.

The device time is that of a loop inside one program, which is launched once for all its rounds. Without a GPU the same
program runs on a CPU, for ``--quick`` alone: it shows that it works, and no speed.
"""

from collections.abc import Callable
from functools import partial
from time import perf_counter

import jax
import jax.numpy as jnp
import optax
from cases import Case
from jax import Array, lax
from jax_peers import VERSIONS as PACKAGES
from jax_peers import held
from measure import Candidate, Field, Memory, enough, seconds_told

from zlpr_jax import zlpr_loss

Loss = Callable[[Array, Array], Array]
IS_THERE = jax.default_backend() == "gpu"
DEVICE = "cuda" if IS_THERE else "cpu"
VERSIONS = PACKAGES | ({"GPU": jax.devices()[0].device_kind} if IS_THERE else {})
EXTRA_CASES: tuple[Case, ...] = ()
PEER = "optax BCE"
COPIED = 2**28 if IS_THERE else 2**20  # bytes of the copy, far more than a GPU's cache


def field(case: Case, threads: int) -> Field:
    """The candidates for this case; optax takes floating targets, which are made beforehand."""
    jax.clear_caches()
    logits, target = drawn(case)
    floating = target.astype(case.dtype)
    count = enough(case.size, DEVICE)
    candidates = [
        candidate("zlpr", zlpr_loss, logits, floating if case.soft else target, count),
        candidate(PEER, optax.sigmoid_binary_cross_entropy, logits, floating, count),
    ]
    return Field(candidates, copy(), seconds_told, copied=2 * COPIED)


def drawn(case: Case) -> tuple[Array, Array]:
    """Logits and targets, the same at every call, made where they are used."""
    normal, uniform = jax.random.split(jax.random.key(0))
    logits = 2 * jax.random.normal(normal, case.shape, case.dtype)
    share = jax.random.uniform(uniform, case.shape, case.dtype if case.soft else jnp.float32)
    return logits, share if case.soft else share < case.share


def candidate(name: str, loss: Loss, logits: Array, target: Array, count: int) -> Candidate:
    """The mean of ``loss`` and its gradient, on the device alone and as a user waits for it."""
    both = jax.value_and_grad(lambda s, t: loss(s, t).mean())
    step = jax.jit(both)

    @jax.jit
    def looped(logits: Array, target: Array) -> tuple[Array, Array]:
        def once(_: Array, done: tuple[Array, Array]) -> tuple[Array, Array]:
            # tied to the round before, so that no round is computed ahead of the loop
            tied, labels, _ = lax.optimization_barrier((logits, target, done))  # type: ignore[no-untyped-call]
            return both(tied, labels)

        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(both, logits, target))
        return lax.fori_loop(0, count, once, start)

    passes = {
        "device": partial(seconds, looped, (logits, target), 1, count),
        "step": partial(seconds, step, (logits, target), count, 1),
    }
    return Candidate(name, PEER, passes, lambda: Memory(peak=held(step.lower(logits, target).compile())))


def seconds(program: Callable[..., object], arrays: tuple[Array, ...], launches: int, rounds: int) -> float:
    """Of one round: so many launches are queued, and the last is waited for."""
    start = perf_counter()
    made = None
    for _ in range(launches):
        made = program(*arrays)
    jax.block_until_ready(made)
    return (perf_counter() - start) / (launches * rounds)


def copy() -> Callable[[], float]:
    """The bandwidth that all are compared with: a stopwatch for a copy that no cache holds."""
    source = jnp.zeros(COPIED // 4, jnp.float32)
    return partial(seconds, jax.jit(jnp.copy), (source,), 3, 1)
