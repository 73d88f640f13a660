"""ZLPR as PyTorch functions: ``(input, target)``, ``dim``, ``mask`` and ``reduction``."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

import zlpr_core
from zlpr_core._checks import check_pair, check_positive, class_axes
from zlpr_core._divergences import JEFFREYS
from zlpr_core._indices import part_of_ids
from zlpr_core._options import is_zero
from zlpr_core._pairs import check_logits
from zlpr_core._targets import prepare_targets
from zlpr_core._typing import Axis

from . import _dispatch, _group, _sharded
from ._arguments import check_dense_pair, check_tensors, has_dtensor, read_options, readable_option
from ._dispatch import Implementation, read_implementation
from ._formula import Inputs, PairCall
from ._ids import ids_of_part, targets_of
from ._namespace import Option, as_number, xp
from ._reduction import Reduction, labelled_examples, read_reduction, reduce


def zlpr_loss(
    input: Tensor,
    target: Tensor,
    *,
    dim: Axis = -1,
    mask: Option = None,
    weight: Option = None,
    pos_weight: Option = None,
    threshold: Option = 0.0,
    label_smoothing: float | None = 0.0,
    ignore_index: float | None = None,
    reduction: Reduction | None = "mean",
    impl: Implementation | None = "auto",
    group: Any = None,
) -> Tensor:
    r"""Multi-label ZLPR loss, where ``binary_cross_entropy_with_logits`` stood.

    .. math::
        L(s, t) = \log\Bigl(1 + \sum_i a_i e^{-(s_i - \theta)}\Bigr) + \log\Bigl(1 + \sum_i b_i e^{s_i - \theta}\Bigr)

    with :math:`a_i = w_i p_i t_i` and :math:`b_i = w_i (1 - t_i)` for weights :math:`w` and positive weights :math:`p`.

    Args:
        input: raw logits :math:`s` (no sigmoid), in any floating dtype. Half precision, autocast included, computes in
            and returns float32; the gradient comes back in the dtype of ``input``. -inf on a negative and +inf on a
            positive contribute nothing; the other way round the loss is +inf, and such a cell has no gradient.
        target: the shape of ``input``. bool or integer: hard labels, 0 or 1. Floating: soft labels in [0, 1], where
            8 eps of their dtype beyond either end count as 0 or 1. Anything else, or NaN, makes the loss of that
            example NaN, on any device.
        dim: the class dimension or dimensions; they are summed away.
        mask: bool, broadcastable to ``input``. False takes the cell out of value and gradient, whatever it holds.
        weight: non-negative weights of the classes (or cells), broadcastable to ``input``, inside the logarithms.
            A negative, infinite or NaN weight makes the loss NaN. This and the next two are numbers, tensors, lists or
            NumPy arrays; tensors may require a gradient.
        pos_weight: the same, for positives only.
        threshold: :math:`\theta`, the logit above which a label is predicted (TLPR), broadcastable to ``input``.
        label_smoothing: strength in [0, 1] of symmetric smoothing; see :func:`smooth_labels` for what it costs when
            there are many classes.
        ignore_index: cells whose target equals this are masked; NaN is a legal value.
        reduction: ``"mean"`` over the examples that keep at least one cell (never over the classes; 0 if none keeps
            any), ``"sum"`` or ``"none"``.
        impl: ``"auto"`` takes the fastest: ``"blocked"`` on a CPU, ``"triton"`` on a GPU that has Triton, and else
            ``"plain"``. Transforms, forward mode, second order and gradients in anything but ``input`` and
            ``threshold`` always use ``"plain"``. In compiled code ``"blocked"`` and ``"triton"`` are ``"auto"``. All
            agree to rounding.
        group: a process group of ``torch.distributed`` over which the classes are spread. ``input``, ``target`` and
            options are this process's classes, of which each may have another number, of the same examples. The loss is
            that of whole rows, the same on every process, and so is the gradient, of this process's logits. Forward
            exchanges 16 bytes a row, backward nothing. There is no second derivative, and compiled code breaks here.
            A DTensor as ``input`` needs no group, and makes the loss one: sharded on classes, rows or both. Beside it
            ``target`` and options are DTensors or whole on each process, and the mean is over all rows of the mesh.

    Shape:
        - input and target: :math:`(*, C)`
        - output: scalar, or :math:`(*)` with ``reduction="none"``; float32, or float64 for float64 ``input``.

    Raises:
        TypeError: an argument is not a tensor of the right kind.
        ValueError: shapes differ or do not broadcast, ``dim`` does not exist, ``reduction`` is unknown.

    The formula is from Su et al., "ZLPR: A Novel Loss for Multi-label Classification", 2022, arXiv:2208.02955.

    Example:
        >>> input = torch.tensor([[2.0, -1.0, 0.0]], requires_grad=True)
        >>> loss = zlpr_loss(input, torch.tensor([[1, 0, 0]]))
        >>> loss.backward()
        >>> loss.item(), input.grad
        (0.9889..., tensor([[-0.1192,  0.1554,  0.4223]]))
    """
    if (type(input) is not Tensor or type(target) is not Tensor) and has_dtensor(input, target):
        return _sharded.of_dtensors(zlpr_loss, **locals())
    if group is not None and not _group.is_together():
        return _group.together(zlpr_loss, **locals())
    reduction = reduction if reduction == "mean" else read_reduction(reduction)
    impl = impl if impl == "auto" else read_implementation(impl)
    if label_smoothing or ignore_index is not None or mask is not None:
        check_tensors(input=input, target=target)
        target, mask = _prepared(target, mask, input, label_smoothing, ignore_index)
    check_dense_pair(input, target)
    axes = class_axes(input, dim, xp=xp, empty=group is not None)
    options = read_options(input, mask, weight, pos_weight, threshold)
    if group is not None:
        shared: Tensor = _sharded.loss(input, target, options, axes, reduction, group)
        return shared
    return _dispatch.loss(input, target, options, axes, reduction, impl)


def sparse_zlpr_loss(
    input: Tensor,
    indices: Tensor | Sequence[Tensor],
    *,
    dim: Axis = -1,
    mask: Option = None,
    weight: Option = None,
    pos_weight: Option = None,
    threshold: Option = 0.0,
    label_smoothing: float | None = 0.0,
    pad: int | None = -1,
    reduction: Reduction | None = "mean",
    impl: Implementation | None = "auto",
    group: Any = None,
    class_range: tuple[int, int] | None = None,
) -> Tensor:
    r"""ZLPR of class ids: :func:`zlpr_loss` of the rows that the ids stand for.

    .. math::
        L(s, P) = \log\Bigl(1 + \sum_{i \in P} e^{-s_i}\Bigr) + \log\Bigl(1 + \sum_{i \notin P} e^{s_i}\Bigr)

    Exact, because the positives are masked out of the second sum, by one byte a logit. The published form subtracts
    them from the sum of all, and trains backwards once a positive is above 16.

    Args:
        input: as in :func:`zlpr_loss`.
        indices: the ids of the positives, in [0, C), in any order; duplicates count once. An integer tensor with each
            row filled up with ``pad``, or a list with one 1-D tensor for each example, or a ``torch.sparse_csr`` (or
            other sparse) matrix of the shape of ``input`` that holds 1 at the positives.
        dim: the class dimension or dimensions. Of several, an id counts the cells in C order, as
            :func:`span_to_index` does.
        mask, weight, pos_weight, threshold, label_smoothing, reduction, impl: as in :func:`zlpr_loss`.
        pad: the id that marks an unused slot.
        group: as in :func:`zlpr_loss`, for classes on the last dimension; the ids count the classes of all processes.
            Beside a DTensor too, where they are a DTensor of the same rows, or those of all rows on each process.
        class_range: with ``group``, the first class of this process and the number of all. Without it the processes
            exchange how many each has, in every call.

    Shape:
        - input: :math:`(*, C)`
        - indices: :math:`(*, P)`
        - output: scalar, or :math:`(*)` with ``reduction="none"``

    Raises:
        IndexError: an id is neither in range nor ``pad``. On an accelerator, and while compiling, where a look at the
            values would stop everything, the loss of that example is NaN instead; so it is for a matrix that holds
            another number than 0 and 1.
        TypeError: ids that are not integers.
        ValueError: not one row of ids for each example.

    The task is that of J. Su, https://kexue.fm/archives/8888, 2022, whose form subtracts.

    Example:
        >>> input = torch.tensor([[2.0, -1.0, 0.0], [3.0, 1.0, -2.0]])
        >>> sparse_zlpr_loss(input, torch.tensor([[0, -1], [0, 1]]), reduction="none")
        tensor([0.9889, 0.4759])
        >>> sparse_zlpr_loss(input, [torch.tensor([0]), torch.tensor([1, 0])], reduction="none")
        tensor([0.9889, 0.4759])
    """
    if (type(input) is not Tensor or type(indices) is not Tensor) and has_dtensor(input, indices):
        return _sharded.of_dtensors(sparse_zlpr_loss, **locals())
    if group is not None and not _group.is_together():
        return _group.together(sparse_zlpr_loss, **locals())
    check_tensors(input=input)
    if group is not None:
        part = _group.part_of(_last(input, dim), group, class_range, input.device)
        target = part_of_ids(ids_of_part(indices, input, pad, part.first, part.total), 0, part.classes, xp=xp)
        target, mask = _prepared(target, mask, input, label_smoothing, None)
        options = read_options(input, mask, weight, pos_weight, threshold)
        axes = (input.dim() - 1,)
        shared: Tensor = _sharded.loss(input, target, options, axes, read_reduction(reduction), group, part)
        return shared
    return zlpr_loss(
        input,
        targets_of(indices, input, dim, pad),
        dim=dim,
        mask=mask,
        weight=weight,
        pos_weight=pos_weight,
        threshold=threshold,
        label_smoothing=label_smoothing,
        reduction=reduction,
        impl=impl,
    )


def _last(input: Tensor, dim: Axis) -> int:
    """The number of classes, which are on the last dimension."""
    if class_axes(input, dim, xp=xp, empty=True) != (input.dim() - 1,):
        msg = f"`dim` must be the last one where ids count the classes of several processes. Received: {dim!r}."
        raise ValueError(msg)
    return input.shape[-1]


def rdrop_zlpr_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    *,
    alpha: float | None = 4.0,
    scale: float | None = 1.0,
    dim: Axis = -1,
    mask: Option = None,
    weight: Option = None,
    pos_weight: Option = None,
    threshold: Option = 0.0,
    label_smoothing: float | None = 0.0,
    ignore_index: float | None = None,
    reduction: Reduction | None = "mean",
) -> Tensor:
    r"""R-Drop: the loss of two passes through dropout, and how far apart they are.

    .. math::
        \tfrac12 \bigl[L(s, t) + L(u, t)\bigr] + \tfrac{\alpha}{4}\, \mathrm{KL}_\mathrm{sym}(s, u)

    with :func:`symmetric_kl_divergence` as the last term: the mean of two losses and the published code's quarter.
    Multiply by 2 for the scale of the R-Drop paper, which adds the two losses.

    Args:
        input1: raw logits :math:`s` of one pass.
        input2: raw logits :math:`u` of another pass of the same examples.
        target: as in :func:`zlpr_loss`, as are all the options that are not named here. The weights concern the losses
            only; a ``threshold`` is subtracted from the logits in all three terms.
        alpha: :math:`\alpha`, non-negative: what the agreement is worth.
        scale: as in :func:`kl_divergence`.

    Shape:
        - input1, input2 and target: :math:`(*, C)`
        - output: scalar, or :math:`(*)` with ``reduction="none"``

    R-Drop is from Liang et al., "R-Drop: Regularized Dropout for Neural Networks", 2021, arXiv:2106.14448.

    Example:
        >>> first, second = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.5, -0.5]])
        >>> rdrop_zlpr_loss(first, second, torch.tensor([[1, 0]]))
        tensor(0.6438)
    """
    reduction = read_reduction(reduction)
    check_tensors(input1=input1, input2=input2, target=target)
    target, mask = _prepared(target, mask, input1, label_smoothing, ignore_index)
    options = read_options(input1, mask, weight, pos_weight, threshold)
    if not is_zero(options.threshold):  # subtracted in all three terms, with its rounding error
        own: Any = {"alpha": alpha, "scale": scale, "axis": dim}
        losses = zlpr_core.rdrop_zlpr(input1, input2, target, **own, **options.by_name(), xp=xp)
        axes = class_axes(input1, dim, xp=xp)
        return reduce(losses, reduction, labelled_examples(options.where, input1.shape, axes))
    alpha, scale = as_number(alpha, 4.0), as_number(scale, 1.0)
    check_pair(input1, target, xp=xp)
    check_logits(input1, input2, scale, ("input1", "input2"), xp=xp)
    check_positive("alpha", alpha, zero=True)
    call = PairCall(JEFFREYS, scale, class_axes(input1, dim, xp=xp), reduction, alpha / 4)
    return _dispatch.of_pair(call, Inputs(input1, input2, target, options))


def zlpr_terms(
    input: Tensor,
    target: Tensor,
    *,
    dim: Axis = -1,
    mask: Option = None,
    weight: Option = None,
    pos_weight: Option = None,
    threshold: Option = 0.0,
    label_smoothing: float | None = 0.0,
    ignore_index: float | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The two halves of ZLPR for each example: what the positives cost and what the negatives cost.

    .. math::
        P = \log\Bigl(1 + \sum_i a_i e^{-(s_i - \theta)}\Bigr), \; N = \log\Bigl(1 + \sum_i b_i e^{s_i - \theta}\Bigr)

    Arguments, errors and edges are those of :func:`zlpr_loss`, without ``reduction``.

    Shape:
        - input and target: :math:`(*, C)`
        - each output: :math:`(*)`

    Example:
        >>> zlpr_terms(torch.tensor([[2.0, -1.0, 0.0]]), torch.tensor([[1, 0, 0]]))
        (tensor([0.1269]), tensor([0.8620]))
    """
    check_tensors(input=input, target=target)
    target, mask = _prepared(target, mask, input, label_smoothing, ignore_index)
    options = read_options(input, mask, weight, pos_weight, threshold)
    check_pair(input, target, xp=xp)
    return _dispatch.terms(input, target, options, class_axes(input, dim, xp=xp))


def _prepared(
    target: Tensor, mask: Option, input: Tensor, label_smoothing: float | None, ignore_index: float | None
) -> tuple[Tensor, Tensor | None]:
    """``(target, mask)`` with ``label_smoothing`` and ``ignore_index`` worked in."""
    where = readable_option("mask", mask)
    return prepare_targets(target, where, input, label_smoothing=label_smoothing, ignore_index=ignore_index, xp=xp)
