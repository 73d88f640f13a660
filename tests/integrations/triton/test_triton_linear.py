"""The linear loss by chunks as a GPU computes it, against the oracle. Products of small whole numbers are exact."""

import numpy as np
import pytest
import torch
from tolerances import GRAD_RTOL, VALUE_RTOL
from torch.nn.functional import linear
from truth import dense

from zlpr_torch import (
    LinearPlan,
    _linear_autograd,
    _plan,
    linear_zlpr_loss,
    multi_hot,
    sparse_linear_zlpr_loss,
    zlpr_loss,
)

pytestmark = pytest.mark.usefixtures("like_a_gpu")
ROWS, FEATURES, CLASSES = 5, 3, 300
GENERATOR = torch.Generator().manual_seed(40)
SOFT = torch.rand(ROWS, CLASSES, generator=GENERATOR).bfloat16().double()
HARD = torch.rand(ROWS, CLASSES, generator=GENERATOR) < 0.02
HARD[0], HARD[1] = False, True
IDS = torch.randint(CLASSES, (ROWS, 140), generator=GENERATOR)  # more than a program takes at once, some of them twice
IDS[0], IDS[2, 3:] = -1, -1
IGNORED = torch.where(torch.rand(ROWS, CLASSES, generator=GENERATOR) < 0.3, -1, HARD.long())
IGNORED[3] = -1
BY_CLASS, BY_ROW = torch.rand(CLASSES, generator=GENERATOR), torch.rand(ROWS, 1, generator=GENERATOR)
MASK = torch.rand(ROWS, CLASSES, generator=GENERATOR) < 0.7
MASK[4] = False
TARGETS = {"bool": HARD, "uint8": HARD.byte(), "soft": SOFT, "ids": IDS, "short ids": IDS[:, :4].int()}
OPTIONS = {
    "plain": {},
    "mask": {"mask": MASK},
    "mask by class": {"mask": BY_CLASS < 0.5},
    "weights": {"weight": BY_CLASS, "pos_weight": BY_ROW},
    "threshold": {"threshold": BY_CLASS},
    "numbers": {"weight": 2.0, "threshold": 0.25},
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_way = pytest.mark.parametrize("way", ["classes", "rows"])


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Are enough for a chunk."""
    monkeypatch.setattr(_plan, "FEWEST_ROWS", 1)


def by(way, dtype="float64"):
    """A budget for 128 classes at a time, which do not divide; for two rows, or in half precision all of them."""
    rows = ROWS if dtype == "bfloat16" else 2
    return {"memory_budget": 1 if way == "classes" else 2 * DTYPES[dtype].itemsize * rows * CLASSES}


def layer(dtype="float64", scale=1):
    shapes = (ROWS, FEATURES), (CLASSES, FEATURES), (CLASSES,)
    arrays = [torch.randint(-2, 3, shape, generator=GENERATOR).to(DTYPES[dtype]) for shape in shapes]
    arrays[0] *= scale
    arrays[2] *= scale
    return [array.requires_grad_() for array in arrays]


def loss_of(arrays, target, **options):
    function = sparse_linear_zlpr_loss if target.shape[1] != CLASSES else linear_zlpr_loss
    target = target.to(arrays[0].dtype) if target.is_floating_point() else target
    return function(arrays[0], arrays[1], target, arrays[2], **options)


def truth_of(arrays, target, options):
    """Losses, and gradients of their sum with the magnitude of what they are summed of."""
    target = multi_hot(target, CLASSES) if target.shape[1] != CLASSES else target
    x, w, b = (array.detach().double() for array in arrays)
    named = {{"mask": "where"}.get(name, name): np.asarray(value) for name, value in options.items()}
    losses, cells, sizes = dense(linear(x, w, b).numpy(), target.double().numpy(), named)
    cells, sizes = torch.from_numpy(cells), torch.from_numpy(sizes)
    slopes, bounds = (cells @ w, cells.T @ x, cells.sum(0)), (sizes @ w.abs(), sizes.T @ x.abs(), sizes.sum(0))
    return losses, slopes, bounds


def close(found, slopes, bounds, dtype):
    """bfloat16 rounds a cell, the product of a chunk and the result, each by half a unit."""
    bound = 2 * torch.finfo(torch.bfloat16).eps if dtype == "bfloat16" else GRAD_RTOL[dtype]
    for gradient, slope, size in zip(found, slopes, bounds, strict=True):
        assert gradient.dtype == DTYPES[dtype]
        assert ((gradient.double() - slope).abs() <= bound * size + 1e-30).all()


def check(dtype, target, way, true=None, true_options=None, *, scale=1, **options):
    """The losses, and the gradients of their sum. ``true`` targets and options say the same to the oracle."""
    arrays, call = layer(dtype, scale), {**by(way, dtype), **options}
    true_options = options if true_options is None else true_options
    losses, slopes, bounds = truth_of(arrays, target if true is None else true, true_options)
    alone = loss_of(arrays, target, reduction="none", **call)
    assert alone.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    np.testing.assert_allclose(alone.detach(), losses, rtol=VALUE_RTOL[dtype], atol=1e-30)
    loss = loss_of(arrays, target, reduction="sum", **call)
    np.testing.assert_allclose(loss.item(), losses.sum(), rtol=2 * VALUE_RTOL[dtype])
    for retain_graph in (True, False):
        close(torch.autograd.grad(loss, arrays, retain_graph=retain_graph), slopes, bounds, dtype)


@every_way
@every_dtype
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_targets(target, dtype, way):
    check(dtype, target, way)


@every_dtype
@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "plain"])
def test_options(name, dtype):
    for target in (HARD, SOFT, IDS):
        check(dtype, target, "classes", **OPTIONS[name])


@every_dtype
def test_options_that_change_targets(dtype):
    smooth = 0.9 * HARD.double() + 0.05
    check(dtype, HARD, "classes", smooth, {}, label_smoothing=0.1)
    check(dtype, IGNORED, "classes", HARD, {"mask": IGNORED != -1}, ignore_index=-1)


@every_way
def test_a_row_of_options_goes_with_its_row(way):
    """In chunks of rows too."""
    check("float32", IDS, way, weight=BY_ROW, pos_weight=BY_CLASS)


@every_way
@every_dtype
def test_rows_far_out(dtype, way):
    """Logits of more than 300, on the wrong side and on the right one."""
    for target in (HARD, IDS):
        check(dtype, target, way, scale=64)


def plain(arrays, target, **options):
    target = multi_hot(target, CLASSES) if target.shape[1] != CLASSES else target
    losses = zlpr_loss(linear(*arrays), target, reduction="none", impl="plain", **options)
    return losses.detach(), torch.autograd.grad(losses.sum(), arrays)


@every_way
@pytest.mark.parametrize("far", [torch.inf, -torch.inf])
@pytest.mark.parametrize("target", [HARD, SOFT, IDS], ids=["hard", "soft", "ids"])
def test_an_infinite_logit(target, far, way):
    """In every row: its loss may be small or infinite, its gradient is 0, and no NaN comes of it."""
    arrays = layer()
    with torch.no_grad():
        arrays[2][131] = far
    losses, slopes = plain(arrays, target)
    assert losses.isinf().any()
    assert not losses.isnan().any()
    torch.testing.assert_close(
        loss_of(arrays, target, reduction="none", **by(way)).detach(), losses, rtol=1e-12, atol=0
    )
    loss = loss_of(arrays, target, reduction="sum", **by(way))
    torch.testing.assert_close(torch.autograd.grad(loss, arrays), slopes, rtol=1e-12, atol=1e-14)


@every_way
@pytest.mark.parametrize("options", [{}, {"mask": (torch.arange(ROWS) != 2)[:, None]}], ids=["plain", "masked"])
@pytest.mark.parametrize("illegal", [CLASSES, -2])
def test_an_illegal_id_makes_its_row_nan(illegal, options, way):
    """And no other; nor its own where nothing of it counts."""
    arrays, ids = layer(), IDS[:, :4].clone()
    ids[2, 1] = illegal
    losses = loss_of(arrays, ids, reduction="none", **by(way), **options)
    assert losses.isnan().tolist() == [row == 2 and not options for row in range(ROWS)]
    ids[2, 1] = -1
    expected, slopes = plain(arrays, ids, **options)
    others = torch.arange(ROWS) != 2
    torch.testing.assert_close(losses.detach()[others], expected[others], rtol=1e-13, atol=0)
    ids[2, 1] = illegal
    loss = loss_of(arrays, ids, reduction="sum", **by(way), **options)
    in_input, in_weight, _ = torch.autograd.grad(loss, arrays)
    torch.testing.assert_close(in_input[others], slopes[0][others], rtol=1e-12, atol=1e-14)
    assert in_input[2].isnan().all() != bool(options)
    assert in_weight.isnan().all() != bool(options)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_hook_gets_every_chunk(dtype):
    arrays, seen = layer(dtype), []
    _, slopes, bounds = truth_of(arrays, IDS, {})
    loss_of(
        arrays,
        IDS,
        reduction="sum",
        **by("classes"),
        weight_grad_hook=lambda rows, gradient: seen.append((rows.start, rows.stop, gradient)),
    ).backward()
    assert [part[:2] for part in seen] == [(0, 128), (128, 256), (256, 300)]
    found = [arrays[0].grad, torch.cat([part[2] for part in seen]), arrays[2].grad]
    close(found, slopes, bounds, dtype)
    assert arrays[1].grad is None


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_an_empty_batch(reduction):
    arrays = layer()
    arrays[0] = torch.ones(0, FEATURES, dtype=torch.float64, requires_grad=True)
    hook = {"weight_grad_hook": lambda rows, gradient: None, **by("classes")}  # takes chunks in any case
    for target in (HARD[:0], IDS[:0]):
        loss = loss_of(arrays, target, reduction=reduction, **hook)
        np.testing.assert_equal(loss.item(), np.nan if reduction == "mean" else 0.0)
        assert torch.autograd.grad(loss, arrays[0])[0].shape == (0, FEATURES)


def test_a_mean_is_over_the_rows_that_count():
    arrays = layer()
    losses, slopes = plain(arrays, HARD, mask=MASK)
    loss = loss_of(arrays, HARD, mask=MASK, **by("classes"))
    torch.testing.assert_close(loss.detach(), losses.sum() / 4)
    torch.testing.assert_close(torch.autograd.grad(loss, arrays), [slope / 4 for slope in slopes])


@pytest.mark.parametrize("target", [HARD, IDS], ids=["hard", "ids"])
def test_compiled(target):
    """The op at run time takes the same way."""
    arrays = layer("bfloat16")

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(x, w, b):
        return loss_of((x, w, b), target, reduction="sum", **by("classes"))

    losses, slopes, bounds = truth_of(arrays, target, {})
    loss = step(*arrays)
    np.testing.assert_allclose(loss.item(), losses.sum(), rtol=2 * VALUE_RTOL["bfloat16"])
    close(torch.autograd.grad(loss, arrays), slopes, bounds, "bfloat16")


def test_autocast_multiplies_in_bfloat16_and_adds_up_in_float32(monkeypatch):
    seen, gradients = [], _linear_autograd.gradients
    monkeypatch.setattr(_linear_autograd, "gradients", lambda *call: seen.append(gradients(*call)) or seen[-1])
    arrays = layer("float32")
    _, slopes, bounds = truth_of(arrays, IDS, {})
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(arrays, IDS, reduction="sum", **by("classes"))
    found = torch.autograd.grad(loss, arrays)
    assert [gradient.dtype for gradient in seen[0]] == [torch.float32] * 3
    close([gradient.bfloat16() for gradient in found], slopes, bounds, "bfloat16")


@pytest.mark.parametrize(
    ("given", "product"),
    [
        (("cpu", torch.bfloat16, torch.bfloat16), torch.float32),
        (("cuda", torch.bfloat16, torch.bfloat16), torch.bfloat16),
        (("cuda", torch.float32, torch.float32, torch.bfloat16), torch.bfloat16),
        (("cuda", torch.float16, torch.float16), torch.float32),
        (("cuda", torch.bfloat16, torch.float16), torch.float32),
        (("cuda", torch.bfloat16, torch.float32), torch.float32),
        (("cuda", torch.bfloat16, torch.float64), torch.float64),
        (("cuda", torch.float64, torch.float32, torch.bfloat16), torch.float64),
        (("cpu", torch.float64, torch.float32), torch.float64),
    ],
    ids=str,
)
def test_dtypes_of_products(given, product, monkeypatch):
    monkeypatch.undo()
    assert _linear_autograd.product_dtype(*given) == product


PLANS = [  # rows, classes, bytes a logit, what is done, mebibytes beyond the gradients
    (1024, 1_048_576, 2, "65536 classes", 256),
    (1024, 1_048_576, 4, "32768 classes", 256),
    (128, 2_812_280, 2, "524288 classes", 256),
    (8192, 131_072, 4, "256 rows", 256),
    (300, 100_000, 2, "dense", 228.9),
    (1000, 1_000_000, 2, "67072 classes", 255.9),
]


@pytest.mark.parametrize(("rows", "classes", "size", "what", "peak"), PLANS, ids=str)
def test_plans_of_a_gpu(rows, classes, size, what, peak, monkeypatch):
    """Twice the logits of a chunk: where class ids are marked, or in float32, less."""
    monkeypatch.undo()
    plan = LinearPlan.of(rows=rows, classes=classes, device="cuda", bytes_a_logit=size)
    assert (plan.way if plan.way == "dense" else f"{plan.size} {plan.way}") == what
    assert plan.peak / 2**20 == pytest.approx(peak, rel=1e-3)
