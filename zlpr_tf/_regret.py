"""The regret in a graph that XLA compiles: values by blocks of rows, both gradients from a few sums a row.

Of the whole batch at once XLA would set aside ten arrays of the logits' size, which takes longer than the arithmetic.
Every derivative beyond the gradients is TensorFlow's own of the core's formula.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
from keras import ops

from zlpr_core._pairs import Pair
from zlpr_core._reduce import ShiftedSum
from zlpr_core._regret import RegretSums, regret_gradients, regret_sums
from zlpr_core._unshifted_regret import unshifted_regret_gradients, unshifted_regret_sums

from ._derivative import AXES, by_blocks
from ._namespace import xp, xp_in_short_loop

BLOCK = 2**18
"""Logits of a block. The arrays of a larger one leave the cache, and of smaller ones the start takes longest."""
COLUMNS = 6
"""What is kept of a row: the value, and five numbers of its sums."""

Read = Callable[[Any, Any], Pair]
"""What makes a Pair of two blocks of logits."""


def regret(p: Any, q: Any, read: Read) -> Any:
    """One value a row of [rows, classes]."""

    @tf.custom_gradient
    def values(s: Any, u: Any) -> Any:
        forward = _forward(read, s, u)

        def backward(upstream: Any) -> tuple[Any, Any]:
            in_p, in_q = _twice_differentiable(read, s, u, upstream, forward)
            return ops.cast(in_p, s.dtype), ops.cast(in_q, u.dtype)

        return forward.columns[:, 0], backward

    return values(p, q)


class _Forward(NamedTuple):
    """The residuals."""

    exact: Any  # True if the sums without a shift are exact
    columns: Any


def _forward(read: Read, s: Any, u: Any) -> _Forward:
    def quickly(s: Any, u: Any) -> Any:
        sums, exact = unshifted_regret_sums(read(s, u), xp=xp_in_short_loop)
        return ops.concatenate([_packed(sums), ops.cast(exact, sums.value.dtype)], axis=1)

    def exactly(s: Any, u: Any) -> Any:
        return _packed(regret_sums(read(s, u), xp=xp))

    room = ops.zeros((ops.shape(s)[0], COLUMNS + 1), read(s, u).gap.dtype)
    columns = by_blocks(quickly, [s, u], room, BLOCK)
    exact = tf.reduce_all(columns[:, COLUMNS] > 0)
    quick = columns[:, :COLUMNS]
    return _Forward(exact, tf.cond(exact, lambda: quick, lambda: by_blocks(exactly, [s, u], room[:, :COLUMNS])))


def _packed(sums: RegretSums) -> Any:
    value, positive, negative, total = sums
    return ops.concatenate([value, *positive, *negative, total], axis=1)


def _unpacked(columns: Any) -> RegretSums:
    value, *positive, negative_shift, negative_rest, total = ops.split(columns, COLUMNS, axis=1)
    return RegretSums(value, ShiftedSum(*positive), ShiftedSum(negative_shift, negative_rest), total)


def _gradients(read: Read, s: Any, u: Any, upstream: Any, forward: _Forward) -> tuple[Any, Any]:
    each = ops.expand_dims(upstream, AXES)

    def quickly() -> tuple[Any, Any]:
        in_p, in_q = unshifted_regret_gradients(read(s, u), _unpacked(forward.columns), xp=xp)
        return in_p * each, in_q * each

    def of_block(s: Any, u: Any, each: Any, columns: Any) -> Any:
        sums = _unpacked(columns)
        in_p, in_q = regret_gradients(read(s, u), sums.value, sums, xp=xp)
        return ops.concatenate([in_p * each, in_q * each], axis=1)

    def exactly() -> tuple[Any, Any]:
        room = ops.zeros((ops.shape(s)[0], 2 * ops.shape(s)[1]), each.dtype)
        both = by_blocks(of_block, [s, u, each, forward.columns], room)
        return tuple(ops.split(both, 2, axis=1))

    found: tuple[Any, Any] = tf.cond(forward.exact, quickly, exactly)
    return found


def _twice_differentiable(read: Read, s: Any, u: Any, upstream: Any, forward: _Forward) -> Any:
    @tf.custom_gradient
    def first_order(s: Any, u: Any, upstream: Any) -> Any:
        def backward(*upstreams: Any) -> list[Any]:
            given = [tf.identity(x) for x in (s, u, upstream)]
            pair, each = read(*given[:2]), ops.expand_dims(given[2], AXES)
            plain = regret_gradients(pair, regret_sums(pair, xp=xp).value, xp=xp)
            found: list[Any] = tf.gradients([x * each for x in plain], given, list(upstreams), stop_gradients=given)
            return found

        return _gradients(read, s, u, upstream, forward), backward

    return first_order(s, u, upstream)
