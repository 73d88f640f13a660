# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""ZLPR on a GPU in two Triton kernels: the loss of each row, and its gradient in the logits.

The residuals are four numbers a row: of each half ``shift`` and ``rest`` with ``1 + Σ terms = e^shift (1 + rest)``, as
in ``zlpr_core._reduce``. Backward reads the logits a second time: a step reads logits and targets twice and writes the
gradient once, 8 bytes a logit for bfloat16 logits and bool targets.

The forward kernel adds up a row with both shifts at 0. That needs no maximum, so the lanes of a program do not wait for
each other before the end of the row. Only a row with a sum above 2^64, for which a logit must be wrong by 35 or more,
is read two more times: for the largest term of each half, and for the sums that are scaled by it.

One program takes one row, which leaves multiprocessors idle if there are fewer rows; the backward kernel splits rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._layout import Shape, layout_of
from ._reduction import Reduction, labelled_examples, number_of, reduce

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

from zlpr_core._options import Options

_jit = (lambda function: function) if triton is None else triton.jit


def available() -> bool:
    """True if there is a Triton that passes tuples to a kernel, as 3.3 and later do."""
    return triton is not None and tuple([int(part) for part in triton.__version__.split(".")[:2]]) >= (3, 3)


def forward(
    input: Tensor, target: Tensor, options: Options, axes: Shape, reduction: Reduction, *, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """The reduced loss, and the residuals for ``backward``."""
    layout = layout_of(input.dim(), axes)
    options = _beside(input, target, options)
    losses, residuals = losses_of_rows(layout.rows(input), layout.rows(target), layout.options(options, input.shape))
    labelled = labelled_examples(options.where, input.shape, axes)
    return reduce(layout.examples(losses, input.shape), reduction, labelled), residuals


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
    """The gradient. Residuals of four numbers a row are never overwritten; without any they are recomputed."""
    layout = layout_of(input.dim(), axes)
    options = _beside(input, target, options)
    arrays = layout.rows(input), layout.rows(target), layout.options(options, input.shape)
    if residuals is None:
        residuals = losses_of_rows(*arrays)[1]
    each = upstream.flatten()
    if reduction == "mean":
        labelled = labelled_examples(options.where, input.shape, axes)
        each = each / (layout.number_of_rows(input.shape) if labelled is None else number_of(labelled))
    gradient = gradient_of_rows(*arrays, residuals, each)
    return layout.cells(gradient, input.shape)


def _beside(input: Tensor, target: Tensor, options: Options) -> Options:
    """The options where ``input`` is: as everywhere in PyTorch, a tensor without axes may come from the CPU.

    Triton would not say which argument is elsewhere.
    """
    if options.are_default and target.device == input.device:
        return options
    if not options.are_default:
        options = Options._make([x.to(input.device) if isinstance(x, Tensor) and x.dim() == 0 else x for x in options])
    for argument, x in zip(("target", "mask", "weight", "pos_weight", "threshold"), (target, *options), strict=True):
        if isinstance(x, Tensor) and x.device != input.device:
            devices = f"{x.device} and {input.device}"
            msg = f"`{argument}` must be on the device of `input`. Received: {devices}. Move it first."
            raise ValueError(msg)
    return options


def losses_of_rows(logits: Tensor, targets: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """The loss of each row, and (shift, rest) of the positive half, then of the negative."""
    rows, classes = logits.shape
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    losses, residuals = logits.new_empty(rows, dtype=dtype), logits.new_empty((rows, 4), dtype=dtype)
    cells, settings = _cells(logits, targets, options, dtype), _settings(logits, targets)
    with torch.cuda.device_of(logits):
        _forward[(rows,)](losses, residuals, cells, classes, **settings)
    return losses, residuals


def gradient_of_rows(logits: Tensor, targets: Tensor, options: Options, residuals: Tensor, upstream: Tensor) -> Tensor:
    """Contiguous, for an upstream gradient of one number or of one a row."""
    rows, classes = logits.shape
    upstream = upstream.expand(rows)
    gradient = logits.new_empty(rows, classes)
    cells, settings = _cells(logits, targets, options, residuals.dtype), _settings(logits, targets)
    with torch.cuda.device_of(logits):
        blocks = triton.cdiv(classes, settings["block"])
        _backward[(rows * blocks,)](gradient, residuals, upstream, upstream.stride(0), cells, classes, **settings)
    return gradient


class _View(NamedTuple):
    """A tensor of rows and columns as a kernel takes it."""

    start: Tensor
    row: int
    column: int


class _Cells(NamedTuple):
    """Everything that is read for a logit."""

    logits: _View
    targets: _View
    where: _View | None
    weight: _View | None
    pos_weight: _View | None
    threshold: _View | None


def _cells(logits: Tensor, targets: Tensor, options: Options, dtype: torch.dtype) -> _Cells:
    def view(option: Tensor | float | None) -> Any:
        if option is None:
            return None
        if not isinstance(option, Tensor):  # a kernel would take a number as float32
            option = logits.new_full((1, 1), option, dtype=dtype).expand(logits.shape)
        return _View(option, *option.stride())

    moved = isinstance(options.threshold, Tensor) or options.threshold != 0
    threshold = options.threshold if moved else None
    return _Cells(*map(view, (logits, targets, options.where, options.weight, options.pos_weight, threshold)))


def _settings(logits: Tensor, targets: Tensor) -> dict[str, Any]:
    """32 bytes of logits to a thread, in registers that leave room for other rows; 8 warps at most."""
    size, widest = logits.element_size(), triton.next_power_of_2(logits.shape[1])
    block = min(max(widest, 32), 8192 // size)
    slack = 8 * torch.finfo(targets.dtype).eps if targets.is_floating_point() else 0.0
    return {"slack": slack, "block": block, "num_warps": max(block * size // 1024, 1), "enable_fp_fusion": True}


@_jit
def _forward(losses, residuals, cells, classes, slack: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    dtype: tl.constexpr = losses.dtype.element_ty
    shift_p, shift_n = tl.full([], 0, dtype), tl.full([], 0, dtype)
    rest_p, rest_n = _rests(cells, row, classes, shift_p, shift_n, dtype, slack, block)
    if tl.maximum(rest_p, rest_n) > 2.0**64:
        shift_p, shift_n = _shifts(cells, row, classes, dtype, slack, block)
        rest_p, rest_n = _rests(cells, row, classes, shift_p, shift_n, dtype, slack, block)
    tl.store(losses + row, (shift_p + _log1p(rest_p)) + (shift_n + _log1p(rest_n)))
    tl.store(residuals + row * 4, shift_p)
    tl.store(residuals + row * 4 + 1, rest_p)
    tl.store(residuals + row * 4 + 2, shift_n)
    tl.store(residuals + row * 4 + 3, rest_n)


@_jit
def _backward(gradient, residuals, upstream, stride, cells, classes, slack: tl.constexpr, block: tl.constexpr):
    program, blocks = tl.program_id(0).to(tl.int64), tl.cdiv(classes, block)
    row, columns = program // blocks, program % blocks * block + tl.arange(0, block)
    dtype: tl.constexpr = residuals.dtype.element_ty
    shift_p, rest_p = tl.load(residuals + row * 4), tl.load(residuals + row * 4 + 1)
    shift_n, rest_n = tl.load(residuals + row * 4 + 2), tl.load(residuals + row * 4 + 3)
    each = tl.load(upstream + row * stride)
    z, t, lost, weight_p, weight_n = _read(cells, row, columns, classes, dtype, slack)
    positive, negative = _terms(z, t, lost, weight_p, weight_n, shift_p, shift_n)
    slope = negative * (each / (1 + rest_n)) - positive * (each / (1 + rest_p))
    slope = tl.where(tl.abs(z) == float("inf"), 0.0, slope)
    tl.store(gradient + row * classes + columns, slope.to(gradient.dtype.element_ty), mask=columns < classes)


@_jit
def _rests(cells, row, classes, shift_p, shift_n, dtype: tl.constexpr, slack: tl.constexpr, block: tl.constexpr):
    """Of each half, ``rest`` with ``1 + Σ terms = e^shift (1 + rest)``; a shift is a whole number."""
    positives, negatives = tl.zeros([block], dtype), tl.zeros([block], dtype)
    for start in range(0, classes, block):
        columns = start + tl.arange(0, block).to(tl.int64)
        z, t, lost, weight_p, weight_n = _read(cells, row, columns, classes, dtype, slack)
        positive, negative = _terms(z, t, lost, weight_p, weight_n, shift_p, shift_n)
        positives += positive
        negatives += negative
    return tl.sum(positives, 0) + (tl.exp(-shift_p) - 1), tl.sum(negatives, 0) + (tl.exp(-shift_n) - 1)


@_jit
def _shifts(cells, row, classes, dtype: tl.constexpr, slack: tl.constexpr, block: tl.constexpr):
    """The logarithm of each half's largest term, or of 1, rounded down; finite, so that inf - inf never is."""
    positives, negatives = tl.zeros([block], dtype), tl.zeros([block], dtype)
    for start in range(0, classes, block):
        columns = start + tl.arange(0, block).to(tl.int64)
        z, t, _, weight_p, weight_n = _read(cells, row, columns, classes, dtype, slack)
        share = t.to(dtype)
        positives = tl.maximum(positives, _log_term(share * weight_p, -z))
        negatives = tl.maximum(negatives, _log_term((1 - share) * weight_n, z))
    far: tl.constexpr = 1.7976931348623157e308 if dtype == tl.float64 else 3.4028234663852886e38
    return tl.floor(tl.minimum(tl.max(positives, 0), far)), tl.floor(tl.minimum(tl.max(negatives, 0), far))


@_jit
def _read(cells, row, columns, classes, dtype: tl.constexpr, slack: tl.constexpr):
    """``z``, target, the rounding error of ``z``, and the weights of a positive and of a negative.

    A cell that is masked, or beyond the last column, is a negative at -inf; one that holds anything illegal is NaN.
    Options that are absent are constants here, which the compiler folds away.
    """
    z = _load(cells.logits, row, columns, classes, float("-inf")).to(dtype)
    t = _load(cells.targets, row, columns, classes, 0)
    keep = tl.full(columns.shape, 1, tl.int1)
    if cells.where is not None:
        keep = _load(cells.where, row, columns, classes, 0)
    weight_p, weight_n = tl.full(columns.shape, 1, dtype), tl.full(columns.shape, 1, dtype)
    lost = tl.zeros(columns.shape, dtype)
    if cells.weight is not None:
        weight = _load(cells.weight, row, columns, classes, 0).to(dtype)
        z = tl.where((weight >= 0) & (weight < float("inf")), z, float("nan"))
        weight_n = tl.where(keep, weight, 0.0)
        weight_p = weight_n
    if cells.pos_weight is not None:
        weight = _load(cells.pos_weight, row, columns, classes, 0).to(dtype)
        z = tl.where((weight >= 0) & (weight < float("inf")), z, float("nan"))
        weight_p = weight_p * tl.where(keep, weight, 0.0)
    if cells.threshold is not None:
        z, lost = _subtract(z, _load(cells.threshold, row, columns, classes, 0).to(dtype))
    if t.dtype.is_floating():
        soft = t if t.dtype == tl.float64 else t.to(tl.float32)
        z = tl.where((soft >= -slack) & (soft <= 1 + slack), z, float("nan"))
        t = tl.where(keep, tl.minimum(tl.maximum(soft.to(dtype), 0.0), 1.0), 0.0)
    else:
        if t.dtype != tl.int1:
            z = tl.where((t == 0) | (t == 1), z, float("nan"))
        t = (t == 1) & keep
    return tl.where(keep, z, float("-inf")), t, lost, weight_p, weight_n


@_jit
def _load(view, row, columns, classes, other):
    return tl.load(view.start + row * view.row + columns * view.column, mask=columns < classes, other=other)


@_jit
def _subtract(z, threshold):
    """``z - threshold`` and its rounding error: ``zlpr_core._terms.subtract``."""
    finite = tl.where(tl.abs(z) < float("inf"), z, 0.0)
    difference = finite - threshold
    part = difference - finite
    lost = (finite - (difference - part)) - (threshold + part)
    return z - threshold, tl.where(tl.abs(lost) < 0.01, lost, 0.0)


@_jit
def _terms(z, t, lost, weight_p, weight_n, shift_p, shift_n):
    """The terms of the two halves, scaled by their shifts. A hard cell is in one of them: one exponential is enough."""
    if t.dtype == tl.int1:
        term = _weighted_exp(tl.where(t, weight_p, weight_n), tl.where(t, -z, z) - tl.where(t, shift_p, shift_n))
        term *= 1 + tl.where(t, -lost, lost)
        return tl.where(t, term, 0.0), tl.where(t, 0.0, term)
    else:  # noqa: RET505 - Triton compiles the branch that is taken, and nothing after a return
        positive = _weighted_exp(t * weight_p, -z - shift_p) * (1 - lost)
        negative = _weighted_exp((1 - t) * weight_n, z - shift_n) * (1 + lost)
        return positive, negative


@_jit
def _weighted_exp(weight, x):
    """``weight · e^x``, 0 for a weight of 0. By halves: neither a weight of 1e-30 nor one of 1e30 leaves the range.

    ``tl.exp`` is 2^(x · log2 e) with a rounded product, which at x = -67 costs 4e-6. So x is split first, into
    2n · log 2 with a whole n, and a rest below log 2; log 2 is in two parts, of which n times the first is exact.
    """
    x = tl.where((weight == 0) & (x > 0), 0.0, x)
    if x.dtype == tl.float64:
        half = tl.exp(0.5 * x)
        return (weight * half) * half
    else:  # noqa: RET505
        x = tl.clamp(x, -1600.0, 1600.0, propagate_nan=tl.PropagateNan.ALL)  # e^x is 0 or inf far earlier
        n = (x * 0.7213475204444817 + 12582912.0) - 12582912.0  # 1.5 · 2^23 leaves no room for a fraction
        rest = (x - n * 1.38671875) - n * -0.000424388880241
        half = tl.exp2(n)
        return (weight * half) * (tl.exp2(rest * 1.4426950408889634) * half)


@_jit
def _log_term(weight, x):
    return tl.where(weight > 0, tl.log2(weight) * 0.6931471805599453 + x, 0.0)


@_jit
def _log1p(x):
    whole = 1 + x
    lost = tl.where(whole < float("inf"), x - (whole - 1), 0.0)
    return tl.log(whole) + lost / whole
