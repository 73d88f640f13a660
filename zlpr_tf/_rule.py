"""The loss in a graph of TensorFlow, with its derivative in the logits told to it.

Left to itself it keeps a dozen arrays of the logits' size for a gradient. The closed form keeps four numbers a row, or
without XLA two arrays, and the sums are taken without a shift at first, which saves a pass. Derivatives of other
arguments, and of higher order, are TensorFlow's own of the core's formula.
"""

from collections.abc import Callable, Iterable
from math import log, nan, prod
from typing import Any, NamedTuple

from keras import backend, ops
from zlpr_core._quick import Halves, limit, quick_slopes, quick_terms, quick_totals, scales_of, shares_of

import zlpr_core
from zlpr_core._checks import class_axes
from zlpr_core._losses import read_sides
from zlpr_core._reduce import Total, log_of, total_of
from zlpr_core._targets import compute_dtype, read_targets

from ._namespace import xp

if backend.backend() == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

AXIS = (1,)
BLOCK = 2**14
"""Logits that are computed again at a time."""


def in_graph() -> bool:
    """Whether this is a graph of TensorFlow; eagerly the derivative in floating targets would always be computed."""
    return backend.backend() == "tensorflow" and not tf.executing_eagerly()


def zlpr(scores: Any, targets: Any, axis: Any) -> Any:
    """``zlpr_core.zlpr`` without options."""
    axes = class_axes(scores, axis, xp=xp)
    shape = ops.shape(scores)
    batch = [i for i in range(len(shape)) if i not in axes]

    def rows(cells: Any) -> Any:
        return ops.reshape(ops.transpose(cells, (*batch, *axes)), (-1, prod(shape[i] for i in axes)))

    losses = _losses(scores, targets) if axes == AXIS and len(shape) == 2 else _losses(rows(scores), rows(targets))
    return ops.reshape(losses, [shape[i] for i in batch])


def _losses(scores: Any, targets: Any) -> Any:
    """Of [rows, classes]. Where the derivative is not heard (by ``tf.vectorized_map``), the sums' own is right too."""

    @tf.custom_gradient
    def losses(s: Any, t: Any) -> Any:
        found = _find(s, t)

        def pull(upstream: Any) -> tuple[Any, Any]:
            in_targets = _plain_pull(s, t, upstream, t) if xp.isdtype(t.dtype, "real floating") else None
            return _pull(s, t, upstream, found), in_targets

        return sum(log_of(total, axis=AXIS, xp=xp) for total in found.totals), pull

    return losses(scores, targets)


class _Found(NamedTuple):
    """What a forward pass leaves behind."""

    quick: Any  # whether the totals are those without a shift
    totals: Halves
    terms: Halves | None


def _find(s: Any, t: Any) -> _Found:
    terms = _guarded_terms(s, t)
    totals, fits = quick_totals(terms, axis=AXIS, xp=xp)
    quick, room = tf.reduce_all(fits), ops.zeros((ops.shape(s)[0], 4), totals[0].rest.dtype)
    exact = tf.cond(quick, lambda: totals, lambda: _unpacked(_by_blocks(_exact, [s, t], room)))
    return _Found(quick, exact, None if _by_xla() else terms)


def _by_xla() -> bool:
    """XLA computes an exponential again in less time than it keeps one; op by op that is a pass for each operation."""
    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def _guarded_terms(s: Any, t: Any) -> Halves:
    """NaN where the terms will not do; made so beforehand, for which TensorFlow's own derivative is 0 and not NaN."""
    far = log(limit(compute_dtype(s.dtype, xp=xp), xp=xp))
    if xp.isdtype(t.dtype, "real floating"):  # to the bit: a forgiven target may be too much beside e^far
        near = (t >= 0) & (t <= 1) & (ops.abs(s) <= far)
        return quick_terms(xp.where(near, s, 0.0), xp.where(near, t, nan), xp=xp)
    _, legal = read_targets(t, s.dtype, xp=xp)
    return quick_terms(s if legal is None else xp.where(legal, s, nan), t, xp=xp)


def _exact(s: Any, t: Any) -> Any:
    return _packed(total_of(side, axis=AXIS, xp=xp) for side in read_sides(s, t, xp=xp))


def _packed(totals: Iterable[Total]) -> Any:
    return ops.concatenate([column for total in totals for column in total], axis=1)


def _unpacked(columns: Any) -> Halves:
    positive, negative = ops.split(columns, 2, axis=1)
    return Total(*ops.split(positive, 2, axis=1)), Total(*ops.split(negative, 2, axis=1))


def _slopes(s: Any, t: Any, upstream: Any, found: _Found) -> Any:
    """The gradient in the logits."""
    totals, each = found.totals, ops.expand_dims(upstream, AXIS)

    def again() -> Any:
        terms = zip(found.terms or quick_terms(s, t, xp=xp), shares_of(totals), strict=True)
        return ops.cast(sum(half * (share * each) for half, share in terms), s.dtype)

    def exact(s: Any, t: Any, each: Any, columns: Any) -> Any:
        return ops.cast(quick_slopes(s, t, scales_of(_unpacked(columns), xp=xp), xp=xp) * each, s.dtype)

    arrays = [s, t, each, _packed(totals)]
    return tf.cond(found.quick, again, lambda: _by_blocks(exact, arrays, ops.zeros_like(s)))


def _by_blocks(function: Callable[..., Any], arrays: list[Any], into: Any) -> Any:
    """``function`` of the rows of all arrays, some at a time to need little memory; ``into`` has room for it."""
    count, classes = ops.shape(arrays[0])
    step = BLOCK // classes + 1
    if isinstance(count, int) and isinstance(step, int) and count <= step:
        return function(*arrays)
    step = tf.minimum(step, count)

    def block(first: Any, done: Any) -> tuple[Any, Any]:
        first = tf.minimum(first, count - step)  # the last one overlaps the one before
        rows = (tf.slice(x, (first, 0), (step, ops.shape(x)[1])) for x in arrays)
        return first + step, tf.tensor_scatter_nd_update(done, (first + tf.range(step))[:, None], function(*rows))

    return tf.while_loop(lambda first, _: first < count, block, (0, into), maximum_iterations=count)[1]


def _pull(s: Any, t: Any, upstream: Any, found: _Found) -> Any:
    """The gradient in the logits, whose own derivatives come from the core's formula."""

    @tf.custom_gradient
    def pulled(s: Any, t: Any, upstream: Any) -> Any:
        def pull(again: Any) -> list[Any]:
            slopes: list[Any] = tf.gradients(_plain_pull(s, t, upstream, s), [s, t, upstream], again)
            return slopes

        return _slopes(s, t, upstream, found), pull

    return pulled(s, t, upstream)


def _plain_pull(s: Any, t: Any, upstream: Any, wrt: Any) -> Any:
    """By ``tf.gradients``, which needs no tape: in forward mode none is running."""
    return tf.gradients(zlpr_core.zlpr(s, t, axis=AXIS, xp=xp), wrt, upstream)[0]
