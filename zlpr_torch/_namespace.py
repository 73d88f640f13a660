"""PyTorch spelled as ``zlpr_core.Namespace``."""

import array_api_compat.torch
import torch

from zlpr_core._namespace import namespace_from


def _floor(x: torch.Tensor) -> torch.Tensor:
    """Detached, because autograd would walk a derivative of zeros back to the logits."""
    return torch.floor(x.detach())


xp = namespace_from(
    array_api_compat.torch,
    floor=_floor,
    dialect={"logits": "input", "targets": "target", "axis": "dim", "where": "mask"},
)
