"""The loss in a graph of TensorFlow, with its derivative in the logits told to it.

Left to itself it keeps a dozen arrays of the logits' size for a gradient. The closed form keeps four numbers a row, and
the sums are taken without a shift at first, which saves a pass. Derivatives of other arguments, and of higher order,
are TensorFlow's own of the core's formula.
"""

from typing import Any, NamedTuple

from keras import backend, ops

import zlpr_core
from zlpr_core._checks import class_axes
from zlpr_core._losses import read_sides
from zlpr_core._quick import Halves, quick_slopes, quick_terms, quick_totals
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
        found = _find(s, t, axes)

        def pull(upstream: Any) -> tuple[Any, Any]:
            in_targets = _plain_pull(s, t, axes, upstream, t) if xp.isdtype(t.dtype, "real floating") else None
            return _pull(s, t, axes, upstream, found), in_targets

        return _of_totals(found.totals, axes), pull

    return losses(scores, targets)


class _Found(NamedTuple):
    """What a forward pass leaves behind."""

    terms: Halves
    quick: Any  # whether the terms are those that the totals are of
    totals: Halves


def _find(s: Any, t: Any, axes: tuple[int, ...]) -> _Found:
    terms = quick_terms(s, t, xp=xp)
    totals, fits = quick_totals(terms, t, axis=axes, xp=xp)
    quick = tf.reduce_all(fits)

    def exact() -> tuple[Total, ...]:
        return tuple(total_of(side, axis=axes, xp=xp) for side in read_sides(s, t, xp=xp))

    return _Found(terms, quick, tf.cond(quick, lambda: totals, exact))


def _slopes(s: Any, t: Any, found: _Found) -> Any:
    def again() -> Any:
        (falls, rises), (positive, negative) = found.terms, found.totals
        return rises * (1 / (1 + negative.rest)) - falls * (1 / (1 + positive.rest))

    return tf.cond(found.quick, again, lambda: quick_slopes(s, t, found.totals, xp=xp))


def _of_totals(totals: Halves, axes: tuple[int, ...]) -> Any:
    positive, negative = (log_of(total, axis=axes, xp=xp) for total in totals)
    return positive + negative


def _pull(s: Any, t: Any, axes: tuple[int, ...], upstream: Any, found: _Found) -> Any:
    """The gradient in the logits, whose own derivatives come from the core's formula."""

    @tf.custom_gradient
    def pulled(s: Any, t: Any, upstream: Any) -> Any:
        slopes = _slopes(s, t, found) * ops.expand_dims(upstream, sorted(axes))

        def pull(again: Any) -> list[Any]:
            slopes: list[Any] = tf.gradients(_plain_pull(s, t, axes, upstream, s), [s, t, upstream], again)
            return slopes

        return ops.cast(slopes, s.dtype), pull

    return pulled(s, t, upstream)


def _plain_pull(s: Any, t: Any, axes: tuple[int, ...], upstream: Any, wrt: Any) -> Any:
    """By ``tf.gradients``, which needs no tape: in forward mode none is running."""
    return tf.gradients(zlpr_core.zlpr(s, t, axis=axes, xp=xp), wrt, upstream)[0]
