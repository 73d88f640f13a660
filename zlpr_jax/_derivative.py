"""The loss, and its two halves, with their derivatives in the logits, in closed form.

Left to itself, XLA keeps three arrays of the logits' size for the gradient and takes four times as long (jaxlib 0.10 on
a CPU). The closed form needs two sums a row. On one device, without weights, mask or threshold, these are taken without
a shift, in one pass over the logits. Every other derivative is JAX's own of the core's formula.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from zlpr_core._checks import class_axes
from zlpr_core._losses import slopes
from zlpr_core._options import Options, is_number
from zlpr_core._reduce import ShiftedSum, log_sum, spread_nan, sum_exp
from zlpr_core._terms import Halves, halves_of, is_movable
from zlpr_core._typing import Axis
from zlpr_core._unshifted import gradient, gradient_factors, unshifted_sums, unshifted_terms

from ._blocks import by_parts, is_on_cpu, on_one_device, parts_of, row_numbers, with_one_condition
from ._namespace import xp
from ._parts import over_devices, psum

PARTS_ON_CPU, PARTS_ELSEWHERE = 32, 8
"""Parts of the batch for which exact sums are taken one after another. On a GPU each costs about ten launches."""

Arrays = dict[str, Any]
"""The targets, and the options that are arrays, by name."""


Values = tuple[jax.Array, ...]
"""The loss, or its two halves."""


class Fixed(NamedTuple):
    """What JAX does not trace: the class axes, and the options that are numbers or absent."""

    axes: tuple[int, ...]
    options: tuple[tuple[str, Any], ...]
    axis_name: Any = None  # of shard_map, over which the classes are spread
    by_parts: bool = False  # of the batch: XLA takes the sums of two losses at once, each with arrays of its own


class Rule(NamedTuple):
    """What is made of the sums of the two halves, and its derivatives in the logits."""

    values: Callable[[Fixed, Halves], Values]
    slopes: Callable[[Fixed, jax.Array, Arrays, Halves], Values]


def zlpr(
    logits: jax.Array,
    targets: jax.Array,
    axis: Axis,
    options: Options,
    axis_name: Any = None,
    *,
    by_parts: bool = False,
) -> jax.Array:
    """``zlpr_core.zlpr`` for ``zlpr_loss``, and ``by_parts`` of the batch for R-Drop."""
    fixed, *arrays = _traced(logits, targets, axis, options)
    losses: jax.Array
    (losses,) = _values(LOSS, fixed._replace(axis_name=axis_name, by_parts=by_parts), *arrays)
    return losses


def terms(logits: jax.Array, targets: jax.Array, axis: Axis, options: Options) -> tuple[jax.Array, jax.Array]:
    """``zlpr_core.zlpr_terms`` for ``zlpr_terms``."""
    positive, negative = _values(TERMS, *_traced(logits, targets, axis, options))
    return positive, negative


def _traced(logits: jax.Array, targets: jax.Array, axis: Axis, options: Options) -> tuple[Fixed, jax.Array, Arrays]:
    static = {name: option for name, option in options.by_name().items() if option is None or is_number(option)}
    arrays = {name: jnp.asarray(option) for name, option in options.by_name().items() if name not in static}
    fixed = Fixed(class_axes(logits, axis, xp=xp), tuple(static.items()))
    return fixed, logits, {"targets": targets, **arrays}


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _values(rule: Rule, fixed: Fixed, logits: jax.Array, arrays: Arrays) -> Values:
    return rule.values(fixed, _whole(fixed, _sums(fixed, logits, arrays)))


def _whole(fixed: Fixed, sums: Halves) -> Halves:
    """The sums of whole rows."""
    return sums if fixed.axis_name is None else over_devices(sums, fixed.axis_name)


def _jvp(rule: Rule, fixed: Fixed, primals: tuple[jax.Array, Arrays], tangents: tuple[Any, Arrays]) -> Any:
    (logits, arrays), (logits_dot, arrays_dot) = primals, tangents
    sums = _whole(fixed, _sums(fixed, logits, arrays))
    values = rule.values(fixed, sums)
    rest = {name: dot for name, dot in arrays_dot.items() if name != "threshold"}
    values_dot = _dot_of_arrays(rule, fixed, logits, arrays, rest)
    dots = (1, logits_dot), (-1, arrays_dot.get("threshold"))  # they are functions of logits - threshold
    moving = [(sign, dot) for sign, dot in dots if dot is not None and not isinstance(dot, SymbolicZero)]
    if moving:
        slopes = rule.slopes(fixed, logits, arrays, sums)
        for sign, dot in moving:
            each = tuple(sign * _sum(fixed, slope * dot.astype(slope.dtype)) for slope in slopes)
            values_dot = tuple(map(jnp.add, values_dot, each)) if values_dot else each
    return values, values_dot or tuple(map(jnp.zeros_like, values))


_values.defjvp(_jvp, symbolic_zeros=True)


def _sum(fixed: Fixed, cells: jax.Array) -> jax.Array:
    """Over the classes of all devices."""
    own = jnp.sum(cells, axis=fixed.axes)
    total: jax.Array = own if fixed.axis_name is None else psum(own, fixed.axis_name)
    return total


def _dot_of_arrays(rule: Rule, fixed: Fixed, logits: jax.Array, arrays: Arrays, arrays_dot: Arrays) -> Values:
    """The tangents of the values as far as they come from weights and floating targets; none if these do not move."""
    moving = {name: dot for name, dot in arrays_dot.items() if not isinstance(dot, SymbolicZero)}
    if not moving:
        return ()

    def values(moved: Arrays) -> Values:
        wholes = rule.values(fixed, _whole(fixed, _exact_sums(fixed, logits, {**arrays, **moved})))
        return tuple(spread_nan(whole, whole, xp=xp) for whole in wholes)

    dots: Values = jax.jvp(values, ({name: arrays[name] for name in moving},), (moving,))[1]
    return dots


def _losses(fixed: Fixed, sums: Halves) -> Values:
    positive, negative = _log_sums(fixed, sums)
    return (positive + negative,)


def _terms(fixed: Fixed, sums: Halves) -> Values:
    logs = _log_sums(fixed, sums)
    return tuple(spread_nan(log, logs[0] + logs[1], xp=xp) for log in logs)


def _log_sums(fixed: Fixed, sums: Halves) -> Values:
    return tuple(log_sum(half, axis=fixed.axes, xp=xp) for half in sums)


def _slopes_of_loss(fixed: Fixed, logits: jax.Array, arrays: Arrays, sums: Halves) -> Values:
    """The derivative in the logits, in the dtype that computes.

    Rounded to half precision here, before a loss scale multiplies it, it would lose its small entries.
    """
    if _is_unshifted(fixed, logits, arrays):
        return (gradient(logits, arrays["targets"], gradient_factors(sums, xp=xp), xp=xp),)
    positive, negative = _slopes_of_terms(fixed, logits, arrays, sums)
    return (positive + negative,)


def _slopes_of_terms(fixed: Fixed, logits: jax.Array, arrays: Arrays, sums: Halves) -> Values:
    """Those of the positive half are negative."""
    return slopes(_halves(fixed, logits, arrays), sums, is_movable(logits, arrays.get("where"), xp=xp), xp=xp)


LOSS = Rule(_losses, _slopes_of_loss)
TERMS = Rule(_terms, _slopes_of_terms)


def _is_unshifted(fixed: Fixed, logits: jax.Array, arrays: Arrays) -> bool:
    """True for the loss without options on the only device of the process."""
    plain = len(arrays) == 1 and Options(**dict(fixed.options)).are_default
    return plain and on_one_device(logits)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sums(fixed: Fixed, logits: jax.Array, arrays: Arrays) -> Halves:
    """The ShiftedSum of each half."""
    if _is_unshifted(fixed, logits, arrays):
        either: Halves = _unshifted_or_exact_sums(fixed, logits, arrays["targets"])
        return either
    return _exact_sums(fixed, logits, arrays)


@_sums.defjvp
def _sums_jvp(fixed: Fixed, primals: Any, tangents: Any) -> Any:
    """For second order, where the gradient is differentiated through the sums."""
    return jax.jvp(partial(_exact_sums, fixed), primals, tangents)


def _exact_sums(fixed: Fixed, logits: jax.Array, arrays: Arrays) -> Halves:
    halves = _halves(fixed, logits, arrays)
    return Halves(
        sum_exp(halves.positive, axis=fixed.axes, xp=xp),
        sum_exp(halves.negative, axis=fixed.axes, xp=xp),
    )


def _halves(fixed: Fixed, logits: jax.Array, arrays: Arrays) -> Halves:
    given = {**dict(fixed.options), **arrays}
    return halves_of(logits, given.pop("targets"), Options(**given), xp=xp)


@partial(jax.jit, static_argnums=0)  # else the condition would be compiled in every eager call
def _unshifted_or_exact_sums(fixed: Fixed, logits: jax.Array, targets: jax.Array) -> Halves:
    """Sums without a shift, and if these are not exact for every row, the exact ones instead."""

    def either(axes: tuple[int, ...], logits: jax.Array, targets: jax.Array) -> Halves:
        sums = partial(_either_sums, fixed._replace(axes=axes))
        if not (fixed.by_parts and is_on_cpu()):
            return sums(logits, targets)
        into = Halves(ShiftedSum(*[row_numbers(axes, logits)] * 2), ShiftedSum(*[row_numbers(axes, logits)] * 2))
        return by_parts(sums, into, (logits, targets), axes, parts_of(logits))

    return with_one_condition(either, fixed.axes, logits, targets)


def _either_sums(fixed: Fixed, logits: jax.Array, targets: jax.Array) -> Halves:
    terms = unshifted_terms(logits, targets, one_exponential=not is_on_cpu(), xp=xp)
    sums, exact = unshifted_sums(terms, axis=fixed.axes, xp=xp)
    if not jnp.isdtype(targets.dtype, "bool"):  # by the extremes, as a look at each target would cost an array
        exact = exact & (targets.min(fixed.axes, keepdims=True) >= 0) & (targets.max(fixed.axes, keepdims=True) <= 1)
    either: Halves = lax.cond(jnp.all(exact), lambda kept, *_: kept, partial(_replaced, fixed), sums, logits, targets)
    return either


def _replaced(fixed: Fixed, sums: Halves, logits: jax.Array, targets: jax.Array) -> Halves:
    """The exact sums in place of these."""

    def exact(logits: jax.Array, targets: jax.Array) -> Halves:
        return _exact_sums(fixed, logits, {"targets": targets})

    return by_parts(exact, sums, (logits, targets), fixed.axes, PARTS_ON_CPU if is_on_cpu() else PARTS_ELSEWHERE)
