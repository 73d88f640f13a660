"""Divergences, R-Drop, halves and learned thresholds by their closed forms: what is kept, recomputed, and left to the core."""

import pytest
import torch

import zlpr_torch as z
from zlpr_torch import _cpu_divergences, _formula

SHAPE = (300, 700)  # several blocks, the last not full
CLOSED = {
    "kl": z.kl_divergence,
    "symmetric": z.symmetric_kl_divergence,
    "own": z.zlpr_divergence,
    "scaled": lambda p, q, **options: z.kl_divergence(p, q, scale=1.7, **options),
    "rdrop": lambda p, q, **options: z.rdrop_zlpr_loss(p, q, HARD[: len(p)], alpha=3.0, **options),
    "rdrop, soft": lambda p, q, **options: z.rdrop_zlpr_loss(p, q, SOFT[: len(p)], scale=2.0, **options),
}
by_function = pytest.mark.parametrize("function", CLOSED.values(), ids=CLOSED)


def drawn(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


HARD, SOFT = drawn(*SHAPE) > 1.5, drawn(*SHAPE).sigmoid()


def pair(rows=SHAPE[0], dtype=torch.float32):
    p = 3 * drawn(*SHAPE, dtype=dtype)[:rows]
    q = p + drawn(SHAPE[1], SHAPE[0], dtype=dtype).T[:rows]
    return p.requires_grad_(), q.detach().requires_grad_()


def plainly(function, *inputs, **options):
    """By the core's formula and autograd alone, as under a transform."""
    wide = [x.detach().double().requires_grad_(x.requires_grad) for x in inputs]
    value = torch.func.vmap(lambda *one: function(*(x[None] for x in one), reduction="none", **options))(*wide)
    return value[:, 0], wide


@by_function
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_blocks_are_the_formula(function, reduction, monkeypatch):
    p, q = pair()
    got = function(p, q, reduction=reduction)
    slopes = torch.autograd.grad(got.sum(), (p, q))
    monkeypatch.setattr("zlpr_torch._dispatch._cpu_divergences", _Unused)
    monkeypatch.setattr("zlpr_torch._dispatch._needs_formula", lambda *_: True)
    wide = [x.detach().double().requires_grad_() for x in (p, q)]
    true = function(*wide, reduction=reduction)
    torch.testing.assert_close(got.double(), true, rtol=5e-7, atol=0)
    for slope, expected in zip(slopes, torch.autograd.grad(true.sum(), wide), strict=True):
        torch.testing.assert_close(slope.double(), expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())


class _Unused:
    forward = backward = None


@by_function
def test_nothing_is_kept_but_one_gradient_for_each_logits(function):
    """Each PyTorch tensor that autograd holds is an input, or one of two gradients."""
    p, q = pair()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        node = function(p, q).grad_fn
    assert type(node).__name__ == "ClosedPairBackward"
    inputs = {x.data_ptr() for x in (p, q, HARD, SOFT)}
    assert {x.data_ptr() for x in kept if x.numel() > 1} <= inputs
    assert [gradient.shape for gradient in node.residuals] == [p.shape, q.shape]


@by_function
def test_a_detached_teacher_costs_nothing_on_its_side(function):
    p, q = pair()
    node = function(p.detach(), q).grad_fn
    assert node.residuals[0] is None
    assert node.residuals[1].shape == q.shape
    alone = torch.autograd.grad(function(p.detach(), q), q)[0]
    torch.testing.assert_close(alone, torch.autograd.grad(function(p, q), q)[0], rtol=0, atol=0)


@by_function
def test_a_second_backward_recomputes(function):
    p, q = pair(rows=20)
    value = function(p, q)
    first = torch.autograd.grad(value, (p, q), torch.tensor(0.5), retain_graph=True)
    second = torch.autograd.grad(value, (p, q), torch.tensor(0.5))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)


@by_function
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_rounded_once(function, dtype):
    """Also under a loss scale, which a gradient that is kept would not survive."""
    p, q = pair(rows=40, dtype=dtype)
    scale = torch.tensor(1024.0)
    got = torch.autograd.grad(function(p, q), (p, q), scale)
    wide = [x.detach().float().requires_grad_() for x in (p, q)]
    for a, b in zip(got, torch.autograd.grad(function(*wide), wide, scale), strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b.to(dtype), rtol=0, atol=0)


