"""A linear layer and its loss in one: the functions, and which way computes them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zlpr_core._checks import check_layer, check_layer_targets
from zlpr_core._indices import Ids
from zlpr_core._options import Logits, Options

from . import _chunks, _cpu_chunks, _dispatch, _group, _linear_ops, _sharded, _torch_internals
from ._arguments import check_tensors, has_dtensor, readable_option
from ._chunks import Hook
from ._ids import ids_of_part
from ._layer import Targets
from ._linear_autograd import Call, LinearLoss, as_rows, dense_loss
from ._namespace import Option, xp
from ._reduction import Reduction, read_reduction


def linear_zlpr_loss(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    mask: Option = None,
    weight: Option = None,
    pos_weight: Option = None,
    threshold: Option = 0.0,
    label_smoothing: float | None = 0.0,
    ignore_index: float | None = None,
    reduction: Reduction | None = "mean",
    memory_budget: int | None = None,
    weight_grad_hook: Hook | None = None,
    group: Any = None,
) -> Tensor:
    r""":func:`zlpr_loss` of the logits ``F.linear(input, linear_weight, bias)``, which never exist at once.

    .. math::
        L = \log\Bigl(1 + \sum_i a_i e^{-(x \cdot w_i + \beta_i - \theta)}\Bigr)
          + \log\Bigl(1 + \sum_i b_i e^{x \cdot w_i + \beta_i - \theta}\Bigr)

    Exact: equal to the dense loss up to the rounding of the product. Where the logits do not fit ``memory_budget`` they
    are computed in chunks, as :class:`LinearPlan` says.

    Args:
        input: what the layer sees, ``[..., features]``. Half precision is added up in float32; dtypes that differ are
            promoted.
        linear_weight: the layer's own weights, ``[num_classes, features]``, as ``nn.Linear`` has them.
        target: ``[..., num_classes]``, as in :func:`zlpr_loss`.
        bias: :math:`\beta`, ``[num_classes]``.
        mask, weight, pos_weight, threshold, label_smoothing, ignore_index, reduction: as in :func:`zlpr_loss`,
            broadcastable to the logits.
        memory_budget: bytes beyond the arguments and their gradients; 64 MiB on a CPU and 256 MiB on a GPU unless told.
        weight_grad_hook: called in backward as ``weight_grad_hook(rows, gradient)`` with a slice of the classes and
            their gradient, a chunk after another. The gradient of the whole weight is not made then, and
            ``linear_weight.grad`` stays as it is: an optimiser may update the rows in place.
        group: a process group over which the classes are spread, as in :func:`zlpr_loss`: ``linear_weight``, ``bias``,
            ``target`` and options are this process's, and ``input`` is the same on all of them. Its gradient is summed
            over the group. DTensors need no group: ``linear_weight`` and ``bias`` as ``Shard(0)``, beside an ``input``
            that is the same on all processes, or a DTensor with other rows on another dimension of the mesh.

    Shape:
        - input: :math:`(*, H)`, linear_weight: :math:`(C, H)`, target: :math:`(*, C)`, bias: :math:`(C)`
        - output: scalar, or :math:`(*)` with ``reduction="none"``

    Raises:
        TypeError, ValueError: as in :func:`zlpr_loss`; shapes that make no linear layer; a budget that is not positive.

    In compiled code this is one op, which takes chunks too; with ``weight_grad_hook`` or ``group`` the graph breaks
    instead. Under transforms, in export, and where an option requires a gradient, the logits are made at once.

    The formula is from Su et al., "ZLPR: A Novel Loss for Multi-label Classification", 2022, arXiv:2208.02955.

    Example:
        >>> input, layer = torch.tensor([[2.0, 1.0]]), torch.nn.Linear(2, 3)
        >>> loss = linear_zlpr_loss(input, layer.weight, torch.tensor([[1, 0, 0]]), layer.bias)
        >>> loss.backward()
        >>> layer.weight.grad.shape
        torch.Size([3, 2])
    """
    if has_dtensor(input, linear_weight, bias, target):
        return _sharded.of_dtensors(linear_zlpr_loss, **locals())
    if group is not None and not _group.is_together():
        return _group.together(linear_zlpr_loss, **locals())
    check_tensors(target=target)
    call = _call_of(input, linear_weight, bias, reduction, memory_budget, weight_grad_hook, group)
    _check_devices(input, target=target, mask=mask, weight=weight, pos_weight=pos_weight, threshold=threshold)
    check_layer_targets(target, call.shape, xp=xp)
    targets = Targets(as_rows(target), None, label_smoothing, ignore_index)
    return _loss(call, (input, linear_weight, bias), targets, (mask, weight, pos_weight, threshold))


def sparse_linear_zlpr_loss(
    input: Tensor,
    linear_weight: Tensor,
    indices: Tensor | Sequence[Tensor],
    bias: Tensor | None = None,
    *,
    mask: Option = None,
    weight: Option = None,
    pos_weight: Option = None,
    threshold: Option = 0.0,
    label_smoothing: float | None = 0.0,
    pad: int | None = -1,
    reduction: Reduction | None = "mean",
    memory_budget: int | None = None,
    weight_grad_hook: Hook | None = None,
    group: Any = None,
    class_range: tuple[int, int] | None = None,
) -> Tensor:
    r""":func:`linear_zlpr_loss` of class ids, of which no row of targets is ever made.

    Args:
        input, linear_weight, bias, mask, weight, pos_weight, threshold: as in :func:`linear_zlpr_loss`.
        label_smoothing, reduction, memory_budget, weight_grad_hook: the same.
        indices: the ids of the positives, as in :func:`sparse_zlpr_loss`, but for a sparse matrix.
        pad: the id that marks an unused slot.
        group: as in :func:`linear_zlpr_loss`; the ids count the classes of all processes.
        class_range: as in :func:`sparse_zlpr_loss`.

    Shape:
        - input: :math:`(*, H)`, linear_weight: :math:`(C, H)`, indices: :math:`(*, P)`, bias: :math:`(C)`
        - output: scalar, or :math:`(*)` with ``reduction="none"``

    Raises:
        IndexError, TypeError, ValueError: as in :func:`sparse_zlpr_loss` and :func:`linear_zlpr_loss`.

    Example:
        >>> input, layer = torch.tensor([[2.0, 1.0]]), torch.nn.Linear(2, 100_000)
        >>> sparse_linear_zlpr_loss(input, layer.weight, torch.tensor([[7, 99_999]]), layer.bias).ndim
        0
    """
    if has_dtensor(input, linear_weight, bias, indices):
        return _sharded.of_dtensors(sparse_linear_zlpr_loss, **locals())
    if group is not None and not _group.is_together():
        return _group.together(sparse_linear_zlpr_loss, **locals())
    call = _call_of(input, linear_weight, bias, reduction, memory_budget, weight_grad_hook, group)
    _check_devices(input, indices=indices, mask=mask, weight=weight, pos_weight=pos_weight, threshold=threshold)
    first, total = 0, call.shape[-1]
    if group is not None:
        part = _group.part_of(total, group, class_range, input.device)
        call, first, total = call._replace(part=part), part.first, part.total
    read = ids_of_part(indices, Logits(call.shape, call.dtype, input.device), pad, first, total)
    illegal = None if read.illegal is None else read.illegal.reshape(-1)
    targets = Targets(None, Ids(as_rows(read.ids), as_rows(read.unused), illegal), label_smoothing)
    return _loss(call, (input, linear_weight, bias), targets, (mask, weight, pos_weight, threshold))


def _call_of(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    reduction: Any,
    budget: int | None,
    hook: Hook | None,
    group: Any,
) -> Call:
    """Of arguments that are checked here."""
    _check(input, weight, bias, empty=group is not None)
    check_hook(hook)
    rounded = _autocast_dtype(input.device.type)
    return Call.of(input, weight, read_reduction(reduction), budget, hook=hook, rounded=rounded, group=group)


def _check(input: Tensor, weight: Tensor, bias: Tensor | None, *, empty: bool) -> None:
    """Raise unless these are tensors of one device that make a linear layer."""
    given = {"input": input, "linear_weight": weight}
    if bias is not None:  # no `|`, which PyTorch 2.6 does not compile
        given["bias"] = bias
    check_tensors(**given)
    check_layer(input, weight, bias, 0, xp=xp, empty=empty)
    _check_devices(input, **given)


def _check_devices(like: Tensor, **others: Any) -> None:
    """Raise unless the tensors are where the input is. A single number may be anywhere, as PyTorch takes it."""
    for name, tensor in others.items():
        if isinstance(tensor, Tensor) and tensor.dim() and tensor.device != like.device:
            msg = f"`{name}` must be on the device of `input`, {like.device}. Received: {tensor.device}."
            raise ValueError(msg)


def check_hook(hook: Any) -> None:
    """Raise if it cannot be called."""
    if hook is not None and not callable(hook):
        msg = f"`weight_grad_hook` must be a function of a slice of the classes and a gradient. Received: {hook!r}."
        raise TypeError(msg)


def _autocast_dtype(device: str) -> torch.dtype | None:
    """None where autocast is off, or unknown as on the meta device."""
    # PyTorch 2.6 does not compile the second question
    is_known = device in ("cpu", "cuda") or torch.amp.is_autocast_available(device)
    if not is_known or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def _loss(
    call: Call, layer: tuple[Tensor, Tensor, Tensor | None], targets: Targets, options: tuple[Option, ...]
) -> Tensor:
    """The reduced loss, by the plan unless the logits have to be made at once."""
    logits: Any = Logits(call.shape, call.dtype, layer[0].device)
    names = ("mask", "weight", "pos_weight", "threshold")
    given = [readable_option(name, option) for name, option in zip(names, options, strict=True)]
    read = Options.of(logits, *given, xp=xp)
    if call.hook is None and call.group is None:
        if _needs_all_logits(call, targets, read):
            return dense_loss(call, layer, targets, read)
        if torch.compiler.is_compiling() or _torch_internals.is_recorded() or _torch_internals.is_fake(layer[0]):
            flat = [_flat_option(option, call.shape) for option in read]
            return _linear_ops.loss(call, layer, targets, Options(*flat))
    loss: Tensor = _in_chunks(call, layer, targets, read)
    return loss


@_torch_internals.untraced
def _in_chunks(call: Call, layer: tuple[Tensor, Tensor, Tensor | None], targets: Targets, read: Options) -> Tensor:
    """By the plan. With a hook or a group compiled code comes here too, and breaks its graph: Dynamo traces neither."""
    if call.group is not None or call.hook is not None:
        _sharded.refuse_gradients(targets.dense, *read)
    flat = Options._make([_flat_option(option, call.shape) for option in read])
    # In one sweep the gradient is made for a mean of which the number of examples is known before the last one.
    is_counted = flat.where is None and targets.ignore_index is None
    if not torch.is_grad_enabled():
        # Function.forward is told the same under `no_grad`, and would make memory for the gradient of the weight
        layer = layer[0].detach(), layer[1].detach(), None if layer[2] is None else layer[2].detach()
    if not is_counted or not any(x is not None and x.requires_grad for x in layer):
        call = call._replace(plan=call.plan.by_classes())
    if call.plan.way == "classes" and flat.are_default and _chunks.kernel_of(layer[0]) is _cpu_chunks:
        targets = targets.as_ids()
    tensors = [x if isinstance(x, Tensor) else None for x in flat]
    numbers = [None if isinstance(x, Tensor) else x for x in flat]
    own = [targets.dense, *(targets.ids or (None, None, None))]
    fixed = numbers, targets.label_smoothing, targets.ignore_index
    loss: Tensor = LinearLoss.apply(call, fixed, *layer, *own, *tensors)  # type: ignore[no-untyped-call]
    return loss


def _needs_all_logits(call: Call, targets: Targets, options: Options) -> bool:
    """True where chunks save nothing, would give a wrong derivative or none, or must not be in a program."""
    if call.plan.way == "dense" or _torch_internals.is_transformed() or _dispatch.is_exporting():
        return True
    return any(_dispatch.is_for_formula(x) for x in (targets.dense, *options))


def _flat_option(option: Any, shape: tuple[int, ...]) -> Any:
    """An option for [rows, classes], each axis of its size or 1."""
    if not isinstance(option, Tensor):
        return option
    option = option[(None,) * (len(shape) - option.dim())] if option.dim() < len(shape) else option
    if all(size == 1 for size in option.shape[:-1]):
        return option.reshape(1, -1)
    return as_rows(option.expand(*shape[:-1], option.shape[-1]))
