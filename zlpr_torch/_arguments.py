"""What a user passes: tensors and options, checked and converted."""

from typing import Any

import torch
from torch import Tensor

from zlpr_core._checks import check_pair, sparse_error
from zlpr_core._options import DEFAULT, Options

from ._namespace import FLOATING, TARGETS, xp


def check_tensors(**arguments: Any) -> None:
    """Raise unless all are dense tensors. The losses call this first, for every batch."""
    for argument, value in arguments.items():
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_nested:
            raise _not_dense(argument, value)


def check_dense_pair(input: Any, target: Any) -> None:
    """Raise unless both are dense tensors of one shape, in dtypes that the losses take.

    Asked for every batch, so that one look at dtypes and shapes answers for nearly all: a small batch takes less time
    than the checks that know what is wrong.
    """
    is_sound = (
        isinstance(input, Tensor)
        and isinstance(target, Tensor)
        and input.layout is torch.strided
        and target.layout is torch.strided
        and input.dtype in FLOATING
        and target.dtype in TARGETS
        and not (input.is_nested or target.is_nested)
        and input.shape == target.shape
    )
    if not is_sound:
        check_tensors(input=input, target=target)
        check_pair(input, target, xp=xp)


def has_dtensor(*tensors: Any) -> bool:
    """True if one is a DTensor, told by its attributes: ``torch.distributed.tensor`` takes long to import.

    The losses ask this for every batch whose logits are no plain tensor.
    """
    return any(isinstance(x, Tensor) and hasattr(x, "device_mesh") and hasattr(x, "placements") for x in tensors)


def _not_dense(argument: str, value: Any) -> TypeError:
    """What to do instead, in one sentence."""
    if isinstance(value, Tensor) and value.is_nested:
        return TypeError(f"`{argument}` must be one tensor. Received: a NestedTensor. {_fix_of_nested(argument)}")
    fix = "Wrap it in torch.as_tensor."
    if isinstance(value, torch.fx.Proxy):  # which has every attribute that one asks for
        fix = "torch.fx traces a loss as one step: call torch.fx.wrap with its name in the module that calls it."
    elif isinstance(value, Tensor) or hasattr(value, "toarray"):  # the second is SciPy's
        return sparse_error(value, {"target": "targets"}.get(argument, argument), xp=xp)
    return TypeError(f"`{argument}` must be a torch.Tensor. Received: {type(value).__name__}. {fix}")


def _fix_of_nested(argument: str) -> str:
    if argument == "indices":
        return "Pass the list of its rows, `.unbind()`."
    return "Make all of them with layout=torch.jagged, and pass their `.values()`."


def read_tensor(argument: str, value: Any, *, jagged: bool = False) -> Tensor:
    """A tensor of what a helper was given: lists of floating numbers in the default dtype, as everywhere in PyTorch.

    ``jagged`` says that a nested tensor of that layout is welcome, where every cell is seen by itself.
    """
    if jagged and isinstance(value, Tensor) and value.layout is torch.jagged:
        return value
    if not isinstance(value, (Tensor, torch.fx.Proxy)) and not hasattr(value, "toarray"):
        return torch.as_tensor(value)
    check_tensors(**{argument: value})
    tensor: Tensor = value
    return tensor


def readable_option(argument: str, option: Any) -> Any:
    """A tensor must be a dense one. While compiling, a tensor of a NumPy array: Dynamo cannot read the dtype of one.

    (torch 2.13)
    """
    if isinstance(option, Tensor):
        check_tensors(**{argument: option})
    elif torch.compiler.is_compiling() and option is not None and not isinstance(option, _TRACEABLE):
        return torch.as_tensor(option)
    return option


_TRACEABLE = (bool, int, float, list, tuple)


def read_options(input: Tensor, mask: Any, weight: Any, pos_weight: Any, threshold: Any) -> Options:
    """The options that a user passed, checked and converted."""
    if mask is weight is pos_weight is None and type(threshold) is float and threshold == 0:  # nearly every call
        return DEFAULT
    given = {"mask": mask, "weight": weight, "pos_weight": pos_weight, "threshold": threshold}
    return Options.of(input, *[readable_option(argument, option) for argument, option in given.items()], xp=xp)
