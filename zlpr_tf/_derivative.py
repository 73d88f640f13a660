"""The loss in a graph of TensorFlow, with its derivative in the logits in closed form.

Left to itself, TensorFlow keeps a dozen arrays of the logits' size for the gradient. The closed form needs two sums a
row, or without XLA two arrays. The sums are taken without a shift, in one pass over the logits, and anew by the exact
way if that did not do for every row. Every other derivative is TensorFlow's own of the core's formula.
"""

from collections.abc import Callable
from math import log, nan, prod
from typing import Any, NamedTuple

from keras import backend, ops

import zlpr_core
from zlpr_core._checks import class_axes
from zlpr_core._namespace import compute_dtype
from zlpr_core._options import Options
from zlpr_core._reduce import ShiftedSum, log_sum, sum_exp
from zlpr_core._targets import read_targets
from zlpr_core._terms import Halves, halves_of
from zlpr_core._typing import Axis
from zlpr_core._unshifted import gradient, gradient_factors, limit, row_factors, unshifted_sums, unshifted_terms

from ._namespace import is_in_graph, xp, xp_in_loop

if backend.backend() == "tensorflow":
    import tensorflow as tf

    from ._tensorflow_internals import is_compiled_by_xla

AXES = (1,)
BLOCK = 2**14
"""Logits of which exact sums are taken at a time."""


def loss(logits: Any, targets: Any, axis: Axis, options: Options) -> Any:
    """``zlpr_core.zlpr``, without options in a graph by the rule. Eagerly, that would always derive in targets."""
    if options.are_default and is_in_graph():
        return _by_rule(logits, targets, axis)
    return zlpr_core.zlpr(logits, targets, axis=axis, **options.by_name(), xp=xp)


def _by_rule(logits: Any, targets: Any, axis: Axis) -> Any:
    axes, shape = class_axes(logits, axis, xp=xp), ops.shape(logits)
    if axes == AXES and len(shape) == 2:
        return _losses(logits, targets)
    batch = [a for a in range(len(shape)) if a not in axes]
    rows = (-1, prod(shape[a] for a in axes))
    flat = (ops.reshape(ops.transpose(x, (*batch, *axes)), rows) for x in (logits, targets))
    return ops.reshape(_losses(*flat), [shape[a] for a in batch])


def _losses(logits: Any, targets: Any) -> Any:
    """Of [rows, classes]. ``tf.vectorized_map`` ignores the rule and differentiates the sums, which is right too."""

    @tf.custom_gradient
    def losses(s: Any, t: Any) -> Any:
        forward = _forward(s, t)

        def backward(upstream: Any) -> tuple[Any, Any]:
            in_targets = _plain_gradient(s, t, upstream, t) if xp.isdtype(t.dtype, "real floating") else None
            return _twice_differentiable(s, t, upstream, forward), in_targets

        return sum(log_sum(half, axis=AXES, xp=xp) for half in forward.sums), backward

    return losses(logits, targets)


class _Forward(NamedTuple):
    """The residuals: what a forward pass leaves for the backward pass."""

    exact: Any  # True if the sums without a shift are exact
    sums: Halves
    terms: Halves | None


def _forward(s: Any, t: Any) -> _Forward:
    terms = _guarded_terms(s, t)
    unshifted, exact = unshifted_sums(terms, axis=AXES, xp=xp_in_loop)
    exact, room = tf.reduce_all(exact), ops.zeros((ops.shape(s)[0], 4), unshifted.positive.rest.dtype)
    sums = tf.cond(exact, lambda: unshifted, lambda: _unpacked(_by_blocks(_exact_sums, [s, t], room)))
    # XLA computes an exponential in less time than it reads one; op by op that is a pass for each operation.
    return _Forward(exact, sums, None if is_compiled_by_xla() else terms)


