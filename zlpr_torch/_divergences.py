"""How far apart two logit tensors are: ``(p_logits, q_logits)``, ``dim``, ``mask`` and ``reduction``."""

from torch import Tensor

import zlpr_core
from zlpr_core._checks import class_axes
from zlpr_core._typing import Axis

from ._arguments import check_tensors, read_options
from ._namespace import Option, xp
from ._reduction import Reduction, labelled_examples, read_reduction, reduce


def kl_divergence(
    p_logits: Tensor,
    q_logits: Tensor,
    *,
    dim: Axis = -1,
    mask: Option = None,
    scale: float | None = 1.0,
    reduction: Reduction | None = "mean",
) -> Tensor:
    r"""Kullback-Leibler divergence between the label probabilities of two logit tensors, summed over the labels.

    .. math::
        \sum_i \mathrm{KL}\bigl(\sigma(c s_i) \,\|\, \sigma(c u_i)\bigr)
        = \sum_i \bigl[\sigma(c s_i)\, c (s_i - u_i) - \log(1 + e^{c s_i}) + \log(1 + e^{c u_i})\bigr]

    Args:
        p_logits: raw logits :math:`s`, in any floating dtype.
        q_logits: raw logits :math:`u`. An infinite logit in both is agreement and adds 0; in ``q_logits`` alone it is
            impossible to match and costs +inf.
        dim: the class dimension or dimensions; they are summed away.
        mask: bool, broadcastable to ``p_logits``. False takes the cell out of value and gradient, whatever it holds.
        scale: :math:`c`, positive. 1 reads logits as the author of the loss published it; 2 agrees with soft ZLPR,
            which fits :math:`\sigma(2s)`. The same difference costs up to four times as much with 2.
        reduction: ``"mean"`` over the examples that keep at least one cell (never over the classes; 0 if none keeps
            any), ``"sum"`` or ``"none"``.

    Shape:
        - p_logits and q_logits: :math:`(*, C)`
        - output: scalar, or :math:`(*)` with ``reduction="none"``; non-negative, 0 iff the two are equal; float32, or
          float64 if either is.

    Raises:
        TypeError: an argument is not a tensor of the right kind.
        ValueError: shapes differ or do not broadcast, ``scale`` is not positive, ``reduction`` is unknown.

    Example:
        >>> kl_divergence(torch.tensor([[1.2, -0.7, 0.3]]), torch.tensor([[0.8, -0.1, -0.4]]))
        tensor(0.1181)
    """
    mask = _checked(p_logits, q_logits, mask)
    divergence = zlpr_core.kl_divergence(p_logits, q_logits, axis=dim, where=mask, scale=scale, xp=xp)
    return _reduced(divergence, p_logits, dim, mask, reduction)


def symmetric_kl_divergence(
    p_logits: Tensor,
    q_logits: Tensor,
    *,
    dim: Axis = -1,
    mask: Option = None,
    scale: float | None = 1.0,
    reduction: Reduction | None = "mean",
) -> Tensor:
    r"""Jeffreys' divergence, the sum of :func:`kl_divergence` in both directions.

    .. math::
        c \sum_i \bigl(\sigma(c s_i) - \sigma(c u_i)\bigr) (s_i - u_i)

    With ``scale=1`` this is what the author of the loss published for R-Drop (https://kexue.fm/archives/9039, 2022).
    Whether the paper itself reads :math:`\sigma(s)` or :math:`\sigma(2s)` could not be confirmed. Arguments, shapes and
    errors are those of :func:`kl_divergence`; an infinite logit in one tensor only costs +inf.

    Example:
        >>> symmetric_kl_divergence(torch.tensor([[1.2, -0.7, 0.3]]), torch.tensor([[0.8, -0.1, -0.4]]))
        tensor(0.2385)
    """
    mask = _checked(p_logits, q_logits, mask)
    divergence = zlpr_core.symmetric_kl_divergence(p_logits, q_logits, axis=dim, where=mask, scale=scale, xp=xp)
    return _reduced(divergence, p_logits, dim, mask, reduction)


def zlpr_divergence(
    p_logits: Tensor,
    q_logits: Tensor,
    *,
    dim: Axis = -1,
    mask: Option = None,
    reduction: Reduction | None = "mean",
) -> Tensor:
    r"""The divergence that soft ZLPR itself induces: its regret when ``p_logits`` are right and ``q_logits`` are said.

    .. math::
        D(s \| u) = L(u, \sigma(2s)) - H(\sigma(2s))
        = \log\Bigl(1 + \sum_i w_i e^{d_i}\Bigr) + \log\Bigl(1 + \sum_i w_i e^{-d_i}\Bigr)
        - 2 \log\Bigl(1 + \sum_i w_i\Bigr)

    with :math:`d = s - u` and :math:`w_i = 1 / (2 \cosh s_i)`. Its gradients are bounded as those of the loss are, it
    ties the labels together as the loss does, and near 0 it is exact, where the three logarithms would cancel.
    Arguments, shapes and errors are those of :func:`kl_divergence`, without ``scale``.

    Example:
        >>> zlpr_divergence(torch.tensor([[1.2, -0.7, 0.3]]), torch.tensor([[0.8, -0.1, -0.4]]))
        tensor(0.1843)
    """
    mask = _checked(p_logits, q_logits, mask)
    divergence = zlpr_core.zlpr_divergence(p_logits, q_logits, axis=dim, where=mask, xp=xp)
    return _reduced(divergence, p_logits, dim, mask, reduction)


def _checked(p_logits: Tensor, q_logits: Tensor, mask: Option) -> Tensor | None:
    """``mask`` as a tensor; the core checks the rest."""
    check_tensors(p_logits=p_logits, q_logits=q_logits)
    where: Tensor | None = read_options(p_logits, mask, None, None, None).where
    return where


def _reduced(
    divergence: Tensor, p_logits: Tensor, dim: Axis, mask: Tensor | None, reduction: Reduction | None
) -> Tensor:
    labelled = labelled_examples(mask, p_logits.shape, class_axes(p_logits, dim, xp=xp))
    return reduce(divergence, read_reduction(reduction), labelled)
