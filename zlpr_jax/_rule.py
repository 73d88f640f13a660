"""The loss with its derivative in the logits told to JAX.

Left to itself, XLA keeps three arrays of the logits' size for a gradient, and takes four times as long as by the closed
form. Every other derivative is JAX's own of the core's formula.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

import zlpr_core
from zlpr_core._targets import compute_dtype
from zlpr_core._typing import Axis

from ._namespace import xp

Others = dict[str, Any]
"""Every array but the logits, by its name in the core."""


class Fixed(NamedTuple):
    """What JAX does not trace."""

    axis: Axis
    numbers: tuple[tuple[str, Any], ...]


def zlpr(scores: jax.Array, **arguments: Any) -> jax.Array:
    """``zlpr_core.zlpr``, with ``targets`` by name."""
    axis = arguments.pop("axis")
    arrays = {name: value for name, value in arguments.items() if isinstance(value, jax.Array)}
    numbers = tuple((name, value) for name, value in arguments.items() if name not in arrays)
    losses: jax.Array = _zlpr(Fixed(tuple(axis) if isinstance(axis, list) else axis, numbers), scores, arrays)
    return losses


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _zlpr(fixed: Fixed, scores: jax.Array, others: Others) -> jax.Array:
    losses: jax.Array = _by_core(zlpr_core.zlpr, fixed, scores, others)
    return losses


def _jvp(fixed: Fixed, primals: tuple[jax.Array, Others], tangents: tuple[Any, Others]) -> tuple[Any, Any]:
    (scores, others), (moved, others_moved) = primals, tangents
    moving = {name: tangent for name, tangent in others_moved.items() if not isinstance(tangent, SymbolicZero)}

    def of(some: Others) -> Any:
        return _by_core(zlpr_core.zlpr, fixed, scores, {**others, **some})

    if moving:
        losses, change = jax.jvp(of, ({name: others[name] for name in moving},), (moving,))
    else:
        losses = _zlpr(fixed, scores, others)
        change = jnp.zeros_like(losses)
    if not isinstance(moved, SymbolicZero):
        wide = scores.astype(compute_dtype(scores.dtype, xp=xp))  # a loss scale comes before the rounding to half
        slope = _by_core(zlpr_core.zlpr_grad, fixed, wide, others)
        change = change + jnp.sum(slope * moved.astype(wide.dtype), axis=fixed.axis)
    return losses, change


_zlpr.defjvp(_jvp, symbolic_zeros=True)


def _by_core(function: Any, fixed: Fixed, scores: jax.Array, others: Others) -> Any:
    options = {**dict(fixed.numbers), **others}
    return function(scores, options.pop("targets"), axis=fixed.axis, **options, xp=xp)
