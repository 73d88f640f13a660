"""A linear layer and its loss in one: the functions, and what autograd knows of them."""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from zlpr_core._checks import check_layer, check_layer_targets
from zlpr_core._indices import Ids
from zlpr_core._options import Logits, Options
from zlpr_core._reduce import ShiftedSum
from zlpr_core._terms import Halves

from . import _dispatch, _sharded, _torch_internals
from ._arguments import check_tensors, readable_option
from ._autograd import is_seen_through
from ._chunks import Hook, Layer, Sums, Targets, Wanted, gradients, one_sweep, sums_of
from ._formula import linear_gradient
from ._ids import ids_of_part
from ._namespace import Option, xp
from ._plan import LinearPlan
from ._reduction import Reduction, number_of, read_reduction, reduce


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
            over the group.

    Shape:
        - input: :math:`(*, H)`, linear_weight: :math:`(C, H)`, target: :math:`(*, C)`, bias: :math:`(C)`
        - output: scalar, or :math:`(*)` with ``reduction="none"``

    Raises:
        TypeError, ValueError: as in :func:`zlpr_loss`; shapes that make no linear layer; a budget that is not positive.

    Under transforms, ``torch.compile`` and export, and where an option requires a gradient, the logits are made at
    once; with ``weight_grad_hook`` or ``group`` compiled code breaks its graph instead.

    The formula is from Su et al., "ZLPR: A Novel Loss for Multi-label Classification", 2022, arXiv:2208.02955.

    Example:
        >>> input, layer = torch.tensor([[2.0, 1.0]]), torch.nn.Linear(2, 3)
        >>> loss = linear_zlpr_loss(input, layer.weight, torch.tensor([[1, 0, 0]]), layer.bias)
        >>> loss.backward()
        >>> layer.weight.grad.shape
        torch.Size([3, 2])
    """
    check_tensors(target=target)
    call = _Call.of(input, linear_weight, bias, reduction, memory_budget, weight_grad_hook, group)
    check_layer_targets(target, call.shape, xp=xp)
    targets = Targets(target.reshape(-1, target.shape[-1]), None, label_smoothing, ignore_index)
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
    call = _Call.of(input, linear_weight, bias, reduction, memory_budget, weight_grad_hook, group)
    first, total = 0, call.shape[-1]
    if group is not None:
        part = _sharded.part_of(total, group, class_range, input.device)
        call, first, total = call._replace(part=part), part.first, part.total
    read = ids_of_part(indices, Logits(call.shape, call.dtype, input.device), pad, first, total)
    illegal = None if read.illegal is None else read.illegal.reshape(-1)
    targets = Targets(None, Ids(_rows(read.ids), _rows(read.unused), illegal), label_smoothing)
    return _loss(call, (input, linear_weight, bias), targets, (mask, weight, pos_weight, threshold))


class _Call(NamedTuple):
    """What autograd does not look into."""

    shape: tuple[int, ...]  # of the logits
    dtype: torch.dtype  # that computes
    reduction: Reduction
    plan: LinearPlan
    hook: Hook | None
    rounded: torch.dtype | None
    group: Any
    part: _sharded.Part | None = None  # which classes these are, where the others are to be asked whether it fits

    @classmethod
    def of(
        cls,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        reduction: Any,
        budget: int | None,
        hook: Hook | None,
        group: Any,
    ) -> "_Call":
        """Of arguments that are checked here."""
        _check(input, weight, bias, budget)
        read = read_reduction(reduction)
        wide = torch.float64 if torch.float64 in (input.dtype, weight.dtype) else torch.float32
        shape, device = (*input.shape[:-1], weight.shape[0]), input.device.type
        sizes: Any = {"rows": prod(shape[:-1]), "classes": shape[-1], "device": device, "memory_budget": budget}
        one_sweep = hook is None and group is None and read != "none"
        plan = LinearPlan.of(**sizes, bytes_a_logit=wide.itemsize, one_sweep=one_sweep)
        return cls(shape, wide, read, plan, hook, _autocast_dtype(device), group)


def _check(input: Tensor, weight: Tensor, bias: Tensor | None, budget: Any) -> None:
    """Raise unless these are tensors of one device that make a linear layer, and the budget is a number."""
    given = {"input": input, "linear_weight": weight}
    if bias is not None:  # no `|`, which PyTorch 2.6 does not compile
        given["bias"] = bias
    check_tensors(**given)
    check_layer(input, weight, bias, 0, xp=xp)
    for name, tensor in given.items():
        if tensor.device != input.device:
            msg = f"`{name}` must be on the device of `input`, {input.device}. Received: {tensor.device}."
            raise ValueError(msg)
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or budget <= 0):
        msg = f"`memory_budget` must be a positive whole number of bytes. Received: {budget!r}."
        raise ValueError(msg)


def _autocast_dtype(device: str) -> torch.dtype | None:
    """None where autocast is off, or unknown as on the meta device."""
    # PyTorch 2.6 does not compile the second question
    is_known = device in ("cpu", "cuda") or torch.amp.is_autocast_available(device)
    if not is_known or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def _rows(cells: Tensor) -> Tensor:
    return cells.reshape(-1, cells.shape[-1])


def _loss(
    call: _Call, layer: tuple[Tensor, Tensor, Tensor | None], targets: Targets, options: tuple[Option, ...]
) -> Tensor:
    """The reduced loss, by the plan unless the logits have to be made at once."""
    logits: Any = Logits(call.shape, call.dtype, layer[0].device)
    names = ("mask", "weight", "pos_weight", "threshold")
    given = [readable_option(name, option) for name, option in zip(names, options, strict=True)]
    read = Options.of(logits, *given, xp=xp)
    if call.hook is None and call.group is None and _needs_all_logits(call, layer, targets, read):
        return _dense(call, layer, targets, read)
    loss: Tensor = _in_chunks(call, layer, targets, read)
    return loss


@_torch_internals.untraced
def _in_chunks(call: _Call, layer: tuple[Tensor, Tensor, Tensor | None], targets: Targets, read: Options) -> Tensor:
    """By the plan. With a hook or a group compiled code comes here too, and breaks its graph: Dynamo traces neither."""
    if call.group is not None or call.hook is not None:
        _sharded.refuse_gradients(targets.dense, *read)
    flat = Options._make([_as_rows(option, call.shape) for option in read])
    # In one sweep the gradient is made for a mean of which the number of examples is known before the last one.
    is_counted = flat.where is None and targets.ignore_index is None
    if not is_counted or not (torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in layer)):
        call = call._replace(plan=call.plan.by_classes())
    tensors = [x if isinstance(x, Tensor) else None for x in flat]
    numbers = [None if isinstance(x, Tensor) else x for x in flat]
    own = [targets.dense, *(targets.ids or (None, None, None))]
    fixed = numbers, targets.label_smoothing, targets.ignore_index
    loss: Tensor = _LinearLoss.apply(call, fixed, *layer, *own, *tensors)  # type: ignore[no-untyped-call]
    return loss


def _needs_all_logits(
    call: _Call, layer: tuple[Tensor, Tensor, Tensor | None], targets: Targets, options: Options
) -> bool:
    """True where chunks save nothing, or would give a wrong derivative or none."""
    if call.plan.way == "dense" or torch.compiler.is_compiling() or _torch_internals.is_transformed():
        return True
    if _torch_internals.is_recorded() or _torch_internals.is_fake(layer[0]):
        return True
    return any(_dispatch.is_for_formula(x) for x in (targets.dense, *options))


def _dense(call: _Call, layer: tuple[Tensor, Tensor, Tensor | None], targets: Targets, options: Options) -> Tensor:
    """By the loss of the logits, which are made at once."""
    logits = _all_logits(call, layer)
    target = targets.of(0, call.shape[-1]).reshape(call.shape)
    target, where = targets.prepared(target, options.where, logits)
    axes = (len(call.shape) - 1,)
    # not by `_replace`, which PyTorch 2.6 does not compile
    prepared = Options(where, options.weight, options.pos_weight, options.threshold)
    return _dispatch.loss(logits, target, prepared, axes, call.reduction, "auto")


def _all_logits(call: _Call, layer: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
    """On a CPU as the chunks have them: half precision is not rounded again. Elsewhere as ``nn.Linear`` has them."""
    input, weight, bias = layer
    if not input.is_cpu:
        return torch.nn.functional.linear(input, weight.to(input.dtype), None if bias is None else bias.to(input.dtype))
    if call.rounded is not None:
        input, weight = input.to(call.rounded), weight.to(call.rounded)
    with torch.autocast("cpu", enabled=False):
        wide = input.to(call.dtype), weight.to(call.dtype), None if bias is None else bias.to(call.dtype)
        return torch.nn.functional.linear(*wide)


def _as_rows(option: Any, shape: tuple[int, ...]) -> Any:
    """An option for [rows, classes], each axis of its size or 1."""
    if not isinstance(option, Tensor):
        return option
    option = option[(None,) * (len(shape) - option.dim())] if option.dim() < len(shape) else option
    if all(size == 1 for size in option.shape[:-1]):
        return option.reshape(1, -1)
    return option.expand(*shape[:-1], option.shape[-1]).reshape(-1, option.shape[-1])


class _LinearLoss(torch.autograd.Function):
    """The reduced loss with the derivatives in input, weight and bias, from two numbers a row and half."""

    @staticmethod
    def forward(
        ctx: Any, call: _Call, fixed: Any, input: Tensor, weight: Tensor, bias: Tensor | None, *tensors: Tensor | None
    ) -> Tensor:
        layer = _layer(call, fixed, input, weight, bias, tensors)
        ctx.call, ctx.fixed, ctx.gradients = call, fixed, None
        if call.plan.way == "rows":
            each = 1 / max(len(layer.input), 1) if call.reduction == "mean" else 1.0
            losses, ctx.gradients = one_sweep(layer, call.plan.size, each, Wanted(*ctx.needs_input_grad[2:5]))
            ctx.save_for_backward(input, weight, bias, *tensors)
            return reduce(losses, call.reduction)
        sums = _sums(call, layer)
        ctx.save_for_backward(input, weight, bias, *tensors, *[p for half in sums.halves for p in half], sums.labelled)
        losses = sums.losses.to(call.dtype)
        return reduce(losses.reshape(call.shape[:-1]), call.reduction, sums.labelled)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        input, weight, bias, *tensors = ctx.saved_tensors
        own, tensors, kept = (input, weight, bias), tensors[:8], tensors[8:]
        wanted = Wanted(*ctx.needs_input_grad[2:5])._replace(hook=ctx.call.hook)
        if torch.is_grad_enabled():
            found = _differentiable(upstream, ctx.call, ctx.fixed, own, tensors, wanted)
        elif is_seen_through(upstream):
            found = _linear_in_upstream(upstream, ctx.call, _layer(ctx.call, ctx.fixed, input, weight, bias, tensors))
        elif ctx.gradients is not None:
            # A second backward finds none and computes them anew: autograd may add to these in place.
            made, ctx.gradients = ctx.gradients, None
            found = _scaled(made, upstream)
        else:
            layer = _layer(ctx.call, ctx.fixed, input, weight, bias, tensors)
            found = _second_sweep(upstream, ctx.call, layer, kept, wanted)
        pairs = zip(found, own, strict=True)
        return None, None, *[g if g is None else g.to(x.dtype).reshape(x.shape) for g, x in pairs], *[None] * 8


def _sums(call: _Call, layer: Layer) -> Sums:
    """Of whole rows, whichever process has their classes."""
    sums = sums_of(layer, call.plan.by_classes().size)
    return sums if call.group is None else _sharded.whole_rows(sums, call.dtype, call.group, call.part)


def _second_sweep(
    upstream: Tensor, call: _Call, layer: Layer, kept: Sequence[Tensor], wanted: Wanted
) -> list[Tensor | None]:
    """The gradients by the sums of forward; without any, from the first sweep on."""
    halves, labelled = _sums(call, layer) if not kept else Sums(_halves(kept), kept[4])
    each = upstream.reshape(-1, 1).to(call.dtype)
    if call.reduction == "mean":
        each = each / (len(layer.input) if labelled is None else number_of(labelled))
    found = gradients(layer, call.plan.by_classes().size, halves, each.expand(len(layer.input), 1), wanted)
    if call.group is not None and found[0] is not None:
        distributed.all_reduce(found[0], group=call.group)
    return found


def _linear_in_upstream(upstream: Tensor, call: _Call, layer: Layer) -> list[Tensor | None]:
    """The gradients by operations on ``upstream``, for a transform of it, and by all logits at once."""
    _refuse_shards(call)
    weights, bias = layer.weights(0, layer.classes), None if layer.bias is None else layer.bias.to(call.dtype)
    logits = torch.nn.functional.linear(layer.input, weights, bias)
    target, where = layer.targets.prepared(layer.targets.of(0, layer.classes), layer.options.where, logits)
    options = layer.options._replace(where=where)
    flat = upstream.reshape(-1) if call.reduction == "none" else upstream
    gradient = linear_gradient(flat, logits, target, options, (1,), call.reduction)
    return [gradient @ weights, gradient.mT @ layer.input, None if bias is None else gradient.sum(0)]


def _refuse_shards(call: _Call) -> None:
    if call.group is not None or call.hook is not None:
        msg = "With `group` or `weight_grad_hook` there is no second derivative, and no vmap of the backward pass."
        raise NotImplementedError(msg)


def _halves(kept: Sequence[Tensor]) -> Halves:
    return Halves(ShiftedSum(kept[0], kept[1]), ShiftedSum(kept[2], kept[3]))


def _scaled(gradients: list[Tensor | None], upstream: Tensor) -> list[Tensor | None]:
    """In place. 1 is what ``loss.backward()`` hands over, and a look at it costs nothing on a CPU."""
    if upstream.is_cpu and upstream.item() == 1:
        return gradients
    return [None if gradient is None else gradient.mul_(upstream) for gradient in gradients]


def _layer(
    call: _Call, fixed: Any, input: Tensor, weight: Tensor, bias: Tensor | None, tensors: Sequence[Tensor | None]
) -> Layer:
    numbers, *prepared = fixed
    dense, *ids = tensors[:4]
    targets = Targets(dense, None if dense is not None else Ids(*ids), *prepared)
    options = Options(*[n if x is None else x for x, n in zip(tensors[4:8], numbers, strict=True)])
    rows = _rows(input)
    rounded = (rows if call.rounded is None else rows.to(call.rounded)).to(call.dtype)
    return Layer(rounded, weight, bias, targets, options, call.rounded)


def _differentiable(
    upstream: Tensor, call: _Call, fixed: Any, layer: Any, tensors: Sequence[Any], wanted: Wanted
) -> list[Tensor | None]:
    """Gradients with a graph of their own, for second order: by all logits at once."""
    _refuse_shards(call)
    flat = _layer(call, fixed, layer[0], layer[1], layer[2], tensors)
    with torch.enable_grad():
        rows = _rows(layer[0]), layer[1], layer[2]
        loss = _dense(call._replace(shape=(len(rows[0]), call.shape[-1])), rows, flat.targets, flat.options)
        wrt = [part for part, want in zip(layer, wanted[:3], strict=True) if want]
        found = iter(torch.autograd.grad(loss, wrt, upstream.reshape(loss.shape), create_graph=True))
    return [next(found) if want else None for want in wanted[:3]]
