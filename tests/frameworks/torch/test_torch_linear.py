"""A linear layer and its loss in chunks: the dense loss of the logits in value and gradients, by less memory."""

import io
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from torch.nn.functional import linear

import zlpr_core
from zlpr_torch import (
    LinearPlan,
    LinearZLPRLoss,
    linear_zlpr_loss,
    sparse_linear_zlpr_loss,
    sparse_zlpr_loss,
    zlpr_loss,
)

ROWS, FEATURES, CLASSES = 150, 5, 700
BY_CLASSES = 4 * 4 * ROWS * 150  # 128 classes at a time, which do not divide
BY_ROWS = 4 * 8 * CLASSES * 64  # 128 rows at a time in float32 and 64 in float64
GENERATOR = torch.Generator().manual_seed(16)
HARD = torch.rand(ROWS, CLASSES, generator=GENERATOR) < 0.02
HARD[0], HARD[1] = False, True
SOFT = torch.rand(ROWS, CLASSES, generator=GENERATOR)
IGNORED = torch.where(torch.rand(ROWS, CLASSES, generator=GENERATOR) < 0.3, -1, HARD.long())
IDS = [row.nonzero()[:, 0] for row in HARD]
TARGETS = {"bool": HARD, "uint8": HARD.byte(), "soft": SOFT}
OPTIONS = {
    "plain": {},
    "mask": {"mask": torch.rand(ROWS, CLASSES, generator=GENERATOR) < 0.7},
    "mask by class": {"mask": torch.rand(CLASSES, generator=GENERATOR) < 0.7},
    "rows masked": {"mask": (torch.arange(ROWS) > 2)[:, None]},
    "weights": {"weight": 2 * torch.rand(CLASSES, generator=GENERATOR), "pos_weight": torch.rand(ROWS, 1)},
    "threshold": {"threshold": torch.randn(CLASSES, generator=GENERATOR)},
    "numbers": {"weight": 2.0, "threshold": 0.3},
    "large weight": {"weight": torch.where(torch.arange(CLASSES) > 600, 1e9, 1.0)},  # in the last chunks only
    "smoothing": {"label_smoothing": 0.1},
}
RTOL = {torch.float32: 3e-5, torch.float64: 5e-14}
every_budget = pytest.mark.parametrize("budget", [BY_CLASSES, BY_ROWS], ids=["classes", "rows"])


def layer(dtype=torch.float64, scale=1.0, rows=ROWS):
    shapes = (rows, FEATURES), (CLASSES, FEATURES), (CLASSES,)
    arrays = [torch.randn(shape, dtype=dtype, generator=GENERATOR) for shape in shapes]
    arrays[0] *= scale
    return [array.requires_grad_() for array in arrays]


def close(found, expected, dtype):
    """To a fraction of the largest entry, as the product is rounded."""
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert (one - other).abs().max() <= RTOL[dtype] * other.abs().max()


def check(arrays, target, *, ids=False, reduction="mean", **options):
    input, weight, bias = arrays
    budget = options.pop("memory_budget")
    chunked, dense = (sparse_linear_zlpr_loss, sparse_zlpr_loss) if ids else (linear_zlpr_loss, zlpr_loss)
    loss = chunked(input, weight, target, bias, reduction=reduction, memory_budget=budget, **options)
    true = dense(linear(*arrays), target, reduction=reduction, **options)
    close([loss.detach()], [true.detach()], input.dtype)
    upstream = torch.rand(loss.shape, dtype=loss.dtype) + 0.5
    slopes = torch.autograd.grad(true, arrays, upstream)
    for retain_graph in (True, False):
        close(torch.autograd.grad(loss, arrays, upstream, retain_graph=retain_graph), slopes, input.dtype)


@every_budget
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_values_and_gradients(options, dtype, reduction, budget):
    call = {"reduction": reduction, "memory_budget": budget, **options}
    for target in TARGETS.values():
        check(layer(dtype), target.to(dtype) if target.is_floating_point() else target, **call)
    check(layer(dtype), IDS, ids=True, **call)
    check(layer(dtype), IGNORED, ignore_index=-1, **call)


