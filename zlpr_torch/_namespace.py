"""PyTorch spelled as ``zlpr_core.Namespace``."""

from typing import Any

import array_api_compat.torch
import torch

from zlpr_core._namespace import namespace_from

_WHOLE = {getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)}
_KINDS = {
    "bool": {torch.bool},
    "unsigned integer": {dtype for dtype in _WHOLE if not dtype.is_signed},
    "integral": _WHOLE,
    "real floating": {torch.float16, torch.bfloat16, torch.float32, torch.float64},
}


def _isdtype(dtype: torch.dtype, kind: Any, /) -> bool:
    """As the standard has it; a look in a table, because every call of a loss asks a dozen times."""
    if isinstance(kind, tuple):
        return any(_isdtype(dtype, one) for one in kind)
    return dtype in _KINDS[kind] if isinstance(kind, str) else dtype == kind


def _floor(x: torch.Tensor) -> torch.Tensor:
    """Detached, because autograd would walk a derivative of zeros back to the logits."""
    return torch.floor(x.detach())


def _sum(x: torch.Tensor, /, *, axis: tuple[int, ...], keepdims: bool) -> torch.Tensor:
    # compiled for a CPU, a row is added lane by lane: 10 000 equal float32 terms are off by 1.4e-6
    wide = torch.float64 if x.is_cpu and torch.compiler.is_compiling() else x.dtype
    return torch.sum(x, dim=axis, keepdim=keepdims, dtype=wide).to(x.dtype)


def _mark(ids: torch.Tensor, classes: int, /) -> torch.Tensor:
    hot = torch.zeros((*ids.shape[:-1], classes + 1), dtype=torch.bool, device=ids.device)
    return hot.scatter(-1, ids.long(), True)[..., :classes]


xp = namespace_from(
    array_api_compat.torch,
    isdtype=_isdtype,
    sum=_sum,
    floor=_floor,
    mark=_mark,
    stop_gradient=torch.Tensor.detach,
    compiling=torch.compiler.is_compiling,  # where a look at values would break the graph
    dialect={
        "logits": "input",
        "targets": "target",
        "axis": "dim",
        "where": "mask",
        "logits1": "input1",
        "logits2": "input2",
    },
)
