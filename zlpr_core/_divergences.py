r"""How far apart two logit vectors are: Bernoulli divergences, ZLPR's own, and R-Drop."""

from math import inf
from typing import Any, NamedTuple

from ._checks import check_floating, check_options, check_positive, check_same_shape, class_axes
from ._elementary import exp_beyond_line, exp_minus_one, logistic_gap, sigmoids, softplus
from ._losses import kept, subtract, zlpr
from ._namespace import infer
from ._reduce import Terms, log1p_sum_exp
from ._targets import compute_dtype
from ._typing import Array, ArrayT, Axis, Extended, Namespace


def kl_divergence(
    p_logits: ArrayT,
    q_logits: Array,
    /,
    *,
    axis: Axis = -1,
    where: Array | None = None,
    scale: float = 1.0,
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
    pair = _pair(p_logits, q_logits, axis, where, scale, ("p_logits", "q_logits"), xp=xp)
    cells = _bernoulli_kl(pair.x, pair.y, -pair.gap, xp=xp)
    divergence: ArrayT = _total(xp.where(pair.q_alone, inf, cells), pair, xp=xp)
    return divergence


def symmetric_kl_divergence(
    p_logits: ArrayT,
    q_logits: Array,
    /,
    *,
    axis: Axis = -1,
    where: Array | None = None,
    scale: float = 1.0,
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
    pair = _pair(p_logits, q_logits, axis, where, scale, ("p_logits", "q_logits"), xp=xp)
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
    pair = _pair(p_logits, q_logits, axis, where, 1.0, ("p_logits", "q_logits"), xp=xp)
    divergence: ArrayT = _regret(pair, where, xp=xp)
    return divergence


def rdrop_zlpr(
    logits1: ArrayT,
    logits2: Array,
    targets: Array,
    /,
    *,
    alpha: float = 4.0,
    scale: float = 1.0,
    axis: Axis = -1,
    where: Array | None = None,
    weight: Array | float | None = None,
    pos_weight: Array | float | None = None,
    threshold: Array | float = 0.0,
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
    check_positive("alpha", alpha, zero=True)
    pair = _pair(logits1, logits2, axis, where, scale, ("logits1", "logits2"), threshold, xp=xp)
    options: Any = {"weight": weight, "pos_weight": pos_weight, "threshold": threshold}
    losses = [zlpr(s, targets, axis=axis, where=where, **options, xp=xp) for s in (logits1, logits2)]
    both: ArrayT = 0.5 * (losses[0] + losses[1]) + (alpha / 4) * _jeffreys(pair, xp=xp)
    return both


class _Pair(NamedTuple):
    """Two logit vectors, scaled, finite and with nothing where ``where`` is False."""

    x: Any
    y: Any
    gap: Any  # x - y, from the logits as they came
    lost: tuple[Any, Any]  # what the rounding of a threshold took from x and y
    p_alone: Any  # an infinite logit that the other vector does not share
    q_alone: Any
    axes: tuple[int, ...]


def _pair(
    p: Array,
    q: Array,
    axis: Axis,
    where: Array | None,
    scale: float,
    names: tuple[str, str],
    threshold: Array | float = 0.0,
    *,
    xp: Namespace,
) -> _Pair:
    check_positive("scale", scale)
    for logits, name in zip((p, q), names, strict=True):
        check_floating(logits, name, xp=xp)
    check_same_shape((p, q), names, xp=xp)
    check_options(p, where=where, threshold=threshold, xp=xp)
    axes = class_axes(p, axis, xp=xp)
    wide = compute_dtype(p.dtype, xp=xp), compute_dtype(q.dtype, xp=xp)
    dtype = xp.float64 if xp.float64 in wide else xp.float32
    s, u = (kept(xp.astype(logits, dtype), where, xp=xp) for logits in (p, q))
    p_alone, q_alone = (abs(s) == inf) & (s != u), (abs(u) == inf) & (s != u)
    s, u = _finite(s, xp=xp), _finite(u, xp=xp)
    (x, x_lost), (y, y_lost) = (_scaled(z, threshold, where, scale, xp=xp) for z in (s, u))
    return _Pair(x, y, scale * (s - u), (x_lost, y_lost), p_alone, q_alone, axes)


def _finite(logits: Any, *, xp: Namespace) -> Any:
    """With a number so far out that every exponential saturates in place of an infinite logit."""
    far = float(xp.finfo(logits.dtype).max) / 16
    return xp.where(logits == inf, far, xp.where(logits == -inf, -far, logits))


def _scaled(z: Any, threshold: Array | float, where: Array | None, scale: float, *, xp: Namespace) -> tuple[Any, Any]:
    z, lost = subtract(z, threshold, z.dtype, xp=xp)
    return scale * kept(z, where, xp=xp), None if lost is None else scale * kept(lost, where, xp=xp)


def _jeffreys(pair: _Pair, *, xp: Namespace) -> Any:
    cells = logistic_gap(pair.x, pair.y, pair.gap, pair.lost, xp=xp) * pair.gap
    return _total(xp.where(pair.p_alone | pair.q_alone, inf, cells), pair, xp=xp)


def _total(cells: Any, pair: _Pair, *, xp: Namespace) -> Any:
    return xp.squeeze(xp.sum(cells, axis=pair.axes, keepdims=True), axis=pair.axes)


def _bernoulli_kl(x: Any, y: Any, rise: Any, *, xp: Namespace) -> Any:
    """KL(σ(x) ‖ σ(y)) with ``rise = y - x``.

    Near, ``log E[e^(R - E[R])]`` for R = rise where the label is on, else 0: no term of first order is there to cancel.
    Far, from the side of x where less cancels, in the slopes too.
    """
    on, off = sigmoids(x, xp=xp)
    near = abs(rise) < 2
    r = xp.where(near, rise, 0.0)
    close = xp.log1p(on * exp_beyond_line(r * off, xp=xp) + off * exp_beyond_line(-r * on, xp=xp))
    up = xp.where(rise > 0, x + 1, x - 1) > 0
    grown = softplus(xp.where(up, -y, y), xp=xp) - softplus(xp.where(up, -x, x), xp=xp)
    return xp.where(near, close, grown - xp.where(up, -off, on) * rise)


class _Contest(NamedTuple):
    """What soft ZLPR of y against σ(2x) sums, its threshold's 1 apart."""

    up: Terms  # σ(2x) e^-y
    down: Terms  # σ(-2x) e^y
    weight: Any  # 1 / (2 cosh x), their geometric mean
    total: Any  # 1 + Σ weight
    gap: Any  # x - y
    axes: tuple[int, ...]


def _regret(pair: _Pair, where: Array | None, *, xp: Extended) -> Any:
    """Soft ZLPR of y against σ(2x), less its floor, each example in that of two ways that loses nothing."""
    contest = _contest(pair, where, xp=xp)
    axes = pair.axes
    gap = xp.where(abs(pair.gap) < 1e6, pair.gap, 0.0)  # beyond, nothing is close, and sums would overflow
    mean = xp.sum(contest.weight * gap, axis=axes, keepdims=True) / contest.total
    close = _within(contest.up, -mean, axes, xp=xp) & _within(contest.down, mean, axes, xp=xp)
    near = xp.squeeze(xp.log1p(_centred(contest, xp.where(close, mean, 0.0), close, xp=xp)), axis=axes)
    rise, fall = (log1p_sum_exp(side, axis=axes, xp=xp) for side in (contest.up, contest.down))
    far = rise + fall - 2 * xp.squeeze(xp.log(contest.total), axis=axes)
    impossible = xp.max(xp.where(pair.q_alone, 1.0, 0.0 * contest.weight), axis=axes, keepdims=True) > 0
    # the value from where nothing cancels, the slopes from where every part of them is a share of a sum
    slopes = far - xp.stop_gradient(xp.where(far < inf, far, 0.0))
    regret = xp.where(xp.squeeze(close, axis=axes), xp.stop_gradient(near) + slopes, far)
    return xp.where(xp.squeeze(impossible, axis=axes), inf, regret)


def _contest(pair: _Pair, where: Array | None, *, xp: Namespace) -> _Contest:
    x, y = pair.x, pair.y
    positive = x > 0
    small = xp.exp(xp.where(positive, -x, x))
    share = kept(1 / (1 + small * small), where, xp=xp)
    up, up_lost = subtract(xp.where(positive, 0.0, 2 * x), y, y.dtype, xp=xp)
    down, down_lost = subtract(xp.where(positive, -2 * x, 0.0), -y, y.dtype, xp=xp)
    weight = small * share
    total = 1 + xp.sum(weight, axis=pair.axes, keepdims=True)
    return _Contest(Terms(up, share, up_lost), Terms(down, share, down_lost), weight, total, pair.gap, pair.axes)


def _within(terms: Terms, shift: Any, axes: tuple[int, ...], *, xp: Namespace) -> Any:
    """Whether no term, that of the threshold included, is beyond ``e^30`` once shifted."""
    highest = xp.max(terms.logit, axis=axes, keepdims=True)
    return xp.where(highest > 0, highest, 0.0) + shift < 30


def _centred(contest: _Contest, mean: Any, close: Any, *, xp: Namespace) -> Any:
    """``E[e^(d - mean)] E[e^(mean - d)] - 1`` under w and the threshold's 1, with no first order left to cancel."""
    centred, weight = contest.gap - mean, contest.weight
    small = abs(centred) < 2  # where the two ways meet at their best
    wide = close & ~small
    rise, fall = (exp_minus_one(xp.where(small, x, 0.0), xp=xp) for x in (centred, -centred))
    high = xp.where(small, weight * rise, _shifted(contest.up, -mean, wide, xp=xp) - weight)
    low = xp.where(small, weight * fall, _shifted(contest.down, mean, wide, xp=xp) - weight)
    both = xp.where(small, -weight * rise * fall, high + low)
    one_up, one_down = xp.expm1(-mean), xp.expm1(mean)  # the threshold's
    cells = ((both, -one_up * one_down), (high, one_up), (low, one_down))
    second, first_up, first_down = (
        (xp.sum(c, axis=contest.axes, keepdims=True) + one) / contest.total for c, one in cells
    )
    return xp.where(close, second + first_up * first_down, 0.0)


def _shifted(terms: Terms, shift: Any, wanted: Any, *, xp: Namespace) -> Any:
    """``terms`` times ``e^shift``; 1 where that is not wanted and might overflow."""
    moved, lost = subtract(terms.logit, -shift, terms.logit.dtype, xp=xp)
    return terms.weight * (1 + terms.lost + lost) * xp.exp(xp.where(wanted, moved, 0.0))
