"""ZLPR and its gradient on a CPU, a block of rows at a time.

A block is so small that most passes find it in the cache, and nothing but the gradient is as large as the logits. Terms
are summed without a shift, by arithmetic and one exponential a logit; a threshold becomes a factor beside the weights.
That is exact for nearly every row. One that holds a NaN, or a sum near the end of the dtype's range, is computed a
second time by ``careful_terms``, which tolerates infinite logits and very confident correct ones, and if that
was not enough by the core.

``forward`` computes the gradient too, for the upstream gradient that it expects: that of ``loss.backward()``.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import zlpr_core
from zlpr_core._losses import terms_gradients
from zlpr_core._options import DEFAULT, Options

from ._cpu_memory import BlockMemory, kept_memory
from ._cpu_terms import (
    FEW,
    WIDE,
    as_bytes,
    as_upstream,
    at_once,
    careful_terms,
    hard_terms,
    illegal_rows,
    kept_number,
    number_tensor,
    soft_terms,
    summed,
)
from ._layout import Layout, Shape, layout_of, some_rows
from ._namespace import xp
from ._reduction import Reduction

CELLS = 2**20
"""In a block: more of them leave the cache, fewer cost more calls than arithmetic."""

LIMIT = {torch.float32: 96 * math.log(2), torch.float64: 768 * math.log(2)}
"""A row with a larger loss is not exact: times a small upstream gradient, 1 / sum would be subnormal."""

MOST_FACTOR = 2.0**26
"""Beside a larger factor an exponential that counts could be subnormal, and lack digits."""


def forward(
    input: Tensor, target: Tensor, options: Options, axes: Shape, reduction: Reduction, *, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """The reduced loss, and for ``backward`` the gradient for the expected upstream gradient, if it can be of use."""
    layout = layout_of(input.dim(), axes)
    examples = divisor(reduction, options.where, layout, input.shape)
    upstream = 1 / (examples or 1) if with_gradient and keeps_gradient(input, reduction) else None
    if layout.is_rows and options is DEFAULT:  # nearly every call
        losses, gradient = swept(input, target, options, upstream)
    else:
        losses, gradient = swept(*layout.all_rows(input, target, options), upstream)
    gradient = gradient if gradient is None else layout.cells(gradient, input.shape)
    if reduction != "none":
        return average(losses, examples), gradient
    # a new tensor, because autograd refuses to modify in place what a Function returned as a view
    return torch.add(*[layout.examples(half, input.shape) for half in losses.unbind()]), gradient


def average(losses: Tensor, examples: int) -> Tensor:
    """The sum, divided by a kept tensor: ``mean`` would make one of the number, which doubles the time."""
    return losses.sum().div_(kept_number(float(examples), losses.dtype))


def backward(
    upstream: Tensor,
    residuals: Tensor | None,
    input: Tensor,
    target: Tensor,
    options: Options,
    axes: Shape,
    reduction: Reduction,
    *,
    overwrite: bool,
) -> Tensor:
    """The gradient, in the memory of ``residuals`` if that may be overwritten. Without residuals it is recomputed.

    Half precision is not multiplied, because that would round twice, but recomputed unless ``upstream`` is 1.
    """
    layout = layout_of(input.dim(), axes)
    if residuals is not None and upstream.numel() == 1 and upstream.item() == 1:
        return residuals if overwrite else residuals.clone()
    if residuals is not None and input.dtype in WIDE:
        each = layout.beside_cells(upstream)
        return residuals.mul_(each) if overwrite else residuals * each
    each = upstream.reshape(-1, 1) / (divisor(reduction, options.where, layout, input.shape) or 1)
    each = each.expand(layout.number_of_rows(input.shape), 1)
    gradient = layout.rows(residuals) if residuals is not None and overwrite else None
    return layout.cells(swept(*layout.all_rows(input, target, options), each, gradient)[1], input.shape)


def forward_terms(
    input: Tensor, target: Tensor, options: Options, axes: Shape, *, with_gradient: bool
) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
    """The two halves of each example, and for ``backward_terms`` the gradients of both in one array.

    One array is enough for hard targets, as each cell is in one half only. For others nothing is kept.
    """
    layout = layout_of(input.dim(), axes)
    kept = with_gradient and input.dtype in WIDE and not target.is_floating_point()
    losses, gradient = swept(*layout.all_rows(input, target, options), 1.0 if kept else None)
    positive, negative = (layout.examples(half, input.shape).clone() for half in losses.unbind())
    return (positive, negative), gradient if gradient is None else layout.cells(gradient, input.shape)


def backward_terms(
    upstreams: Sequence[Tensor], residuals: Any, input: Tensor, target: Tensor, options: Options, axes: Shape
) -> Tensor:
    """The gradient. ``residuals`` are overwritten; without any it is recomputed."""
    layout = layout_of(input.dim(), axes)
    if residuals is not None:
        positive, negative = map(layout.beside_cells, upstreams)
        pulled: Tensor = residuals.clamp(max=0).mul_(positive)  # a gradient below 0 is that of a positive
        return pulled.add_(residuals.clamp_(min=0).mul_(negative))
    upstream = torch.stack([half.reshape(-1, 1) for half in upstreams])
    return layout.cells(swept(*layout.all_rows(input, target, options), upstream)[1], input.shape)


def keeps_gradient(input: Tensor, reduction: Reduction) -> bool:
    """True if forward computes the gradient: not where backward would recompute it because of its upstream gradient.

    float16 comes with a loss scale, and "none" with a weight an example.
    """
    return input.dtype in WIDE or (input.dtype == torch.bfloat16 and reduction != "none")


def divisor(reduction: Reduction, where: Tensor | None, layout: Layout, shape: Shape) -> int:
    """What the reduction divides by: 1 instead of 0 if no example keeps a cell, but 0 for an empty batch."""
    if reduction != "mean":
        return 1
    rows = layout.number_of_rows(shape)
    return rows if where is None else max(int(where.expand(shape).any(layout.axes).sum()), min(rows, 1))


def swept(
    logits: Tensor,
    targets: Tensor,
    options: Options,
    upstream: Any,
    gradient: Tensor | None = None,
    *,
    exponentials: Tensor | None = None,
    memory: BlockMemory | None = None,
) -> tuple[Tensor, Any]:
    """The losses of the two halves of each row, [2, rows, 1], and if there is an ``upstream`` the gradient.

    ``upstream`` is a number, or a tensor that broadcasts to the losses. The gradient goes into the memory of
    ``gradient``, if that is given. ``exponentials`` are those of the logits, and ``memory`` what a block of them can
    have, if a caller has them.
    """
    is_small = 0 < logits.numel() <= FEW and options.are_default
    if not is_small or gradient is not None:
        return Sweep(logits, targets, options, upstream, gradient, exponentials=exponentials, memory=memory).run()
    losses, gradient = at_once(logits, targets, upstream)
    redo = inexact_rows(losses)
    if redo is not None:
        Sweep(logits, targets, options, upstream, gradient).correct(losses, redo)
    return losses, gradient


def inexact_rows(losses: Tensor) -> Tensor | None:
    """The rows that are to be computed a second time."""
    limit = LIMIT[losses.dtype]
    if losses.numel() == 0 or losses.max().item() < limit:
        return None
    return (~(losses < limit).all(0)).nonzero()[:, 0]


class Sweep:
    """One call, a block of rows at a time; ``swept`` says of what."""

    def __init__(
        self,
        logits: Tensor,
        targets: Tensor,
        options: Options,
        upstream: Any,
        gradient: Tensor | None = None,
        *,
        careful: bool = False,
        of_part: bool = False,
        exponentials: Tensor | None = None,
        memory: BlockMemory | None = None,
    ) -> None:
        self.logits, self.targets, self.options = logits, targets, options
        self.upstream = upstream
        self.careful = careful
        # Some classes of rows whose sums the upstream gradient is divided by: the losses are the gradient's own sums.
        self.of_part = of_part
        self.no_options = options.are_default
        self.dtype = logits.dtype if logits.dtype in WIDE else torch.float32
        self.count, self.classes = logits.shape
        self.step = max(1, min(CELLS // self.classes, self.count))
        # what is of all rows is of use if these are one block
        self.exponentials, lent = (exponentials, memory) if self.step == self.count else (None, None)
        self.all_memory = lent or kept_memory("loss", (self.step, self.classes), self.dtype)
        self.gradient: Any = gradient

    def run(self) -> tuple[Tensor, Any]:
        """The losses and the gradient."""
        if self.upstream is not None and self.gradient is None:
            self.gradient = self.logits.new_empty(self.logits.shape)
        if not (self.no_options or self.count == 0 or are_factors(self.options)):
            losses = self.empty_losses()
            redo: Tensor | None = torch.arange(self.count, device="cpu")
        else:
            losses = self.blocks()
            redo = None if self.of_part else inexact_rows(losses)
        if redo is not None:
            self.correct(losses, redo)
        return losses, self.gradient

    def correct(self, losses: Tensor, redo: Tensor) -> None:
        """Compute some rows a second time."""
        for start in range(0, len(redo), self.step):
            self.recompute(redo[start : start + self.step], losses)

    def empty_losses(self) -> Tensor:
        """Memory for the losses."""
        return self.logits.new_empty((1 if self.of_part else 2, self.count, 1), dtype=self.dtype)

    def blocks(self) -> Tensor:
        """The losses of all rows; ``inexact_rows`` says which of them are wrong."""
        if self.step == self.count:
            return self.block(self.logits, self.targets, self.options, self.upstream, self.gradient)
        losses = self.empty_losses()
        for start in range(0, self.count, self.step):
            rows = slice(start, start + self.step)
            upstream, gradient = of_rows(self.upstream, rows), some_rows(self.gradient, rows)
            options = options_of(self.options, rows)
            losses[:, rows] = self.block(self.logits[rows], self.targets[rows], options, upstream, gradient)
        return losses

    def block(self, logits: Tensor, targets: Tensor, options: Options, upstream: Any, gradient: Any) -> Tensor:
        """The losses of one block. Writes its gradient."""
        self.memory = self.all_memory.of_rows(len(logits))
        in_place = gradient is not None and gradient.dtype == self.dtype
        memory = gradient if in_place else self.memory["negative"]
        negative, positive, illegal = self.terms(logits, targets, options.where, memory)
        if not self.no_options:
            self.weigh(options, negative, positive)
        if self.of_part:
            losses = negative.mul_(upstream[1]).addcmul_(positive, upstream[0], value=-1).sum(1, True)
        else:
            losses = summed(negative, positive, upstream)
        if gradient is not None and not in_place:
            gradient.copy_(negative)
        return losses if illegal is None else losses.masked_fill_(illegal, torch.nan)

    def terms(
        self, logits: Tensor, targets: Tensor, where: Tensor | None, negative: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """``(1 - t) e^s``, in the memory ``negative``, and ``t e^-s``; 1 and 0 where masked. ``illegal_rows``."""
        if logits.dtype != self.dtype:
            logits = negative.copy_(logits)
        if where is not None:
            logits = torch.where(where, logits, number_tensor(0.0, self.dtype), out=negative)
        if targets.is_floating_point():
            return self.soft_terms(logits, targets, where, negative)
        positive = self.memory["positive"].copy_(as_bytes(targets))
        if where is not None:
            positive.mul_(self.memory["where"].copy_(as_bytes(where)))
        illegal = None if targets.dtype == torch.bool else illegal_rows(positive, self.dtype)
        if self.careful:
            share = self.memory["targets"].copy_(positive)
            return *careful_terms(logits, share, negative, positive), illegal
        if self.exponentials is not None:
            torch.lerp(self.exponentials, number_tensor(0.0, self.dtype), positive, out=negative)
            return negative, positive.div_(self.exponentials), illegal
        return *hard_terms(logits, positive, negative), illegal

    def soft_terms(
        self, logits: Tensor, targets: Tensor, where: Tensor | None, negative: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """``terms`` of floating targets."""
        targets = targets if where is None else torch.where(where, targets, 0.0)
        illegal = illegal_rows(targets, self.dtype)
        if targets.dtype != self.dtype or illegal is not None:
            targets = self.memory["targets"].copy_(targets).clamp_(0, 1)
        positive = self.memory["positive"]
        if self.careful:
            return *careful_terms(logits, targets, negative, positive), illegal
        exponentials = torch.exp(logits, out=negative) if self.exponentials is None else self.exponentials
        return *soft_terms(exponentials, targets, negative, positive), illegal

    def weigh(self, options: Options, negative: Tensor, positive: Tensor) -> None:
        """Multiply the terms by what the options make of them."""
        if options.where is not None:
            negative.mul_(self.memory["where"].copy_(as_bytes(options.where)))
        for half, factor in zip((negative, positive), _factors(options), strict=True):
            if isinstance(factor, Tensor) or factor != 1:
                half.mul_(factor.to(self.dtype) if isinstance(factor, Tensor) else factor)

    def recompute(self, rows: Tensor, losses: Tensor) -> None:
        """Some rows by ``careful_terms``, or by the core if this sweep is careful already."""
        logits, targets = self.logits[rows], some_rows(self.targets, rows)
        options, upstream = options_of(self.options, rows), of_rows(self.upstream, rows)
        if self.careful:
            found, gradient = self.by_core(logits.to(self.dtype), targets, options, upstream)
        else:
            found, gradient = Sweep(logits, targets, options, upstream, careful=True).run()
        losses[:, rows] = found
        if gradient is not None:
            self.gradient[rows] = gradient.to(self.gradient.dtype)

    def by_core(self, logits: Tensor, targets: Tensor, options: Options, upstream: Any) -> tuple[Tensor, Any]:
        """The losses and the gradient of some rows."""
        losses = torch.stack(zlpr_core.zlpr_terms(logits, targets, **options.by_name(), xp=xp)).unsqueeze(2)
        if upstream is None:
            return losses, None
        in_positive, in_negative = as_upstream(upstream, self.dtype).expand(losses.shape)
        positive, negative = terms_gradients(logits, targets, -1, options, xp=xp)
        return losses, in_positive * positive + in_negative * negative


def of_rows(upstream: Any, rows: Any) -> Any:
    """The upstream gradients of some rows."""
    return upstream[..., rows, :] if isinstance(upstream, Tensor) else upstream


def options_of(options: Options, rows: Any) -> Options:
    return options if options.are_default else Options._make([some_rows(option, rows) for option in options])


def are_factors(options: Options) -> bool:
    """True if the weights are legal, and factors of a moderate size can stand for weights and threshold."""
    (least, most), (least_positive, most_positive), (lowest, highest) = map(_range, options[1:])
    farthest = math.exp(min(max(-lowest, highest), 100.0))
    return least >= 0 and least_positive >= 0 and most * max(most_positive, 1.0) * farthest <= MOST_FACTOR


def _range(option: Tensor | float | None) -> tuple[float, float]:
    """The least and the largest cell, NaN if a cell is; 1 for an absent weight."""
    if isinstance(option, Tensor):
        distinct = _distinct(option)
        least, most = torch.aminmax(distinct if distinct.is_floating_point() else distinct.double())
        return float(least), float(most)
    return (1.0, 1.0) if option is None else (float(option), float(option))


def _factors(options: Options) -> tuple[Any, Any]:
    """Of the negative terms and of the positive; in float64, to be rounded once."""
    weight, pos_weight, threshold = [x.double() if isinstance(x, Tensor) else x for x in map(_distinct, options[1:])]
    exp = torch.exp if isinstance(threshold, Tensor) else math.exp
    weight = 1.0 if weight is None else weight
    return weight * exp(-threshold), weight * exp(threshold) * (1.0 if pos_weight is None else pos_weight)


def _distinct(option: Any) -> Any:
    """The option with one cell along each axis on which ``expand`` repeats it."""
    if not isinstance(option, Tensor):
        return option
    return option[tuple([slice(None if stride else 1) for stride in option.stride()])]
