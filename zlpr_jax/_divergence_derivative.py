"""The divergences with their derivatives in both logit vectors, in closed form.

Left to itself, XLA keeps 6 to 31 arrays of the logits' size for the gradient and takes up to eight times as long as for
a binary cross-entropy (jaxlib 0.10 on a CPU). What forward leaves is a few numbers a row; each of the two gradients is
computed of these and the logits. Every other derivative is JAX's own of the core's formula.
"""

from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from zlpr_core._checks import class_axes
from zlpr_core._divergences import REGRET, Divergence
from zlpr_core._options import Options, is_number
from zlpr_core._pairs import Pair, check_logits, read_pair
from zlpr_core._reduce import ShiftedSum
from zlpr_core._regret import RegretSums, regret_sums
from zlpr_core._typing import Axis
from zlpr_core._unshifted_regret import unshifted_regret_sums

from ._blocks import by_parts, is_on_cpu, on_one_device, parts_of, row_numbers, unshared, with_one_condition
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
    return _rows(fixed, p, q, arrays).value


class _Rows(NamedTuple):
    """What forward leaves of each row."""

    value: Any
    sums: RegretSums | None = None


def _rows(fixed: Fixed, p: jax.Array, q: jax.Array, arrays: Arrays) -> _Rows:
    if fixed.divergence != REGRET:  # JAX does not keep the identity of what it does not trace
        return _Rows(fixed.divergence.value(_pair(fixed, p, q, arrays), xp=xp))
    sums = _sums_of_regret(fixed, p, q, arrays)
    return _Rows(jnp.squeeze(sums.value, class_axes(p, fixed.axis, xp=xp)), sums)


def _pair(fixed: Fixed, p: jax.Array, q: jax.Array, arrays: Arrays) -> Pair:
    given = {**dict(fixed.numbers), **arrays}
    options = Options(where=given.get("where"), threshold=given["threshold"])
    return read_pair(p, q, fixed.axis, options, given["scale"], fixed.names, xp=xp)


def _jvp(fixed: Fixed, primals: tuple[Any, Any, Arrays], tangents: tuple[Any, Any, Arrays]) -> tuple[Any, Any]:
    p, q, arrays = primals
    value, sums = _rows(fixed, p, q, arrays)
    value_dot = _dot_of_arrays(fixed, primals, tangents[2], jnp.zeros_like(value))
    logits = p, q
    for place, dot in enumerate(tangents[:2]):
        if not isinstance(dot, SymbolicZero):
            logits = unshared(logits)
            pair = _pair(fixed, logits[0], logits[1], arrays)
            known = () if sums is None else (sums,)
            gradient = fixed.divergence.gradients(pair, jnp.expand_dims(value, pair.axes), *known, xp=xp)[place]
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


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sums_of_regret(fixed: Fixed, p: jax.Array, q: jax.Array, arrays: Arrays) -> RegretSums:
    """Without a mask, on one device, as far as may be without a shift."""
    if arrays or not on_one_device(p):
        return _exact_sums(fixed, p, q, arrays)
    sums: RegretSums = _unshifted_or_exact_sums(fixed, p, q)
    return sums


@_sums_of_regret.defjvp
def _sums_of_regret_jvp(fixed: Fixed, primals: Any, tangents: Any) -> Any:
    """For second order, where the gradients are differentiated through the sums."""
    return jax.jvp(partial(_exact_sums, fixed), primals, tangents)


def _exact_sums(fixed: Fixed, p: jax.Array, q: jax.Array, arrays: Arrays) -> RegretSums:
    return regret_sums(_pair(fixed, p, q, arrays), xp=xp)


@partial(jax.jit, static_argnums=0)  # else the condition would be compiled in every eager call
def _unshifted_or_exact_sums(fixed: Fixed, p: jax.Array, q: jax.Array) -> RegretSums:
    """By blocks on a CPU, whose arrays of terms stay in the cache."""

    def either(axes: tuple[int, ...], p: jax.Array, q: jax.Array) -> RegretSums:
        sums = partial(_either_sums, fixed._replace(axis=axes))
        if not is_on_cpu():
            return sums(p, q)
        numbers = row_numbers(axes, p, q)
        into = RegretSums(numbers, ShiftedSum(numbers, numbers), ShiftedSum(numbers, numbers), numbers)
        return by_parts(sums, into, (p, q), axes, parts_of(p))

    return with_one_condition(either, class_axes(p, fixed.axis, xp=xp), p, q)


def _either_sums(fixed: Fixed, p: jax.Array, q: jax.Array) -> RegretSums:
    sums, exact = unshifted_regret_sums(_pair(fixed, p, q, {}), xp=xp)

    def replaced(_: RegretSums, p: jax.Array, q: jax.Array) -> RegretSums:
        return _exact_sums(fixed, p, q, {})

    either: RegretSums = lax.cond(jnp.all(exact), lambda kept, *_: kept, replaced, sums, p, q)
    return either
