"""A linear layer and its loss as two ops of a graph, ``zlpr::linear_forward`` and ``zlpr::linear_backward``.

Compiled code, FakeTensorMode and ``make_fx`` see them as they are: loops over chunks would be unrolled there, and the
plain formula makes all logits. They take the way by classes, in two sweeps: a forward op that is traced does not know
which gradients will be asked for.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zlpr_core._options import Options

from ._chunks import Sums, Wanted
from ._layer import Layer, Targets
from ._linear_autograd import Call, differentiable, read_layer, second_sweep, sums_of_rows
from ._namespace import computing_dtype
from ._ops import as_options, tensors_of
from ._reduction import Reduction, reduce


class _Given(NamedTuple):
    """What both ops take, in the order of their schema."""

    input: Tensor
    linear_weight: Tensor
    bias: Tensor | None
    target: Tensor | None
    indices: Tensor | None
    unused: Tensor | None
    illegal: Tensor | None
    mask: Tensor | None
    weight: Tensor | None
    pos_weight: Tensor | None
    threshold: Tensor | None
    label_smoothing: float | None
    ignore_index: float | None
    reduction: Reduction
    memory_budget: int | None
    rounded: torch.dtype | None

    @property
    def says_which_rows_count(self) -> bool:
        """True if a row may have no cell that counts."""
        return self.mask is not None or self.ignore_index is not None


_TENSORS = _Given._fields.index("label_smoothing")  # so many come first
_CALL = (
    "Tensor input, Tensor linear_weight, Tensor? bias, Tensor? target, Tensor? indices, Tensor? unused, "
    "Tensor? illegal, Tensor? mask, Tensor? weight, Tensor? pos_weight, Tensor? threshold, float? label_smoothing, "
    "float? ignore_index, str reduction, int? memory_budget, ScalarType? rounded"
)
_TAGS = (torch.Tag.pt2_compliant_tag,)
torch.library.define("zlpr::linear_forward", f"({_CALL}) -> (Tensor, Tensor, Tensor)", tags=_TAGS)
torch.library.define(
    "zlpr::linear_backward",
    f"(Tensor upstream, Tensor sums, Tensor labelled, bool[] wanted, {_CALL}) -> (Tensor, Tensor, Tensor)",
    tags=_TAGS,
)


def loss(call: Call, layer: tuple[Tensor, Tensor, Tensor | None], targets: Targets, options: Options) -> Tensor:
    """The reduced loss as a call of ``zlpr::linear_forward``. Dynamo traces this."""
    ids = (None, None, None) if targets.ids is None else targets.ids
    tensors = *layer, targets.dense, *ids, *tensors_of(options, layer[0].device)
    others = targets.label_smoothing, targets.ignore_index, call.reduction, call.budget, call.rounded
    reduced: Tensor = torch.ops.zlpr.linear_forward(*tensors, *others)[0]
    return reduced


def _call_of(given: _Given) -> Call:
    return Call.of(given.input, given.linear_weight, given.reduction, given.memory_budget, rounded=given.rounded)


def _parts_of(given: _Given) -> tuple[Any, list[Any]]:
    """Targets and options as ``_linear_autograd`` takes them: what autograd does not look into, and tensors."""
    options = as_options(given.mask, given.weight, given.pos_weight, given.threshold)
    flat = [_with_axes(option) for option in options]
    numbers = [None if isinstance(option, Tensor) else option for option in flat]
    tensors = [option if isinstance(option, Tensor) else None for option in flat]
    targets = given.target, given.indices, given.unused, given.illegal
    return (numbers, given.label_smoothing, given.ignore_index), [*targets, *tensors]


def _with_axes(option: Any) -> Any:
    """On a GPU a number comes as a tensor without axes."""
    return option.reshape(1, 1) if isinstance(option, Tensor) and option.dim() == 0 else option


def _layer_of(given: _Given, call: Call) -> Layer:
    fixed, tensors = _parts_of(given)
    return read_layer(call, fixed, given.input, given.linear_weight, given.bias, tensors)


def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the sums of both halves of each row, and which rows are labelled, nothing if all are."""
    given = _Given(*arguments)
    call = _call_of(given)
    sums = sums_of_rows(call, _layer_of(given, call))
    losses = sums.losses.to(call.dtype).reshape(call.shape[:-1])
    labelled = sums.parts.new_empty(0, dtype=torch.bool) if sums.labelled is None else sums.labelled
    return reduce(losses, call.reduction, sums.labelled), sums.parts, labelled


def _backward(
    upstream: Tensor, sums: Tensor, labelled: Tensor, wanted: list[bool], *arguments: Any
) -> tuple[Tensor, ...]:
    """The gradients of input, weight and bias; nothing for one that is not wanted."""
    given = _Given(*arguments)
    call = _call_of(given)
    kept = Sums(sums, labelled if given.says_which_rows_count else None)
    found = second_sweep(upstream, call, _layer_of(given, call), kept, Wanted(wanted[0], wanted[1], wanted[2]))
    own = zip(found, given[:3], strict=True)
    return tuple(sums.new_empty(0) if g is None or x is None else g.to(x.dtype).reshape(x.shape) for g, x in own)


for _device in ("cpu", "cuda"):
    torch.library.impl("zlpr::linear_forward", _device)(_forward)
    torch.library.impl("zlpr::linear_backward", _device)(_backward)


@torch.library.register_fake("zlpr::linear_forward")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes and dtypes of what ``_forward`` returns."""
    given = _Given(*arguments)
    input, wide = given.input, computing_dtype(given.input, given.linear_weight)
    rows = prod(input.shape[:-1])
    loss = input.new_empty(input.shape[:-1] if given.reduction == "none" else (), dtype=wide)
    sums = input.new_empty((rows, 4), dtype=torch.float64 if input.device.type == "cpu" else wide)
    return loss, sums, input.new_empty(rows if given.says_which_rows_count else 0, dtype=torch.bool)


@torch.library.register_fake("zlpr::linear_backward")  # type: ignore[untyped-decorator]
def _(upstream: Tensor, sums: Tensor, labelled: Tensor, wanted: list[bool], *arguments: Any) -> tuple[Tensor, ...]:
    own = zip(arguments[:3], wanted, strict=True)
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) if w else sums.new_empty(0) for x, w in own)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    if any(ctx.needs_input_grad[3:]):
        msg = "zlpr::linear_forward has gradients in input, weight and bias only. Call zlpr_torch.linear_zlpr_loss."
        raise NotImplementedError(msg)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:], *inputs[:_TENSORS])
    ctx.others = inputs[_TENSORS:]


def _gradients(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    sums, labelled, *tensors = ctx.saved_tensors
    given, wanted = _Given(*tensors, *ctx.others), list(ctx.needs_input_grad[:3])
    found: Sequence[Tensor | None]
    if torch.is_grad_enabled():
        fixed, others = _parts_of(given)
        found = differentiable(upstream, _call_of(given), fixed, given[:3], others, Wanted(*wanted))
    else:
        found = torch.ops.zlpr.linear_backward(upstream, sums, labelled, wanted, *given)
    own = [gradient if want else None for gradient, want in zip(found, wanted, strict=True)]
    return *own, *[None] * (len(_Given._fields) - 3)


torch.library.register_autograd("zlpr::linear_forward", _gradients, setup_context=_setup_context)
