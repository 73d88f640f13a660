"""The kernels as two ops of a graph, ``zlpr::forward`` and ``zlpr::backward``.

torch.compile, FakeTensorMode and ``make_fx`` see the ops as they are and cannot look inside. ``_dispatch`` calls
``loss`` where one of them is at work. Forward mode through an op is silently zero (PyTorch has no way to register it:
https://github.com/pytorch/pytorch/pull/131116), so ``_dispatch`` keeps it away.
"""

from typing import Any

import torch
from torch import Tensor

from zlpr_core._options import Options

from . import _cpu
from ._cpu_terms import WIDE
from ._formula import differentiable_gradients
from ._layout import Layout, Shape
from ._reduction import Reduction

_CALL = (
    "Tensor input, Tensor target, Tensor? mask, Tensor? weight, Tensor? pos_weight, Tensor? threshold, "
    "int[] dim, str reduction"
)
_TAGS = (torch.Tag.pt2_compliant_tag,)
torch.library.define("zlpr::forward", f"({_CALL}, bool with_gradient) -> (Tensor, Tensor)", tags=_TAGS)
torch.library.define("zlpr::backward", f"(Tensor upstream, Tensor residuals, {_CALL}) -> Tensor", tags=_TAGS)
torch.library.define("zlpr::tied", "(Tensor upstream, Tensor input) -> Tensor", tags=_TAGS)


def loss(
    input: Tensor, target: Tensor, options: Options, axes: Shape, reduction: Reduction, with_gradient: bool
) -> Tensor:
    """Reduced ZLPR as a call of ``zlpr::forward``. Dynamo traces this."""
    tensors = tensors_of(options, input.device)
    reduced: Tensor = torch.ops.zlpr.forward(input, target, *tensors, list(axes), reduction, with_gradient)[0]
    return reduced


def tensors_of(options: Options, device: torch.device) -> list[Tensor | None]:
    """The options as the ops take them."""
    return [None] * 4 if options.are_default else [_as_tensor(option, device) for option in options]


def _as_tensor(option: Any, device: torch.device) -> Tensor | None:
    """An op takes no number where it takes a tensor. In float64, so that a number keeps its digits."""
    if option is None or isinstance(option, Tensor):
        return option
    return torch.full((), option, dtype=torch.float64, device=device)


def as_options(mask: Any, weight: Any, pos_weight: Any, threshold: Any) -> Options:
    """On a CPU tensors without axes become numbers again, which cost a kernel less."""
    given = [x.item() if x is not None and x.dim() == 0 and x.is_cpu else x for x in (weight, pos_weight, threshold)]
    return Options(mask, given[0], given[1], 0.0 if given[2] is None else given[2])


