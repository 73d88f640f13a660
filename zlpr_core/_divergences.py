r"""How far apart two logit vectors are: Bernoulli divergences, ZLPR's own, and R-Drop."""

from math import inf
from typing import Any, NamedTuple

from ._checks import check_floating, check_positive, check_same_shape, class_axes
from ._logistic import exp_minus_line, exp_minus_one, logistic_gap, sigmoids, softplus
from ._losses import zlpr
from ._namespace import compute_dtype, infer, largest
from ._options import Options
from ._reduce import Terms, log1p_sum_exp, spread_nan
from ._terms import keep, subtract
from ._typing import Array, ArrayT, Axis, Extended, Namespace


def kl_divergence(
    p_logits: ArrayT,
    q_logits: Array,
    /,
    *,
    axis: Axis = -1,
    where: Array | None = None,
    scale: float | None = 1.0,
    xp: Namespace | None = None,
) -> ArrayT:
    r"""Kullback-Leibler divergence between the label probabilities of two logit vectors, summed over the labels.

    .. math::
        \sum_i \mathrm{KL}\bigl(\sigma(c s_i) \,\|\, \sigma(c u_i)\bigr)
        = \sum_i \bigl[\sigma(c s_i)\, c (s_i - u_i) - \log(1 + e^{c s_i}) + \log(1 + e^{c u_i})\bigr]

    Parameters
    ----------
    p_logits, q_logits : array, shape (..., C)
        Raw logits :math:`s` and :math:`u`, in any real floating dtype. An infinite logit in both is agreement and
        adds 0; in ``q_logits`` alone it is impossible to match and costs +inf.
    axis : int or tuple of ints
        The class axes; they are summed away.
    where : bool array, broadcastable to ``p_logits``, optional
        False takes the cell out of value and gradient, whatever it holds.
    scale : float
        :math:`c`, positive. 1 reads logits as the author of the loss published it; 2 agrees with soft ZLPR, which
        fits :math:`\sigma(2s)`. The same difference costs up to four times as much with 2.
    xp : Namespace, optional
        Inferred from the arrays when absent.

    Returns
    -------
    array, the shape of ``p_logits`` without the class axes
        Non-negative, 0 iff the two are equal, in float32 (float64 if either is float64).

    Raises
    ------
    TypeError, ValueError
        As in :func:`zlpr`; a ``scale`` that is not positive.

    References
    ----------
    J. Su, https://kexue.fm/archives/9039, 2022, for the symmetric form with ``scale=1``.

    Examples
    --------
    >>> kl_divergence(np.asarray([[1.2, -0.7, 0.3]]), np.asarray([[0.8, -0.1, -0.4]])).round(4)
    array([0.1181])
    """
    xp = infer(xp, p_logits=p_logits, q_logits=q_logits)
    pair = _pair(p_logits, q_logits, axis, Options(where), scale, ("p_logits", "q_logits"), xp=xp)
    cells = _bernoulli_kl(pair.x, pair.y, -pair.gap, xp=xp)
    divergence: ArrayT = _total(xp.where(pair.only_q_infinite, inf, cells), pair, xp=xp)
    return divergence


def symmetric_kl_divergence(
    p_logits: ArrayT,
    q_logits: Array,
    /,
    *,
    axis: Axis = -1,
    where: Array | None = None,
    scale: float | None = 1.0,
    xp: Namespace | None = None,
) -> ArrayT:
    r"""Jeffreys' divergence, the sum of :func:`kl_divergence` in both directions.

    .. math::
        c \sum_i \bigl(\sigma(c s_i) - \sigma(c u_i)\bigr) (s_i - u_i)

    With ``scale=1`` this is what the author of the loss published for R-Drop. Whether the paper itself reads
    :math:`\sigma(s)` or :math:`\sigma(2s)` could not be confirmed. Parameters and errors are those of
    :func:`kl_divergence`; an infinite logit in one vector only costs +inf.

    Returns
    -------
    array, the shape of ``p_logits`` without the class axes
        Non-negative, 0 iff the two are equal.

    References
    ----------
    J. Su, https://kexue.fm/archives/9039, 2022.

    Examples
    --------
    >>> symmetric_kl_divergence(np.asarray([[1.2, -0.7, 0.3]]), np.asarray([[0.8, -0.1, -0.4]])).round(4)
    array([0.2385])
    """
    xp = infer(xp, p_logits=p_logits, q_logits=q_logits)
    pair = _pair(p_logits, q_logits, axis, Options(where), scale, ("p_logits", "q_logits"), xp=xp)
    divergence: ArrayT = _jeffreys(pair, xp=xp)
    return divergence


