"""PyTorch spelled as ``zlpr_core``'s Namespace."""

from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias

import array_api_compat.torch
import torch

from zlpr_core._namespace import namespace_from

from ._torch_internals import is_traced

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Option: TypeAlias = "torch.Tensor | ArrayLike | None"
"""A tensor, or what ``torch.as_tensor`` makes one of: a number, a list, a NumPy array."""

_INTEGERS = {getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)}
FLOATING = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
TARGETS = {torch.bool, *_INTEGERS, *FLOATING}
_KINDS: dict[Any, set[torch.dtype]] = {
    "bool": {torch.bool},
    "unsigned integer": {dtype for dtype in _INTEGERS if not dtype.is_signed},
    "integral": _INTEGERS,
    "real floating": FLOATING,
    ("bool", "integral", "real floating"): TARGETS,
}


def as_number(value: Any, default: float) -> Any:
    """None is the default, and a NumPy number one of Python's; a tensor, which may be traced, stays."""
    value = default if value is None else value
    return float(value) if isinstance(value, Real) else value


def _isdtype(dtype: torch.dtype, kind: Any, /) -> bool:
    """As in the standard, by a table: every call of a loss asks a dozen times, and array_api_compat takes longer."""
    if kind in _KINDS:
        return dtype in _KINDS[kind]
    return any(_isdtype(dtype, one) for one in kind) if isinstance(kind, tuple) else bool(dtype == kind)


def _floor(x: torch.Tensor) -> torch.Tensor:
    """Detached, because autograd would walk its derivative of zeros back to the logits."""
    return torch.floor(x.detach())


def _sum(x: torch.Tensor, /, *, axis: tuple[int, ...], keepdims: bool) -> torch.Tensor:
    # In float64 because Inductor for a CPU adds a row up lane by lane: 10 000 equal float32 terms are off by 1.4e-6.
    wide = torch.float64 if x.is_cpu and torch.compiler.is_compiling() else x.dtype
    return torch.sum(x, dim=axis, keepdim=keepdims, dtype=wide).to(x.dtype)


def _mark(ids: torch.Tensor, classes: int, /) -> torch.Tensor:
    hot = torch.zeros((*ids.shape[:-1], classes + 1), dtype=torch.bool, device=ids.device)
    # 1 and not True, for which torch.jit.trace finds no op and fails an assertion of its own (torch 2.13)
    return hot.scatter(-1, ids.long(), 1)[..., :classes]


def readable(x: torch.Tensor, /) -> bool:
    """By trying on an empty part: vmap, FakeTensorMode and ``make_fx`` refuse to give a value by a RuntimeError."""
    if torch.compiler.is_compiling() or is_traced() or not x.is_cpu:
        return False
    try:
        bool(x.reshape(-1)[:0].any())
    except RuntimeError:
        return False
    return True


def asarray(x: Any, /, *, dtype: Any = None, device: Any = None) -> torch.Tensor:
    """A tensor. A list of tensors is stacked, which keeps the gradients that ``torch.as_tensor`` would drop."""
    if isinstance(x, (list, tuple)) and x and all(isinstance(part, torch.Tensor) for part in x):
        return torch.stack(list(x)).to(device=device, dtype=dtype)
    return torch.as_tensor(x, dtype=dtype, device=device)


xp = namespace_from(
    array_api_compat.torch,
    asarray=asarray,
    isdtype=_isdtype,
    sum=_sum,
    floor=_floor,
    squeeze=lambda x, axis: torch.squeeze(x, axis),  # array_api_compat sorts the axes, which PyTorch 2.6 cannot compile
    mark=_mark,
    stop_gradient=lambda x: x.detach(),  # PyTorch 2.6 does not compile torch.Tensor.detach
    device=lambda x: x.device,
    readable=readable,
    dialect={
        "inputs": "input",
        "logits": "input",
        "targets": "target",
        "axis": "dim",
        "where": "mask",
        "logits1": "input1",
        "logits2": "input2",
        "zlpr": "zlpr_loss",
        "sparse_zlpr": "sparse_zlpr_loss",
        "sparse_linear_zlpr": "sparse_linear_zlpr_loss",
    },
)


def computing_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """Of what is computed of logits, or of tensors whose product they are, before it is rounded. Dynamo traces this."""
    return torch.float64 if torch.float64 in [tensor.dtype for tensor in tensors] else torch.float32
