"""Which of three ways computes a loss: the plain formula, a kernel, or the ops that stand for the kernels in a graph.

The kernels know reverse mode in the logits, and thereby in a threshold; everything else takes the plain formula.
That is chosen here for forward. Backward chooses once more, because vmap, a tracer or ``create_graph`` may come in
between: in the functions of ``_autograd`` and in ``_ops._backward``.
"""

import importlib
from functools import lru_cache
from types import ModuleType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

import zlpr_core
from zlpr_core._options import DEFAULT, Options

from . import _cpu, _cpu_divergences, _ops, _pair_ops, _torch_internals
from ._autograd import ClosedPair, KernelTerms, kernel_loss
from ._cpu_terms import WIDE
from ._formula import Inputs, PairCall, plain_loss, plain_pair, widened
from ._layout import Shape
from ._namespace import xp
from ._reduction import Reduction

Implementation: TypeAlias = Literal["auto", "plain", "blocked", "triton"]


def loss(
    input: Tensor, target: Tensor, options: Options, axes: Shape, reduction: Reduction, impl: Implementation
) -> Tensor:
    """Reduced ZLPR of checked arguments, by the fastest way that is right here."""
    if impl != "plain" and type(input) in _PLAIN and _torch_internals.is_eager():
        return _eager_loss(input, target, options, axes, reduction, impl)
    if impl != "plain" and not _needs_formula(input, target, options) and has_kernel(input.device):
        with_gradient = torch.is_grad_enabled() and input.requires_grad
        return _ops.loss(input, target, options, axes, reduction, with_gradient)
    return plain_loss(input, _saveable(target), _saveable_options(options), axes, reduction)


def _eager_loss(
    input: Tensor, target: Tensor, options: Options, axes: Shape, reduction: Reduction, impl: Implementation
) -> Tensor:
    kernel, learned, constant = _kernel_for(input, impl), None, options
    if not options.are_default:
        learned = _learned_threshold(input, options)
        constant = options if learned is None else options._replace(threshold=0.0)
    if kernel is None or is_for_formula(target) or (constant is not DEFAULT and any(map(is_for_formula, constant))):
        return plain_loss(input, _saveable(target), _saveable_options(options), axes, reduction)
    if torch.is_grad_enabled() and (input.requires_grad or learned is not None):
        learned = learned if learned is None else _torch_internals.unwrapped(learned)
        input = _torch_internals.unwrapped(input)
        return kernel_loss((kernel, axes, reduction), options, input, target, learned)  # type: ignore[no-any-return]
    return kernel.forward(input, target, options, axes, reduction, with_gradient=False)[0]  # type: ignore[no-any-return]


def terms(input: Tensor, target: Tensor, options: Options, axes: Shape) -> tuple[Tensor, Tensor]:
    """The two halves of checked arguments, by the CPU kernel where that is right."""
    input, target, options = _saveable(input), _saveable(target), _saveable_options(options)
    if not _is_eager(input) or not input.is_cpu or _needs_formula(input, target, options):
        return zlpr_core.zlpr_terms(input, target, axis=axes, **options.by_name(), xp=xp)
    if torch.is_grad_enabled() and input.requires_grad:
        return KernelTerms.apply(axes, options, input, target)  # type: ignore[no-any-return, no-untyped-call]
    return _cpu.forward_terms(input, target, options, axes, with_gradient=False)[0]


def of_pair(call: PairCall, inputs: Inputs) -> Tensor:
    """A reduced divergence, or R-Drop, of checked arguments, by the fastest way that is right here."""
    p, q, target = _saveable(inputs.p), _saveable(inputs.q), _saveable(inputs.target)
    options = _saveable_options(inputs.options)
    inputs = Inputs(p, q, target, options)
    is_plain = isinstance(call.scale, float) and isinstance(call.coefficient, float)  # a tensor may be traced
    if not is_plain or _needs_formula(p, target, options) or _needs_formula(q, target, options):
        return plain_pair(call, inputs)
    on_cpu = p.is_cpu and q.is_cpu
    if on_cpu and torch.compiler.is_compiling() and (target is None or options.are_default):
        return _pair_ops.value(call, inputs)
    kernel = _cpu_divergences if on_cpu and _is_eager(p) else None
    if kernel is None and target is not None:
        return _rdrop_by_parts(call, inputs, target)
    if torch.is_grad_enabled() and (p.requires_grad or q.requires_grad):
        return ClosedPair.apply(kernel, call, options, target, p, q)  # type: ignore[no-any-return, no-untyped-call]
    return plain_pair(call, inputs) if kernel is None else kernel.forward(call, inputs, (False, False))[0]


