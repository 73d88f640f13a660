"""The processes of a group that take one loss together: what they exchange, and a call that fails on one of them.

Else the others would wait for it: a process whose call fails before its turn in an exchange says so there, and the
calls of the others fail too.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, distributed

from zlpr_core._checks import class_axes

from . import _torch_internals
from ._namespace import computing_dtype, xp

_logger = logging.getLogger("zlpr_torch")


class Part(NamedTuple):
    """The classes of one process."""

    first: int
    classes: int
    total: int  # of all processes
    told: bool  # by the user: to be compared with what the others were told


class _Turn(threading.local):
    """State of the call that runs in this thread."""

    is_on = False
    exchange: Literal["sizes", "sums"] | None = None
    """What the other processes are to get next."""


_turn = _Turn()
FAILED = -1
"""In an exchange, in place of the number of classes or of the rest of either half, which are never negative."""


def is_together() -> bool:
    """True if this thread is in ``together``."""
    return _turn.is_on


@_torch_internals.untraced
def together(function: Callable[..., Tensor], **given: Any) -> Tensor:
    """``function(**given)``, a loss with ``group=``. If it raises, the group learns of it in the exchange that is next.

    Compiled code breaks its graph here.
    """
    is_asked = "indices" in given and given["class_range"] is None
    _turn.is_on, _turn.exchange = True, "sizes" if is_asked else "sums"
    try:
        return function(**given)
    except Exception as error:
        if _turn.exchange is not None:
            # beforehand, as the exchange takes until the others come to it
            _logger.error("This process fails, and tells its group: %s: %s", type(error).__name__, error)
            _tell(given, error)
        raise
    finally:
        _turn.is_on, _turn.exchange = False, None


def _tell(given: Mapping[str, Any], error: Exception) -> None:
    """Send that this process failed, in the shape and dtype of what the others wait for."""
    try:
        if _turn.exchange == "sizes":
            message = torch.tensor([FAILED], device=given["input"].device)
        else:
            message = _failed_sums(given)
    except (AttributeError, KeyError, TypeError, ValueError):
        error.add_note("The arguments do not say what the other processes of the group wait for: they still wait.")
    else:
        _gather(message, given["group"])


def _failed_sums(given: Mapping[str, Any]) -> Tensor:
    """As ``exchange_sums`` sends them. The shifts are NaN: on a GPU, where nobody looks, so become the losses."""
    input = given["input"]
    if not input.is_floating_point():
        raise TypeError  # the others have another dtype, and gloo ends a process whose message is of another size
    of_ids_or_layer = "indices" in given or "linear_weight" in given
    axes = (input.dim() - 1,) if of_ids_or_layer else class_axes(input, given["dim"], xp=xp, empty=True)
    rows = prod(size for axis, size in enumerate(input.shape) if axis not in axes)
    is_masked = given["mask"] is not None or given.get("ignore_index") is not None
    shape = 4 + is_masked, rows + DIGITS * _is_compared(given.get("class_range"), input)
    dtype = computing_dtype(input, given.get("linear_weight", input))
    sums = torch.full(shape, FAILED, dtype=dtype, device=input.device)
    sums[:4:2] = torch.nan
    return sums


def _gather(mine: Tensor, group: Any) -> list[Tensor]:
    """What each process has, by the only exchange of its kind in a call: if it fails, nobody waits for another."""
    _turn.exchange = None
    gathered = [torch.empty_like(mine) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(gathered, mine, group=group)
    return gathered


def exchange_sums(mine: Tensor, group: Any, part: Part | None) -> list[Tensor]:
    """The sums of each process, a column a row of logits. Raise if one has none, or if the classes do not add up."""
    is_compared = _is_compared(part, mine)
    gathered = _gather(torch.cat([mine, _written(part, mine)], 1) if is_compared else mine, group)
    if mine.is_cpu:
        _check_that_none_failed([bool((each[1] == FAILED).any()) for each in gathered])
    if is_compared:
        _check_parts([_read(each[:, -DIGITS:]) for each in gathered])
        gathered = [each[:, :-DIGITS] for each in gathered]
    return gathered


def _check_that_none_failed(failed: Sequence[bool]) -> None:
    """Of each process, whether it did."""
    if any(failed):
        ranks = ", ".join(str(rank) for rank, here in enumerate(failed) if here)
        msg = (
            f"The loss failed on rank {ranks} of the process group before the exchange. See the error of that process."
        )
        raise RuntimeError(msg)


def _is_compared(class_range: Any, like: Tensor) -> bool:
    """True if the processes see whether what they were told fits. On a GPU a look at it would halt everything."""
    told = class_range.told if isinstance(class_range, Part) else class_range is not None
    return told and like.is_cpu


def part_of(classes: int, group: Any, class_range: tuple[int, int] | Part | None, device: torch.device) -> Part:
    """What was told, by DTensors as a Part; else by an exchange of the numbers of classes."""
    if isinstance(class_range, Part):
        return class_range
    if class_range is not None:
        first, total = class_range
        return Part(first, classes, total, told=True)
    numbers = [int(size) for size in _gather(torch.tensor([classes], device=device), group)]
    _check_that_none_failed([number == FAILED for number in numbers])
    _turn.exchange = "sums"
    return Part(sum(numbers[: distributed.get_rank(group)]), classes, sum(numbers), told=False)


BASE, DIGITS = 2**20, 3
"""How a number of classes is written in columns of float32, which holds whole numbers up to 2^24."""


def _written(part: Any, like: Tensor) -> Tensor:
    """``first``, ``classes`` and ``total`` as columns beside the sums."""
    digits = [[number // BASE**k % BASE for k in range(DIGITS)] for number in part[:3]]
    return like.new_tensor([*digits, *[[0] * DIGITS] * (len(like) - 3)])


def _read(written: Tensor) -> list[int]:
    return [sum(int(digit) * BASE**k for k, digit in enumerate(row)) for row in written[:3].tolist()]


def _check_parts(parts: list[list[int]]) -> None:
    """Every process sees the same, so all raise, or none does and none waits for another."""
    end = 0
    for first, classes, _ in sorted(parts):
        end = end + classes if first == end else -1
    if {end} != {total for *_, total in parts}:
        ranges = ", ".join(f"({first}, {total}) with {classes}" for first, classes, total in parts)
        msg = (
            "`class_range` must be (first class of the process, classes in all), and the processes must have every "
            f"class once. Received: {ranges}."
        )
        raise ValueError(msg)