@every_budget
@pytest.mark.parametrize("dtype", RTOL, ids=str)
def test_logits_far_beyond_the_range_of_exp(dtype, budget):
    """Some rows or all of them: the way without a shift is not exact there. The products of whole numbers are."""
    for far in (slice(None), slice(3, 5)):
        arrays = layer(dtype)
        with torch.no_grad():
            for array in arrays:
                array.round_()
            arrays[0][far] *= 300
        check(arrays, HARD, memory_budget=budget)
        check(arrays, IDS, ids=True, memory_budget=budget)


@every_budget
@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize(
    ("far", "share"), [(torch.inf, 1.0), (-torch.inf, 0.0), (200.0, 1.0), (-200.0, 0.0), (-95.0, 1e-30)]
)
def test_one_class_far_out_with_little_loss(far, share, dtype, budget):
    """The sums are small there, but the gradient without a shift would be NaN or infinite."""
    arrays = layer(dtype)
    with torch.no_grad():
        arrays[2][5] = far
    targets = [SOFT.to(dtype, copy=True)] + ([HARD.clone()] if share in (0, 1) else [])
    for target in targets:
        target[:, 5] = share
        check(arrays, target, memory_budget=budget)


def test_one_bad_row_leaves_the_others_alone():
    arrays = layer()
    target = SOFT.double()
    target[4, 600] = 1.5
    losses = linear_zlpr_loss(arrays[0], arrays[1], target, memory_budget=BY_CLASSES, reduction="none")
    assert losses.isnan().tolist() == [row == 4 for row in range(ROWS)]
    slope = torch.autograd.grad(losses.sum(), arrays[0])[0]
    assert slope.isnan().any(1).tolist() == [row == 4 for row in range(ROWS)]


def test_the_reference_says_the_same():
    input, weight, bias = (array.detach() for array in layer())
    reference = zlpr_core.linear_zlpr(input.numpy(), weight.numpy(), SOFT.double().numpy(), bias=bias.numpy())
    losses = linear_zlpr_loss(input, weight, SOFT.double(), bias, reduction="none", memory_budget=BY_CLASSES)
    np.testing.assert_allclose(losses, reference, rtol=1e-13)


@every_budget
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)], ids=str)
def test_gradients_of_some(wanted, budget):
    arrays = layer()
    for number, array in enumerate(arrays):
        array.requires_grad_(number in wanted)
    input, weight, bias = arrays
    linear_zlpr_loss(input, weight, HARD, bias, memory_budget=budget).backward()
    true = torch.autograd.grad(zlpr_loss(linear(*arrays), HARD), [arrays[number] for number in wanted])
    close([arrays[number].grad for number in wanted], true, torch.float64)
    assert all((array.grad is None) == (number not in wanted) for number, array in enumerate(arrays))


@every_budget
def test_second_order(budget):
    arrays = layer()
    products = []
    for loss in (
        linear_zlpr_loss(arrays[0], arrays[1], HARD, arrays[2], memory_budget=budget),
        zlpr_loss(linear(*arrays), HARD),
    ):
        slopes = torch.autograd.grad(loss, arrays, create_graph=True)
        products.append(torch.autograd.grad(sum((slope**2).sum() for slope in slopes), arrays))
    close(*products, torch.float64)


def test_what_chunks_cannot_give_is_given_by_all_logits():
    """Forward mode, transforms and gradients in the options."""
    input, weight, bias = (array.detach() for array in layer())

    def loss(weight, threshold=0.0):
        return linear_zlpr_loss(input, weight, HARD, bias, threshold=threshold, memory_budget=BY_CLASSES)

    def dense(weight, threshold=0.0):
        return zlpr_loss(linear(input, weight, bias), HARD, threshold=threshold)

    tangent = torch.ones_like(weight)
    close(*(torch.func.jvp(f, (weight,), (tangent,))[1:] for f in (loss, dense)), torch.float64)
    several = torch.stack([weight, -weight])
    close(*([torch.func.vmap(torch.func.grad(f))(several)] for f in (loss, dense)), torch.float64)
    threshold = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    close(*(torch.autograd.grad(f(weight, threshold), threshold) for f in (loss, dense)), torch.float64)