@by_function
def test_rows_that_a_block_cannot_do_are_done_by_the_core(function, monkeypatch):
    """Infinite logits, NaN, and logits far out, among others."""
    p, q = (x.detach().clone() for x in pair(rows=200))
    p[3, 5] = q[3, 5] = -torch.inf
    q[150, 2], p[7, 7] = 5000.0, torch.nan
    p[120, :3], q[120, :3] = torch.tensor([60.0, -60.0, 30.0]), torch.tensor([-60.0, 60.0, -30.0])
    seen = []
    plain = _cpu_divergences.plain_pair
    monkeypatch.setattr(
        _cpu_divergences, "plain_pair", lambda call, inputs: seen.append(len(inputs.p)) or plain(call, inputs)
    )
    inputs = p.requires_grad_(), q.requires_grad_()
    got = function(*inputs, reduction="none")
    slopes = torch.autograd.grad(got.sum(), inputs)
    assert 1 < seen[0] < 20
    assert got.isnan().nonzero().tolist() == [[7]]
    for slope in slopes:
        assert slope[7].isnan().all()
        assert slope[torch.arange(200) != 7].isfinite().all()


@by_function
def test_masked_cells_hold_anything(function):
    p, q = (x.detach().clone() for x in pair(rows=150))
    mask = drawn(150, SHAPE[1]) > -1
    mask[11] = False
    inputs = p.where(mask, torch.nan).requires_grad_(), q.where(mask, torch.inf).requires_grad_()
    got = function(*inputs, mask=mask)
    for slope in torch.autograd.grad(got, inputs):
        assert slope.isfinite().all()
        assert (slope[~mask] == 0).all()
    each = function(*inputs, mask=mask, reduction="none")
    torch.testing.assert_close(got, each.sum() / 149)


@pytest.mark.parametrize("shape", [(SHAPE[1],), (SHAPE[0], 1), ()], ids=["classes", "examples", "one"])
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_a_learned_threshold_is_by_the_kernel(shape, frozen):
    logits, theta = drawn(*SHAPE).requires_grad_(not frozen), drawn(*shape).requires_grad_()
    wrt = (theta,) if frozen else (logits, theta)
    loss = z.zlpr_loss(logits, HARD, threshold=theta)
    assert type(loss.grad_fn).__name__ == "KernelLossBackward"
    plain = z.zlpr_loss(logits, HARD, threshold=theta, impl="plain")
    for got, true in zip(torch.autograd.grad(loss, wrt), torch.autograd.grad(plain, wrt), strict=True):
        torch.testing.assert_close(got, true, rtol=1e-5, atol=1e-9)


def test_a_threshold_learned_beside_half_precision_is_by_the_formula():
    logits, threshold = drawn(*SHAPE, dtype=torch.float16), drawn(SHAPE[1]).requires_grad_()
    assert type(z.zlpr_loss(logits, HARD, threshold=threshold).grad_fn).__name__ != "KernelLossBackward"


@pytest.mark.parametrize("target", [HARD, SOFT], ids=["hard", "soft"])
def test_halves_are_by_the_kernel(target):
    """Rows far out and an illegal one among them, and an upstream gradient of each half."""
    logits = (3 * drawn(*SHAPE)).index_put((torch.tensor([4, 5]), torch.tensor([1, 1])), torch.tensor([90.0, -400.0]))
    target = target.float().index_put((torch.tensor([9]), torch.tensor([0])), torch.tensor(2.0))
    logits = logits.requires_grad_()
    positive, negative = z.zlpr_terms(logits, target)
    assert type(positive.grad_fn).__name__ == "KernelTermsBackward"
    wide = logits.detach().double().requires_grad_()
    true = [_formula.zlpr_core.zlpr_terms(wide, target, xp=_formula.xp)]
    upstream = drawn(SHAPE[0]), drawn(SHAPE[0]) ** 2
    got = torch.autograd.grad((positive, negative), logits, upstream)[0]
    expected = torch.autograd.grad(true[0], wide, [x.double() for x in upstream])[0]
    torch.testing.assert_close(
        torch.stack([positive, negative]).double(), torch.stack(true[0]), rtol=5e-7, atol=0, equal_nan=True
    )
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-9, equal_nan=True)
