"""The divergences with their derivatives in both logit vectors, in closed form.

Left to itself, XLA keeps 6 to 31 arrays of the logits' size for the gradient and takes up to eight times as long as for
a binary cross-entropy (jaxlib 0.10 on a CPU). Every other derivative is JAX's own of the core's formula.
"""

from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from zlpr_core._divergences import Divergence
from zlpr_core._options import Options, is_number
from zlpr_core._pairs import Pair, check_logits, read_pair
from zlpr_core._typing import Axis

from ._namespace import xp

Arrays = dict[str, Any]
"""The mask, and a threshold or scale that is an array, by name."""


class Fixed(NamedTuple):
    """What JAX does not trace."""

    divergence: Divergence
    names: tuple[str, str]  # of the logits, for messages
    axis: Axis
    numbers: tuple[tuple[str, float], ...]


def divergence(
    kind: Divergence,
    p: jax.Array,
    q: jax.Array,
    axis: Axis,
    where: Any,
    scale: Any,
    threshold: Any = 0.0,
    names: tuple[str, str] = ("p_logits", "q_logits"),
) -> jax.Array:
    """One value an example."""
    scale = 1.0 if scale is None else float(scale) if isinstance(scale, Real) else scale
    check_logits(p, q, scale, names, xp=xp)
    options = Options.of(p, where, None, None, threshold, xp=xp)
    given = {"scale": scale, "threshold": options.threshold, "where": options.where}
    numbers = {name: option for name, option in given.items() if is_number(option)}
    arrays = {name: option for name, option in given.items() if name not in numbers and option is not None}
    fixed = Fixed(kind, names, tuple(axis) if isinstance(axis, list) else axis, tuple(numbers.items()))
    values: jax.Array = _divergence(fixed, p, q, arrays)
    return values


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _divergence(fixed: Fixed, p: jax.Array, q: jax.Array, arrays: Arrays) -> Any:
    return fixed.divergence.value(_pair(fixed, p, q, arrays), xp=xp)


def _pair(fixed: Fixed, p: jax.Array, q: jax.Array, arrays: Arrays) -> Pair:
    given = {**dict(fixed.numbers), **arrays}
    options = Options(where=given.get("where"), threshold=given["threshold"])
    return read_pair(p, q, fixed.axis, options, given["scale"], fixed.names, xp=xp)


def _jvp(fixed: Fixed, primals: tuple[Any, Any, Arrays], tangents: tuple[Any, Any, Arrays]) -> tuple[Any, Any]:
    p, q, arrays = primals
    pair = _pair(fixed, p, q, arrays)
    value = fixed.divergence.value(pair, xp=xp)
    value_dot = _dot_of_arrays(fixed, primals, tangents[2], jnp.zeros_like(value))
    gradients = fixed.divergence.gradients(pair, jnp.expand_dims(value, pair.axes), xp=xp)
    for gradient, dot in zip(gradients, tangents[:2], strict=True):
        if not isinstance(dot, SymbolicZero):
            value_dot = value_dot + jnp.sum(gradient * dot.astype(gradient.dtype), axis=pair.axes)
    return value, value_dot


_divergence.defjvp(_jvp, symbolic_zeros=True)


def _dot_of_arrays(fixed: Fixed, primals: tuple[Any, Any, Arrays], dots: Arrays, none: jax.Array) -> jax.Array:
    """The tangent of the values as far as it comes from a threshold or a scale; ``none`` without any."""
    p, q, arrays = primals
    moving = {name: dot for name, dot in dots.items() if not isinstance(dot, SymbolicZero)}
    if not moving:
        return none

    def values(moved: Arrays) -> Any:
        return fixed.divergence.value(_pair(fixed, p, q, {**arrays, **moved}), xp=xp)

    dot: jax.Array = jax.jvp(values, ({name: arrays[name] for name in moving},), (moving,))[1]
    return dot
