"""The plain way: the core's formula on tensors, which autograd and every transform see through."""

from typing import NamedTuple

import torch
from torch import Tensor

import zlpr_core
from zlpr_core._divergences import Divergence
from zlpr_core._options import Options
from zlpr_core._pairs import Pair, read_pair

from ._layout import Layout, Shape
from ._namespace import xp
from ._reduction import Reduction, labelled_examples, number_of, reduce


def plain_loss(input: Tensor, target: Tensor, options: Options, axes: Shape, reduction: Reduction) -> Tensor:
    """Reduced ZLPR."""
    losses = zlpr_core.zlpr(input, target, axis=axes, **options.by_name(), xp=xp)
    return reduce(losses, reduction, labelled_examples(options.where, input.shape, axes))


def differentiable_gradient(
    upstream: Tensor, input: Tensor, target: Tensor, options: Options, axes: Shape, reduction: Reduction
) -> Tensor:
    """The gradient with a graph of its own, for second order. A kernel's gradient would be a constant to autograd."""
    with torch.enable_grad():
        loss = plain_loss(input, target, options, axes, reduction)
    (gradient,) = torch.autograd.grad(loss, input, upstream, create_graph=True)
    return gradient


def linear_gradient(
    upstream: Tensor, input: Tensor, target: Tensor, options: Options, axes: Shape, reduction: Reduction
) -> Tensor:
    """The gradient by operations on ``upstream``, for a transform of it: a batch of upstream gradients, for example."""
    layout = Layout(input.dim(), axes)
    wide = input.to(torch.float64 if input.dtype == torch.float64 else torch.float32)
    gradient: Tensor = zlpr_core.zlpr_grad(wide, target, axis=axes, **options.by_name(), xp=xp)
    if reduction == "mean":
        upstream = upstream / _number_of_examples(layout, input.shape, options.where)
    return (gradient * layout.beside_cells(upstream)).to(input.dtype)


class DivergenceCall(NamedTuple):
    """What is computed of two logit tensors."""

    divergence: Divergence
    scale: float
    axes: Shape
    reduction: Reduction


def plain_divergence(call: DivergenceCall, p: Tensor, q: Tensor, where: Tensor | None) -> Tensor:
    """Reduced."""
    values: Tensor = call.divergence.value(_pair(call, p, q, where), xp=xp)
    return reduce(values, call.reduction, labelled_examples(where, p.shape, call.axes))


def divergence_gradients(
    call: DivergenceCall, upstream: Tensor, p: Tensor, q: Tensor, where: Tensor | None
) -> tuple[Tensor, Tensor]:
    """In both logit tensors, by operations that autograd and transforms see through."""
    layout = Layout(p.dim(), call.axes)
    if call.reduction == "mean":
        upstream = upstream / _number_of_examples(layout, p.shape, where)
    each = layout.beside_cells(upstream)
    in_p, in_q = call.divergence.gradients(_pair(call, p, q, where), xp=xp)
    return (in_p * each).to(p.dtype), (in_q * each).to(q.dtype)


def _pair(call: DivergenceCall, p: Tensor, q: Tensor, where: Tensor | None) -> Pair:
    return read_pair(p, q, call.axes, Options(where), call.scale, ("p_logits", "q_logits"), xp=xp)


def _number_of_examples(layout: Layout, shape: torch.Size, where: Tensor | None) -> int | Tensor:
    """What the mean divides by."""
    labelled = labelled_examples(where, shape, layout.axes)
    return layout.number_of_rows(shape) if labelled is None else number_of(labelled)
