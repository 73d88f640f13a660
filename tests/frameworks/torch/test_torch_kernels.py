"""What the kernels add to plain composition: they give way where more looks on, and agree with it everywhere else."""

import math
import weakref
from functools import partial
from itertools import accumulate

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx
from torch.profiler import ProfilerActivity, profile

from zlpr_torch import ZLPRLoss, _cpu, zlpr_loss

torch.manual_seed(0)
INF, NAN = float("inf"), float("nan")
LOGITS = 3 * torch.randn(40, 7)
SOFT = torch.rand(40, 7)
HARD = SOFT < 0.3
TARGETS = {
    "bool": HARD,
    "int": HARD.long(),
    "uint8": HARD.byte(),
    "uint64": HARD.to(torch.uint64),
    "soft": SOFT,
    "soft, half": SOFT.bfloat16(),
    "hard floats": HARD.float(),
}
OPTIONS = {
    "none": {},
    "mask": {"mask": SOFT < 0.8},
    "weights": {"weight": torch.rand(7), "pos_weight": torch.rand(40, 1)},
    "threshold": {"threshold": 0.25},
    "all": {"mask": SOFT < 0.8, "weight": torch.rand(7), "pos_weight": 2.0, "threshold": torch.randn(7)},
}


def value_and_gradient(logits, target, **options):
    x = logits.detach().clone().requires_grad_()
    loss = zlpr_loss(x, target, **options)
    loss.backward(torch.linspace(0.5, 2, loss.numel(), dtype=loss.dtype).reshape(loss.shape))
    return loss.detach(), x.grad


def assert_same(got, expected, **tolerance):
    """By default as float32 rounds the two parts, of at most 2, that a soft label's gradient is the difference of."""
    torch.testing.assert_close(got, expected, equal_nan=True, **(tolerance or {"rtol": 1e-6, "atol": 5e-7}))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_blocks_agree_with_plain_composition(monkeypatch, target, options, reduction):
    plain = value_and_gradient(LOGITS, target, **options, reduction=reduction, impl="plain")
    for few, cells in ((_cpu.FEW, _cpu.CELLS), (0, _cpu.CELLS), (0, 7 * 16)):  # at once, one block, two and a half
        monkeypatch.setattr(_cpu, "FEW", few)
        monkeypatch.setattr(_cpu, "CELLS", cells)
        assert_same(value_and_gradient(LOGITS, target, **options, reduction=reduction, impl="blocked"), plain)


@pytest.mark.parametrize(("few", "cells"), [(0, _cpu.CELLS), (_cpu.FEW, _cpu.CELLS), (0, 14)], ids=["a block", "at once", "twos"])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("target", [HARD, HARD.long(), SOFT, HARD.float()], ids=["bool", "int", "soft", "hard floats"])
def test_rows_that_are_not_for_a_quick_sum(monkeypatch, target, dtype, few, cells):
    """Beside such as are: far out, infinite, NaN, illegal, a rounding beyond the ends."""
    monkeypatch.setattr(_cpu, "FEW", few)
    monkeypatch.setattr(_cpu, "CELLS", cells)
    logits, target = LOGITS.clone(), target.clone()
    logits[3], logits[8, 1], logits[9], logits[11, 0] = 1e4 * logits[3], NAN, -INF, INF
    logits[14] = -1e12
    if target.dtype != torch.bool:
        target[20, 2], target[21, 3] = 2, -1
    if target.is_floating_point():
        target[22, 0], target[23, 1], target[24, 5] = NAN, 1 + 4 * torch.finfo(target.dtype).eps, -1e-7
    plain, blocked = (
        value_and_gradient(logits.to(dtype), target, reduction="none", impl=impl) for impl in ("plain", "blocked")
    )
    losses = ~plain[0].isnan()
    assert losses.sum() == 39 - 2 * (target.dtype != torch.bool) - target.is_floating_point()
    assert_same(blocked[0], plain[0])
    rounding = {"rtol": 2 * torch.finfo(dtype).eps if dtype.itemsize == 2 else 1e-6, "atol": 5e-7}
    assert_same(blocked[1][losses], plain[1][losses], **rounding)


