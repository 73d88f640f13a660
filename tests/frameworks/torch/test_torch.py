"""What only PyTorch has: reductions, compile, autocast, torch.func, devices."""

import math
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
import torch._dynamo
from torch.autograd import gradcheck, gradgradcheck

import zlpr_core
import zlpr_torch
from zlpr_torch import ZLPRLoss, _cpu, sparse_zlpr_loss, zlpr_loss, zlpr_terms

torch.manual_seed(0)
LOGITS = torch.randn(6, 5, dtype=torch.float64) * 3
HARD = torch.rand(6, 5) < 0.4
SOFT = torch.rand(6, 5, dtype=torch.float64)
EACH = partial(zlpr_loss, reduction="none")


@pytest.mark.parametrize("target", [HARD, SOFT], ids=["hard", "soft"])
def test_reductions(target):
    each = EACH(LOGITS, target)
    torch.testing.assert_close(zlpr_loss(LOGITS, target), each.mean())
    torch.testing.assert_close(zlpr_loss(LOGITS, target, reduction="sum"), each.sum())
    spans = LOGITS.reshape(2, 3, 5)
    torch.testing.assert_close(zlpr_loss(spans, target.reshape(2, 3, 5)), each.mean())


def test_empty_batch_reduces_as_in_torch():
    empty = torch.zeros(0, 5, requires_grad=True)
    assert math.isnan(zlpr_loss(empty, torch.zeros(0, 5)).item())
    total = zlpr_loss(empty, torch.zeros(0, 5), reduction="sum")
    total.backward()
    assert total.item() == 0
    assert empty.grad.shape == (0, 5)


@pytest.mark.parametrize("make", [lambda: zlpr_loss(LOGITS, HARD, reduction="avg"), lambda: ZLPRLoss(reduction="avg")])
def test_unknown_reduction(make):
    with pytest.raises(ValueError, match=r'`reduction` must be "mean", "sum" or "none". Received: .avg.\.'):
        make()


@pytest.mark.parametrize(("arguments", "name"), [(([[1.0]], HARD), "input"), ((LOGITS, np.zeros((6, 5))), "target")])
def test_tensors_are_asked_for(arguments, name):
    with pytest.raises(
        TypeError, match=f"`{name}` must be a torch.Tensor. Received: (list|ndarray). Wrap it in torch.as_tensor."
    ):
        zlpr_loss(*arguments)


def leaves(*tensors):
    return tuple(t.detach().clone().requires_grad_() for t in tensors)


