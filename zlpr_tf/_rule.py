"""The loss in a graph of TensorFlow, with its derivative in the logits told to it.

Left to itself it keeps a dozen arrays of the logits' size for a gradient. The closed form keeps four numbers a row; and
the sums are taken without a shift at first, which saves a pass. Derivatives of other arguments, and of higher order, are
TensorFlow's own of the core's formula.
"""

from typing import Any

from keras import backend, ops

import zlpr_core
from zlpr_core._checks import class_axes
from zlpr_core._losses import read_sides
from zlpr_core._quick import quick_slopes, quick_totals
from zlpr_core._reduce import Total, log_of, total_of

from ._namespace import xp

if backend.backend() == "tensorflow":
    import tensorflow as tf


def holds() -> bool:
    """Whether this is a graph of TensorFlow; eagerly the derivative in floating targets would always be computed."""
    return backend.backend() == "tensorflow" and not tf.executing_eagerly()


def zlpr(scores: Any, targets: Any, axis: Any) -> Any:
    """``zlpr_core.zlpr`` without options."""
    axes = class_axes(scores, axis, xp=xp)

    @tf.custom_gradient
    def losses(s: Any, t: Any) -> Any:
        totals = _totals(s, t, axes)

        def pull(upstream: Any) -> tuple[Any, Any]:
            in_targets = _plain_pull(s, t, axes, upstream, t) if xp.isdtype(t.dtype, "real floating") else None
            return _pull(s, t, axes, upstream, totals), in_targets

        return _of_totals(totals, axes), pull

    return losses(scores, targets)


def _totals(s: Any, t: Any, axes: tuple[int, ...]) -> list[Total]:
    """Of the positive half and of the negative, again with a shift if one row needs it."""
    quick, fits = quick_totals(s, t, axis=axes, xp=xp)

    def exact() -> list[Total]:
        return [total_of(side, axis=axes, xp=xp) for side in read_sides(s, t, xp=xp)]

    totals: list[Total] = tf.cond(tf.reduce_all(fits), lambda: list(quick), exact)
    return totals


def _of_totals(totals: list[Total], axes: tuple[int, ...]) -> Any:
    positive, negative = (log_of(total, axis=axes, xp=xp) for total in totals)
    return positive + negative


def _pull(s: Any, t: Any, axes: tuple[int, ...], upstream: Any, totals: list[Total]) -> Any:
    """The gradient in the logits, whose own derivatives come from the core's formula."""

    @tf.custom_gradient
    def pulled(s: Any, t: Any, upstream: Any) -> Any:
        slopes = quick_slopes(s, t, totals, xp=xp) * ops.expand_dims(upstream, sorted(axes))

        def pull(again: Any) -> list[Any]:
            with tf.GradientTape() as tape:
                tape.watch([x for x in (s, t, upstream) if x.dtype.is_floating])
                plain = _plain_pull(s, t, axes, upstream, s)
            return tape.gradient(plain, [s, t, upstream], again)

        return ops.cast(slopes, s.dtype), pull

    return pulled(s, t, upstream)


def _plain_pull(s: Any, t: Any, axes: tuple[int, ...], upstream: Any, wrt: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(wrt)
        losses = zlpr_core.zlpr(s, t, axis=axes, xp=xp)
    return tape.gradient(losses, wrt, upstream)