def _rdrop_by_parts(call: PairCall, inputs: Inputs, target: Tensor) -> Tensor:
    """The losses by their kernel, or its op, and the divergence by itself: no kernel here computes them together."""
    p, q, _, options = widened(inputs)
    first = loss(p, target, options, call.axes, call.reduction, "auto")
    second = loss(q, target, options, call.axes, call.reduction, "auto")
    return 0.5 * (first + second) + of_pair(call, Inputs(p, q, None, Options(options.where)))


def _is_eager(input: Tensor) -> bool:
    """True if a kernel may be called at once: nothing but autograd looks on."""
    return _torch_internals.is_eager() and type(input) in _PLAIN


def _learned_threshold(input: Tensor, options: Options) -> Tensor | None:
    """The threshold if it requires a gradient, which is minus the sum of that in the logits.

    None beside half precision, whose gradient is rounded before it could be summed.
    """
    threshold, wide = options.threshold, input.dtype in WIDE
    is_learned = wide and type(threshold) in _PLAIN and threshold.requires_grad and torch.is_grad_enabled()
    return threshold if is_learned else None


def _needs_formula(input: Tensor, target: Tensor | None, options: Options) -> bool:
    """True where a kernel would give a wrong derivative, or none, or must not be in the program that is made."""
    if _torch_internals.is_transformed() or is_exporting():
        return True
    if type(input) not in _PLAIN and not _torch_internals.is_fake(input):
        return True
    if options.are_default:
        return is_for_formula(target)
    return any(is_for_formula(x) for x in (target, *options))


_PLAIN = (Tensor, torch.nn.Parameter)


def is_for_formula(other: Any) -> bool:
    """True for a tensor with a gradient of its own, a subclass, or one that autograd does not save (inference mode)."""
    if not isinstance(other, Tensor):
        return False
    if type(other) not in _PLAIN and not _torch_internals.is_fake(other):
        return True
    # in this order, because Dynamo cannot trace the last question
    return torch.is_grad_enabled() and (
        other.requires_grad or (not torch.compiler.is_compiling() and other.is_inference())
    )


def _saveable(tensor: Any) -> Any:
    """A copy of a tensor made in inference mode, which autograd would refuse to save for backward."""
    if not isinstance(tensor, Tensor) or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return tensor
    return tensor.clone() if tensor.is_inference() else tensor


def _saveable_options(options: Options) -> Options:
    if torch.compiler.is_compiling() or options.are_default:
        return options
    return Options._make([_saveable(option) for option in options])


def is_exporting() -> bool:
    """True in ``torch.export`` and in the ONNX exporter, whose programs run where this package is not installed.

    ``torch.compiler.is_exporting`` came with torch 2.7; before, all compiled code counts as exported.
    """
    return torch.compiler.is_compiling() and (_says_exporting is None or bool(_says_exporting()))


_says_exporting = getattr(torch.compiler, "is_exporting", None)


def has_kernel(device: torch.device) -> bool:
    """True if there is a kernel for such a device."""
    return device.type == "cpu" or (device.type == "cuda" and _has_triton())


@_torch_internals.constant
def _has_triton() -> bool:
    """Dynamo calls this and takes the result for a constant, because it cannot trace the import."""
    return bool(_triton().available())


def read_implementation(impl: Implementation | None) -> Implementation:
    """One of the four, None being the default. Raises unless it is one, and installed."""
    if impl is None:
        return "auto"
    if impl not in ("auto", "plain", "blocked", "triton"):
        msg = f'`impl` must be "auto", "plain", "blocked" or "triton". Received: {impl!r}.'
        raise ValueError(msg)
    if impl == "triton" and not _has_triton():
        msg = 'impl="triton" needs Triton 3.3 or later. Install it, or leave `impl` at "auto".'
        raise ValueError(msg)
    return impl


def _kernel_for(input: Tensor, impl: Implementation) -> ModuleType | None:
    if input.is_cpu and impl != "triton":
        return _cpu
    if impl == "blocked":
        msg = f'impl="blocked" is for a CPU. Received an `input` on: {input.device}. Leave `impl` at "auto".'
        raise ValueError(msg)
    return _triton() if impl == "triton" or has_kernel(input.device) else None


@lru_cache(maxsize=1)
def _triton() -> ModuleType:
    """Imported when first used, because Triton takes its time."""
    return importlib.import_module("zlpr_torch._cuda")
