"""Illegal input makes the gradient of its example NaN, the whole row, whichever way computes it; the others keep theirs."""

from functools import partial

import pytest
import torch
import torch._dynamo
from torch.fx.experimental.proxy_tensor import make_fx

from zlpr_torch import (
    ZLPRLoss,
    kl_divergence,
    rdrop_zlpr_loss,
    sparse_zlpr_loss,
    symmetric_kl_divergence,
    zlpr_divergence,
    zlpr_loss,
)

torch.manual_seed(0)
NAN, INF = torch.nan, torch.inf
LOGITS = 3 * torch.randn(5, 4)
SOFT = torch.rand(5, 4)
HARD = SOFT < 0.5
MASK = torch.ones(5, 4, dtype=torch.bool).index_put((torch.tensor([1, 2]), torch.tensor([3, 0])), torch.tensor(False))


def spoiled(values, value, row=1, column=2):
    return values.clone().index_put((torch.tensor(row), torch.tensor(column)), torch.tensor(value, dtype=values.dtype))


CASES = {
    "soft beyond 1": (LOGITS, spoiled(SOFT, 1.5), {}),
    "soft below 0": (LOGITS, spoiled(SOFT, -0.5), {}),
    "soft NaN": (LOGITS, spoiled(SOFT, NAN), {}),
    "ones and a NaN": (LOGITS, spoiled(HARD.float(), NAN), {}),
    "integer": (LOGITS, spoiled(HARD.long(), 2), {}),
    "uint8": (LOGITS, spoiled(HARD.byte(), 255), {}),
    "logit NaN, hard": (spoiled(LOGITS, NAN), HARD, {}),
    "logit NaN, soft": (spoiled(LOGITS, NAN), SOFT, {}),
    "mask": (LOGITS, spoiled(SOFT, 7.0), {"mask": MASK}),
    "mask, integer": (LOGITS, spoiled(HARD.long(), -1), {"mask": MASK}),
    "weight negative": (LOGITS, HARD, {"weight": spoiled(torch.ones(5, 4), -1.0)}),
    "weight infinite": (LOGITS, SOFT, {"weight": spoiled(torch.ones(5, 4), INF)}),
    "pos_weight NaN": (LOGITS, SOFT, {"pos_weight": spoiled(torch.ones(5, 4), NAN), "mask": MASK}),
    "threshold NaN": (LOGITS, HARD, {"threshold": spoiled(torch.zeros(5, 4), NAN)}),
    "all options": (LOGITS, spoiled(SOFT, 2.0), {"mask": MASK, "weight": torch.rand(4), "pos_weight": 2.0, "threshold": torch.rand(5, 1)}),
    "smoothing": (LOGITS, spoiled(SOFT, 2.0), {"label_smoothing": 0.1}),
    "ignored cells beside it": (LOGITS, spoiled(spoiled(HARD.long(), 7), -100, 1, 3), {"ignore_index": -100, "mask": MASK}),
    "infinite logits beside it": (spoiled(spoiled(LOGITS, INF, 1, 0), -INF, 1, 1), spoiled(torch.tensor([1.0, 0, 1, 0]).repeat(5, 1), NAN), {}),
}  # fmt: skip


def gradient(loss, logits, target):
    x = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(x, target), x)[0]


def compiled(backend):
    def way(loss, logits, target):
        torch._dynamo.reset()
        return gradient(torch.compile(loss, fullgraph=True, backend=backend), logits, target)

    return way


def recorded(loss, logits, target):
    return make_fx(lambda x, t: gradient(loss, x, t))(logits, target)(logits, target)


