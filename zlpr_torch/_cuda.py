"""ZLPR on a GPU: what reaches the Triton kernels of ``_triton_kernels``, and how they are launched.

Of ``reduction="mean"`` or ``"sum"``, forward writes the gradient for an upstream of 1 while the row is still in the L2
cache, and backward launches a kernel that reads the upstream on the device and returns at once if it is 1: logits and
targets are read once and the gradient is written once, 5 bytes a logit for bfloat16 and bool. Any other upstream, such
as a loss scale or 1/k of k batches that are accumulated, makes that kernel work the gradient out anew from the logits,
so that half precision is rounded once. Of ``"none"`` nobody can foresee the upstream, a weight an example mostly, so
there forward leaves the sums and backward writes the gradient: 8 bytes a logit, where a wrong guess would move 10.

Kept for backward, beside logits and targets: a gradient in the dtype of the logits (2 bytes a logit for bfloat16),
which becomes the result, or nothing a logit with ``"none"``; and four numbers a row, of each half ``shift`` and
``rest`` with ``1 + Σ terms = e^shift (1 + rest)``, as in ``zlpr_core._reduce``.
"""

import struct
import warnings
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from zlpr_core._options import Options

from ._formula import linear_gradient, plain_loss
from ._layout import Layout, Shape, layout_of
from ._reduction import Reduction, labelled_examples, number_of, reduce
from ._triton_plan import Device, cut_of

try:
    import triton

    from . import _triton_kernels as kernels
except ImportError:
    triton = None


@lru_cache(maxsize=1)
def available() -> bool:
    """True if there is a Triton that the kernels are tested with, 3.3 or later."""
    return triton is not None and tuple([int(part) for part in triton.__version__.split(".")[:2]]) >= (3, 3)


class Residuals(NamedTuple):
    """What backward needs beside the arguments of forward."""

    sums: Tensor
    number: Tensor | int | None = None
    """What a mean divides by, 1 without a mean; None to count it anew."""
    gradient: Tensor | None = None
    """For an upstream of 1."""


def forward(
    input: Tensor, target: Tensor, options: Options, axes: Shape, reduction: Reduction, *, with_gradient: bool
) -> tuple[Tensor, Residuals]:
    """The reduced loss, and the residuals for ``backward``: with the gradient if asked for and foreseen."""
    layout = layout_of(input.dim(), axes)
    cells = cells_of(layout, input, target, options)
    number = _number(layout, input, options, reduction)
    losses, residuals = losses_of_rows(cells, number, with_gradient=with_gradient and reduction != "none")
    if losses is None:
        return plain_loss(input, target, options, axes, reduction), residuals
    if isinstance(number, Tensor):
        return losses.sum() / number, residuals
    return reduce(losses if layout.is_rows else layout.examples(losses, input.shape), reduction), residuals


def backward(
    upstream: Tensor,
    residuals: Residuals | None,
    input: Tensor,
    target: Tensor,
    options: Options,
    axes: Shape,
    reduction: Reduction,
    *,
    overwrite: bool,
) -> Tensor:
    """The gradient: that of the residuals if these may be overwritten. Without residuals they are recomputed."""
    layout = layout_of(input.dim(), axes)
    cells = cells_of(layout, input, target, options)
    if residuals is None:
        residuals = losses_of_rows(cells, None, with_gradient=False)[1]
    elif not overwrite:
        residuals = residuals._replace(gradient=None)
    if residuals.number is None:
        residuals = residuals._replace(number=_number(layout, input, options, reduction))
    gradient = gradient_of_rows(cells, residuals, upstream)
    if gradient is None:
        return linear_gradient(upstream, input, target, options, axes, reduction)
    return layout.cells(gradient, input.shape)


def _number(layout: Layout, input: Tensor, options: Options, reduction: Reduction) -> Tensor | int:
    if reduction != "mean":
        return 1
    mask = options.where
    if mask is not None and mask.device != input.device:
        mask = mask.to(input.device)
    labelled = labelled_examples(mask, input.shape, layout.axes)
    return layout.number_of_rows(input.shape) if labelled is None else number_of(labelled)


Kind: TypeAlias = tuple[torch.dtype, torch.dtype, int]
"""Dtypes of logits and targets, and which options there are: what the kernels are compiled for.

Class ids that are marked have bool for their logits, and for targets their own dtype.
"""


