"""Which way a loss takes, and that every way is right: the two graph ops, the kernels, and the plain formula."""

from functools import partial
from itertools import accumulate

import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck
from torch.profiler import ProfilerActivity, profile

from zlpr_torch import SparseZLPRLoss, ZLPRLoss, _cpu, _dispatch, _ops, zlpr_loss

torch.manual_seed(0)
LOGITS = torch.randn(6, 5, dtype=torch.float64) * 2
SOFT = torch.rand(6, 5, dtype=torch.float64)
HARD = SOFT < 0.4
MASK = (SOFT < 0.9).index_fill(0, torch.tensor(2), False)  # an example of which nothing is left
OPTIONS = {
    "none": {},
    "mask": {"mask": MASK},
    "weights": {"weight": torch.rand(5), "pos_weight": 2.0},
    "threshold": {"threshold": 0.25},
    "all": {"mask": MASK, "weight": torch.rand(6, 1), "pos_weight": torch.rand(5), "threshold": torch.randn(5)},
}
TARGETS = {"bool": HARD, "int": HARD.long(), "soft": SOFT}
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
EXACT = {"rtol": 1e-12, "atol": 1e-15}


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def leaf(x):
    return x.detach().clone().requires_grad_()


def gradients(loss, x, target, **options):
    """The loss and its gradient for an upstream gradient that is not the expected one."""
    x = leaf(x)
    value = loss(x, target, **options)
    return value.detach(), torch.autograd.grad(
        value, x, torch.linspace(0.5, 2, value.numel()).view(value.shape).to(value)
    )[0]


def rounding(dtype):
    return {"rtol": 2 * torch.finfo(dtype).eps if dtype.itemsize == 2 else 2e-6, "atol": 1e-7}


def arguments(options, dim=(1,), reduction="mean"):
    tensors = _ops.tensors_of(
        _dispatch.Options(**{{"mask": "where"}.get(k, k): v for k, v in options.items()}), LOGITS.device
    )
    return *tensors, list(dim), reduction


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # PyTorch's own
def test_ops_keep_the_rules_of_pytorch(target, options, reduction):
    for dtype in (torch.float32, torch.bfloat16):
        call = (leaf(LOGITS.to(dtype)), target, *arguments(options, reduction=reduction))
        opcheck(torch.ops.zlpr.forward.default, (*call, True))
        loss, residuals = torch.ops.zlpr.forward(*call, True)
        opcheck(
            torch.ops.zlpr.backward.default,
            (torch.ones_like(loss).detach(), residuals.detach(), call[0].detach(), *call[1:]),
        )


@pytest.mark.parametrize("dim", [(0,), (0, 2), (1, 2), (2, 1)])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_ops_return_the_strides_that_they_promise(dim):
    x, target = torch.randn(4, 3, 5), torch.rand(4, 3, 5)
    call = (leaf(x.bfloat16()), target, None, None, None, None, list(dim), "mean")
    opcheck(torch.ops.zlpr.forward.default, (*call, True))
    assert_compiled_like_eager(x, target, torch.float32, dim=dim)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_derivatives_of_the_op(options):
    def loss(x):
        return torch.ops.zlpr.forward(x, SOFT, *arguments(options, reduction="none"), True)[0]

    assert gradcheck(loss, leaf(LOGITS))
    assert gradgradcheck(loss, leaf(LOGITS))


def test_an_op_has_no_gradient_but_in_the_logits():
    call = arguments({"weight": torch.rand(5, requires_grad=True)})
    with pytest.raises(NotImplementedError, match="gradient in `input` only"):
        torch.ops.zlpr.forward(leaf(LOGITS), HARD, *call, True)


def assert_compiled_like_eager(x, target, dtype, backend="aot_eager", **options):
    compiled = torch.compile(zlpr_loss, fullgraph=True, backend=backend)
    got, expected = (
        gradients(loss, x.to(dtype), target, **options) for loss in (compiled, partial(zlpr_loss, impl="plain"))
    )
    torch.testing.assert_close(got, expected, **rounding(dtype))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_like_eager(dtype, target, options, reduction):
    assert_compiled_like_eager(LOGITS, target, dtype, **options, reduction=reduction)