def zlpr_divergence(
    p_logits: ArrayT,
    q_logits: Array,
    /,
    *,
    axis: Axis = -1,
    where: Array | None = None,
    xp: Namespace | None = None,
) -> ArrayT:
    r"""The divergence that soft ZLPR itself induces: its regret when ``p_logits`` are right and ``q_logits`` are said.

    .. math::
        D(s \| u) = L(u, \sigma(2s)) - H(\sigma(2s))
        = \log\Bigl(1 + \sum_i w_i e^{d_i}\Bigr) + \log\Bigl(1 + \sum_i w_i e^{-d_i}\Bigr)
        - 2 \log\Bigl(1 + \sum_i w_i\Bigr)

    with :math:`d = s - u` and :math:`w_i = 1 / (2 \cosh s_i)`. Its gradients are bounded as those of the loss are, and
    it ties the labels together as the loss does. Parameters and errors are those of :func:`kl_divergence`, without
    ``scale``.

    Returns
    -------
    array, the shape of ``p_logits`` without the class axes
        Non-negative, 0 iff the two are equal, and exact near 0 where the three logarithms above would cancel.

    Examples
    --------
    >>> zlpr_divergence(np.asarray([[1.2, -0.7, 0.3]]), np.asarray([[0.8, -0.1, -0.4]])).round(4)
    array([0.1843])
    """
    xp = infer(xp, p_logits=p_logits, q_logits=q_logits)
    pair = _pair(p_logits, q_logits, axis, Options(where), 1.0, ("p_logits", "q_logits"), xp=xp)
    divergence: ArrayT = _regret(pair, xp=xp)
    return divergence


def rdrop_zlpr(
    logits1: ArrayT,
    logits2: Array,
    targets: Array,
    /,
    *,
    alpha: float | None = 4.0,
    scale: float | None = 1.0,
    axis: Axis = -1,
    where: Array | None = None,
    weight: Array | float | None = None,
    pos_weight: Array | float | None = None,
    threshold: Array | float | None = 0.0,
    xp: Namespace | None = None,
) -> ArrayT:
    r"""R-Drop: the loss of two passes through dropout, and how far apart they are.

    .. math::
        \tfrac12 \bigl[L(s, t) + L(u, t)\bigr] + \tfrac{\alpha}{4}\, \mathrm{KL}_\mathrm{sym}(s, u)

    with :func:`symmetric_kl_divergence` as the last term: the mean of two losses and the published code's quarter.
    Multiply by 2 for the scale of the R-Drop paper, which adds the two losses.

    Parameters
    ----------
    logits1, logits2 : array, shape (..., C)
        Raw logits :math:`s` and :math:`u` of the same examples.
    targets : array, the shape of ``logits1``
        As in :func:`zlpr`.
    alpha : float
        :math:`\alpha`, non-negative: what the agreement is worth.
    scale : float
        As in :func:`kl_divergence`.
    axis, where, weight, pos_weight, threshold, xp
        As in :func:`zlpr`. The weights concern the losses only; a ``threshold`` is subtracted from the logits in all
        three terms.

    Returns
    -------
    array, the shape of ``logits1`` without the class axes

    References
    ----------
    Liang et al., "R-Drop: Regularized Dropout for Neural Networks", 2021, arXiv:2106.14448.

    Examples
    --------
    >>> rdrop_zlpr(np.asarray([[2.0, -1.0]]), np.asarray([[1.5, -0.5]]), np.asarray([[1, 0]])).round(4)
    array([0.6438])
    """
    xp = infer(xp, logits1=logits1, logits2=logits2, targets=targets)
    alpha = 4.0 if alpha is None else alpha
    check_positive("alpha", alpha, zero=True)
    options = Options(where, weight, pos_weight, threshold)
    pair = _pair(logits1, logits2, axis, options, scale, ("logits1", "logits2"), xp=xp)
    loss1 = zlpr(logits1, targets, axis=axis, **options.by_name(), xp=xp)
    loss2 = zlpr(logits2, targets, axis=axis, **options.by_name(), xp=xp)
    both: ArrayT = 0.5 * (loss1 + loss2) + (alpha / 4) * _jeffreys(pair, xp=xp)
    return both


