"""The loss with its derivative in the logits told to JAX.

Left to itself, XLA keeps three arrays of the logits' size for a gradient, and takes four times as long as by the closed
form. Without weights, mask or threshold all the derivative needs is four numbers a row, and on a CPU their sums are
taken without a shift, which saves a pass. Every other derivative is JAX's own of the core's formula.
"""

from functools import partial
from math import prod
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from zlpr_core._quick import quick_slopes, quick_terms, quick_totals, scales_of

from zlpr_core._checks import class_axes
from zlpr_core._losses import moves, read_sides
from zlpr_core._reduce import Total, log_of, share_of, total_of
from zlpr_core._targets import compute_dtype

from ._namespace import xp

BLOCK = 2**14
"""Logits that are computed again at a time."""

Others = dict[str, Any]
"""Every array but the logits, by its name in the core."""

Totals: TypeAlias = tuple[Total, Total]
"""Of the positive half and of the negative."""


class Fixed(NamedTuple):
    """What JAX does not trace."""

    axis: tuple[int, ...]
    numbers: tuple[tuple[str, Any], ...]


def zlpr(scores: jax.Array, **arguments: Any) -> jax.Array:
    """``zlpr_core.zlpr``, with ``targets`` by name."""
    axes = class_axes(scores, arguments.pop("axis"), xp=xp)
    arrays = {name: value for name, value in arguments.items() if isinstance(value, jax.Array)}
    numbers = tuple((name, value) for name, value in arguments.items() if name not in arrays)
    losses: jax.Array = _zlpr(Fixed(axes, numbers), scores, arrays)
    return losses


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _zlpr(fixed: Fixed, scores: jax.Array, others: Others) -> jax.Array:
    return _losses(fixed, _totals(fixed, scores, others))


def _jvp(fixed: Fixed, primals: tuple[jax.Array, Others], tangents: tuple[Any, Others]) -> tuple[Any, Any]:
    (scores, others), (moved, others_moved) = primals, tangents
    totals = _totals(fixed, scores, others)
    losses = _losses(fixed, totals)
    change = _change(fixed, scores, others, others_moved)
    if not isinstance(moved, SymbolicZero):
        slope = _slope(fixed, scores, others, totals)
        change = change + jnp.sum(slope * moved.astype(slope.dtype), axis=fixed.axis)
    return losses, change


_zlpr.defjvp(_jvp, symbolic_zeros=True)


def _change(fixed: Fixed, scores: jax.Array, others: Others, moved: Others) -> jax.Array:
    """Of the losses, as weights, threshold or floating targets move."""
    moving = {name: tangent for name, tangent in moved.items() if not isinstance(tangent, SymbolicZero)}

    def of(some: Others) -> Any:
        return _losses(fixed, _exact_totals(fixed, scores, {**others, **some}))

    if not moving:
        return jnp.zeros((), compute_dtype(scores.dtype, xp=xp))
    change: jax.Array = jax.jvp(of, ({name: others[name] for name in moving},), (moving,))[1]
    return change


def _losses(fixed: Fixed, totals: Totals) -> jax.Array:
    positive, negative = (log_of(total, axis=fixed.axis, xp=xp) for total in totals)
    losses: jax.Array = positive + negative
    return losses


def _slope(fixed: Fixed, scores: jax.Array, others: Others, totals: Totals) -> jax.Array:
    """Of the losses in the logits, not yet rounded to half precision: a loss scale comes before."""
    if _is_quick(fixed, scores, others):
        # apart, else XLA keeps every exponential for this
        scores, targets, totals = _apart(scores, others["targets"], totals)
        slope: jax.Array = quick_slopes(scores, targets, scales_of(totals, xp=xp), xp=xp)
        return slope
    sides = _sides(fixed, scores, others)
    pull, push = (share_of(side, total, xp=xp) for side, total in zip(sides, totals, strict=True))
    return jnp.where(moves(scores, others.get("where")), push - pull, 0.0)


