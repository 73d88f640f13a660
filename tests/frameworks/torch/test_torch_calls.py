"""What a small batch costs: there a step is as long as its calls are many, and time is too noisy to be tested."""

import sys

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from zlpr_torch import ZLPRLoss, zlpr_loss

torch.manual_seed(0)
LOGITS, SOFT = torch.randn(64, 20).requires_grad_(), torch.rand(64, 20)
TARGETS = {"hard": SOFT < 0.3, "soft": SOFT}
# The operations that PyTorch runs of a step and its backward, those within others counted: binary_cross_entropy has 34
OPERATIONS = {"hard": 33, "soft": 35}
FUNCTIONS = {zlpr_loss: 29, ZLPRLoss(): 32}  # of these packages, that Python calls


def step(loss, target):
    (gradient,) = torch.autograd.grad(loss(LOGITS, target), LOGITS)
    return gradient


@pytest.mark.parametrize("name", TARGETS)
def test_operations(name):
    step(zlpr_loss, TARGETS[name])  # makes the constants that are kept
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        step(zlpr_loss, TARGETS[name])
    names = [event.name for event in watched.events() if event.name.startswith("aten::")]
    assert len(names) <= OPERATIONS[name], names


@pytest.mark.parametrize("loss", FUNCTIONS, ids=["function", "module"])
@pytest.mark.parametrize("name", TARGETS)
def test_functions(name, loss):
    step(loss, TARGETS[name])
    called = []

    def watch(frame, event, _):
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith(("zlpr_core", "zlpr_torch")):
            called.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        step(loss, TARGETS[name])
    finally:
        sys.setprofile(before)
    assert len(called) <= FUNCTIONS[loss], called


def test_tensors_that_have_left_a_transform():
    """The quicker apply once made them no part of the graph."""
    kept = []
    threshold = torch.zeros((), requires_grad=True)
    for tensor in (LOGITS, threshold):
        torch.func.grad(lambda x: kept.append(x) or x.sum())(tensor)
    got = torch.autograd.grad(zlpr_loss(kept[0], SOFT, threshold=kept[1]), (LOGITS, threshold))
    true = torch.autograd.grad(zlpr_loss(LOGITS, SOFT, threshold=threshold), (LOGITS, threshold))
    torch.testing.assert_close(got, true)