HIDDEN = torch.zeros(40, 7, dtype=torch.bool).index_fill(1, torch.tensor([2, 5]), True)


@pytest.mark.parametrize("hidden", [INF, -INF, NAN, -1e12])
@pytest.mark.parametrize("illegal", [-100, 7, NAN])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_a_mask_hides_costs_nothing(no_core, target, illegal, hidden):
    logits = LOGITS.masked_fill(HIDDEN, hidden)
    if target.is_floating_point() or (target.dtype.is_signed and illegal == illegal and target.dtype != torch.bool):
        target = target.masked_fill(HIDDEN, illegal)
    plain, blocked = (
        value_and_gradient(logits, target, mask=~HIDDEN, impl=impl, reduction="none") for impl in ("plain", "blocked")
    )
    assert_same(blocked, plain)
    assert not blocked[1][HIDDEN].any()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_is_common_needs_no_core(no_core, target, options):
    """Options, and logits that are padded or far on the right side, are worked out in the blocks."""
    logits, target = LOGITS.clone(), target.clone()
    logits[:, 2], target[:, 2] = -INF, 0
    logits[:20, 3], target[:20, 3] = 200, 1
    logits[20:, 3], target[20:, 3] = -1e12, 0
    plain, blocked = (
        value_and_gradient(logits, target, **options, impl=impl, reduction="none") for impl in ("plain", "blocked")
    )
    assert_same(blocked, plain)


@pytest.fixture(params=[0, _cpu.FEW], ids=["a block", "at once"])
def no_core(request, monkeypatch):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(_cpu, "FEW", request.param)
    monkeypatch.setattr(_cpu.Sweep, "by_core", fail)


EXTREMES = {
    "negative": {"weight": torch.tensor([1.0, -1, 1, 1, 1, 1, 1])},
    "two negative": {"weight": -1.0, "pos_weight": -1.0},
    "NaN": {"pos_weight": torch.tensor([1.0, NAN, 1, 1, 1, 1, 1])},
    "infinite": {"weight": torch.tensor([1.0, INF, 1, 1, 1, 1, 1])},
    "zero": {"weight": torch.tensor([1.0, 0, 1, 1, 1, 1, 1]), "pos_weight": 0.0},
    "large": {"weight": torch.tensor([1e30, 1, 1e30, 1, 1, 1, 1])},
    "small": {"weight": 1e-30},
    "whole numbers": {"weight": torch.arange(7), "pos_weight": SOFT > 0.5},
    "far threshold": {"threshold": 60.0},
    "farther": {"threshold": torch.linspace(-1e4, 1e4, 7)},
    "infinite threshold": {"threshold": torch.tensor([0, 0, 0, INF, 0, 0, -INF])},
    "NaN threshold": {"threshold": NAN},
    "large beside a threshold": {"weight": 1e6, "threshold": torch.linspace(-15, 15, 7)},
    "unsigned": {"weight": torch.arange(7).to(torch.uint16), "threshold": torch.arange(7).to(torch.uint32)},
}


