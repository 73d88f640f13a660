"""Every private name of PyTorch that this package reads.

PyTorch has no public way to ask whether a transform, forward mode or a tracing tool is at work, and a kernel that runs
under one gives a wrong derivative without a word. If PyTorch drops one of these names (``KNOWN`` is then False), every
loss is the plain formula, which is right under all of them, only slower.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad


def _find(path: str) -> Any:
    """``torch.<path>``, or None."""
    found: Any = torch
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


_functorch_is_active = _find("_C._are_functorch_transforms_active")
_dispatch_modes = _find("_C._len_torch_dispatch_stack")
_is_tracing = _find("jit.is_tracing")  # documented, but not among the names that torch.jit exports
_is_tracing_now = _find("_C._is_tracing") or _is_tracing  # by two calls less, but Dynamo cannot trace it
_is_batched = _find("_C._functorch.is_batchedtensor")
_is_batched_by_legacy_vmap = _find("_C._functorch.is_legacy_batchedtensor")
_FakeTensor = _find("_subclasses.FakeTensor")
_unwrap_if_dead = _find("_C._functorch.unwrap_if_dead")
_indices, _values = _find("Tensor._indices"), _find("Tensor._values")
_disable_dynamo = _find("_disable_dynamo") or torch.compiler.disable

P = ParamSpec("P")
R = TypeVar("R")

KNOWN = hasattr(forward_ad, "_current_level") and None not in (
    _functorch_is_active,
    _dispatch_modes,
    _is_tracing,
    _is_batched,
    _is_batched_by_legacy_vmap,
    _FakeTensor,
)
"""True if all of them are there."""


def is_eager() -> bool:
    """True if only autograd looks on: no compiler, transform, forward mode, tracer or recording tool is active.

    The losses ask this for every batch, by one call instead of four.
    """
    return KNOWN and not (
        torch.compiler.is_compiling()
        or _functorch_is_active()
        or forward_ad._current_level >= 0
        or _is_tracing_now()
        or _dispatch_modes()
    )


def is_transformed() -> bool:
    """True if vmap, another transform of ``torch.func``, forward mode or torch.jit.trace is active, or may be.

    Dynamo traces this.
    """
    return not KNOWN or bool(_functorch_is_active() or forward_ad._current_level >= 0 or _is_tracing())


def is_traced() -> bool:
    """True in torch.jit.trace, or maybe, where a value that is read becomes a constant."""
    return _is_tracing is None or bool(_is_tracing())


def is_recorded() -> bool:
    """True if a tool such as ``make_fx`` or FakeTensorMode sees every operation. Only meaningful if ``KNOWN``."""
    return bool(_dispatch_modes() > 0)


def is_fake(tensor: Tensor) -> bool:
    """True for a tensor of FakeTensorMode, which has no values. Only meaningful if ``KNOWN``."""
    return type(tensor) is _FakeTensor


def is_batched(tensor: Tensor) -> bool:
    """True inside either of PyTorch's two vmaps, where a batched upstream gradient makes a whole Jacobian."""
    return not KNOWN or bool(_is_batched(tensor) or _is_batched_by_legacy_vmap(tensor))


def plain_apply(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """``function.apply`` without what it does for ``torch.func``, for calls where that is not active.

    It takes a microsecond off the nine of a Function that does nothing (torch 2.13). What ``apply`` would unwrap is for
    the caller to pass ``unwrapped``.
    """
    if _unwrap_if_dead is None:
        return function.apply
    apply: Callable[..., Any] = getattr(super(torch.autograd.Function, function), "apply", function.apply)
    return apply


unwrapped: Callable[[Tensor], Tensor] = _unwrap_if_dead or (lambda tensor: tensor)
"""A tensor that has left a transform of ``torch.func`` without its wrapper, which autograd finds no gradient behind.

No function of Python, for a small batch.
"""


def sparse_entries(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and values of a COO matrix as they are stored: ``coalesce`` makes 2 of a label that is there twice."""
    if _indices is not None and _values is not None:
        return _indices(matrix), _values(matrix)
    matrix = matrix.coalesce()
    return matrix.indices(), matrix.values()


def untraced(function: Callable[P, R]) -> Callable[P, R]:
    """As ``torch.compiler.disable``: compiled code breaks its graph here, as Dynamo must not trace the function.

    That decorator imports Dynamo at once, which costs every program 3 s and 150 MB. This one asks only where Dynamo is.
    """
    disabled = _disable_dynamo(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        chosen: Any = disabled if torch.compiler.is_compiling() or "torch._dynamo" in sys.modules else function
        result: R = chosen(*args, **kwargs)
        return result

    return call


def constant(function: Callable[P, R]) -> Callable[P, R]:
    """As ``torch.compiler.assume_constant_result``, which would import Dynamo too."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
