"""A linear layer and its loss in one: what autograd knows of them, and all logits at once where these are needed."""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from zlpr_core._indices import Ids
from zlpr_core._options import Options

from . import _dispatch, _sharded, _torch_internals
from ._autograd import is_seen_through
from ._chunks import Hook, Sums, Wanted, gradients, memory_of, one_sweep, sums_of
from ._formula import linear_gradient
from ._group import Part
from ._layer import Layer, Targets
from ._namespace import computing_dtype
from ._plan import LinearPlan
from ._reduction import Reduction, number_of, reduce


class Call(NamedTuple):
    """What autograd does not look into."""

    shape: tuple[int, ...]  # of the logits
    dtype: torch.dtype  # that computes the loss
    product_dtype: torch.dtype  # of the logits of a chunk
    reduction: Reduction
    plan: LinearPlan
    budget: int | None  # of which the plan is made
    hook: Hook | None
    rounded: torch.dtype | None
    group: Any
    part: Part | None = None  # which classes these are, where the others are to be asked whether it fits

    @classmethod
    def of(
        cls,
        input: Tensor,
        weight: Tensor,
        reduction: Reduction,
        budget: int | None,
        *,
        hook: Hook | None = None,
        rounded: torch.dtype | None = None,
        group: Any = None,
    ) -> "Call":
        """Of checked arguments, with a plan for their sizes."""
        wide, shape = computing_dtype(input, weight), (*input.shape[:-1], weight.shape[0])
        product = product_dtype(input.device.type, input.dtype, weight.dtype, rounded)
        sizes: Any = {"rows": prod(shape[:-1]), "classes": shape[-1], "device": input.device.type}
        one_sweep = hook is None and group is None and reduction != "none"
        plan = LinearPlan.of(**sizes, memory_budget=budget, bytes_a_logit=product.itemsize, one_sweep=one_sweep)
        return cls(shape, wide, product, reduction, plan, budget, hook, rounded, group)


def product_dtype(
    device: str, input: torch.dtype, weight: torch.dtype, rounded: torch.dtype | None = None
) -> torch.dtype:
    """That in which a chunk is multiplied: bfloat16 as it is, as ``nn.Linear`` does, but on a CPU in float32.

    float16 in float32 too, because the gradient of one negative among a million would be 0 in float16.
    """
    widest = torch.promote_types(input, weight)
    narrow = widest if rounded is None or widest == torch.float64 else rounded
    if narrow == torch.float64 or (narrow == torch.bfloat16 and device != "cpu"):
        return narrow
    return torch.float32


def as_rows(cells: Tensor) -> Tensor:
    """[rows, classes], of which there may be none: -1 rows would be any number then."""
    return cells.reshape(prod(cells.shape[:-1]), cells.shape[-1])


def dense_loss(call: Call, layer: tuple[Tensor, Tensor, Tensor | None], targets: Targets, options: Options) -> Tensor:
    """By the loss of the logits, which are made at once."""
    logits = _all_logits(call, layer)
    target = targets.of(0, call.shape[-1]).reshape(call.shape)
    target, where = targets.prepared(target, options.where, logits)
    axes = (len(call.shape) - 1,)
    # not by `_replace`, which PyTorch 2.6 does not compile
    prepared = Options(where, options.weight, options.pos_weight, options.threshold)
    return _dispatch.loss(logits, target, prepared, axes, call.reduction, "auto")


