"""Divergences between two logit vectors, one value per example."""

from typing import Any

from keras import ops

from zlpr_core._divergences import JEFFREYS, KL, REGRET
from zlpr_core._typing import Axis

from ._divergence_derivative import divergence
from ._namespace import of_shape
from ._symbolic import keras_function


@keras_function
def kl_divergence(
    p_logits: Any,
    q_logits: Any,
    *,
    axis: Axis = -1,
    where: Any = None,
    scale: float | None = 1.0,
) -> Any:
    r"""Kullback-Leibler divergence between the independent Bernoulli labels of two logit vectors.

    .. math::
        \sum_i \mathrm{KL}\bigl(\sigma(c s_i) \,\|\, \sigma(c u_i)\bigr)
        = \sum_i \bigl[\sigma(c s_i)\, c (s_i - u_i) - \log(1 + e^{c s_i}) + \log(1 + e^{c u_i})\bigr]

    Args:
        p_logits: Raw logits :math:`s` of shape `(..., num_classes)`, in any floating dtype.
        q_logits: Raw logits :math:`u` of the same shape. An infinite logit in both is agreement and adds 0; in
            `q_logits` alone it is impossible to match and costs +inf.
        axis: The class axis or axes; they are summed away.
        where: bool, broadcastable to the logits. False takes the cell out, whatever it holds.
        scale: :math:`c`, positive. 1 reads logits as the author of the loss published it; 2 agrees with soft ZLPR,
            which fits :math:`\sigma(2s)`. The same difference costs up to four times as much with 2.

    Returns:
        One non-negative value per example, 0 iff the two are equal, in float32 (float64 if either is float64).

    Raises:
        TypeError: Logits that are not floating, a `where` that is not bool.
        ValueError: Shapes that differ or do not broadcast, an `axis` that does not exist, a `scale` that is not
            positive.

    Reference:
        J. Su, https://kexue.fm/archives/9039, 2022, for the symmetric form with `scale=1`.

    Example:
        >>> divergence = kl_divergence([[1.2, -0.7, 0.3]], [[0.8, -0.1, -0.4]])
        >>> print(ops.convert_to_numpy(divergence).round(4))
        [0.1181]
    """
    return divergence(KL, *_read(p_logits, q_logits), axis, where, scale)


@keras_function
def symmetric_kl_divergence(
    p_logits: Any,
    q_logits: Any,
    *,
    axis: Axis = -1,
    where: Any = None,
    scale: float | None = 1.0,
) -> Any:
    r"""Jeffreys' divergence, the sum of `kl_divergence` in both directions.

    .. math::
        c \sum_i \bigl(\sigma(c s_i) - \sigma(c u_i)\bigr) (s_i - u_i)

    With `scale=1` this is what the author of the loss published for R-Drop. Args and errors are those of
    `kl_divergence`.

    Returns:
        One non-negative value per example, 0 iff the two are equal; +inf where only one of the logits is infinite.

    Reference:
        J. Su, https://kexue.fm/archives/9039, 2022.

    Example:
        >>> divergence = symmetric_kl_divergence([[1.2, -0.7, 0.3]], [[0.8, -0.1, -0.4]])
        >>> print(ops.convert_to_numpy(divergence).round(4))
        [0.2385]
    """
    return divergence(JEFFREYS, *_read(p_logits, q_logits), axis, where, scale)


@keras_function
def zlpr_divergence(p_logits: Any, q_logits: Any, *, axis: Axis = -1, where: Any = None) -> Any:
    r"""The regret of soft ZLPR when `p_logits` are right and `q_logits` are said.

    .. math::
        D(s \| u) = \log\Bigl(1 + \sum_i w_i e^{d_i}\Bigr) + \log\Bigl(1 + \sum_i w_i e^{-d_i}\Bigr)
        - 2 \log\Bigl(1 + \sum_i w_i\Bigr)

    with :math:`d = s - u` and :math:`w_i = 1 / (2 \cosh s_i)`. Args and errors are those of `kl_divergence`,
    without `scale`.

    Returns:
        One non-negative value per example, 0 iff the two are equal, and exact near 0.

    Example:
        >>> divergence = zlpr_divergence([[1.2, -0.7, 0.3]], [[0.8, -0.1, -0.4]])
        >>> print(ops.convert_to_numpy(divergence).round(4))
        [0.1843]
    """
    return divergence(REGRET, *_read(p_logits, q_logits), axis, where, 1.0)


def _read(p_logits: Any, q_logits: Any) -> tuple[Any, Any]:
    p = ops.convert_to_tensor(p_logits)
    return p, of_shape(ops.convert_to_tensor(q_logits), p)