WAYS = {
    "plain": lambda loss, *arrays: gradient(partial(loss, impl="plain"), *arrays),
    "kernel": lambda loss, *arrays: gradient(partial(loss, impl="blocked"), *arrays),
    "second use": lambda loss, *arrays: gradient(lambda *a: 2 * loss(*a), *arrays) / 2,
    "with a graph": lambda loss, x, t: torch.autograd.grad(loss(x := x.clone().requires_grad_(), t), x, create_graph=True)[0].detach(),
    "torch.func.grad": lambda loss, x, t: torch.func.grad(loss)(x, t),
    "torch.func.vjp": lambda loss, x, t: torch.func.vjp(lambda x: loss(x, t), x)[1](torch.tensor(1.0))[0],
    "make_fx": recorded,
    "eager": compiled("eager"),
    "aot_eager": compiled("aot_eager"),
}  # fmt: skip


def assert_row_is_nan(slope, logits, options):
    """Every cell of the second row that is kept and has a finite logit; the others of it are 0, and no other row is NaN."""
    kept = options.get("mask", torch.ones(5, 4, dtype=torch.bool))
    expected = torch.zeros(5, 4, dtype=torch.bool)
    expected[1] = kept[1] & ~logits[1].isinf()
    assert torch.equal(slope.isnan(), expected)
    assert not slope[1][~expected[1]].any()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("logits", "target", "options"), CASES.values(), ids=CASES)
def test_the_row_is_nan(way, logits, target, options):
    slope = way(partial(zlpr_loss, **options), logits, target)
    assert_row_is_nan(slope, logits, options)
    legal = torch.tensor([0, 2, 3, 4])
    some = {k: v[legal] if isinstance(v, torch.Tensor) and len(v) == 5 else v for k, v in options.items()}
    expected = gradient(partial(zlpr_loss, **some, reduction="sum"), logits[legal], target[legal])
    torch.testing.assert_close(slope[legal], expected / 5, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["soft beyond 1", "integer", "all options"])
def test_the_row_is_nan_by_inductor(name):
    logits, target, options = CASES[name]
    assert_row_is_nan(compiled("inductor")(partial(zlpr_loss, **options), logits, target), logits, options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("way", ["plain", "kernel", "torch.func.grad"])
def test_the_row_is_nan_in_every_dtype(way, dtype):
    for logits, target, options in CASES.values():
        slope = WAYS[way](partial(zlpr_loss, **options), logits.to(dtype), target)
        assert_row_is_nan(slope, logits, options)


def test_an_illegal_id_that_cannot_be_read():
    ids = torch.tensor([[0, 1], [2, 9], [-1, -1], [3, 0], [1, -1]])
    assert_row_is_nan(compiled("aot_eager")(sparse_zlpr_loss, LOGITS, ids), LOGITS, {})


@pytest.mark.parametrize("function", [kl_divergence, symmetric_kl_divergence, zlpr_divergence])
@pytest.mark.parametrize("way", ["with a graph", "torch.func.grad", "aot_eager"])
def test_divergences(function, way):
    for first, second in ((spoiled(LOGITS, NAN), LOGITS.flip(0)), (LOGITS, spoiled(LOGITS.flip(0), NAN))):
        assert_row_is_nan(WAYS[way](partial(function, mask=MASK), first, second), LOGITS, {"mask": MASK})


@pytest.mark.parametrize("way", ["with a graph", "torch.func.grad", "aot_eager"])
def test_r_drop(way):
    def loss(x, target):
        return rdrop_zlpr_loss(x, LOGITS.flip(0), target)

    assert_row_is_nan(WAYS[way](loss, LOGITS, spoiled(SOFT, 2.0)), LOGITS, {})


@pytest.mark.parametrize("impl", ["auto", "plain"])
def test_a_gradient_scaler_skips_the_step(impl):
    """One illegal target, and only that: the step after it is made."""
    layer, criterion = torch.nn.Linear(3, 4), ZLPRLoss(impl=impl)
    optimizer, scaler = torch.optim.SGD(layer.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    features, before = torch.randn(5, 3), layer.weight.detach().clone()
    for target, is_made in ((spoiled(HARD.long(), 2), False), (HARD.long(), True)):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = criterion(layer(features), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(layer.weight, before) != is_made
    assert scaler.get_scale() == 2.0**9
