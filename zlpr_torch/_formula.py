"""The plain way: the core's formula on tensors, which autograd and every transform see through."""

import torch
from torch import Tensor

import zlpr_core
from zlpr_core._options import Options

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
        labelled = labelled_examples(options.where, input.shape, axes)
        upstream = upstream / (layout.number_of_rows(input.shape) if labelled is None else number_of(labelled))
    return (gradient * layout.beside_cells(upstream)).to(input.dtype)
