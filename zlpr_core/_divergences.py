r"""How far apart two logit vectors are: Bernoulli divergences, ZLPR's own, and R-Drop."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ._bernoulli import jeffreys, jeffreys_gradients, kl, kl_gradients
from ._checks import check_positive
from ._losses import zlpr
from ._namespace import infer
from ._options import Options
from ._pairs import read_pair
from ._regret import regret, regret_gradients
from ._typing import Array, ArrayT, Axis, Namespace


class Divergence(NamedTuple):
    """For adapters that tell their framework the derivative: functions of a Pair, the gradients of the values too."""

    value: Callable[..., Any]
    gradients: Callable[..., tuple[Any, Any]]


KL = Divergence(kl, kl_gradients)
JEFFREYS = Divergence(jeffreys, jeffreys_gradients)
REGRET = Divergence(regret, regret_gradients)


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
    pair = read_pair(p_logits, q_logits, axis, Options(where), scale, ("p_logits", "q_logits"), xp=xp)
    divergence: ArrayT = kl(pair, xp=xp)
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
    pair = read_pair(p_logits, q_logits, axis, Options(where), scale, ("p_logits", "q_logits"), xp=xp)
    divergence: ArrayT = jeffreys(pair, xp=xp)
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
    pair = read_pair(p_logits, q_logits, axis, Options(where), 1.0, ("p_logits", "q_logits"), xp=xp)
    divergence: ArrayT = regret(pair, xp=xp)
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
    pair = read_pair(logits1, logits2, axis, options, scale, ("logits1", "logits2"), xp=xp)
    loss1 = zlpr(logits1, targets, axis=axis, **options.by_name(), xp=xp)
    loss2 = zlpr(logits2, targets, axis=axis, **options.by_name(), xp=xp)
    both: ArrayT = 0.5 * (loss1 + loss2) + (alpha / 4) * jeffreys(pair, xp=xp)
    return both
