"""Divergences between two logit vectors, one value per example."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

import zlpr_core
from zlpr_core._typing import Axis

from ._namespace import xp


def kl_divergence(
    p_logits: ArrayLike,
    q_logits: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    scale: float | None = 1.0,
) -> Array:
    r"""Kullback-Leibler divergence between the independent Bernoulli labels of two logit vectors.

    .. math::
        \sum_i \mathrm{KL}\bigl(\sigma(c s_i) \,\|\, \sigma(c u_i)\bigr)
        = \sum_i \bigl[\sigma(c s_i)\, c (s_i - u_i) - \log(1 + e^{c s_i}) + \log(1 + e^{c u_i})\bigr]

    Args:
      p_logits: raw logits :math:`s` of shape ``[..., num_classes]``, in any floating dtype.
      q_logits: raw logits :math:`u` of the same shape. An infinite logit in both is agreement and adds 0; in
        ``q_logits`` alone it is impossible to match and costs +inf.
      axis: the class axis or axes; they are summed away.
      where: bool, broadcastable to the logits. False takes the cell out, whatever it holds.
      scale: :math:`c`, positive. 1 reads logits as the author of the loss published it; 2 agrees with soft ZLPR, which
        fits :math:`\sigma(2s)`. The same difference costs up to four times as much with 2.

    Returns:
      One non-negative value per example, 0 iff the two are equal, in float32 (float64 if either is float64).

    Raises:
      TypeError: logits that are not floating, a ``where`` that is not bool.
      ValueError: shapes that differ or do not broadcast, an ``axis`` that does not exist, a ``scale`` that is not
        positive.

    References:
      J. Su, https://kexue.fm/archives/9039, 2022, for the symmetric form with ``scale=1``.

    Examples:
      >>> print(f"{kl_divergence(jnp.array([[1.2, -0.7, 0.3]]), jnp.array([[0.8, -0.1, -0.4]]))[0]:.4f}")
      0.1181
    """
    options: Any = {"axis": axis, "where": where, "scale": scale}
    return zlpr_core.kl_divergence(jnp.asarray(p_logits), jnp.asarray(q_logits), **options, xp=xp)


def symmetric_kl_divergence(
    p_logits: ArrayLike,
    q_logits: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    scale: float | None = 1.0,
) -> Array:
    r"""Jeffreys' divergence, the sum of :func:`kl_divergence` in both directions.

    .. math::
        c \sum_i \bigl(\sigma(c s_i) - \sigma(c u_i)\bigr) (s_i - u_i)

    With ``scale=1`` this is what the author of the loss published for R-Drop. Args and errors are those of
    :func:`kl_divergence`.

    Returns:
      One non-negative value per example, 0 iff the two are equal; +inf where only one of the logits is infinite.

    References:
      J. Su, https://kexue.fm/archives/9039, 2022.

    Examples:
      >>> print(f"{symmetric_kl_divergence(jnp.array([[1.2, -0.7, 0.3]]), jnp.array([[0.8, -0.1, -0.4]]))[0]:.4f}")
      0.2385
    """
    options: Any = {"axis": axis, "where": where, "scale": scale}
    return zlpr_core.symmetric_kl_divergence(jnp.asarray(p_logits), jnp.asarray(q_logits), **options, xp=xp)


def zlpr_divergence(
    p_logits: ArrayLike, q_logits: ArrayLike, *, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    r"""The regret of soft ZLPR when ``p_logits`` are right and ``q_logits`` are said.

    .. math::
        D(s \| u) = \log\Bigl(1 + \sum_i w_i e^{d_i}\Bigr) + \log\Bigl(1 + \sum_i w_i e^{-d_i}\Bigr)
        - 2 \log\Bigl(1 + \sum_i w_i\Bigr)

    with :math:`d = s - u` and :math:`w_i = 1 / (2 \cosh s_i)`. Args and errors are those of :func:`kl_divergence`,
    without ``scale``.

    Returns:
      One non-negative value per example, 0 iff the two are equal, and exact near 0.

    Examples:
      >>> print(f"{zlpr_divergence(jnp.array([[1.2, -0.7, 0.3]]), jnp.array([[0.8, -0.1, -0.4]]))[0]:.4f}")
      0.1843
    """
    options: Any = {"axis": axis, "where": where}
    return zlpr_core.zlpr_divergence(jnp.asarray(p_logits), jnp.asarray(q_logits), **options, xp=xp)
