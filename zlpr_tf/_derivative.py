"""The loss and its two halves in a graph of TensorFlow, with their derivatives in logits and threshold in closed form.

Left to itself, TensorFlow keeps a dozen arrays of the logits' size for the gradient. The closed form needs two sums a
row, or without XLA two arrays. The sums are taken without a shift, in one pass over the logits, and anew by the exact
way if that did not do for every row. Every other derivative is TensorFlow's own of the core's formula.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import log, nan, prod
from typing import Any, NamedTuple

from keras import backend, ops

import zlpr_core
from zlpr_core._checks import class_axes
from zlpr_core._losses import slopes
from zlpr_core._namespace import compute_dtype, largest
from zlpr_core._options import Options, is_number, is_zero
from zlpr_core._reduce import ShiftedSum, log_sum, spread_nan, sum_exp
from zlpr_core._targets import read_targets
from zlpr_core._terms import Halves, halves_of, subtract
from zlpr_core._typing import Axis
from zlpr_core._unshifted import limit, row_factors, unshifted_sums, unshifted_terms

from ._namespace import is_in_graph, xp, xp_in_loop, xp_in_short_loop

if backend.backend() == "tensorflow":
    import tensorflow as tf

    from ._tensorflow_internals import is_compiled_by_xla

AXES = (1,)
BLOCK = 2**14
"""Logits of which exact sums are taken at a time."""


def loss(logits: Any, targets: Any, axis: Axis, options: Options) -> Any:
    """``zlpr_core.zlpr``, by the rule where there is one. Eagerly, that would always derive in targets."""
    if _has_rule(logits, axis, options):
        return sum(_by_rule(logits, targets, axis, options.threshold))
    return zlpr_core.zlpr(logits, targets, axis=axis, **options.by_name(), xp=xp)


def terms(logits: Any, targets: Any, axis: Axis, options: Options) -> tuple[Any, Any]:
    """``zlpr_core.zlpr_terms`` in the same way."""
    if _has_rule(logits, axis, options):
        positive, negative = _by_rule(logits, targets, axis, options.threshold)
        whole = positive + negative
        return spread_nan(positive, whole, xp=xp), spread_nan(negative, whole, xp=xp)
    return zlpr_core.zlpr_terms(logits, targets, axis=axis, **options.by_name(), xp=xp)


def _has_rule(logits: Any, axis: Axis, options: Options) -> bool:
    """Without a mask and weights, in a graph; a threshold is a number, or one a class of the last axis of two."""
    plain = options._replace(threshold=0.0).are_default and is_in_graph()
    if not plain or is_number(options.threshold):
        return plain
    shape = options.threshold.shape
    flat = class_axes(logits, axis, xp=xp) == AXES and len(logits.shape) == 2
    return flat and None not in shape and (len(shape) < 2 or shape[0] == 1)


def _by_rule(logits: Any, targets: Any, axis: Axis, threshold: Any) -> list[Any]:
    (s, t), batch = in_rows(class_axes(logits, axis, xp=xp), logits, targets)
    return [ops.reshape(half, batch) for half in _halves(s, t, threshold)]


def in_rows(axes: tuple[int, ...], *arrays: Any) -> tuple[list[Any], list[Any]]:
    """``arrays`` as [rows, classes], and the shape of the batch."""
    shape = ops.shape(arrays[0])
    batch = [a for a in range(len(shape)) if a not in axes]
    if axes != AXES or len(shape) != 2:
        rows = (-1, prod(shape[a] for a in axes))
        arrays = tuple(ops.reshape(ops.transpose(x, (*batch, *axes)), rows) for x in arrays)
    return list(arrays), [shape[a] for a in batch]


def _halves(logits: Any, targets: Any, threshold: Any) -> list[Any]:
    """Of [rows, classes]. ``tf.vectorized_map`` ignores the rule and differentiates the sums, which is right too."""
    learned = [] if is_number(threshold) else [ops.convert_to_tensor(threshold)]

    @tf.custom_gradient
    def halves(s: Any, t: Any, *learned: Any) -> Any:
        theta = learned[0] if learned else threshold
        forward = _forward(s, t, theta)

        def backward(*upstreams: Any) -> list[Any]:
            slope = _twice_differentiable(s, t, theta, upstreams, forward)
            in_targets = None
            if xp.isdtype(t.dtype, "real floating"):
                (in_targets,) = _plain_gradients([s, t, theta], upstreams, [t])
            in_threshold = [ops.cast(-_sum_to(slope, x), x.dtype) for x in learned]
            return [ops.cast(slope, s.dtype), in_targets, *in_threshold]

        return [log_sum(half, axis=AXES, xp=xp) for half in forward.sums], backward

    found: list[Any] = halves(logits, targets, *learned)
    return found


def _sum_to(cells: Any, like: Any) -> Any:
    """Over the axes along which ``like`` is the same."""
    if len(like.shape) == 0 or (like.shape[-1] == 1 and cells.shape[-1] != 1):
        return ops.reshape(ops.sum(cells), ops.shape(like))
    return ops.reshape(ops.sum(cells, axis=0), ops.shape(like))


class _Forward(NamedTuple):
    """The residuals: what a forward pass leaves for the backward pass."""

    exact: Any  # True if the sums without a shift are exact
    sums: Halves
    terms: Halves | None


def _forward(s: Any, t: Any, theta: Any) -> _Forward:
    terms = _guarded_terms(s, t, theta)
    in_loop = xp_in_loop if is_zero(theta) else xp_in_short_loop
    unshifted, exact = unshifted_sums(terms, axis=AXES, xp=in_loop)
    exact, room = tf.reduce_all(exact), ops.zeros((ops.shape(s)[0], 4), unshifted.positive.rest.dtype)
    sums = tf.cond(exact, lambda: unshifted, lambda: _unpacked(by_blocks(partial(_exact_sums, theta), [s, t], room)))
    # XLA computes an exponential in less time than it reads one; op by op that is a pass for each operation.
    return _Forward(exact, sums, None if is_compiled_by_xla() else terms)


def _guarded_terms(s: Any, t: Any, theta: Any) -> Halves:
    """Too large a term where it is not exact: put in beforehand, so that TensorFlow's own derivative is 0 there."""
    falling, rising = _differences(s, theta)
    most = limit(rising.z.dtype, xp=xp)
    if xp.isdtype(t.dtype, "real floating"):  # within [0, 1] exactly: what slack forgives may be too much beside e^z
        is_usable = (t >= 0) & (t <= 1) & (ops.abs(rising.z) <= log(most))
        t, stand_in = xp.where(is_usable, ops.cast(t, rising.z.dtype), 2 * most), 0.0
    else:
        _, is_usable = read_targets(t, rising.z.dtype, xp=xp)
        stand_in = nan
    if is_usable is None:
        return _terms(Halves(falling, rising), t)
    kept = (half._replace(z=xp.where(is_usable, half.z, stand_in)) for half in (falling, rising))
    return _terms(Halves(*kept), t)


