"""Private names of PyTorch that a release may take away: every loss stays right, and most stay as fast."""

import importlib

import pytest
import torch
import torch._dynamo
from torch.autograd import forward_ad, gradgradcheck

from zlpr_torch import SparseZLPRLoss, ZLPRLoss, _torch_internals, zlpr_loss
from zlpr_torch._autograd import KernelLoss

torch.manual_seed(0)
LOGITS, SOFT = torch.randn(6, 5, dtype=torch.float64), torch.rand(6, 5, dtype=torch.float64)
EXACT = {"rtol": 1e-12, "atol": 1e-15}
PRIVATE = {
    "torch.func": (torch._C, "_are_functorch_transforms_active"),
    "forward mode": (forward_ad, "_current_level"),
    "dispatch modes": (torch._C, "_len_torch_dispatch_stack"),
    "torch.jit.trace": (torch.jit, "is_tracing"),
    "vmap": (torch._C._functorch, "is_batchedtensor"),
    "legacy vmap": (torch._C._functorch, "is_legacy_batchedtensor"),
    "fake tensors": (torch._subclasses, "FakeTensor"),
}
OTHERS = {"torch.jit.trace, by two calls less": (torch._C, "_is_tracing"), "a break": (torch, "_disable_dynamo")}


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


@pytest.fixture
def without(monkeypatch):
    """Take a private name of PyTorch away from our module, as a release might."""

    def take(owner, name):
        with monkeypatch.context() as patch:
            patch.delattr(owner, name)
            importlib.reload(_torch_internals)

    yield take
    importlib.reload(_torch_internals)
    assert _torch_internals.KNOWN


@pytest.mark.parametrize("private", PRIVATE.values(), ids=PRIVATE)
def test_without_a_private_name_everything_is_plain_and_right(without, private):
    module, x = ZLPRLoss(), LOGITS.clone().requires_grad_()
    expected = module(x, SOFT)
    (slope,) = torch.autograd.grad(expected, x)
    assert type(expected.grad_fn).__name__ == "KernelLossBackward"
    without(*private)
    loss = module(x, SOFT)
    assert "KernelLoss" not in type(loss.grad_fn).__name__
    torch.testing.assert_close(loss, expected, **EXACT)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], slope, **EXACT)
    assert gradgradcheck(lambda s: module(s, SOFT), x)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(x, SOFT), x)[0], slope, **EXACT)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("private", OTHERS.values(), ids=OTHERS)
def test_without_a_name_that_others_can_stand_for(without, private):
    """The kernel still serves, traces hold no constant, and compiled code breaks its graph where it must."""
    x = LOGITS.clone().requires_grad_()
    expected = zlpr_loss(x, SOFT)
    without(*private)
    loss = zlpr_loss(x, SOFT)
    assert _torch_internals.KNOWN
    assert type(loss.grad_fn).__name__ == "KernelLossBackward"
    assert torch.equal(loss, expected)
    traced = torch.jit.trace(zlpr_loss, (2 * LOGITS, SOFT))
    torch.testing.assert_close(traced(LOGITS, SOFT), expected.detach(), **EXACT)
    seen_by_dynamo = []
    broken = _torch_internals.untraced(lambda s: seen_by_dynamo.append(torch.compiler.is_compiling()) or s)
    assert torch.equal(torch.compile(lambda s: 2 * broken(s + 1), backend="eager")(LOGITS), 2 * (LOGITS + 1))
    assert seen_by_dynamo == [False]


def test_sparse_matrices_without_the_private_names_of_their_entries(monkeypatch):
    matrix = (SOFT < 0.4).float().to_sparse_coo()
    expected = SparseZLPRLoss()(LOGITS, matrix)
    monkeypatch.setattr(_torch_internals, "_values", None)
    torch.testing.assert_close(SparseZLPRLoss()(LOGITS, matrix), expected, rtol=0, atol=0)


def test_without_a_quicker_apply(monkeypatch):
    """PyTorch promises that ``Function.apply`` is there, and not what it calls."""
    monkeypatch.setattr(_torch_internals, "super", lambda *_: None, raising=False)
    assert _torch_internals.plain_apply(torch.autograd.Function) == torch.autograd.Function.apply


def test_without_what_unwraps(monkeypatch):
    """Then ``Function.apply`` does it."""
    monkeypatch.setattr(_torch_internals, "_unwrap_if_dead", None)
    assert _torch_internals.plain_apply(KernelLoss) == KernelLoss.apply