def _guarded_terms(s: Any, t: Any) -> Halves:
    """Too large a term where it is not exact: put in beforehand, so that TensorFlow's own derivative is 0 there."""
    dtype = compute_dtype(s.dtype, xp=xp)
    most = limit(dtype, xp=xp)
    if xp.isdtype(t.dtype, "real floating"):  # within [0, 1] exactly: what slack forgives may be too much beside e^far
        near = (t >= 0) & (t <= 1) & (ops.abs(s) <= log(most))
        return unshifted_terms(xp.where(near, s, 0.0), xp.where(near, ops.cast(t, dtype), 2 * most), xp=xp)
    _, legal = read_targets(t, s.dtype, xp=xp)
    return unshifted_terms(s if legal is None else xp.where(legal, s, nan), t, xp=xp)


def _exact_sums(s: Any, t: Any) -> Any:
    halves = halves_of(s, t, Options(), xp=xp)
    return _packed(Halves(*(sum_exp(half, axis=AXES, xp=xp) for half in halves)))


def _packed(sums: Halves) -> Any:
    return ops.concatenate([*sums.positive, *sums.negative], axis=1)


def _unpacked(columns: Any) -> Halves:
    positive, negative = ops.split(columns, 2, axis=1)
    return Halves(ShiftedSum(*ops.split(positive, 2, axis=1)), ShiftedSum(*ops.split(negative, 2, axis=1)))


def _by_blocks(function: Callable[..., Any], arrays: list[Any], into: Any) -> Any:
    """``function`` of the rows of ``arrays``, some at a time to need little memory. ``into`` has the result's shape."""
    count, classes = ops.shape(arrays[0])
    step = BLOCK // classes + 1
    if isinstance(count, int) and isinstance(step, int) and count <= step:
        return function(*arrays)
    step = tf.minimum(step, count)

    def block(first: Any, done: Any) -> tuple[Any, Any]:
        first = tf.minimum(first, count - step)  # the last block overlaps the one before
        rows = (tf.slice(x, (first, 0), (step, ops.shape(x)[1])) for x in arrays)
        return first + step, tf.tensor_scatter_nd_update(done, (first + tf.range(step))[:, None], function(*rows))

    return tf.while_loop(lambda first, _: first < count, block, (0, into), maximum_iterations=count)[1]


def _gradient(s: Any, t: Any, upstream: Any, forward: _Forward) -> Any:
    """In the logits."""
    sums, each = forward.sums, ops.expand_dims(upstream, AXES)

    def from_terms() -> Any:
        terms, factors = forward.terms or unshifted_terms(s, t, xp=xp), row_factors(sums)
        slopes = terms.positive * (factors.positive * each) + terms.negative * (factors.negative * each)
        return ops.cast(slopes, s.dtype)

    def exactly(s: Any, t: Any, each: Any, columns: Any) -> Any:
        return ops.cast(gradient(s, t, gradient_factors(_unpacked(columns), xp=xp), xp=xp) * each, s.dtype)

    arrays = [s, t, each, _packed(sums)]
    return tf.cond(forward.exact, from_terms, lambda: _by_blocks(exactly, arrays, ops.zeros_like(s)))


def _twice_differentiable(s: Any, t: Any, upstream: Any, forward: _Forward) -> Any:
    """The gradient in the logits, whose own derivatives come from the core's formula."""

    @tf.custom_gradient
    def first_order(s: Any, t: Any, upstream: Any) -> Any:
        def backward(upstream_of_gradient: Any) -> list[Any]:
            plain = _plain_gradient(s, t, upstream, s)
            given = [s, t, upstream]
            slopes: list[Any] = tf.gradients(plain, given, upstream_of_gradient, stop_gradients=given)
            return slopes

        return _gradient(s, t, upstream, forward), backward

    return first_order(s, t, upstream)


def _plain_gradient(s: Any, t: Any, upstream: Any, wrt: Any) -> Any:
    """By ``tf.gradients``, which needs no tape: in forward mode none is running.

    Partial derivatives: else it would follow the graph to what one argument was computed of, if that is another one.
    """
    return tf.gradients(zlpr_core.zlpr(s, t, axis=AXES, xp=xp), wrt, upstream, stop_gradients=[s, t])[0]