class Cells(NamedTuple):
    """What the kernels read, as they take it."""

    logits: Tensor
    arguments: tuple[Any, ...]
    kind: Kind


def cells_of(layout: Layout, input: Tensor, target: Tensor, options: Options) -> Cells:
    """Pointers and strides: nothing is copied that strides can say."""
    if target.device != input.device:
        raise _elsewhere(target, input, "target")
    logits, targets = layout.rows(input), layout.rows(target)
    classes = logits.shape[1]
    if options.are_default:
        arguments = (logits, *logits.stride(), targets, *targets.stride(), *_NO_OPTIONS, classes)
        return Cells(logits, arguments, (logits.dtype, targets.dtype, 0))
    flat: list[Any] = []
    flags = 0
    for name, option in zip(_FLAGS, options, strict=True):
        flag, *view = _view(name, option, layout, input)
        flat += view
        flags += flag
    arguments = (logits, *logits.stride(), targets, *targets.stride(), *flat, classes)
    return Cells(logits, arguments, (logits.dtype, targets.dtype, flags))


_NO_OPTIONS = (0, 0, 0) * 4
_FLAGS = {"mask": (1, 0), "weight": (2, 16), "pos_weight": (4, 32), "threshold": (8, 64)}
"""The bits that say to a kernel that an option is a tensor, or a number."""


def _view(name: str, option: Any, layout: Layout, input: Tensor) -> tuple[int, Tensor | int, int, int]:
    """What a kernel takes of an option: the bit that says what it is, where it begins, and two strides.

    As everywhere in PyTorch, a tensor without axes may come from the CPU.
    """
    is_tensor, is_number = _FLAGS[name]
    if isinstance(option, Tensor) and option.device != input.device:
        if option.dim():
            raise _elsewhere(option, input, name)
        option = option.to(input.device) if name == "mask" else option.item()
    if isinstance(option, Tensor):
        return is_tensor, *_strided(option, layout, input)
    if option is None or (name == "threshold" and option == 0):
        return 0, 0, 0, 0
    return is_number, _bits(float(option)), 0, 0


def _strided(option: Tensor, layout: Layout, input: Tensor) -> tuple[Tensor, int, int]:
    if layout.is_rows:
        strides = [0 if size == 1 else step for size, step in zip(option.shape, option.stride(), strict=True)]
        row, step = [0] * (2 - len(strides)) + strides
        return option, row, step
    cells = layout.rows(option.expand(input.shape))
    row, step = cells.stride()
    return cells, row, step


@lru_cache(maxsize=64)
def _bits(number: float) -> int:
    """Of a float64. The least of all is 0 here, because Triton makes a constant of an argument that is 1."""
    bits = int(struct.unpack("<q", struct.pack("<d", number))[0])
    return 0 if bits == 1 else bits


def _elsewhere(tensor: Tensor, input: Tensor, name: str) -> ValueError:
    """Triton would not say which argument it is."""
    devices = f"{tensor.device} and {input.device}"
    return ValueError(f"`{name}` must be on the device of `input`. Received: {devices}. Move it first.")


def losses_of_rows(
    cells: Cells,
    number: Tensor | int | None,
    *,
    with_gradient: bool,
    sums: Tensor | None = None,
    gradient: Tensor | None = None,
) -> tuple[Tensor | None, Residuals]:
    """The loss of each row, None if this Triton cannot compile it, and the residuals for ``gradient_of_rows``.

    ``sums`` and ``gradient`` are memory for them; ``gradient`` may be that of the logits, as in ``gradient_of_rows``.
    """
    logits, (rows, classes) = cells.logits, cells.logits.shape
    launch = _launch_of(rows, classes, cells.kind, logits.get_device())
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    losses = logits.new_empty(rows, dtype=wide)
    sums = logits.new_empty((rows, 4), dtype=wide) if sums is None else sums
    if with_gradient and gradient is None:
        gradient = logits.new_empty((rows, classes))
    partial = counters = None
    if launch.parts > 1:
        partial = logits.new_empty((rows, launch.parts, 4), dtype=wide)
        counters = logits.new_zeros(rows + 1, dtype=torch.int32)
    absent = losses  # a kernel takes no None, and does not look at what its constants rule out
    done = _launch(
        kernels.loss_kernel,
        rows * launch.parts,
        cells,
        (losses, sums, absent if gradient is None else gradient, 1 if number is None else number)
        + ((absent, absent) if partial is None else (partial, counters)),
        counted=isinstance(number, Tensor),
        with_gradient=with_gradient,
        parts=launch.parts,
        **launch.constants,
    )
    return losses if done else None, Residuals(sums, number, gradient)