@pytest.mark.parametrize("compiler", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("name", ["none", "all"])
def test_one_graph_for_every_batch(compiler, name):
    options, counter, frames = OPTIONS[name], CompileCounterWithBackend(compiler), []
    compiled = torch.compile(zlpr_loss, fullgraph=True, dynamic=True, backend=counter)
    for rows in (6, 4, 3, 2):
        some = {k: v[:rows].clone() if isinstance(v, Tensor) and v.dim() == 2 else v for k, v in options.items()}
        got, expected = (
            gradients(loss, LOGITS[:rows].clone(), SOFT[:rows].clone(), **some) for loss in (compiled, zlpr_loss)
        )
        torch.testing.assert_close(got, expected, **EXACT)
        frames.append(counter.frame_count)
    # once for all sizes; a change of torch's global state, such as its threads, may have cost one more at the start
    assert frames[1:] == [frames[1]] * 3
    assert frames[1] <= 2


def called(graph):
    return [str(node.target) for node in graph.graph.nodes if "zlpr" in str(node.target)]


def test_make_fx_records_the_ops():
    def step(x, target, mask):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(zlpr_loss(x, target, mask=mask, threshold=0.5), x)[0]

    expected = step(LOGITS.bfloat16(), HARD, MASK)
    graph = make_fx(step, tracing_mode="symbolic")(LOGITS.bfloat16(), HARD, MASK)
    assert called(graph) == ["zlpr.forward.default", "zlpr.backward.default"]
    torch.testing.assert_close(graph(LOGITS.bfloat16(), HARD, MASK), expected, rtol=0, atol=0)
    assert called(make_fx(lambda x, target: zlpr_loss(x, target))(LOGITS, HARD)) == ["zlpr.forward.default"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_fake_tensors_have_the_shapes_of_real_ones(options, dtype):
    real = zlpr_loss(leaf(LOGITS.to(dtype)), SOFT, **options, reduction="none")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = leaf(mode.from_tensor(LOGITS.to(dtype)))
        loss = zlpr_loss(x, mode.from_tensor(SOFT), **options, reduction="none")
        loss.sum().backward()
    assert (loss.shape, loss.dtype, x.grad.shape, x.grad.dtype) == (real.shape, real.dtype, LOGITS.shape, dtype)


def test_modules_are_made_where_there_are_no_values():
    with FakeTensorMode():
        weight = torch.rand(5)
        module = ZLPRLoss(pos_weight=weight, weight=weight)
        assert module(torch.rand(6, 5), torch.rand(6, 5)).shape == ()
    make = torch.compile(lambda x, w: ZLPRLoss(pos_weight=w)(x, HARD), fullgraph=True, backend="eager")
    torch.testing.assert_close(make(LOGITS, torch.ones(5)), zlpr_loss(LOGITS, HARD), **EXACT)
    each = torch.vmap(lambda w: ZLPRLoss(pos_weight=w)(LOGITS, HARD))
    torch.testing.assert_close(each(torch.ones(2, 5)), zlpr_loss(LOGITS, HARD).expand(2), **EXACT)


def tangent(loss, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(loss(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


FORWARD_MODE = {
    "eager": lambda loss: lambda x: tangent(loss, x),
    "eager, recorded": lambda loss: lambda x: tangent(loss, leaf(x)),
    "jvp": lambda loss: lambda x: torch.func.jvp(loss, (x,), (torch.ones_like(x),))[1],
    "compiled jvp": lambda loss: torch.compile(FORWARD_MODE["jvp"](loss), backend="aot_eager", fullgraph=True),
    "jvp of compiled": lambda loss: FORWARD_MODE["jvp"](torch.compile(loss, backend="eager")),
    "dual numbers into compiled": lambda loss: lambda x: tangent(torch.compile(loss, backend="eager"), x),
    "dual numbers into aot": lambda loss: lambda x: tangent(torch.compile(loss, backend="aot_eager"), x),
    "dual numbers into aot, recorded": lambda loss: (
        lambda x: tangent(torch.compile(loss, backend="aot_eager"), leaf(x))
    ),
}


@pytest.mark.parametrize("name", FORWARD_MODE)
@pytest.mark.parametrize("compiled_before", [False, True])
def test_forward_mode_is_right_or_refused(name, compiled_before):
    """Never zero, also where a graph without it was compiled before."""

    def loss(x):
        return zlpr_loss(x, HARD)

    if compiled_before:
        torch.compile(loss, backend="aot_eager")(leaf(LOGITS))
        torch.compile(loss, backend="aot_eager")(LOGITS)
    expected = torch.autograd.grad(loss(x := leaf(LOGITS)), x)[0].sum()
    try:
        got = FORWARD_MODE[name](loss)(LOGITS)
    except (RuntimeError, NotImplementedError):
        assert "aot" in name
        return
    torch.testing.assert_close(got.detach(), expected, **EXACT)


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_second_order_of_a_compiled_loss_is_right_or_refused(options, compiler):
    def curvature(loss):
        x = leaf(LOGITS)
        (slope,) = torch.autograd.grad(loss(x, SOFT, **options), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]

    compiled = torch.compile(zlpr_loss, backend=compiler)
    if compiler == "eager":
        torch.testing.assert_close(curvature(compiled), curvature(zlpr_loss), **EXACT)
    else:
        with pytest.raises(RuntimeError, match=r"double backward|does not require grad"):
            curvature(compiled)


OTHERS = {
    "target": lambda: (leaf(0.1 + 0.8 * SOFT), {}),
    "weight": lambda: (HARD, {"weight": torch.rand(5).double().requires_grad_()}),
    "pos_weight": lambda: (HARD, {"pos_weight": torch.rand(5).double().requires_grad_()}),
    "threshold": lambda: (HARD, {"threshold": torch.rand(5).double().requires_grad_()}),
}


@pytest.mark.parametrize("mode", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", OTHERS)
def test_gradients_in_other_arguments(name, mode):
    torch.manual_seed(1)
    target, options = OTHERS[name]()
    wanted = options.get(name, target)
    loss = zlpr_loss if mode == "eager" else torch.compile(zlpr_loss, backend=mode, fullgraph=True)
    got = torch.autograd.grad(loss(leaf(LOGITS), target, **options), wanted)
    expected = torch.autograd.grad(zlpr_loss(leaf(LOGITS), target, **options, impl="plain"), wanted)
    assert got[0].any()
    torch.testing.assert_close(got, expected, **EXACT)


def test_exported_programs_hold_no_op_of_ours():
    for module, second in ((ZLPRLoss(weight=torch.rand(5)), HARD), (SparseZLPRLoss(), torch.tensor([[0, -1]] * 6))):
        program = torch.export.export(module, (leaf(LOGITS), second))
        assert not called(program.graph_module)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_programs_hold_no_op_of_ours():
    traced = torch.jit.trace(ZLPRLoss(), (LOGITS, HARD))
    assert "zlpr::" not in str(traced.inlined_graph)


def test_all_compiled_code_is_plain_before_torch_says_what_is_exported(monkeypatch):
    """As with torch 2.6."""
    monkeypatch.setattr(_dispatch, "_says_exporting", None)
    graphs = []
    compiled = torch.compile(zlpr_loss, backend=lambda graph, _: graphs.append(graph) or graph)
    torch.testing.assert_close(compiled(LOGITS, HARD), zlpr_loss(LOGITS, HARD), **EXACT)
    assert [called(graph) for graph in graphs] == [[]]


def held(call):
    """Bytes that ``call`` holds at most."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        call()
    events = watched.profiler.kineto_results.events()
    return max(accumulate(event.nbytes() for event in events if event.name() == "[memory]"))


@pytest.mark.parametrize(
    "options", [{}, {"mask": torch.rand(200, 300) < 0.9, "weight": torch.rand(300)}], ids=["none", "some"]
)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_only_the_gradient_is_as_large_as_the_logits_of_a_compiled_loss(monkeypatch, soft, options):
    monkeypatch.setattr(_cpu, "CELLS", 300)
    x, target = torch.randn(200, 300).requires_grad_(), torch.rand(200, 300)
    compiled = torch.compile(partial(zlpr_loss, **options), fullgraph=True)
    target = target if soft else target < 0.3
    compiled(x, target).backward()
    assert held(lambda: torch.autograd.grad(2 * compiled(x, target), x)) < 1.3 * x.nbytes


MEAN = {
    "all kept": (torch.ones(6, 5, dtype=torch.bool), 6),
    "one left": (torch.zeros(6, 5, dtype=torch.bool).index_fill(0, torch.tensor(1), True), 1),
    "some cells": (MASK, 5),
    "none": (torch.zeros(6, 5, dtype=torch.bool), 0),
    "a row for all": (torch.tensor([True, False, False, False, True]), 6),
    "a column": (torch.tensor([[True], [False]] * 3), 3),
}


@pytest.mark.parametrize("impl", ["plain", "auto", "compiled"])
@pytest.mark.parametrize(("mask", "count"), MEAN.values(), ids=MEAN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_is_over_the_examples_that_keep_a_cell(impl, mask, count, dtype):
    if impl == "compiled":
        loss = torch.compile(zlpr_loss, backend="aot_eager", fullgraph=True)
    else:
        loss = partial(zlpr_loss, impl=impl)
    x, y = leaf(LOGITS.to(dtype)), leaf(LOGITS.to(dtype))
    mean, total = loss(x, HARD, mask=mask), zlpr_loss(y, HARD, mask=mask, reduction="sum") / max(count, 1)
    torch.testing.assert_close(mean, total, rtol=1e-6, atol=0)
    mean.backward()
    total.backward()
    torch.testing.assert_close(x.grad, y.grad, **rounding(dtype))
    empty = loss(LOGITS[:0].to(dtype), HARD[:0], mask=mask[:0] if mask.dim() == 2 else mask)
    assert empty.isnan()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_an_empty_batch_in_a_graph(dtype, reduction):
    x = torch.zeros(0, 5, dtype=dtype, requires_grad=True)
    compiled = torch.compile(zlpr_loss, fullgraph=True, backend="aot_eager")
    compiled(x, torch.zeros(0, 5), reduction=reduction).sum().backward()
    assert x.grad.shape == (0, 5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_autograd_of_one_dim_after_another():
    """PyTorch 2.13 traces the axes of the second call as symbols."""
    expected, got = {}, []
    for dim in (0, 1):
        x = LOGITS.clone().requires_grad_()
        expected[dim] = torch.autograd.grad(zlpr_loss(x, SOFT, dim=dim), x)[0]
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        for dim in (1, 0, 1):
            x = LOGITS.clone().requires_grad_()
            zlpr_loss(x, SOFT, dim=dim).backward()
            got.append((x.grad, expected[dim]))
    for pair in got:
        torch.testing.assert_close(*pair, **EXACT)


def test_a_list_of_tensors_keeps_its_gradients():
    theta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    slopes = [torch.autograd.grad(zlpr_loss(LOGITS, HARD, threshold=x), theta)[0] for x in ([theta] * 5, theta)]
    torch.testing.assert_close(*slopes)