def _forward_by(kernel: Any) -> Any:
    def forward(
        input: Tensor, target: Tensor, mask: Any, weight: Any, pos_weight: Any, threshold: Any, dim: list[int],
        reduction: Reduction, with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        options = as_options(mask, weight, pos_weight, threshold)
        loss, residuals = kernel.forward(input, target, options, tuple(dim), reduction, with_gradient=with_gradient)
        return loss, input.new_empty(0) if residuals is None else residuals

    return forward


def _backward_by(kernel: Any) -> Any:
    def backward(
        upstream: Tensor, residuals: Tensor, input: Tensor, target: Tensor, mask: Any, weight: Any, pos_weight: Any,
        threshold: Any, dim: list[int], reduction: Reduction,
    ) -> Tensor:  # fmt: skip
        options = as_options(mask, weight, pos_weight, threshold)
        kept = residuals if residuals.numel() else None
        gradient: Tensor = kernel.backward(
            upstream, kept, input, target, options, tuple(dim), reduction, overwrite=False
        )
        return gradient

    return backward


class _Triton:
    """The kernels of a GPU as ops, which return what they make and write over nothing: forward leaves the sums.

    A gradient made in forward would have to be copied in backward, because Inductor does not write over what a graph
    saved (torch 2.13): 9 bytes a logit for bfloat16 and bool instead of 8.
    """

    @staticmethod
    def forward(*call: Any, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        from . import _cuda  # when first used, because Triton takes its time

        loss, residuals = _cuda.forward(*call, with_gradient=False)
        return loss, residuals.sums if with_gradient else None

    @staticmethod
    def backward(upstream: Tensor, sums: Tensor | None, *call: Any, overwrite: bool) -> Tensor:
        from . import _cuda

        residuals = None if sums is None else _cuda.Residuals(sums)
        return _cuda.backward(upstream, residuals, *call, overwrite=overwrite)


torch.library.impl("zlpr::forward", "cpu")(_forward_by(_cpu))
torch.library.impl("zlpr::backward", "cpu")(_backward_by(_cpu))
torch.library.impl("zlpr::forward", "cuda")(_forward_by(_Triton))
torch.library.impl("zlpr::backward", "cuda")(_backward_by(_Triton))


def _fake_forward(
    input: Tensor, target: Tensor, mask: Any, weight: Any, pos_weight: Any, threshold: Any, dim: list[int],
    reduction: Reduction, with_gradient: bool, device: str | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Shapes, dtypes and strides of what the kernels return."""
    layout = Layout(input.dim(), tuple(dim))
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    loss = input.new_empty(layout.batch(input.shape) if reduction == "none" else (), dtype=wide)
    if not with_gradient:
        return loss, input.new_empty(0)
    if (device or input.device.type) == "cpu":
        kept = _cpu.keeps_gradient(input, reduction)
        return loss, layout.empty_cells(input) if kept else input.new_empty(0)
    return loss, input.new_empty((layout.number_of_rows(input.shape), 4), dtype=wide)


def _fake_backward(upstream: Tensor, residuals: Tensor, input: Tensor, *call: Any) -> Tensor:
    return Layout(input.dim(), tuple(call[-2])).empty_cells(input)


torch.library.register_fake("zlpr::forward", _fake_forward)
torch.library.register_fake("zlpr::backward", _fake_backward)


@torch.library.impl("zlpr::tied", "cpu")
@torch.library.register_fake("zlpr::tied")  # type: ignore[untyped-decorator]
def _tied(upstream: Tensor, input: Tensor) -> Tensor:
    """A copy of ``upstream`` which in a graph depends on ``input``.

    Without this the backward graph of AOTAutograd depends on no tensor that requires a gradient, and then it does not
    refuse a second derivative: it takes the first for a constant, silently (torch 2.13).
    """
    return upstream.clone()


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, target, mask, weight, pos_weight, threshold, dim, reduction, _ = inputs
    if any(ctx.needs_input_grad[1:]):
        msg = "zlpr::forward has a gradient in `input` only. Call zlpr_torch.zlpr_loss, which knows the others."
        raise NotImplementedError(msg)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], input, target, mask, weight, pos_weight, threshold)
    ctx.call = dim, reduction


def _backward(ctx: Any, upstream: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    residuals, input, *others = ctx.saved_tensors
    dim, reduction = ctx.call
    if torch.is_grad_enabled():
        target, mask, weight, pos_weight, threshold = others
        options = Options(mask, weight, pos_weight, 0.0 if threshold is None else threshold)
        (gradient,) = differentiable_gradients(upstream, input, target, options, tuple(dim), reduction, [input])
    elif input.device.type == "cpu" and input.dtype in WIDE:
        # A product that Inductor sees: it writes it over the residuals.
        each = Layout(input.dim(), tuple(dim)).beside_cells(torch.ops.zlpr.tied(upstream, input))
        gradient = residuals * each
    else:
        gradient = torch.ops.zlpr.backward(upstream, residuals, input, *others, dim, reduction)
    return gradient, None, None, None, None, None, None, None, None


torch.library.register_autograd("zlpr::forward", _backward, setup_context=_setup_context)