class _Pair(NamedTuple):
    """Two logit vectors, read: scaled, finite, and 0 where masked."""

    x: Any
    y: Any
    gap: Any  # x - y, from the logits as they came: no threshold can round it
    lost: tuple[Any, Any]  # rounding errors of subtracting the threshold from x and y, None without one
    only_p_infinite: Any  # an infinite logit that the other vector does not share
    only_q_infinite: Any
    where: Any
    axes: tuple[int, ...]


def _pair(
    p: Array, q: Array, axis: Axis, options: Options, scale: float | None, names: tuple[str, str], *, xp: Extended
) -> _Pair:
    scale = 1.0 if scale is None else scale
    check_positive("scale", scale)
    check_floating(p, names[0], xp=xp)
    check_floating(q, names[1], xp=xp)
    check_same_shape((p, q), names, xp=xp)
    where, _, _, threshold = Options.of(p, options.where, None, None, options.threshold, xp=xp)
    wide = compute_dtype(p.dtype, xp=xp), compute_dtype(q.dtype, xp=xp)
    dtype = xp.float64 if xp.float64 in wide else xp.float32
    s, u = keep(xp.astype(p, dtype), where, xp=xp), keep(xp.astype(q, dtype), where, xp=xp)
    most = largest(dtype, xp=xp)
    only_p_infinite, only_q_infinite = (abs(s) > most) & (s != u), (abs(u) > most) & (s != u)
    s, u = _finite(s, xp=xp), _finite(u, xp=xp)
    x, x_lost = _scaled(s, threshold, where, scale, xp=xp)
    y, y_lost = _scaled(u, threshold, where, scale, xp=xp)
    axes = class_axes(p, axis, xp=xp)
    return _Pair(x, y, scale * (s - u), (x_lost, y_lost), only_p_infinite, only_q_infinite, where, axes)


def _finite(logits: Any, *, xp: Namespace) -> Any:
    """A number at which every exponential saturates stands in for an infinite logit."""
    most = largest(logits.dtype, xp=xp)
    return xp.where(logits > most, most / 16, xp.where(logits < -most, -most / 16, logits))


def _scaled(z: Any, threshold: Any, where: Any, scale: float, *, xp: Namespace) -> tuple[Any, Any]:
    z, lost = subtract(z, threshold, xp=xp)
    return scale * keep(z, where, xp=xp), None if lost is None else scale * keep(lost, where, xp=xp)


def _jeffreys(pair: _Pair, *, xp: Namespace) -> Any:
    cells = logistic_gap(pair.x, pair.y, pair.gap, pair.lost, xp=xp) * pair.gap
    return _total(xp.where(pair.only_p_infinite | pair.only_q_infinite, inf, cells), pair, xp=xp)


def _total(cells: Any, pair: _Pair, *, xp: Namespace) -> Any:
    total = xp.squeeze(xp.sum(cells, axis=pair.axes, keepdims=True), axis=pair.axes)
    return spread_nan(total, total, xp=xp)


def _bernoulli_kl(x: Any, y: Any, rise: Any, *, xp: Namespace) -> Any:
    """KL(σ(x) ‖ σ(y)) with ``rise = y - x``.

    Near each other, ``log E[e^(R - E[R])]`` for R = rise where the label is on and 0 where it is off: its terms of
    first order, which would cancel, are gone. Far apart, softplus differences from the side of x that cancels less,
    in the derivatives too.
    """
    on, off = sigmoids(x, xp=xp)
    near = abs(rise) < 2
    r = xp.where(near, rise, 0.0)
    close = xp.log1p(on * exp_minus_line(r * off, xp=xp) + off * exp_minus_line(-r * on, xp=xp))
    mirror = xp.where(rise > 0, x + 1, x - 1) > 0
    growth = softplus(xp.where(mirror, -y, y), xp=xp) - softplus(xp.where(mirror, -x, x), xp=xp)
    return xp.where(near, close, growth - xp.where(mirror, -off, on) * rise)


class _Regret(NamedTuple):
    """The sums of soft ZLPR of y against σ(2x), term by term, and what its floor needs."""

    positive: Terms  # σ(2x) e^-y
    negative: Terms  # σ(-2x) e^y
    weight: Any  # 1 / (2 cosh x), the geometric mean of the two at y = x
    total: Any  # 1 + Σ weight
    gap: Any  # x - y
    axes: tuple[int, ...]


