"""``torch.jit.trace``, ``torch.fx`` and strict ``torch.export``: each program equals what it was made from."""

import copy
from functools import partial

import pytest
import torch
from torch import fx, nn
from torch_losses import HARD, IDS, LOGITS, OTHER, SOFT, Training, assert_same, each_loss, rows, value_and_gradients

import zlpr_torch
from zlpr_torch import ZLPRLoss, zlpr_loss

HELPERS = {
    "predict": (partial(zlpr_torch.predict, threshold=0.5, at_least_one=True), [LOGITS]),
    "probabilities": (zlpr_torch.probabilities, [LOGITS]),
    "smooth_labels": (partial(zlpr_torch.smooth_labels, epsilon=0.1), [SOFT]),
    "smooth_labels, hard": (partial(zlpr_torch.smooth_labels, epsilon=0.1, mode="positive"), [HARD.long()]),
    "zlpr_entropy": (zlpr_torch.zlpr_entropy, [SOFT]),
    "multi_hot": (partial(zlpr_torch.multi_hot, num_classes=5), [IDS]),
    "span_to_index": (partial(zlpr_torch.span_to_index, length=8), [IDS, IDS]),
    "index_to_span": (partial(zlpr_torch.index_to_span, length=8), [IDS]),
    "zlpr_terms": (zlpr_torch.zlpr_terms, [LOGITS, SOFT]),
    "zlpr_divergence": (zlpr_torch.zlpr_divergence, [LOGITS, OTHER]),
}
# PyTorch's own, inside its exporter, and of sizes that torch.jit.trace takes for constants
pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is (deprecated|not supported):DeprecationWarning"),
]


class Call(nn.Module):
    """A function, as a program takes it."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *arrays):
        return self.function(*arrays)


each_helper = pytest.mark.parametrize(("function", "arrays"), HELPERS.values(), ids=HELPERS)


@each_helper
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "as it runs"])
def test_helpers_are_exported(function, arrays, strict):
    sizes = (tuple({0: torch.export.Dim.DYNAMIC} for _ in arrays),)
    program = torch.export.export(Call(function), tuple(arrays), strict=strict, dynamic_shapes=sizes).module()
    for number in (6, 4):
        batch = [x[:number].clone() for x in arrays]
        torch.testing.assert_close(program(*batch), function(*batch))


@each_loss
def test_losses_are_exported_strictly(make, arguments):
    module = make()
    sizes = {name: {0: torch.export.Dim.DYNAMIC} for name in arguments}
    program = torch.export.export(module, (), arguments, strict=True, dynamic_shapes=sizes).module()
    batch = rows(arguments, 4)
    assert_same(value_and_gradients(program, batch), value_and_gradients(module, batch))


@each_helper
def test_helpers_in_torch_jit(function, arrays):
    traced = torch.jit.trace(Call(function), arrays)
    torch.testing.assert_close(traced(*arrays), function(*arrays))


@each_loss
def test_losses_in_torch_jit(make, arguments):
    module = make()
    arrays = list(arguments.values())
    module = Masked(module) if "mask" in arguments else module
    traced = torch.jit.trace(module, arrays)
    for number in (6, 4):
        batch = [x[:number] for x in arrays]
        assert_same(traced(*batch), module(*batch))


class Masked(nn.Module):
    """The mask by position, as torch.jit.trace hands arguments over."""

    def __init__(self, criterion):
        super().__init__()
        self.criterion = criterion

    def forward(self, *arrays):
        return self.criterion(*arrays[:-1], mask=arrays[-1])


@each_loss
def test_losses_in_torch_fx(make, arguments):
    """Alone, after a copy, and traced a second time; options that are tensors stay buffers and parameters."""
    module = make()
    expected = value_and_gradients(module, arguments)
    traced = fx.symbolic_trace(module)
    for program in (traced, copy.deepcopy(traced), fx.symbolic_trace(traced)):
        assert_same(value_and_gradients(program, arguments), expected, rtol=0, atol=0)
        assert program.state_dict().keys() == module.state_dict().keys()
        assert [node.op for node in program.graph.nodes].count("call_function") == 1


def test_a_model_with_its_loss_in_torch_fx():
    training = Training(ZLPRLoss(pos_weight=torch.full((5,), 2.0)))
    arguments = {"features": torch.randn(6, 4), "target": HARD}
    assert_same(value_and_gradients(fx.symbolic_trace(training), arguments), value_and_gradients(training, arguments))


fx.wrap("zlpr_loss")


class Function(nn.Module):
    def forward(self, input, target):
        return zlpr_loss(input, target, reduction="sum")


class Unwrapped(nn.Module):
    def forward(self, input, target):
        return zlpr_torch.rdrop_zlpr_loss(input, input, target)


class Helper(nn.Module):
    def forward(self, input):
        return zlpr_torch.predict(input)


def test_a_function_in_torch_fx():
    """By ``torch.fx.wrap`` in the module that calls it, which the message for others names."""
    traced = fx.symbolic_trace(Function())
    assert_same(traced(LOGITS, HARD), zlpr_loss(LOGITS, HARD, reduction="sum"), rtol=0, atol=0)
    for module, argument in ((Unwrapped(), "input1"), (Helper(), "input")):
        with pytest.raises(
            TypeError, match=rf"^`{argument}` must be a torch.Tensor. Received: Proxy. .*torch\.fx\.wrap"
        ):
            fx.symbolic_trace(module)