def _all_logits(call: Call, layer: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
    """On a CPU as the chunks have them: half precision is not rounded again. Elsewhere as ``nn.Linear`` has them."""
    input, weight, bias = layer
    if not input.is_cpu:
        dtype = torch.promote_types(input.dtype, weight.dtype)
        return torch.nn.functional.linear(input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    if call.rounded is not None:
        input, weight = input.to(call.rounded), weight.to(call.rounded)
    with torch.autocast("cpu", enabled=False):
        wide = input.to(call.dtype), weight.to(call.dtype), None if bias is None else bias.to(call.dtype)
        return torch.nn.functional.linear(*wide)


class LinearLoss(torch.autograd.Function):
    """The reduced loss with the derivatives in input, weight and bias, from two numbers a row and half."""

    @staticmethod
    def forward(
        ctx: Any, call: Call, fixed: Any, input: Tensor, weight: Tensor, bias: Tensor | None, *tensors: Tensor | None
    ) -> Tensor:
        layer = read_layer(call, fixed, input, weight, bias, tensors)
        ctx.call, ctx.fixed, ctx.gradients, ctx.logits = call, fixed, None, None
        if call.plan.way == "rows":
            number = max(len(layer.input), 1) if call.reduction == "mean" else 1
            losses, ctx.gradients = one_sweep(layer, call.plan.size, number, Wanted(*ctx.needs_input_grad[2:5]))
            ctx.save_for_backward(input, weight, bias, *tensors)
            return reduce(losses, call.reduction)
        ctx.logits = memory_of(layer, Wanted(*ctx.needs_input_grad[2:5])._replace(hook=call.hook))
        sums = sums_of_rows(call, layer, ctx.logits)
        ctx.save_for_backward(input, weight, bias, *tensors, *sums)
        losses = sums.losses.to(call.dtype)
        return reduce(losses.reshape(call.shape[:-1]), call.reduction, sums.labelled)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        input, weight, bias, *tensors = ctx.saved_tensors
        own, tensors, kept = (input, weight, bias), tensors[:8], tensors[8:]
        wanted = Wanted(*ctx.needs_input_grad[2:5])._replace(hook=ctx.call.hook)
        is_split = ctx.call.group is not None or ctx.call.hook is not None
        if torch.is_grad_enabled():
            found = differentiable(upstream, ctx.call, ctx.fixed, own, tensors, wanted)
        elif _is_mapped(upstream) if is_split else is_seen_through(upstream):
            found = _linear_in_upstream(
                upstream, ctx.call, read_layer(ctx.call, ctx.fixed, input, weight, bias, tensors)
            )
        elif ctx.gradients is not None:
            # A second backward finds none and computes them anew: autograd may add to these in place.
            made, ctx.gradients = ctx.gradients, None
            found = _scaled(made, upstream)
        else:
            layer = read_layer(ctx.call, ctx.fixed, input, weight, bias, tensors)
            # A second backward finds none and computes them anew: the gradient of the weight is in their place.
            logits, ctx.logits = ctx.logits, None
            found = second_sweep(upstream, ctx.call, layer, Sums(*kept) if kept else None, wanted, logits)
        pairs = zip(found, own, strict=True)
        return None, None, *[g if g is None else g.to(x.dtype).reshape(x.shape) for g, x in pairs], *[None] * 8


def sums_of_rows(call: Call, layer: Layer, logits: Tensor | None = None) -> Sums:
    """Of whole rows, whichever process has their classes. Writes ``logits``, if there is memory for them."""
    sums = sums_of(layer, call.plan.by_classes().size, logits)
    return sums if call.group is None else _sharded.whole_rows(sums, call.dtype, call.group, call.part)


def second_sweep(
    upstream: Tensor,
    call: Call,
    layer: Layer,
    sums: Sums | None,
    wanted: Wanted,
    logits: Tensor | None = None,
) -> list[Tensor | None]:
    """The gradients by the sums of forward; without any, from the first sweep on. ``logits`` are overwritten."""
    parts, labelled = sums_of_rows(call, layer) if sums is None else sums
    each = upstream.reshape(-1, 1).to(call.dtype)
    if call.reduction == "mean":
        each = each / (len(layer.input) if labelled is None else number_of(labelled))
    is_summed = call.group is not None and wanted.input
    try:
        found = gradients(layer, call.plan.by_classes().size, parts, each.expand(len(layer.input), 1), wanted, logits)
    except Exception:
        if is_summed:  # the user's hook raised here, and the other processes wait: a sum that is NaN stops them too
            distributed.all_reduce(torch.full_like(layer.input, torch.nan, dtype=each.dtype), group=call.group)
        raise
    if is_summed:
        distributed.all_reduce(found[0], group=call.group)
    return found


def _is_mapped(upstream: Tensor) -> bool:
    """True if what only all logits can compute has come in between; modes that count exchanges or flops may look on."""
    return torch.compiler.is_compiling() or _torch_internals.is_transformed() or _torch_internals.is_batched(upstream)


def _linear_in_upstream(upstream: Tensor, call: Call, layer: Layer) -> list[Tensor | None]:
    """The gradients by operations on ``upstream``, for a transform of it, and by all logits at once."""
    _refuse_shards(call)
    weights, bias = layer.weights(0, layer.classes), None if layer.bias is None else layer.bias.to(call.product_dtype)
    logits = torch.nn.functional.linear(layer.input, weights, bias)
    target, where = layer.targets.prepared(layer.targets.of(0, layer.classes), layer.options.where, logits)
    options = layer.options._replace(where=where)
    flat = upstream.reshape(-1) if call.reduction == "none" else upstream
    gradient = linear_gradient(flat, logits, target, options, (1,), call.reduction)
    return [gradient @ weights, gradient.mT @ layer.input, None if bias is None else gradient.sum(0)]


def _refuse_shards(call: Call) -> None:
    if call.group is not None or call.hook is not None:
        msg = "With `group` or `weight_grad_hook` there is no second derivative, and no vmap of the backward pass."
        raise NotImplementedError(msg)


def _scaled(gradients: list[Tensor | None], upstream: Tensor) -> list[Tensor | None]:
    """In place. 1 is what ``loss.backward()`` hands over, and a look at it costs nothing on a CPU."""
    if upstream.is_cpu and upstream.item() == 1:
        return gradients
    return [None if gradient is None else gradient.mul_(upstream) for gradient in gradients]


def read_layer(
    call: Call, fixed: Any, input: Tensor, weight: Tensor, bias: Tensor | None, tensors: Sequence[Tensor | None]
) -> Layer:
    numbers, *prepared = fixed
    dense, *ids = tensors[:4]
    targets = Targets(dense, None if dense is not None else Ids(*ids), *prepared)
    options = Options(*[n if x is None else x for x, n in zip(tensors[4:8], numbers, strict=True)])
    rows = as_rows(input)
    rounded = (rows if call.rounded is None else rows.to(call.rounded)).to(call.product_dtype)
    return Layer(rounded, weight, bias, targets, options, call.rounded)


def differentiable(
    upstream: Tensor, call: Call, fixed: Any, layer: Any, tensors: Sequence[Any], wanted: Wanted
) -> list[Tensor | None]:
    """Gradients with a graph of their own, for second order: by all logits at once."""
    _refuse_shards(call)
    flat = read_layer(call, fixed, layer[0], layer[1], layer[2], tensors)
    with torch.enable_grad():
        rows = as_rows(layer[0]), layer[1], layer[2]
        loss = dense_loss(call._replace(shape=(len(rows[0]), call.shape[-1])), rows, flat.targets, flat.options)
        wrt = [part for part, want in zip(layer, wanted[:3], strict=True) if want]
        found = iter(torch.autograd.grad(loss, wrt, upstream.reshape(loss.shape), create_graph=True))
    return [next(found) if want else None for want in wanted[:3]]
