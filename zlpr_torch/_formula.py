"""The plain way: the core's formula on tensors, which autograd and every transform see through."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import zlpr_core
from zlpr_core._divergences import Divergence
from zlpr_core._losses import terms_gradients
from zlpr_core._options import Options
from zlpr_core._pairs import Pair, read_pair

from ._layout import Layout, Shape
from ._namespace import xp
from ._reduction import Reduction, labelled_examples, number_of, reduce


def plain_loss(input: Tensor, target: Tensor, options: Options, axes: Shape, reduction: Reduction) -> Tensor:
    """Reduced ZLPR."""
    losses = zlpr_core.zlpr(input, target, axis=axes, **options.by_name(), xp=xp)
    return reduce(losses, reduction, labelled_examples(options.where, input.shape, axes))


def differentiable_gradients(
    upstream: Tensor,
    input: Tensor,
    target: Tensor,
    options: Options,
    axes: Shape,
    reduction: Reduction,
    wrt: list[Tensor],
) -> tuple[Tensor, ...]:
    """Gradients with a graph of their own, for second order. A kernel's would be constants to autograd."""
    with torch.enable_grad():
        loss = plain_loss(input, target, options, axes, reduction)
    gradients: tuple[Tensor, ...] = torch.autograd.grad(loss, wrt, upstream, create_graph=True)
    return gradients


def linear_gradient(
    upstream: Tensor, input: Tensor, target: Tensor, options: Options, axes: Shape, reduction: Reduction
) -> Tensor:
    """The gradient by operations on ``upstream``, for a transform of it: a batch of upstream gradients, for example."""
    layout = Layout(input.dim(), axes)
    wide = input.to(torch.float64 if input.dtype == torch.float64 else torch.float32)
    gradient: Tensor = zlpr_core.zlpr_grad(wide, target, axis=axes, **options.by_name(), xp=xp)
    if reduction == "mean":
        upstream = upstream / number_of_examples(layout, input.shape, options.where)
    return (gradient * layout.beside_cells(upstream)).to(input.dtype)


def gradient_of_terms(
    upstreams: Sequence[Tensor], input: Tensor, target: Tensor, options: Options, axes: Shape
) -> Tensor:
    """Of the two halves together, by operations that autograd and transforms see through."""
    layout = Layout(input.dim(), axes)
    parts = terms_gradients(input, target, axes, options, xp=xp)
    positive = layout.beside_cells(upstreams[0]) * parts.positive
    gradient: Tensor = positive + layout.beside_cells(upstreams[1]) * parts.negative
    return gradient.to(input.dtype)


class PairCall(NamedTuple):
    """What is computed of two logit tensors: a multiple of a divergence, and with a target the mean of their losses."""

    divergence: Divergence
    scale: float
    axes: Shape
    reduction: Reduction
    coefficient: float = 1.0


class Inputs(NamedTuple):
    """Of what. The options are those of the losses; their mask is that of the divergence too."""

    p: Tensor
    q: Tensor
    target: Tensor | None
    options: Options


def plain_pair(call: PairCall, inputs: Inputs) -> Tensor:
    """Reduced."""
    inputs = widened(inputs)
    values: Tensor = call.coefficient * call.divergence.value(_pair(call, inputs), xp=xp)
    if inputs.target is not None:
        options = inputs.options.by_name()
        first = zlpr_core.zlpr(inputs.p, inputs.target, axis=call.axes, **options, xp=xp)
        second = zlpr_core.zlpr(inputs.q, inputs.target, axis=call.axes, **options, xp=xp)
        values = 0.5 * (first + second) + values
    return reduce(values, call.reduction, labelled_examples(inputs.options.where, inputs.p.shape, call.axes))


def widened(inputs: Inputs) -> Inputs:
    """Logits in the dtype that computes: gradients of losses and divergence are added up before they are rounded."""
    p, q = inputs.p, inputs.q
    wide = torch.promote_types(torch.promote_types(p.dtype, q.dtype), torch.float32)
    return Inputs(p.to(wide), q.to(wide), inputs.target, inputs.options)


def pair_gradients(call: PairCall, upstream: Tensor, inputs: Inputs) -> list[Tensor]:
    """In both logit tensors, by operations that autograd and transforms see through."""
    layout = Layout(inputs.p.dim(), call.axes)
    if call.reduction == "mean":
        upstream = upstream / number_of_examples(layout, inputs.p.shape, inputs.options.where)
    each = layout.beside_cells(upstream)
    gradients, pair = [], _pair(call, inputs)
    values = layout.beside_cells(call.divergence.value(pair, xp=xp))
    for logits, of_divergence in zip((inputs.p, inputs.q), call.divergence.gradients(pair, values, xp=xp), strict=True):
        gradient = call.coefficient * of_divergence
        if inputs.target is not None:
            wide, options = logits.to(of_divergence.dtype), inputs.options.by_name()
            gradient = 0.5 * zlpr_core.zlpr_grad(wide, inputs.target, axis=call.axes, **options, xp=xp) + gradient
        gradients.append((gradient * each).to(logits.dtype))
    return gradients


def _pair(call: PairCall, inputs: Inputs) -> Pair:
    names = ("input1", "input2") if inputs.target is not None else ("p_logits", "q_logits")
    options = Options(inputs.options.where)
    return read_pair(inputs.p, inputs.q, call.axes, options, call.scale, names, xp=xp)


def number_of_examples(layout: Layout, shape: torch.Size, where: Tensor | None) -> int | Tensor:
    """What the mean divides by."""
    labelled = labelled_examples(where, shape, layout.axes)
    return layout.number_of_rows(shape) if labelled is None else number_of(labelled)