def _is_quick(fixed: Fixed, scores: jax.Array, others: Others) -> bool:
    """For the loss without options on one CPU: elsewhere a loop has devices wait for each other, or for the host."""
    described = jax.typeof(scores) if hasattr(jax, "typeof") else None
    in_no_mesh = described is None or described.sharding.mesh.empty
    alone = jax.default_backend() == "cpu" and jax.device_count() == 1 and in_no_mesh
    simple = len(others) == 1 and not any(value for _, value in fixed.numbers)
    return alone and simple and bool(scores.size)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _totals(fixed: Fixed, scores: jax.Array, others: Others) -> Totals:
    if _is_quick(fixed, scores, others):
        return _quick_totals(fixed, scores, others)
    return _exact_totals(fixed, scores, others)


@_totals.defjvp
def _totals_jvp(fixed: Fixed, primals: Any, tangents: Any) -> Any:
    return jax.jvp(partial(_exact_totals, fixed), primals, tangents)


@jax.custom_jvp
def _apart(*arrays: Any) -> Any:
    """The same, of which XLA does not know that it has seen them before."""
    return jax.lax.optimization_barrier(arrays)  # type: ignore[no-untyped-call]


@_apart.defjvp
def _apart_jvp(primals: Any, tangents: Any) -> Any:
    return _apart(*primals), tangents  # JAX 0.4 has no derivative of a barrier


def _exact_totals(fixed: Fixed, scores: jax.Array, others: Others) -> Totals:
    positive, negative = (total_of(side, axis=fixed.axis, xp=xp) for side in _sides(fixed, scores, others))
    return positive, negative


def _quick_totals(fixed: Fixed, scores: jax.Array, others: Others) -> Totals:
    """Exact as well: what does not fit is computed again, by a loop that runs once or never, under ``vmap`` too."""
    targets = others["targets"]
    quick, fits = quick_totals(quick_terms(scores, targets, xp=xp), axis=fixed.axis, xp=xp)
    if not jnp.isdtype(targets.dtype, "bool"):  # by the ends, as a look at each would cost a copy of all
        least, most = (of(targets, axis=fixed.axis, keepdims=True) for of in (jnp.min, jnp.max))
        fits = fits & (least >= 0) & (most <= 1)

    def again(state: Any) -> Any:
        inputs = _apart(scores, targets, state)[:2]  # else XLA computes ahead of the loop
        return jnp.bool_(True), _by_blocks(fixed, *inputs)

    totals: Totals = jax.lax.while_loop(lambda state: ~state[0], again, (jnp.all(fits), quick))[1]
    return totals


def _by_blocks(fixed: Fixed, scores: jax.Array, targets: jax.Array) -> Totals:
    """The exact totals, some rows at a time to need little memory."""
    batch = [axis for axis in range(scores.ndim) if axis not in fixed.axis]
    lengths = [scores.shape[axis] for axis in batch]
    rows = [jnp.transpose(x, (*batch, *fixed.axis)).reshape(prod(lengths), -1) for x in (scores, targets)]

    def of_row(row: Any) -> Totals:
        return _exact_totals(Fixed((0,), fixed.numbers), row[0], {"targets": row[1]})

    count, classes = rows[0].shape
    fit = max(1, BLOCK // classes)
    step = next((n for n in range(fit, fit // 8, -1) if count % n == 0), fit)  # a rest would cost a copy of everything
    totals = jax.lax.map(of_row, rows, batch_size=None if step == 1 else step)
    positive, negative = jax.tree.map(lambda x: jnp.expand_dims(x.reshape(lengths), sorted(fixed.axis)), totals)
    return positive, negative


def _sides(fixed: Fixed, scores: jax.Array, others: Others) -> Any:
    options = {**dict(fixed.numbers), **others}
    return read_sides(scores, options.pop("targets"), **options, xp=xp)
