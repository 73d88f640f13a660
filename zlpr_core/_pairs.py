"""Two logit vectors as the divergences compare them: scaled, finite, and 0 where masked."""

from math import nan, sqrt
from typing import Any, NamedTuple

from ._checks import check_floating, check_positive, check_same_shape, class_axes
from ._namespace import compute_dtype, largest
from ._options import Options
from ._reduce import spread_nan
from ._terms import keep, subtract
from ._typing import Array, Axis, Extended, Namespace


class Pair(NamedTuple):
    """Two logit vectors, read."""

    x: Any
    y: Any
    gap: Any  # x - y, from the logits as they came: no threshold can round it
    lost: tuple[Any, Any]  # rounding errors of subtracting the threshold from x and y, None without one
    scale: Any
    p_infinite: Any
    q_infinite: Any
    differ: Any  # an infinite logit in both is agreement
    where: Any
    axes: tuple[int, ...]


def read_pair(
    p: Array, q: Array, axis: Axis, options: Options, scale: float | None, names: tuple[str, str], /, *, xp: Extended
) -> Pair:
    """Of ``options`` the mask and the threshold."""
    scale = 1.0 if scale is None else scale
    check_logits(p, q, scale, names, xp=xp)
    where, _, _, threshold = Options.of(p, options.where, None, None, options.threshold, xp=xp)
    wide = compute_dtype(p.dtype, xp=xp), compute_dtype(q.dtype, xp=xp)
    dtype = xp.float64 if xp.float64 in wide else xp.float32
    s, u = keep(xp.astype(p, dtype), where, xp=xp), keep(xp.astype(q, dtype), where, xp=xp)
    most = largest(dtype, xp=xp)
    p_infinite, q_infinite, differ = abs(s) > most, abs(u) > most, s != u
    s, u = _finite(s, xp=xp), _finite(u, xp=xp)
    x, x_lost = _scaled(s, threshold, where, scale, xp=xp)
    y, y_lost = _scaled(u, threshold, where, scale, xp=xp)
    axes = class_axes(p, axis, xp=xp)
    return Pair(x, y, scale * (s - u), (x_lost, y_lost), scale, p_infinite, q_infinite, differ, where, axes)


def check_logits(p: Array, q: Array, scale: Any, names: tuple[str, str], /, *, xp: Namespace) -> None:
    """Raise unless both are floating, of one shape, and the scale is positive."""
    check_positive("scale", scale)
    check_floating(p, names[0], xp=xp)
    check_floating(q, names[1], xp=xp)
    check_same_shape((p, q), names, xp=xp)


def negated(pair: Pair, /) -> Pair:
    """The pair of ``-x`` and ``-y``, which is as far apart."""
    x_lost, y_lost = pair.lost
    lost = (None, None) if x_lost is None else (-x_lost, -y_lost)
    # not by `_replace`, nor by a slice: PyTorch 2.6 compiles neither
    same = pair.scale, pair.p_infinite, pair.q_infinite, pair.differ, pair.where, pair.axes
    return Pair(-pair.x, -pair.y, -pair.gap, lost, *same)


def total(cells: Any, pair: Pair, /, *, xp: Namespace) -> Any:
    """The sum over the classes."""
    values = xp.squeeze(xp.sum(cells, axis=pair.axes, keepdims=True), axis=pair.axes)
    return spread_nan(values, values, xp=xp)


def movable(gradient: Any, pair: Pair, values: Any, /, *still: Any, xp: Namespace) -> Any:
    """The gradient of the logits as they came, from that of the scaled. NaN in a row whose value is.

    0 where any of ``still``: of an infinite logit, and of one that costs +inf whatever it is. One by one, as XLA would
    store the union of two for the gradients that share it.
    """
    gradient = keep(xp.where(values == values, pair.scale * gradient, nan), pair.where, xp=xp)
    for cells in still:
        gradient = xp.where(cells, 0.0, gradient)
    return gradient


def _finite(logits: Any, *, xp: Namespace) -> Any:
    """A number at which every exponential saturates stands in for an infinite logit."""
    most = largest(logits.dtype, xp=xp)
    saturating = sqrt(most)  # leaves room for a scale
    return xp.where(logits > most, saturating, xp.where(logits < -most, -saturating, logits))


def _scaled(z: Any, threshold: Any, where: Any, scale: float, *, xp: Namespace) -> tuple[Any, Any]:
    z, lost = subtract(z, threshold, xp=xp)
    return scale * keep(z, where, xp=xp), None if lost is None else scale * keep(lost, where, xp=xp)
