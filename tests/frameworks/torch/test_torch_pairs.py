"""Divergences, R-Drop, halves and learned thresholds by their closed forms: what is kept, recomputed, and left to the core."""

import pytest
import torch
from tolerances import VALUE_RTOL

import zlpr_torch as z
from zlpr_torch import _cpu_divergences, _formula

SHAPE = (300, 700)  # several of the blocks that are set below, the last not full
CLOSED = {
    "kl": z.kl_divergence,
    "symmetric": z.symmetric_kl_divergence,
    "own": z.zlpr_divergence,
    "scaled": lambda p, q, **options: z.kl_divergence(p, q, scale=1.7, **options),
    "rdrop": lambda p, q, **options: z.rdrop_zlpr_loss(p, q, HARD[: len(p)], alpha=3.0, **options),
    "rdrop, soft": lambda p, q, **options: z.rdrop_zlpr_loss(p, q, SOFT[: len(p)], scale=2.0, **options),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(_cpu_divergences, "CELLS", 2**16)


by_function = pytest.mark.parametrize("function", CLOSED.values(), ids=CLOSED)


def drawn(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


HARD, SOFT = drawn(*SHAPE) > 1.5, drawn(*SHAPE).sigmoid()


def pair(rows=SHAPE[0], dtype=torch.float32):
    p = 3 * drawn(*SHAPE, dtype=dtype)[:rows]
    q = p + drawn(SHAPE[1], SHAPE[0], dtype=dtype).T[:rows]
    return p.requires_grad_(), q.detach().requires_grad_()


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
@pytest.mark.parametrize("options", [{}, {"mask": True}, {"reduction": "none"}], ids=["alone", "mask", "each"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_is_the_formula(function, options, dtype):
    """Gradients in half precision are rounded once, though R-Drop's losses and its divergence are computed apart."""
    p, q = (x.detach().to(dtype).requires_grad_() for x in pair(rows=7))
    options = {**options, "mask": drawn(7, SHAPE[1]) < 1} if "mask" in options else options
    torch.compiler.reset()
    got = torch.compile(function, fullgraph=True, backend="aot_eager")(p, q, **options)
    slopes = torch.autograd.grad(got.sum(), (p, q))
    wide = [x.detach().double().requires_grad_() for x in (p, q)]
    true = function(*wide, **options)
    torch.testing.assert_close(got.double(), true, rtol=5e-7, atol=0)
    rounding = 1e-5 if dtype == torch.float32 else 2**-8
    for slope, expected in zip(slopes, torch.autograd.grad(true.sum(), wide), strict=True):
        torch.testing.assert_close(slope.double(), expected, rtol=rounding, atol=1e-6 * expected.abs().max().item())


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
    kept = torch.autograd.grad(value, (p, q), torch.tensor(0.5), retain_graph=True)
    first = [gradient.clone() for gradient in kept]
    second = torch.autograd.grad(value, (p, q), torch.tensor(0.5))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)


@by_function
@pytest.mark.parametrize("second", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("first", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_half_precision_is_rounded_once(function, first, second):
    """Under a loss scale that is no power of two: a gradient that is kept would be rounded again."""
    p, q = pair(rows=40)
    p, q = p.detach().to(first).requires_grad_(), q.detach().to(second).requires_grad_()
    scale = torch.tensor(1000.0)
    got = torch.autograd.grad(function(p, q), (p, q), scale)
    wide = [x.detach().float().requires_grad_() for x in (p, q)]
    for one, true, dtype in zip(got, torch.autograd.grad(function(*wide), wide, scale), (first, second), strict=True):
        assert one.dtype == dtype
        if dtype != torch.float32:
            assert (one != true.to(dtype)).float().mean() < 1e-3


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
    monkeypatch.setattr("zlpr_torch._dispatch._needs_formula", lambda *_: True)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    true = function(*wide, reduction="none")
    torch.testing.assert_close(got.double(), true, rtol=5e-7, atol=0, equal_nan=True)
    for slope, expected in zip(slopes, torch.autograd.grad(true.sum(), wide), strict=True):
        torch.testing.assert_close(slope.double(), expected, rtol=1e-5, atol=1e-6, equal_nan=True)


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
    again, got = (torch.autograd.grad((positive, negative), logits, upstream, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(again, got, rtol=1e-6, atol=0, equal_nan=True)
    expected = torch.autograd.grad(true[0], wide, [x.double() for x in upstream])[0]
    torch.testing.assert_close(
        torch.stack([positive, negative]).double(), torch.stack(true[0]), rtol=5e-7, atol=0, equal_nan=True
    )
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-9, equal_nan=True)


def test_the_regret_of_logits_too_far_apart_to_be_multiplied():
    value = z.zlpr_divergence(torch.tensor([[45.0, 1.0]]), torch.tensor([[-40.0, 1.0]]))
    torch.testing.assert_close(value, torch.tensor(39.72), rtol=1e-3, atol=0)


def test_kl_of_one_even_label_keeps_its_digits_at_any_distance():
    """There a difference of softplus is three times the result, and loses as much."""
    generator = torch.Generator().manual_seed(2)
    p = torch.rand(20_000, 1, generator=generator) * 2 - 1
    q = p + torch.rand(p.shape, generator=generator) * 8 - 4
    true = z.kl_divergence(p.double(), q.double(), reduction="none")
    torch.testing.assert_close(
        z.kl_divergence(p, q, reduction="none").double(), true, rtol=VALUE_RTOL["float32"], atol=0
    )


def test_numbers_among_the_options_are_there_in_backward():
    p, q = pair(rows=6)
    options = {"weight": 0.5, "pos_weight": 2.0}
    value = z.rdrop_zlpr_loss(p, q, HARD[:6], **options)
    once = [x.clone() for x in torch.autograd.grad(value, (p, q), retain_graph=True)]
    again = torch.autograd.grad(value, (p, q), torch.tensor(1.0))  # recomputed
    losses = z.zlpr_loss(p, HARD[:6], impl="plain", **options) + z.zlpr_loss(q, HARD[:6], impl="plain", **options)
    parts = torch.autograd.grad(0.5 * losses + z.symmetric_kl_divergence(p, q), (p, q))
    for a, b, c in zip(once, again, parts, strict=True):
        torch.testing.assert_close(a, c, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(b, c, rtol=1e-5, atol=1e-9)


def second_order(function, *inputs):
    """The derivative of a combination of the gradients."""
    value = function(*inputs)
    gradients = torch.autograd.grad(value, inputs, torch.ones_like(value), create_graph=True)
    return torch.autograd.grad(sum((g * drawn(*g.shape, dtype=g.dtype)).sum() for g in gradients), inputs)


@by_function
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_second_order_and_batched_upstreams_are_those_of_the_formula(function, reduction, monkeypatch):
    p, q = pair(rows=5, dtype=torch.float64)
    got = second_order(lambda a, b: function(a, b, reduction=reduction), p, q)
    value = function(p, q, reduction=reduction)
    many = torch.stack([torch.ones_like(value), 2 * torch.ones_like(value)])
    batched = torch.autograd.grad(value, (p, q), many, is_grads_batched=True, retain_graph=True)
    one = torch.autograd.grad(value, (p, q), many[0])
    for whole, single in zip(batched, one, strict=True):
        torch.testing.assert_close(whole, torch.stack([single, 2 * single]), rtol=1e-10, atol=1e-14)
    monkeypatch.setattr("zlpr_torch._dispatch._needs_formula", lambda *_: True)
    for a, b in zip(got, second_order(lambda a, b: function(a, b, reduction=reduction), p, q), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("of", ["halves", "threshold"])
def test_second_order_of_halves_and_of_a_threshold(of, monkeypatch):
    logits, theta = pair(rows=5, dtype=torch.float64)[0], drawn(SHAPE[1], dtype=torch.float64).requires_grad_()

    def value(s, moved):
        if of == "threshold":
            return z.zlpr_loss(s, HARD[:5], threshold=moved)
        positive, negative = z.zlpr_terms(s - moved, HARD[:5])
        return positive + 2 * negative

    got = second_order(value, logits, theta)
    monkeypatch.setattr("zlpr_torch._dispatch._needs_formula", lambda *_: True)
    for a, b in zip(got, second_order(value, logits, theta), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@by_function
def test_another_default_device_is_none_of_its_business(function):
    p, q = pair()
    with torch.device("meta"):
        value = function(p, q)
    torch.testing.assert_close(value, function(p, q), rtol=0, atol=0)


@by_function
def test_a_teacher_made_in_inference_mode(function):
    p, q = pair(rows=5)
    with torch.inference_mode():
        teacher, target = p * 1, HARD[:5] | False
    got = torch.autograd.grad(function(teacher, q), q)[0]
    torch.testing.assert_close(got, torch.autograd.grad(function(p.detach(), q), q)[0], rtol=0, atol=0)
    z.rdrop_zlpr_loss(p, q, target).backward()
    sum(z.zlpr_terms(p, target)).sum().backward()


def test_compiled_autograd_of_one_value_an_example():
    """Its axes are symbols there, which cannot be sorted."""
    p, q = pair(rows=5)
    for value in (lambda: z.kl_divergence(p, q, reduction="none"), lambda: z.zlpr_loss(p, HARD[:5], reduction="none")):
        expected = torch.autograd.grad(value().sum(), p)[0]
        p.grad = None
        with torch._dynamo.utils.maybe_enable_compiled_autograd(True):
            value().sum().backward()
        torch.testing.assert_close(p.grad, expected)