def gradient_of_rows(
    cells: Cells, residuals: Residuals, upstream: Tensor, memory: Tensor | None = None
) -> Tensor | None:
    """Contiguous, for an upstream gradient of one number or of one a row. None if this Triton cannot compile it.

    ``memory`` for it may be that of contiguous logits: a cell is read once, by the program that writes it, and what is
    written depends on what was read.
    """
    logits, (rows, classes) = cells.logits, cells.logits.shape
    launch = _launch_of(rows, classes, cells.kind, logits.get_device())
    upstream = upstream.reshape(-1) if upstream.dim() > 1 else upstream
    gradient = memory if residuals.gradient is None else residuals.gradient
    if gradient is None:
        gradient = logits.new_empty((rows, classes))
    done = _launch(
        kernels.gradient_kernel,
        launch.programs,
        cells,
        (gradient, residuals.sums, upstream, *(upstream.stride() or (0,)), residuals.number, rows),
        counted=isinstance(residuals.number, Tensor),
        is_written=residuals.gradient is not None,
        **launch.constants,
    )
    return gradient if done else None


def marked(targets: Tensor, ids: Tensor, first: int) -> bool:
    """Whether bool ``targets`` have now the ids of the classes from ``first`` on: not if Triton cannot compile it.

    They had none before, or those of the classes that come just before. An id that is no class is below 0.
    """
    rows, slots = ids.shape
    cells = Cells(targets, (targets, targets.shape[1]), (torch.bool, ids.dtype, 0))
    return _launch(kernels.mark_kernel, rows, cells, (ids, slots, first), block=128, num_warps=1)


class Launch(NamedTuple):
    """What is the same for all calls that are alike."""

    parts: int
    programs: int
    """Of ``gradient_kernel``, which share the blocks of all rows."""
    constants: dict[str, Any]


@lru_cache(maxsize=256)
def _launch_of(rows: int, classes: int, kind: Kind, index: int) -> Launch:
    logits, targets, options = kind
    device, tensors = device_of(index), (options & 15).bit_count()
    cut = cut_of(rows, classes, logits.itemsize, targets.itemsize, tensors, device)
    blocks = rows * triton.cdiv(classes, cut.block)
    constants = {
        "given": options,
        "slack": 8 * torch.finfo(targets).eps if targets.is_floating_point else 0.0,
        "index": triton.language.int32 if classes < 2**30 else triton.language.int64,
        "block": cut.block,
        "num_warps": cut.warps,
        "enable_fp_fusion": True,
    }
    return Launch(cut.parts, min(blocks, 16 * device.multiprocessors), constants)


@lru_cache(maxsize=16)
def device_of(index: int) -> Device:
    """Of the GPU with this index. -1 is a CPU, where Triton's interpreter runs one program after another."""
    if index < 0:
        return Device(1, 2**40)
    properties = torch.cuda.get_device_properties(index)
    return Device(properties.multi_processor_count, properties.L2_cache_size, properties.warp_size)


def _launch(kernel: Any, programs: int, cells: Cells, arguments: tuple[Any, ...], **constants: Any) -> bool:
    """False if this Triton cannot compile the kernel for this kind of call, now or before: then a formula must do."""
    if cells.kind in _refused:
        return False
    try:
        with torch.cuda.device_of(cells.logits):  # type: ignore[no-untyped-call]
            kernel[(programs,)](*arguments, *cells.arguments, **constants)
    except Exception as error:  # a compiler has many, of its own and of those that it calls
        _refuse(cells.kind, error)
        return False
    return True


_refused: set[Kind] = set()


def _refuse(kind: Kind, error: Exception) -> None:
    _refused.add(kind)
    options = [name for name, bits in _FLAGS.items() if kind[2] & sum(bits)]
    what = f"{kind[0]} logits, {kind[1]} targets and {', '.join(options) or 'no option'}"
    if kind[0] == torch.bool:
        what = f"{kind[1]} class ids"
    lines = str(error).strip().splitlines() or [""]
    msg = (
        f"Triton {triton.__version__} cannot run the kernel for {what}, so the plain formula takes its place. "
        f"{type(error).__name__}: {lines[-1]}"
    )
    warnings.warn(msg, RuntimeWarning, stacklevel=2)
