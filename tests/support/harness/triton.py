"""The Triton kernels by Triton's interpreter: no GPU, and a process of its own."""

import math
import os

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import numpy as np
import torch
from triton.runtime import interpreter

from harness.pytorch import Torch
from zlpr_core._options import DEFAULT, Options
from zlpr_torch import _cuda
from zlpr_torch._layout import layout_of

ROWS = layout_of(2, (1,))

_cut, _exact_exp = interpreter._convert_float, interpreter.InterpreterBuilder.create_exp
_patch = interpreter._patch_lang_tensor


def _rounded(values, source, target, mode):
    """Round float32 to the nearest bfloat16, as a GPU does (test_triton_compile.py); the interpreter cuts digits off."""
    if (source.name, target.name) == ("fp32", "bf16"):
        return torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()
    return _cut(values, source, target, mode)


def _exp(builder, x):
    """e^x in float32 as a GPU computes it: 2^(x · log2 e), with the product rounded. The interpreter is more exact."""
    if x.data.dtype != np.float32:
        return _exact_exp(builder, x)
    return builder.unary_op(x, lambda data: np.exp2(data * np.float32(np.log2(np.e))))


def _patched(tensor, *scope):
    """A loop over a range reads its ends as numbers, for which Triton below 3.7 hands NumPy an array with an axis."""
    _patch(tensor, *scope)
    tensor.__index__ = lambda self: int(self.handle.data.item())


# from here on, in this process, the interpreter rounds as a GPU does
interpreter._patch_lang_tensor = _patched
interpreter._convert_float = _rounded
interpreter.InterpreterBuilder.create_exp = _exp


def forward(logits, targets, options=DEFAULT, *, reduction="none"):
    """The loss of each row, and the residuals, as ``zlpr_loss`` asks for them: "sum" with the gradient."""
    with np.errstate(all="ignore"):  # the interpreter is NumPy, which warns where a GPU does not
        cells = _cuda.cells_of(ROWS, logits, targets, options)
        return _cuda.losses_of_rows(cells, 1, with_gradient=reduction == "sum")


def backward(logits, targets, options, residuals, upstream):
    with np.errstate(all="ignore"):
        return _cuda.gradient_of_rows(_cuda.cells_of(ROWS, logits, targets, options), residuals, upstream)


class Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, targets, options):
        losses, residuals = forward(logits, targets, options, reduction="sum")
        ctx.arguments = logits, targets, options, residuals
        return losses

    @staticmethod
    def backward(ctx, upstream):
        """With an upstream of one number, which is what a sum hands over."""
        *arguments, residuals = ctx.arguments
        if (upstream == 1).all():
            return backward(*arguments, residuals, torch.ones((), dtype=upstream.dtype)), None, None
        return backward(*arguments, residuals._replace(gradient=None), upstream), None, None


class Kernels(Torch):
    """The kernels alone, called as zlpr_torch calls them."""

    name = "triton"
    adapter = converts = whole = False  # zlpr_torch does that before it calls a kernel

    def spares(self, dtype, mode):
        """The kernels widen half precision to float32, so options are tested in float32 and float64."""
        return dtype in ("float16", "bfloat16")

    def call(self, name, arrays, options):
        """Lay out the arrays as zlpr_torch does: one row an example, the class axes last."""
        axis = options.pop("axis", -1)
        logits, targets = (_rows(x, axis) for x in arrays)
        shape = arrays[0].shape
        options = Options(**{k: _option(x, shape, axis) if torch.is_tensor(x) else x for k, x in options.items()})
        batch = arrays[0].sum(axis).shape
        if name == "zlpr":
            return Loss.apply(logits, targets, options).reshape(batch)
        shift, total = forward(logits, targets, options)[1].sums.unflatten(1, (2, 2)).unbind(-1)
        return (shift + total.log1p()).reshape(*batch, 2).unbind(-1)


def _option(x, shape, axis):
    """Rows of classes are passed as they come, with axes of one cell; all else a cell at a time."""
    is_rows = len(shape) == x.ndim == 2 and axis in (1, -1)
    return x if is_rows else _rows(x.expand(shape), axis)


def _rows(x, axis):
    axes = [a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))]
    return x.movedim(axes, [*range(-len(axes), 0)]).flatten(-len(axes)).reshape(-1, math.prod(x.shape[a] for a in axes))


def make(name):
    return Kernels()