def _regret(pair: _Pair, *, xp: Extended) -> Any:
    """Soft ZLPR of y against σ(2x), less its floor: each example by the one of two ways that loses no digits."""
    regret, axes = _read_regret(pair, xp=xp), pair.axes
    gap = xp.where(abs(pair.gap) < 1e6, pair.gap, 0.0)  # a larger one is never near, and its sum would overflow
    mean = xp.sum(regret.weight * gap, axis=axes, keepdims=True) / regret.total
    near = _is_within(regret.positive, -mean, axes, xp=xp) & _is_within(regret.negative, mean, axes, xp=xp)
    centred = xp.squeeze(xp.log1p(_centred(regret, xp.where(near, mean, 0.0), near, xp=xp)), axis=axes)
    positive = log1p_sum_exp(regret.positive, axis=axes, xp=xp)
    negative = log1p_sum_exp(regret.negative, axis=axes, xp=xp)
    direct = positive + negative - 2 * xp.squeeze(xp.log(regret.total), axis=axes)
    impossible = xp.max(xp.where(pair.only_q_infinite, 1.0, 0.0 * regret.weight), axis=axes, keepdims=True) > 0
    # The value of the centred way, whose derivatives would be off by up to 7e-4 in float32, with the derivatives of
    # the direct way, each of which is a softmax weight.
    slopes = direct - xp.stop_gradient(xp.where(direct <= largest(direct.dtype, xp=xp), direct, 0.0))
    value = xp.where(xp.squeeze(near, axis=axes), xp.stop_gradient(centred) + slopes, direct)
    value = spread_nan(value, value, xp=xp)
    return xp.where(xp.squeeze(impossible, axis=axes), inf, value)


def _read_regret(pair: _Pair, *, xp: Namespace) -> _Regret:
    x, y = pair.x, pair.y
    is_positive = x > 0
    tail = xp.exp(xp.where(is_positive, -x, x))
    share = keep(1 / (1 + tail * tail), pair.where, xp=xp)
    falling, falling_lost = subtract(xp.where(is_positive, 0.0, 2 * x), y, xp=xp)
    rising, rising_lost = subtract(xp.where(is_positive, -2 * x, 0.0), -y, xp=xp)
    weight = tail * share
    total = 1 + xp.sum(weight, axis=pair.axes, keepdims=True)
    positive, negative = Terms(falling, share, falling_lost), Terms(rising, share, rising_lost)
    return _Regret(positive, negative, weight, total, pair.gap, pair.axes)


def _is_within(terms: Terms, shift: Any, axes: tuple[int, ...], *, xp: Namespace) -> Any:
    """True for a row in which no term, nor the 1 beside them, is beyond ``e^30`` once shifted."""
    highest = xp.max(terms.logit, axis=axes, keepdims=True)
    return xp.where(highest > 0, highest, 0.0) + shift < 30


def _centred(regret: _Regret, mean: Any, near: Any, *, xp: Namespace) -> Any:
    """``E[e^(d - mean)] E[e^(mean - d)] - 1`` for d = gap, under the weights and the 1 beside them.

    Sums of ``e^x - 1``, so that the terms of first order cancel before anything is rounded.
    """
    centred, weight = regret.gap - mean, regret.weight
    small = abs(centred) < 2  # where e^x - 1 by arithmetic and by exponentials are equally exact
    wide = near & ~small
    grown = exp_minus_one(xp.where(small, centred, 0.0), xp=xp)
    shrunk = exp_minus_one(xp.where(small, -centred, 0.0), xp=xp)
    high = xp.where(small, weight * grown, _shifted(regret.positive, -mean, wide, xp=xp) - weight)
    low = xp.where(small, weight * shrunk, _shifted(regret.negative, mean, wide, xp=xp) - weight)
    both = xp.where(small, -weight * grown * shrunk, high + low)
    one_high, one_low = xp.expm1(-mean), xp.expm1(mean)  # the 1, shifted
    second = _expectation(both, -one_high * one_low, regret, xp=xp)
    first = _expectation(high, one_high, regret, xp=xp) * _expectation(low, one_low, regret, xp=xp)
    return xp.where(near, second + first, 0.0)


def _expectation(cells: Any, one: Any, regret: _Regret, *, xp: Namespace) -> Any:
    return (xp.sum(cells, axis=regret.axes, keepdims=True) + one) / regret.total


def _shifted(terms: Terms, shift: Any, wanted: Any, *, xp: Namespace) -> Any:
    """``terms`` times ``e^shift``; ``weight`` alone where that is not wanted, as it might overflow there."""
    moved, lost = subtract(terms.logit, -shift, xp=xp)
    return terms.weight * (1 + terms.lost + lost) * xp.exp(xp.where(wanted, moved, 0.0))
