"""The Triton kernels by Triton's interpreter: no GPU, and a process of its own."""

import math
import os

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import numpy as np
import torch
from triton.runtime import interpreter

from harness.pytorch import Torch
from zlpr_core._options import Options
from zlpr_torch import _cuda

_cut, _exact_exp = interpreter._convert_float, interpreter.InterpreterBuilder.create_exp


def _rounded(values, source, target, mode):
    """The interpreter cuts float32 to bfloat16; what a GPU does, the test of compilation checks."""
    if (source.name, target.name) == ("fp32", "bf16"):
        return torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()
    return _cut(values, source, target, mode)


def _exp(builder, x):
    """In float32 a GPU has 2^x, of a product that is rounded."""
    if x.data.dtype != np.float32:
        return _exact_exp(builder, x)
    return builder.unary_op(x, lambda data: np.exp2(data * np.float32(np.log2(np.e))))


# what the interpreter does otherwise than a GPU, for the whole process
interpreter._convert_float = _rounded
interpreter.InterpreterBuilder.create_exp = _exp


def forward(logits, targets, options=Options()):  # noqa: B008 - a tuple
    with np.errstate(all="ignore"):  # the interpreter is NumPy, which warns where a GPU does not
        return _cuda.losses_of_rows(logits, targets, options)


def backward(*arguments):
    with np.errstate(all="ignore"):
        return _cuda.gradient_of_rows(*arguments)


class Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, targets, options):
        losses, residuals = forward(logits, targets, options)
        ctx.arguments = logits, targets, options, residuals
        return losses

    @staticmethod
    def backward(ctx, upstream):
        return backward(*ctx.arguments, upstream), None, None


class Kernels(Torch):
    """PyTorch in the words of the conformance suite, with the loss by the kernels."""

    name = "triton"
    adapter = converts = False  # that is done by the caller of the kernels

    def spares(self, dtype, mode):
        """Options compute in the other two dtypes only."""
        return dtype in ("float16", "bfloat16")

    def call(self, name, arrays, options):
        """As the caller does: a row an example, the class axes last."""
        axis = options.pop("axis", -1)
        logits, targets = (_rows(x, axis) for x in arrays)
        options = Options(
            **{k: _rows(x.expand(arrays[0].shape), axis) if torch.is_tensor(x) else x for k, x in options.items()}
        )
        batch = arrays[0].sum(axis).shape
        if name == "zlpr":
            return Loss.apply(logits, targets, options).reshape(batch)
        shift, total = forward(logits, targets, options)[1].unflatten(1, (2, 2)).unbind(-1)
        return (shift + total.log1p()).reshape(*batch, 2).unbind(-1)


def _rows(x, axis):
    axes = [a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))]
    return x.movedim(axes, [*range(-len(axes), 0)]).flatten(-len(axes)).reshape(-1, math.prod(x.shape[a] for a in axes))


def make(name):
    return Kernels()