class _Difference(NamedTuple):
    """``s - theta`` and its rounding error, None without a threshold."""

    z: Any
    lost: Any


def _differences(s: Any, theta: Any) -> Halves:
    """One for each half, of other operations: one that both sums use, XLA would store."""
    s = ops.cast(s, compute_dtype(s.dtype, xp=xp))
    rising = _Difference(*subtract(s, theta, xp=xp))
    if rising.lost is None:
        return Halves(rising, rising)
    z, lost = subtract(-s, -theta, xp=xp)
    return Halves(_Difference(-z, -lost), rising)


def _terms(differences: Halves, t: Any) -> Halves:
    falling, rising = differences
    if rising.lost is None:
        return unshifted_terms(rising.z, t, xp=xp)
    positive, negative = unshifted_terms(falling.z, t, xp=xp).positive, unshifted_terms(rising.z, t, xp=xp).negative
    return Halves(positive * (1 - falling.lost), negative * (1 + rising.lost))


def _exact_sums(theta: Any, s: Any, t: Any) -> Any:
    halves = halves_of(s, t, Options(threshold=theta), xp=xp)
    return _packed(Halves(*(sum_exp(half, axis=AXES, xp=xp) for half in halves)))


def _packed(sums: Halves) -> Any:
    return ops.concatenate([*sums.positive, *sums.negative], axis=1)


