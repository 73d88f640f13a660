"""A linear layer and its loss as two ops of a graph, ``zlpr::linear_forward`` and ``zlpr::linear_backward``.

Compiled code, FakeTensorMode and ``make_fx`` see them as they are: loops over chunks would be unrolled there, and the
plain formula makes all logits. They take the way by classes, in two sweeps, because a graph that asks for no gradient
and one that does look alike to them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zlpr_core._options import Options

from ._chunks import Targets, Wanted
from ._linear_autograd import Call, differentiable, read_layer, second_sweep, sums_of_rows
from ._ops import as_options, tensors_of
from ._plan import LinearPlan
from ._reduction import Reduction, reduce

_CALL = (
    "Tensor input, Tensor linear_weight, Tensor? bias, Tensor? target, Tensor? indices, Tensor? unused, "
    "Tensor? illegal, Tensor? mask, Tensor? weight, Tensor? pos_weight, Tensor? threshold, float? label_smoothing, "
    "float? ignore_index, str reduction, int? memory_budget, ScalarType? rounded"
)
_TENSORS = 11
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


def _read(tensors: Sequence[Any], others: Sequence[Any]) -> tuple[Call, Any, list[Any]]:
    """What ``_linear_autograd`` calls so: the call, what is fixed, and the tensors of targets and options."""
    label_smoothing, ignore_index, reduction, budget, rounded = others
    input, weight = tensors[:2]
    wide = torch.float64 if torch.float64 in (input.dtype, weight.dtype) else torch.float32
    classes = weight.shape[0]
    rows = input.numel() // max(input.shape[-1], 1)
    sizes: Any = {"rows": rows, "classes": classes, "device": input.device.type, "memory_budget": budget}
    plan = LinearPlan.of(**sizes, bytes_a_logit=wide.itemsize, one_sweep=False)
    options = [_with_axes(option) for option in as_options(*tensors[7:_TENSORS])]
    numbers = [None if isinstance(option, Tensor) else option for option in options]
    given = [option if isinstance(option, Tensor) else None for option in options]
    call = Call((*input.shape[:-1], classes), wide, reduction, plan, budget, None, rounded, None)
    return call, (numbers, label_smoothing, ignore_index), [*tensors[3:7], *given]


def _with_axes(option: Any) -> Any:
    """On a GPU a number comes as a tensor without axes."""
    return option.reshape(1, 1) if isinstance(option, Tensor) and option.dim() == 0 else option


def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the sums of both halves of each row, and which rows are labelled, nothing if all are."""
    tensors, others = arguments[:_TENSORS], arguments[_TENSORS:]
    call, fixed, given = _read(tensors, others)
    sums = sums_of_rows(call, read_layer(call, fixed, tensors[0], tensors[1], tensors[2], given))
    losses = sums.losses.to(call.dtype).reshape(call.shape[:-1])
    kept = torch.cat([part for half in sums.halves for part in half], 1).t().contiguous()
    labelled = kept.new_empty(0, dtype=torch.bool) if sums.labelled is None else sums.labelled
    return reduce(losses, call.reduction, sums.labelled), kept, labelled


def _backward(
    upstream: Tensor, sums: Tensor, labelled: Tensor, wanted: list[bool], *arguments: Any
) -> tuple[Tensor, ...]:
    """The gradients of input, weight and bias; nothing for one that is not wanted."""
    tensors, others = arguments[:_TENSORS], arguments[_TENSORS:]
    call, fixed, given = _read(tensors, others)
    layer = read_layer(call, fixed, tensors[0], tensors[1], tensors[2], given)
    kept: list[Any] = [*sums.unsqueeze(-1).unbind(), labelled if _has_labels(*tensors, *others) else None]
    found = second_sweep(upstream, call, layer, kept, Wanted(wanted[0], wanted[1], wanted[2]))
    own = zip(found, tensors[:3], strict=True)
    return tuple(sums.new_empty(0) if g is None else g.to(x.dtype).reshape(x.shape) for g, x in own)


def _has_labels(*arguments: Any) -> bool:
    """True if a mask or an ``ignore_index`` says which rows count."""
    return arguments[7] is not None or arguments[_TENSORS + 1] is not None


for _device in ("cpu", "cuda"):
    torch.library.impl("zlpr::linear_forward", _device)(_forward)
    torch.library.impl("zlpr::linear_backward", _device)(_backward)


@torch.library.register_fake("zlpr::linear_forward")  # type: ignore[untyped-decorator]
def _(input: Tensor, linear_weight: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes and dtypes of what ``_forward`` returns."""
    wide = torch.float64 if torch.float64 in (input.dtype, linear_weight.dtype) else torch.float32
    reduction: Reduction = others[-3]
    rows = 1
    for size in input.shape[:-1]:
        rows = rows * size
    loss = input.new_empty(input.shape[:-1] if reduction == "none" else (), dtype=wide)
    sums = input.new_empty((4, rows), dtype=torch.float64 if input.device.type == "cpu" else wide)
    labels = rows if _has_labels(input, linear_weight, *others) else 0
    return loss, sums, input.new_empty(labels, dtype=torch.bool)


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
    wanted = list(ctx.needs_input_grad[:3])
    found: Sequence[Tensor | None]
    if torch.is_grad_enabled():
        call, fixed, given = _read(tensors, ctx.others)
        found = differentiable(upstream, call, fixed, tensors[:3], given, Wanted(*wanted))
    else:
        found = torch.ops.zlpr.linear_backward(upstream, sums, labelled, wanted, *tensors, *ctx.others)
    return *[g if want else None for g, want in zip(found, wanted, strict=True)], *[None] * (_TENSORS + 2)


torch.library.register_autograd("zlpr::linear_forward", _gradients, setup_context=_setup_context)