def test_the_hook_takes_the_gradient_of_the_weight():
    arrays = layer()
    _, true, _ = torch.autograd.grad(zlpr_loss(linear(*arrays), HARD), arrays)
    seen = []

    def hook(rows, gradient):
        seen.append(rows)
        close([gradient], [true[rows]], torch.float64)

    linear_zlpr_loss(arrays[0], arrays[1], HARD, arrays[2], memory_budget=BY_CLASSES, weight_grad_hook=hook).backward()
    assert [(rows.start, rows.stop) for rows in seen] == [
        (0, 128),
        (128, 256),
        (256, 384),
        (384, 512),
        (512, 640),
        (640, 700),
    ]
    assert arrays[1].grad is None
    assert arrays[0].grad is not None

    def broken(rows, gradient):
        msg = "full"
        raise RuntimeError(msg)

    loss = linear_zlpr_loss(arrays[0], arrays[1], HARD, memory_budget=BY_CLASSES, weight_grad_hook=broken)
    with pytest.raises(RuntimeError, match=r"^full$"):
        loss.backward()


def test_a_hook_works_where_all_logits_would_fit():
    arrays, seen = layer(), []
    linear_zlpr_loss(
        arrays[0], arrays[1], HARD, weight_grad_hook=lambda rows, gradient: seen.append(gradient)
    ).backward()
    true = torch.autograd.grad(zlpr_loss(linear(*arrays[:2]), HARD), arrays[1])
    close([torch.cat(seen)], true, torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("budget", [BY_CLASSES, BY_ROWS, None], ids=["classes", "rows", "all at once"])
def test_half_precision(dtype, budget):
    """The product is not rounded to half, as it is in the dense layer, so this is nearer to the truth."""
    arrays = [array.detach().to(dtype).requires_grad_() for array in layer(torch.float32)]
    loss = linear_zlpr_loss(arrays[0], arrays[1], HARD, arrays[2], memory_budget=budget)
    loss.backward()
    wide = [array.detach().float().requires_grad_() for array in arrays]
    true = zlpr_loss(linear(*wide), HARD)
    true.backward()
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(loss.item(), true.item(), rtol=1e-6)
    for one, other in zip(arrays, wide, strict=True):
        assert one.grad.dtype == dtype
        np.testing.assert_allclose(one.grad.float(), other.grad, rtol=2e-2, atol=1e-6)


@every_budget
def test_autocast(budget):
    """Inputs and weights are rounded, as it rounds those of a layer; the gradients are those of the parameters."""
    arrays = layer(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_zlpr_loss(arrays[0], arrays[1], HARD, arrays[2], memory_budget=budget)
    found = torch.autograd.grad(loss, arrays)
    rounded = [array.detach().bfloat16().float().requires_grad_() for array in arrays[:2]] + arrays[2:]
    true = zlpr_loss(linear(*rounded), HARD)
    np.testing.assert_allclose(loss.item(), true.item(), rtol=1e-5)
    close(found, torch.autograd.grad(true, rounded), torch.float32)


def test_axes_before_the_last():
    input, weight, bias = layer()
    shaped = input.detach().reshape(3, 50, FEATURES).requires_grad_()
    options = {"mask": OPTIONS["mask"]["mask"].reshape(3, 50, -1), "pos_weight": torch.rand(50, 1)}
    for target, chunked, dense in (
        (HARD.reshape(3, 50, -1), linear_zlpr_loss, zlpr_loss),
        (
            torch.stack([row[:1] if len(row) else torch.tensor([-1]) for row in IDS]).reshape(3, 50, 1),
            sparse_linear_zlpr_loss,
            sparse_zlpr_loss,
        ),
    ):
        loss = chunked(shaped, weight, target, bias, reduction="none", memory_budget=BY_CLASSES, **options)
        true = dense(linear(shaped, weight, bias), target, reduction="none", **options)
        close([loss.detach()], [true.detach()], torch.float64)
        arrays = (shaped, weight, bias)
        close(torch.autograd.grad(loss.sum(), arrays), torch.autograd.grad(true.sum(), arrays), torch.float64)


@pytest.mark.parametrize("budget", [None, BY_CLASSES])
def test_an_empty_batch(budget):
    arrays = layer(rows=0)
    for reduction, value in (("sum", 0.0), ("mean", float("nan"))):
        call = {"reduction": reduction, "memory_budget": budget}
        loss = linear_zlpr_loss(arrays[0], arrays[1], torch.zeros(0, CLASSES, dtype=torch.bool), arrays[2], **call)
        np.testing.assert_equal(loss.item(), value)
    loss.backward()
    assert arrays[1].grad.shape == arrays[1].shape


PLANS = [  # rows, classes, budget, what is done, mebibytes beyond the gradients
    (256, 1_000, None, "dense", 3.90625),
    (256, 131_072, None, "4096 classes", 16),
    (64, 3_000_000, None, "16384 classes", 16),
    (8192, 10_000, None, "104 rows", 15.87),
    (1_000_000, 20_000, None, "128 classes", 1953.1),  # fewer would be slow, whatever the budget
    (256, 131_072, 4 * 2**20, "1024 classes", 4),
]


@pytest.mark.parametrize(("rows", "classes", "budget", "what", "peak"), PLANS, ids=lambda value: str(value))
def test_plans(rows, classes, budget, what, peak):
    plan = LinearPlan.of(rows=rows, classes=classes, memory_budget=budget)
    assert (plan.way if plan.way == "dense" else f"{plan.size} {plan.way}") == what
    assert plan.peak / 2**20 == pytest.approx(peak, rel=1e-3)


def test_a_plan_on_a_gpu_has_larger_chunks():
    plan = LinearPlan.of(rows=1024, classes=1_048_576, device="cuda", bytes_a_logit=4)
    assert (plan.way, plan.size, plan.peak) == ("classes", 32_768, 256 * 2**20)


def test_a_plan_is_a_sentence():
    with redirect_stdout(io.StringIO()) as said:
        print(LinearPlan.of(rows=256, classes=131_072))
    assert (
        said.getvalue()
        == "32 chunks of 4096 classes, two sweeps: 16 MiB beyond the gradients, where all logits take 128 MiB\n"
    )


def test_module_is_a_linear_layer():
    torch.manual_seed(0)
    trained = torch.nn.Linear(FEATURES, CLASSES)
    head = LinearZLPRLoss(FEATURES, CLASSES, memory_budget=BY_CLASSES)
    head.load_state_dict(trained.state_dict())
    input = torch.randn(ROWS, FEATURES)
    assert torch.equal(head.logits(input), trained(input))
    torch.testing.assert_close(head(input, HARD), zlpr_loss(trained(input), HARD))
    assert torch.equal(head.predict(input), trained(input) > 0)
    for k in (1, 5, 300, CLASSES):
        found, true = head.topk(input, k), trained(input).topk(k)
        assert torch.equal(found.values, true.values)
        assert torch.equal(trained(input).gather(1, found.indices), true.values)
    assert repr(head) == "LinearZLPRLoss(5, 700, bias=True, reduction='mean')"
    with pytest.raises(ValueError, match=r"^`k` must be in \[1, 700\], the number of classes. Received: 0.$"):
        head.topk(input, 0)


def test_module_options():
    torch.manual_seed(0)
    threshold = torch.randn(CLASSES)
    head = LinearZLPRLoss(
        FEATURES,
        CLASSES,
        False,
        sparse=True,
        threshold=threshold,
        label_smoothing=0.01,
        pad=-7,
        memory_budget=BY_CLASSES,
    )
    assert set(head.state_dict()) == {"weight", "threshold"}
    input, ids = torch.randn(ROWS, FEATURES), torch.tensor([[3, -7]] * ROWS)
    class_weight = torch.rand(CLASSES)
    true = sparse_zlpr_loss(
        head.logits(input), ids, pad=-7, threshold=threshold, label_smoothing=0.01, weight=class_weight
    )
    torch.testing.assert_close(head(input, ids, class_weight=class_weight), true)
    assert torch.equal(head.predict(input), head.logits(input) > threshold)
    with pytest.raises(ValueError, match="`reduction` must be"):
        LinearZLPRLoss(3, 4, reduction="max")
    with pytest.raises(ValueError, match="`memory_budget` must be"):
        LinearZLPRLoss(3, 4, memory_budget=0)
    with pytest.raises(TypeError, match="`weight_grad_hook` must be"):
        LinearZLPRLoss(3, 4, weight_grad_hook=3)


def test_module_trains():
    torch.manual_seed(0)
    truth = torch.randn(CLASSES, FEATURES)
    input = torch.randn(256, FEATURES)
    target = input @ truth.t() > 3
    head = LinearZLPRLoss(FEATURES, CLASSES, memory_budget=4 * 4 * 256 * 150)
    optimizer = torch.optim.Adam(head.parameters(), 0.1)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = head(input, target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert (head.predict(input) == target).float().mean() > 0.95