def _unpacked(columns: Any) -> Halves:
    positive, negative = ops.split(columns, 2, axis=1)
    return Halves(ShiftedSum(*ops.split(positive, 2, axis=1)), ShiftedSum(*ops.split(negative, 2, axis=1)))


def by_blocks(function: Callable[..., Any], arrays: list[Any], into: Any, size: int = BLOCK) -> Any:
    """``function`` of the rows of ``arrays``, some at a time to need little memory. ``into`` has the result's shape.

    ``size`` is that of a block in logits.
    """
    count, classes = ops.shape(arrays[0])
    step = size // classes + 1
    if isinstance(count, int) and isinstance(step, int) and count <= step:
        return function(*arrays)
    step = tf.minimum(step, count)

    def block(first: Any, done: Any) -> tuple[Any, Any]:
        first = tf.minimum(first, count - step)  # the last block overlaps the one before
        rows = (tf.slice(x, (first, 0), (step, ops.shape(x)[1])) for x in arrays)
        return first + step, tf.tensor_scatter_nd_update(done, (first + tf.range(step))[:, None], function(*rows))

    return tf.while_loop(lambda first, _: first < count, block, (0, into), maximum_iterations=count)[1]


def _gradient(s: Any, t: Any, theta: Any, upstreams: Sequence[Any], forward: _Forward) -> Any:
    """In the logits, in the dtype that computes."""
    each = Halves(*(ops.expand_dims(upstream, AXES) for upstream in upstreams))
    dtype = compute_dtype(s.dtype, xp=xp)

    def from_terms() -> Any:
        terms, factors = forward.terms or _terms(_differences(s, theta), t), row_factors(forward.sums)
        return terms.positive * (factors.positive * each.positive) + terms.negative * (factors.negative * each.negative)

    def exactly(s: Any, t: Any, each: Any, columns: Any) -> Any:
        halves = halves_of(s, t, Options(threshold=theta), xp=xp)
        positive, negative = slopes(halves, _unpacked(columns), True, xp=xp)
        # The core's `~(abs(s) > most)` becomes `abs(s) <= most` in TensorFlow's own optimiser (2.21), False for a NaN.
        is_fixed = ops.abs(s) > largest(s.dtype, xp=xp)
        return xp.where(is_fixed, 0.0, positive * each[:, :1] + negative * each[:, 1:])

    arrays = [s, t, ops.concatenate(list(each), axis=1), _packed(forward.sums)]
    return tf.cond(forward.exact, from_terms, lambda: by_blocks(exactly, arrays, ops.zeros_like(s, dtype)))


def _twice_differentiable(s: Any, t: Any, theta: Any, upstreams: Sequence[Any], forward: _Forward) -> Any:
    """The gradient in the logits, whose own derivatives come from the core's formula."""
    learned = [] if is_number(theta) else [theta]

    @tf.custom_gradient
    def first_order(s: Any, t: Any, positive: Any, negative: Any, *learned: Any) -> Any:
        def backward(upstream_of_gradient: Any) -> list[Any]:
            # Copies, as the two upstream gradients may be one tensor, whose derivative each would get as a whole.
            given = [tf.identity(x) for x in (s, t, positive, negative, *learned)]
            s_copy, t_copy, *upstreams = given[:4]
            (plain,) = _plain_gradients([s_copy, t_copy, *(given[4:] or [theta])], upstreams, [s_copy])
            plain = ops.cast(plain, upstream_of_gradient.dtype)
            found: list[Any] = tf.gradients(plain, given, upstream_of_gradient, stop_gradients=given)
            return found

        return _gradient(s, t, learned[0] if learned else theta, (positive, negative), forward), backward

    return first_order(s, t, *upstreams, *learned)


def _plain_gradients(inputs: Sequence[Any], upstreams: Sequence[Any], wrt: Sequence[Any]) -> list[Any]:
    """By ``tf.gradients``, which needs no tape: in forward mode none is running.

    Partial derivatives: else it would follow the graph to what one argument was computed of, if that is another one.
    """
    s, t, theta = inputs
    halves = zlpr_core.zlpr_terms(s, t, axis=AXES, threshold=theta, xp=xp)
    fixed = [x for x in inputs if not is_number(x)]
    found: list[Any] = tf.gradients(list(halves), list(wrt), list(upstreams), stop_gradients=fixed)
    return found