@pytest.mark.parametrize("target", [HARD, SOFT], ids=["hard", "soft"])
def test_gradcheck_in_every_argument(target):
    inputs = leaves(LOGITS, torch.rand(5).double(), torch.rand(6, 1).double(), torch.randn(5).double())

    def loss(logits, weight, pos_weight, threshold):
        return EACH(logits, target, weight=weight, pos_weight=pos_weight, threshold=threshold)

    assert gradcheck(loss, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(loss, inputs, check_fwd_over_rev=True)


def test_gradcheck_in_the_target():
    inside = 0.1 + 0.8 * SOFT
    assert gradcheck(lambda t: EACH(LOGITS, t), leaves(inside), check_forward_ad=True)
    assert gradgradcheck(lambda s, t: EACH(s, t), leaves(LOGITS, inside))


def test_a_graph_can_be_used_twice():
    (x,) = leaves(LOGITS)
    loss = zlpr_loss(x, HARD)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    (second,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_inputs_keep_their_version():
    (x,) = leaves(LOGITS)
    zlpr_loss(x, SOFT, mask=HARD).backward()
    assert (x._version, SOFT._version, HARD._version) == (0, 0, 0)


@pytest.mark.parametrize("target", [HARD, SOFT], ids=["hard", "soft"])
def test_func_transforms(target):
    each = EACH(LOGITS, target)
    torch.testing.assert_close(torch.vmap(EACH)(LOGITS, target), each)
    grads = torch.vmap(torch.func.grad(EACH))(LOGITS, target)
    torch.testing.assert_close(grads, torch.func.grad(lambda s: EACH(s, target).sum())(LOGITS))
    hessian = torch.func.hessian(EACH)(LOGITS[0], target[0])
    by_rows = torch.func.jacrev(torch.func.jacrev(EACH))(LOGITS[0], target[0])
    torch.testing.assert_close(hessian, by_rows)
    assert torch.linalg.eigvalsh(hessian).max() <= 0.5 + 1e-12


COMPILED = {
    "hard": (HARD, {}),
    "soft": (SOFT.float(), {}),
    "everything": (SOFT.float(), {"mask": HARD, "weight": torch.rand(5), "pos_weight": torch.rand(5), "threshold": torch.randn(5), "label_smoothing": 0.1, "ignore_index": -1}),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiles_whole_with_the_batch_dynamic(name, dtype):
    """One graph for every batch size, that equals the eager mode."""
    torch._dynamo.reset()
    target, options = COMPILED[name]
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(lambda s, t, m: zlpr_loss(s, t, **{**options, **m}), fullgraph=True, dynamic=True)
    frames = []
    for rows in (6, 4, 3, 2):
        mask = {"mask": options["mask"][:rows].clone()} if "mask" in options else {}
        hard_or_soft = target[:rows].clone()
        (x,) = leaves(LOGITS.to(dtype)[:rows])
        (y,) = leaves(x)
        loss, eager = compiled(x, hard_or_soft, mask), zlpr_loss(y, hard_or_soft, **{**options, **mask})
        torch.testing.assert_close(loss, eager, rtol=5e-7, atol=0)
        loss.backward()
        eager.backward()
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-7)
        assert torch.equal(hard_or_soft, target[:rows]), "a graph may reuse what it is given"
        frames.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    # once for all sizes; a change of torch's global state, such as its threads, may have cost one more at the start
    assert frames[1:] == [frames[1]] * 3
    assert frames[1] <= 2


def test_a_graph_asks_for_no_kernel(monkeypatch):
    """Where Triton would be imported, which Dynamo does not do."""
    torch._dynamo.reset()
    expected, compiled = zlpr_loss(LOGITS, HARD), torch.compile(zlpr_loss, backend="eager", fullgraph=True)
    monkeypatch.setattr("zlpr_torch._dispatch._kernel_for", lambda *_: pytest.fail("asked"))
    torch.testing.assert_close(compiled(LOGITS, HARD), expected)


ILLEGAL = HARD.long()
ILLEGAL[1, LOGITS[1].argmax()] = 7  # where a sum that takes it for a number has nothing absurd in it


@pytest.mark.parametrize("target", [HARD, ILLEGAL, SOFT], ids=["hard", "one illegal", "soft"])
def test_compiled_rows_that_are_far_out(target):
    """They make a compiled batch be computed again, where the sums are taken without a shift at first."""
    torch._dynamo.reset()
    compiled, weights = torch.compile(EACH, fullgraph=True, dynamic=True), torch.rand(6).double()
    far = LOGITS.clone()
    far[2] *= 1e4
    for logits in (LOGITS, far, far[:4]):
        rows = slice(len(logits))
        (x,), (y,) = leaves(logits), leaves(logits)
        losses, expected = compiled(x, target[rows].clone()), EACH(y, target[rows], impl="plain")
        torch.testing.assert_close(losses, expected, rtol=1e-13, atol=0, equal_nan=True)
        slopes = (torch.autograd.grad(loss, leaf, weights[rows])[0] for loss, leaf in ((losses, x), (expected, y)))
        legal = (slope[~expected.isnan()] for slope in slopes)
        torch.testing.assert_close(*legal, rtol=1e-12, atol=1e-15)


def test_compiled_label_beside_an_exponential_without_digits():
    """e^-100 is below the normal numbers of float32, and 1e-25 e^100 is well within them."""
    (x,), target = leaves(torch.tensor([[-100.0, 1.0]])), torch.tensor([[1e-25, 0.5]])
    loss, expected = torch.compile(zlpr_loss)(x, target), zlpr_loss(x.double(), target.double())
    torch.testing.assert_close(loss.double(), expected, rtol=3e-7, atol=0)
    slopes = [torch.autograd.grad(value, x)[0] for value in (loss, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=0)


WITHIN = {
    "vmap": torch.vmap(EACH),
    "grad": lambda s, t: torch.func.grad(zlpr_loss)(s, t),
    "vmap of grad": torch.vmap(torch.func.grad(EACH)),
    "jvp": lambda s, t: torch.func.jvp(lambda x: EACH(x, t), (s,), (torch.ones_like(s),)),
    "targets": lambda s, t: torch.func.grad(lambda u: zlpr_loss(s, u))(0.1 + 0.8 * t),
}


@pytest.mark.parametrize("name", WITHIN)
def test_transforms_within_a_compiled_graph(name):
    torch._dynamo.reset()
    transformed = WITHIN[name]
    compiled = torch.compile(transformed, fullgraph=True)
    for target in (HARD.double(), SOFT):
        torch.testing.assert_close(compiled(LOGITS, target), transformed(LOGITS, target), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("compiler", ["eager", "inductor"])
def test_a_second_derivative_of_a_compiled_loss_is_right_or_refused(compiler):
    torch._dynamo.reset()
    (x,), (y,) = leaves(LOGITS), leaves(LOGITS)
    for leaf, loss in ((x, torch.compile(zlpr_loss, backend=compiler)), (y, zlpr_loss)):
        (slope,) = torch.autograd.grad(loss(leaf, SOFT), leaf, create_graph=True)
        refused = loss is not zlpr_loss and compiler == "inductor"
        with pytest.raises(RuntimeError, match="double backward") if refused else nullcontext():
            slope.square().sum().backward()
    if compiler == "eager":
        torch.testing.assert_close(x.grad, y.grad)


def test_compiled_gradients_in_the_targets_too():
    torch._dynamo.reset()
    compiled = torch.compile(zlpr_loss, fullgraph=True)
    by_each = [
        torch.autograd.grad(loss(*pair), pair) for loss in (compiled, zlpr_loss) for pair in [leaves(LOGITS, SOFT)]
    ]
    torch.testing.assert_close(*by_each, rtol=1e-12, atol=1e-14)


def test_compiled_gradient_matches_oracle(worst):
    """At the promised accuracy, inductor's own exp and sums included."""
    from harness.pytorch import Torch
    from tolerances import grad_error, value_error
    from truth import table

    backend = Torch()
    compiled = torch.compile(EACH, fullgraph=True, dynamic=True)
    names = ("random", "separable", "wrong", "soft", "soft with hard cells", "extreme", "wide")
    for name in names:
        logits, targets, losses, grads, sizes = table(name, "float32")
        arguments = backend.problem(logits, targets, "float32")
        (x,) = leaves(arguments["logits"])
        loss = compiled(x, arguments["targets"])
        worst("value", backend, "float32", value_error(loss.detach().double().numpy(), losses, "float32"))
        (grad,) = torch.autograd.grad(loss.sum(), x)
        worst("gradient", backend, "float32", grad_error(grad.double().numpy(), grads, sizes, "float32"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_float32(dtype):
    layer, x = torch.nn.Linear(5, 5), torch.randn(6, 5)
    with torch.autocast("cpu", dtype):
        logits = layer(x)
        loss = ZLPRLoss()(logits, HARD)
    assert logits.dtype == dtype
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, zlpr_loss(logits.double(), HARD).float(), rtol=5e-7, atol=0)
    loss.backward()
    assert layer.weight.grad.dtype == torch.float32


def test_meta_tensors_have_shapes():
    assert EACH(LOGITS.to("meta"), HARD.to("meta")).shape == (6,)
    assert ZLPRLoss(weight=torch.ones(5, device="meta"))(LOGITS.to("meta"), HARD.to("meta")).shape == ()


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_devices(device):
    for target in (HARD, SOFT):
        torch.testing.assert_close(EACH(LOGITS.to(device), target.to(device)).cpu(), EACH(LOGITS, target))
    bad = HARD.long().to(device)
    bad[0, 0] = 7
    assert EACH(LOGITS.to(device), bad).isnan().tolist() == [True] + [False] * 5
    assert ZLPRLoss(weight=torch.rand(5)).to(device)(LOGITS.to(device), HARD.to(device)).device.type == device
    ids = torch.tensor([[0, -1]], device=device)
    assert zlpr_torch.multi_hot(ids, 2).device.type == device


def test_a_model_trains_in_half_precision():
    """Weights and gradients in bfloat16, the loss in float32."""
    layer = torch.nn.Linear(4, 3, dtype=torch.bfloat16)
    x = torch.randn(64, 4, dtype=torch.bfloat16)
    target = x[:, :3] > 0
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    for _ in range(60):
        optimizer.zero_grad()
        loss = zlpr_loss(layer(x), target)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.75  # log 2 + log 2 and more at first
    assert layer.weight.grad.dtype == torch.bfloat16


def test_the_core_infers_torch():
    torch.testing.assert_close(zlpr_core.zlpr(LOGITS, HARD), EACH(LOGITS, HARD, impl="plain"), rtol=0, atol=0)
    (x,) = leaves(LOGITS)
    EACH(x, HARD).sum().backward()
    torch.testing.assert_close(zlpr_core.zlpr_grad(LOGITS, HARD), x.grad)


def test_terms_are_two_tensors():
    positive, negative = zlpr_terms(LOGITS, HARD)
    torch.testing.assert_close(positive + negative, EACH(LOGITS, HARD))


IDS = torch.where(HARD, torch.arange(5), -1)
SPARSE = partial(sparse_zlpr_loss, reduction="none")
FORMS = {
    "int32": IDS.int(),
    "list of tensors": [row[row >= 0] for row in IDS],
    "lists": [row[row >= 0].tolist() for row in IDS],
    "csr": HARD.float().to_sparse_csr(),
    "csr of bool": HARD.to_sparse_csr(),
    "coo of integers": HARD.long().to_sparse_coo(),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_class_ids(form):
    torch.testing.assert_close(SPARSE(LOGITS, FORMS[form]), EACH(LOGITS, HARD), rtol=0, atol=0)


def test_a_sparse_matrix_is_checked():
    bad = HARD.float().clone()
    bad[1, 1] = 0.5
    assert SPARSE(LOGITS, bad.to_sparse_csr()).isnan().tolist() == [False, True, False, False, False, False]
    with pytest.raises(ValueError, match=r"`indices` as a sparse matrix must have the shape of `input`, classes last"):
        SPARSE(LOGITS, HARD[:, :4].float().to_sparse_csr())
    with pytest.raises(TypeError, match=r"`indices` must be integer class ids. Received dtype: .*float32"):
        SPARSE(LOGITS, IDS.float())
    assert SPARSE(LOGITS[:0], []).shape == (0,)


@pytest.mark.parametrize(
    "rows",
    [
        [torch.tensor([1], dtype=torch.int8), torch.tensor([258])],
        [torch.tensor([]), torch.tensor([2**32 + 1])],
        [torch.tensor([1], dtype=torch.uint8), torch.tensor([], dtype=torch.int32)],
    ],
)
def test_rows_of_ids_keep_their_digits(rows):
    """Whatever the dtypes, an empty row first included."""
    logits = torch.randn(2, 300)
    if max(max(row.tolist(), default=0) for row in rows) >= 300:
        with pytest.raises(IndexError, match=r"Received: 4294967297 at \[1, 0\]"):
            SPARSE(logits, rows)
    else:
        hot = torch.stack([torch.isin(torch.arange(300), row.long()) for row in rows])
        torch.testing.assert_close(SPARSE(logits, rows), EACH(logits, hot))


@pytest.mark.parametrize("row", [torch.tensor([0.5]), torch.tensor(1), torch.tensor([[1]])])
def test_rows_of_ids_are_checked(row):
    with pytest.raises(TypeError, match=r"`indices` as a list must hold 1-D integer tensors. Received: "):
        SPARSE(LOGITS[:2], [torch.tensor([1]), row])


@pytest.mark.filterwarnings("ignore:Sparse CSC tensor support is in beta state:UserWarning")
def test_other_sparse_layouts():
    torch.testing.assert_close(SPARSE(LOGITS, HARD.float().to_sparse_csc()), EACH(LOGITS, HARD))
    twice = torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 1.0], (6, 5), check_invariants=True)
    torch.testing.assert_close(SPARSE(LOGITS, twice), EACH(LOGITS, twice.to_dense() > 0))


def test_an_illegal_id_is_nan_where_a_look_would_stop_everything():
    """Compiled whole, with the batch dynamic, and inside vmap."""
    bad = IDS.clone()
    bad[2, 0] = 5
    expected = [False, False, True, False, False, False]
    torch._dynamo.reset()
    compiled = torch.compile(SPARSE, fullgraph=True, dynamic=True)
    assert compiled(LOGITS, bad).isnan().tolist() == expected
    torch.testing.assert_close(compiled(LOGITS[:4], IDS[:4]), EACH(LOGITS[:4], HARD[:4]), rtol=1e-13, atol=0)
    assert torch.vmap(SPARSE)(LOGITS, bad).isnan().tolist() == expected
    hot = torch.compile(lambda ids: zlpr_torch.multi_hot(ids, 5), fullgraph=True)(IDS)
    assert torch.equal(hot, HARD)
    assert SPARSE(LOGITS.to("meta"), IDS.to("meta")).shape == (6,)


def test_divergence_reductions_and_gradcheck():
    p, q = leaves(LOGITS, LOGITS.flip(0))
    for function in (zlpr_torch.kl_divergence, zlpr_torch.symmetric_kl_divergence, zlpr_torch.zlpr_divergence):
        each = function(p, q, reduction="none")
        torch.testing.assert_close(function(p, q), each.mean())
        torch.testing.assert_close(function(p, q, reduction="sum"), each.sum())
        assert gradcheck(partial(function, reduction="none"), (p, q), check_forward_ad=True, check_batched_grad=True)
        assert gradgradcheck(partial(function, reduction="none"), (p, q), check_fwd_over_rev=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_gradient_in_half_precision_is_rounded_once(dtype, reduction):
    target, (x,) = torch.rand(8, 80) < 0.3, leaves(torch.randn(8, 80).to(dtype))
    (wide,) = leaves(x.double())
    zlpr_loss(x, target, reduction=reduction).backward(torch.tensor(1 / 3))
    (zlpr_loss(wide, target, reduction=reduction) / 3).backward()
    info, error = torch.finfo(dtype), (x.grad.double() - wide.grad).abs()
    assert (error <= 1.001 * info.eps * (wide.grad.abs() / 2 + info.smallest_normal)).all()


def test_more_rows_are_recomputed_than_a_block_has(monkeypatch):
    monkeypatch.setattr(_cpu, "CELLS", 10)  # two rows
    far = 1e4 * LOGITS
    x, y = leaves(far, far)
    for leaf, impl in ((x, "auto"), (y, "plain")):
        zlpr_loss(leaf, HARD, reduction="sum", impl=impl).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-12, atol=1e-30)