@pytest.mark.parametrize("options", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("shift", [0, -80, 80])
@pytest.mark.parametrize("target", [HARD, SOFT], ids=["hard", "soft"])
def test_options_that_are_no_fair_factors(target, shift, options):
    plain, blocked = (
        value_and_gradient(LOGITS + shift, target, **options, impl=impl, reduction="none")
        for impl in ("plain", "blocked")
    )
    assert_same(blocked[0], plain[0], rtol=1e-6, atol=0)
    finite = plain[0].isfinite()
    assert_same(blocked[1][finite], plain[1][finite])


SMALL = {
    "a label": ([-102, 0], [5e-26, 0.5], {}),
    "two labels": ([-100, -100.5, 0], [1e-25, 2e-25, 0.5], {}),
    "a teacher's": ([-100, 1], [1 / (1 + math.exp(60)), 0.3], {}),
    "a weight": ([-100, 1], [1e-15, 0.3], {"weight": 1e-10}),
    "a large weight": ([-100, -100.5], [0.0, 0.0], {"weight": 1e20}),
    "a far threshold": ([-100, -100.5], [0.0, 0.0], {"threshold": -50.0}),
    "a loss": ([-69.0] + 99 * [-87.4], [0.0] * 100, {"weight": 1.5e6}),
}


@pytest.mark.parametrize("few", [0, _cpu.FEW], ids=["a block", "at once"])
@pytest.mark.parametrize(("logits", "target", "options"), SMALL.values(), ids=SMALL)
def test_exponentials_below_the_normal_numbers(monkeypatch, logits, target, options, few):
    """Where they count, their lost digits would show."""
    monkeypatch.setattr(_cpu, "FEW", few)
    logits, target = torch.tensor([logits], dtype=torch.float32), torch.tensor([target])
    got = value_and_gradient(logits, target, **options, impl="blocked")
    expected = value_and_gradient(logits.double(), target.double(), **options, impl="plain")
    assert_same(got[0].double(), expected[0], rtol=5e-7, atol=0)
    assert_same(got[1].double(), expected[1], rtol=1e-5, atol=1e-30)


def test_labels_of_one_beyond_the_range_of_an_exponential():
    logits = torch.full((2, 6), 710.0, dtype=torch.float64)
    ones = torch.ones(2, 6, dtype=torch.bool)
    assert_same(zlpr_loss(logits, ones.double()), zlpr_loss(logits, ones), rtol=1e-14, atol=0)


def test_a_call_like_one_before_is_checked_all_the_same():
    """Checks are kept for calls that are alike; these are not."""
    zlpr_loss(LOGITS, HARD, dim=1)
    zlpr_loss(LOGITS, HARD, dim=(1,))
    errors = [({"dim": True}, TypeError), ({"dim": (1.0,)}, TypeError), ({"dim": 2}, ValueError)]
    errors += [({"reduction": ["mean"]}, ValueError), ({"threshold": np.zeros(6)}, ValueError)]
    for wrong, error in errors:
        with pytest.raises(error, match="Received"):
            zlpr_loss(LOGITS, HARD, **wrong)
    with pytest.raises(ValueError, match="same shape"):
        zlpr_loss(LOGITS, HARD[:, :6], dim=1)
    assert_same(zlpr_loss(LOGITS, HARD, dim=[1]), zlpr_loss(LOGITS, HARD))


def test_a_dim_that_changes_is_read_anew():
    dim = torch.tensor(1)
    assert zlpr_loss(LOGITS, HARD, dim=dim, reduction="none").shape == (40,)
    assert zlpr_loss(LOGITS, HARD, dim=dim.fill_(0), reduction="none").shape == (7,)


def test_shapes_that_are_known_while_running_only():
    def loss(logits, target, some):
        return zlpr_loss(logits[some], target[some])

    some = SOFT[:, 0] < 0.5
    graph = make_fx(loss, tracing_mode="symbolic")(LOGITS, HARD, some)
    assert_same(graph(LOGITS, HARD, ~some), loss(LOGITS, HARD, ~some))


@pytest.mark.parametrize("threshold", [0.0, 1.0, 60.0])
def test_losses_are_no_view(threshold):
    losses = zlpr_loss(LOGITS.clone().requires_grad_(), HARD, threshold=threshold, reduction="none")
    assert losses.mul_(2).requires_grad


WIDE = torch.rand(200, 300)
LEAN = {
    "mixup rounding": (WIDE.index_fill(0, torch.tensor(3), 1 + 2e-7), {}),
    "an illegal one": ((WIDE < 0.3).long().index_fill(0, torch.tensor(3), 2), {}),
    "a mask": (WIDE, {"mask": WIDE < 0.8}),
    "weights": (WIDE < 0.3, {"weight": WIDE[0], "pos_weight": WIDE[:, :1]}),
    "a far threshold": (WIDE < 0.3, {"threshold": 60.0}),
}


@pytest.mark.parametrize(("target", "options"), LEAN.values(), ids=LEAN)
def test_only_the_gradient_is_as_large_as_the_logits(monkeypatch, target, options):
    monkeypatch.setattr(_cpu, "CELLS", 300)
    x = torch.randn(200, 300)
    x[5, 5] = -INF
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        zlpr_loss(x.requires_grad_(), target, **options).backward()
    sizes = [event.nbytes() for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert max(accumulate(sizes)) < 1.3 * x.nbytes


@pytest.mark.parametrize("impl", ["plain", "blocked"])
def test_targets_are_judged_in_their_own_dtype(impl):
    target = SOFT.double()
    target[3, 2] = 1 + 1e-9  # within 8 eps of float32, not of float64
    assert zlpr_loss(LOGITS, target, reduction="none", impl=impl).isnan().nonzero().tolist() == [[3]]


SHAPES = {
    "classes first": (lambda x: x.T, 0),
    "a stride": (lambda x: x.repeat_interleave(2, 1)[:, ::2], 1),
    "two axes": (lambda x: x[:36].reshape(4, 9, 7), (0, 2)),
    "two axes in the middle": (lambda x: x[:36].reshape(3, 3, 4, 7), (2, 1)),
    "one example": (lambda x: x[0], 0),
    "expanded": (lambda x: x[:1].expand(5, 7), 1),
    "no example": (lambda x: x[:0], 1),
}


@pytest.mark.parametrize(("shape", "dim"), SHAPES.values(), ids=SHAPES)
def test_any_layout(shape, dim):
    options = {"dim": dim, "mask": shape(SOFT < 0.9), "reduction": "sum"}
    for some in ({}, options):
        arguments = {**options, **some} if some else {"dim": dim, "reduction": "sum"}
        x, y = (shape(LOGITS).detach().requires_grad_() for _ in range(2))
        for tensor, impl in ((x, "plain"), (y, "blocked")):
            zlpr_loss(tensor, shape(SOFT), **arguments, impl=impl).backward()
        assert_same(y.grad, x.grad)


def uses_a_kernel(loss):
    return "KernelLoss" in type(loss.grad_fn).__name__


def test_gives_way_where_more_looks_on():
    x = LOGITS.clone().requires_grad_()
    assert uses_a_kernel(zlpr_loss(x, HARD))
    assert not uses_a_kernel(zlpr_loss(x, HARD, impl="plain"))
    for other in ({"weight": torch.rand(7, requires_grad=True)}, {"pos_weight": torch.rand(7, requires_grad=True)}):
        assert not uses_a_kernel(zlpr_loss(x, HARD, **other))
    assert not uses_a_kernel(zlpr_loss(x, SOFT.clone().requires_grad_()))
    assert zlpr_loss(LOGITS, HARD).grad_fn is None
    with torch.no_grad():
        assert zlpr_loss(x, HARD).grad_fn is None
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert not uses_a_kernel(zlpr_loss(x, HARD))


@pytest.mark.parametrize("target", [HARD, SOFT.double()], ids=["hard", "soft"])
@pytest.mark.parametrize("options", [{}, OPTIONS["mask"]], ids=["plain", "masked"])
def test_derivatives_of_the_logits_alone(target, options):
    """Reverse mode by the kernel; batched upstreams, forward mode and second order by plain composition."""
    some = slice(0, 4)
    options = {k: v[some] for k, v in options.items()}
    x = LOGITS[some].double().requires_grad_()

    def loss(s):
        return zlpr_loss(s, target[some], **options, reduction="none")

    assert uses_a_kernel(loss(x))
    assert gradcheck(loss, x, check_batched_grad=True, check_forward_ad=True)
    assert gradgradcheck(loss, x, check_batched_grad=True)
    jacobians = [torch.autograd.functional.jacobian(loss, x, vectorize=v) for v in (False, True)]
    assert_same(*jacobians, rtol=1e-13, atol=1e-16)


def test_second_order_after_a_first_that_kept_the_graph():
    x = LOGITS.double().requires_grad_()
    loss = zlpr_loss(x, HARD)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    (again,) = torch.autograd.grad(loss, x, create_graph=True)
    assert_same(again.detach(), first, rtol=1e-12, atol=1e-16)
    (curve,) = torch.autograd.grad(again, x, torch.ones_like(x))
    assert curve.abs().sum() > 0


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_looks_on_at_backward_alone(reduction):
    """A forward by the kernel, then forward mode, vmap or a graph over the gradient as a function of the upstream."""
    x = LOGITS.double().requires_grad_()
    loss = zlpr_loss(x, HARD, reduction=reduction)

    def pulled(upstream):
        return torch.autograd.grad(loss, x, upstream, retain_graph=True)[0]

    one, two = torch.ones_like(loss), 2 * torch.ones_like(loss)
    exact = {"rtol": 1e-12, "atol": 1e-16}
    expected = pulled(one)
    assert_same(torch.func.jvp(pulled, (one,), (two,))[1], 2 * expected, **exact)
    assert_same(torch.func.vmap(pulled)(torch.stack([one, two])), torch.stack([expected, 2 * expected]), **exact)
    with torch.autograd.forward_ad.dual_level():
        dual = pulled(torch.autograd.forward_ad.make_dual(one, two))
        assert_same(torch.autograd.forward_ad.unpack_dual(dual).tangent, 2 * expected, **exact)


def test_another_default_device_and_inference_mode_change_nothing():
    expected = zlpr_loss(LOGITS, HARD)
    with torch.device("meta"):
        assert_same(zlpr_loss(LOGITS, HARD), expected)
        assert_same(zlpr_loss(LOGITS.clone(), HARD, mask=SOFT < 2), expected)
    with torch.inference_mode():
        soft = SOFT.clone()
        assert_same(zlpr_loss(LOGITS, HARD), expected)
    x = LOGITS.clone().requires_grad_()
    assert_same(zlpr_loss(x, soft).detach(), zlpr_loss(LOGITS, SOFT))


def test_nothing_but_the_graph_keeps_a_mask():
    mask = SOFT < 0.8
    alive = weakref.ref(mask)
    loss = zlpr_loss(LOGITS.clone().requires_grad_(), HARD, mask=mask)
    loss.backward()
    del mask
    assert alive() is None


def test_a_gradient_given_away_is_not_given_again():
    x = LOGITS.clone().requires_grad_()
    loss = zlpr_loss(x, HARD)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    first.zero_()
    assert_same(torch.autograd.grad(loss, x)[0], kept, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["input", "target"])
def test_what_changes_before_backward_is_noticed(name):
    x, target = LOGITS.clone().requires_grad_(), SOFT.clone()
    logits = x * 1
    loss = zlpr_loss(logits, target)
    with torch.no_grad():
        {"input": logits, "target": target}[name].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_half_precision_saves_nothing_and_rounds_once():
    """Under a loss scale a gradient below the range of float16 comes out as float32 would have it, then rounded."""
    logits = torch.full((1000, 4), -9.0, dtype=torch.float16)
    target = torch.zeros(1000, 4, dtype=torch.bool)
    x = logits.clone().requires_grad_()
    (2.0**16 * zlpr_loss(x, target)).backward()
    exact = 2.0**16 / 1000 * torch.exp(torch.tensor(-9.0)) / (1 + 4 * torch.exp(torch.tensor(-9.0)))
    assert_same(x.grad, exact.half().expand(1000, 4), rtol=0, atol=0)


@pytest.mark.parametrize("call", [partial(zlpr_loss, LOGITS, HARD), ZLPRLoss])
def test_messages(call):
    match = '`impl` must be "auto", "plain", "blocked" or "triton". Received: \'fast\''
    with pytest.raises(ValueError, match=match):
        call(impl="fast")


def test_blocks_are_for_a_cpu():
    meta = LOGITS.to("meta")
    with pytest.raises(ValueError, match=r'impl="blocked" is for a CPU. Received an `input` on: meta\.'):
        zlpr_loss(meta, HARD.to("meta"), impl="blocked")
