"""Divergences and R-Drop in compiled code: one loop by Inductor, and two ops for the rows that it cannot do."""

from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.library import opcheck

import zlpr_torch as z
from zlpr_torch import _dispatch, _pair_ops

torch.manual_seed(0)
ROWS, CLASSES = 7, 45
P = 3 * torch.randn(ROWS, CLASSES)
Q = P + torch.randn(ROWS, CLASSES)
SOFT = torch.rand(ROWS, CLASSES)
MASK = SOFT < 0.8
PAIRS = {
    "kl": z.kl_divergence,
    "symmetric": partial(z.symmetric_kl_divergence, scale=2.0),
    "own": z.zlpr_divergence,
    "rdrop": lambda p, q, **options: z.rdrop_zlpr_loss(p, q, SOFT[: len(p)] < 0.3, **options),
    "rdrop, soft": lambda p, q, **options: z.rdrop_zlpr_loss(p, q, SOFT[: len(p)], alpha=3.0, **options),
}
by_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
IS_FUSED = _dispatch._says_exporting is not None  # before torch 2.7 all compiled code counts as exported, and is plain


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def leaves(*logits):
    return [x.detach().clone().requires_grad_() for x in logits]


def value_and_gradients(function, *logits, upstream=None):
    inputs = leaves(*logits)
    value = function(*inputs)
    upstream = torch.linspace(0.5, 2, value.numel()).view(value.shape).to(value) if upstream is None else upstream
    return value.detach(), *torch.autograd.grad(value, inputs, upstream)


def hard_rows():
    """Agreement by infinity, NaN, logits far out, an impossible one, and gaps of nearly nothing."""
    p, q = P.clone(), Q.clone()
    p[0, 1] = q[0, 1] = -torch.inf
    p[1, 0] = torch.nan
    p[2, :3], q[2, :3] = torch.tensor([60.0, -60.0, 90.0]), torch.tensor([-60.0, 60.0, -30.0])
    q[3, 4] = torch.inf
    p[4], q[4] = 2 * Q[4], 2 * Q[4] + 1e-4 * P[4]
    q[5] = p[5]
    return p, q


@by_pair
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_is_the_formula(pair, compiler, reduction):
    function = partial(pair, reduction=reduction)
    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    for p, q in ((P, Q), hard_rows()):
        value, *slopes = value_and_gradients(compiled, p, q)
        true, *expected = value_and_gradients(function, p.double(), q.double())
        torch.testing.assert_close(value.double(), true, rtol=5e-7, atol=0, equal_nan=True)
        for got, wide in zip(slopes, expected, strict=True):
            torch.testing.assert_close(got.double(), wide, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", ["kl", "symmetric", "own"])
def test_small_gaps_keep_their_digits_and_equal_logits_give_0(name):
    compiled = torch.compile(partial(PAIRS[name], reduction="none"), fullgraph=True)
    assert (compiled(P, P.clone()) == 0).all()
    for gap in (1e-1, 1e-3, 1e-5):
        q = (P.double() + gap * Q.double()).float()
        true = PAIRS[name](P.double(), q.double(), reduction="none")
        torch.testing.assert_close(compiled(P, q).double(), true, rtol=5e-7, atol=0)


@pytest.mark.parametrize("name", ["kl", "symmetric", "own"])
def test_sums_of_many_classes_keep_their_digits(name):
    """Equal terms, whose float32 sum lane by lane is off by 6e-6."""
    p, q = torch.full((2, 100_000), 0.3), torch.full((2, 100_000), -0.4)
    true = PAIRS[name](p.double(), q.double())
    torch.testing.assert_close(torch.compile(PAIRS[name], fullgraph=True)(p, q).double(), true, rtol=5e-7, atol=0)


@pytest.mark.parametrize("name", ["rdrop", "rdrop, soft"])
def test_a_small_upstream_gradient_of_a_large_loss(name):
    """Over the sum of the exponentials it would be subnormal."""
    function, p, q = partial(PAIRS[name], reduction="none"), P.clone(), Q.clone()
    p[:, :2] = q[:, :2] = torch.tensor([80.0, -80.0])
    upstream = torch.full((ROWS,), 1e-6)
    got = value_and_gradients(torch.compile(function, fullgraph=True, backend="aot_eager"), p, q, upstream=upstream)
    true = value_and_gradients(function, p.double(), q.double(), upstream=upstream.double())
    for one, wide in zip(got[1:], true[1:], strict=True):
        torch.testing.assert_close(one.double(), wide, rtol=1e-5, atol=1e-13)


@by_pair
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_gradients_are_rounded_once(pair, dtype):
    inputs = P.to(dtype), Q.to(dtype)
    got = value_and_gradients(torch.compile(pair, fullgraph=True, backend="aot_eager"), *inputs)
    true = value_and_gradients(pair, *(x.double() for x in inputs))
    rounding = 1e-11 if dtype == torch.float64 else 1.01 * torch.finfo(dtype).eps
    assert [x.dtype for x in got[1:]] == [dtype, dtype]
    for one, wide in zip(got[1:], true[1:], strict=True):
        torch.testing.assert_close(one.double(), wide, rtol=rounding, atol=1e-7)


@by_pair
@pytest.mark.parametrize("compiler", ["eager", "aot_eager", "inductor"])
def test_one_graph_for_every_batch(pair, compiler):
    counter, frames = CompileCounterWithBackend(compiler), []
    compiled = torch.compile(z.zlpr_divergence if pair is PAIRS["own"] else pair, fullgraph=True, dynamic=True, backend=counter)  # fmt: skip
    for rows in (7, 5, 3, 2):
        got = value_and_gradients(compiled, P[:rows].clone(), Q[:rows].clone())
        torch.testing.assert_close(got, value_and_gradients(pair, P[:rows], Q[:rows]), rtol=1e-5, atol=1e-6)
        frames.append(counter.frame_count)
    if pair not in (PAIRS["rdrop"], PAIRS["rdrop, soft"]):  # whose targets are cut by the length of the logits here
        assert frames[1:] == [frames[1]] * 3


@by_pair
def test_one_side_and_none(pair):
    compiled = torch.compile(pair, fullgraph=True, backend="aot_eager")
    p, q = leaves(P, Q)
    both = torch.autograd.grad(pair(p, q), (p, q))
    torch.testing.assert_close(torch.autograd.grad(compiled(P, q), q)[0], both[1], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(torch.autograd.grad(compiled(p, Q), p)[0], both[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(compiled(P, Q), pair(P, Q), rtol=5e-7, atol=0)


@by_pair
@pytest.mark.parametrize("dim", [0, (0, 2), (2, 1)], ids=str)
def test_other_axes_and_a_mask(pair, dim):
    if pair in (PAIRS["rdrop"], PAIRS["rdrop, soft"]):
        target = SOFT.reshape(ROWS, 9, 5) if pair is PAIRS["rdrop, soft"] else SOFT.reshape(ROWS, 9, 5) < 0.3
        pair = partial(z.rdrop_zlpr_loss, target=target)
    function = partial(pair, dim=dim, mask=MASK.reshape(ROWS, 9, 5))
    inputs = P.reshape(ROWS, 9, 5), Q.reshape(ROWS, 9, 5)
    got = value_and_gradients(torch.compile(function, fullgraph=True, backend="aot_eager"), *inputs)
    torch.testing.assert_close(got, value_and_gradients(function, *inputs), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("illegal", [-0.5, 1.5, torch.nan])
def test_an_illegal_target_makes_its_row_nan(illegal):
    target = SOFT.clone()
    target[3, 3] = illegal
    compiled = torch.compile(z.rdrop_zlpr_loss, fullgraph=True, backend="aot_eager")
    value, *slopes = value_and_gradients(partial(compiled, target=target, reduction="none"), P, Q)
    assert value.isnan().nonzero().tolist() == [[3]]
    for slope in slopes:
        assert slope.isnan().all(1).nonzero().tolist() == [[3]]


@by_pair
def test_the_ops_keep_the_rules_of_pytorch(pair):
    name = {"kl": "kl", "own": "regret"}.get(next(k for k, v in PAIRS.items() if v is pair), "jeffreys")
    p, q = P, Q
    target = SOFT if pair is PAIRS["rdrop, soft"] else None
    call = (p, q, target, MASK if target is None else None, name, 1.0, 0.5)
    values = torch.where(torch.arange(ROWS) < 5, torch.nan, 1.0).unsqueeze(1)
    opcheck(torch.ops.zlpr.pair_values.default, (values, *call))
    each = torch.ones(ROWS, 1)
    opcheck(torch.ops.zlpr.pair_gradients.default, (torch.zeros_like(p), torch.zeros_like(q), values, each, *call))
    opcheck(torch.ops.zlpr.pair_gradients.default, (None, torch.zeros_like(q), values, each, *call))


def test_only_rows_that_are_not_finite_are_computed_anew():
    values = torch.tensor([1.0, torch.nan, 2.0, torch.inf, 3.0, 4.0, 5.0]).unsqueeze(1)
    in_p, in_q, each = torch.zeros(ROWS, CLASSES), torch.zeros(ROWS, CLASSES), torch.full((ROWS, 1), 2.0)
    call = (P, Q, None, None, "kl", 1.0, 1.0)
    made = torch.ops.zlpr.pair_values(values, *call)
    true, *slopes = value_and_gradients(partial(z.kl_divergence, reduction="sum"), P[[1, 3]], Q[[1, 3]])
    torch.testing.assert_close(made[[1, 3]].sum(), true)
    assert torch.equal(made[[0, 2, 4, 5, 6]], values[[0, 2, 4, 5, 6]])
    torch.ops.zlpr.pair_gradients(in_p, in_q, values, each, *call)
    for gradient, slope in zip((in_p, in_q), slopes, strict=True):
        torch.testing.assert_close(gradient[[1, 3]], 4 * slope)  # the upstream gradient of the sum is 0.5
        assert not gradient[[0, 2, 4, 5, 6]].any()


@by_pair
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_second_order_of_compiled_code_is_refused(pair, compiler):
    """By PyTorch, which has none of a traced Function; what compiles to plain code has it."""
    p, q = leaves(P, Q)
    compiled = torch.compile(pair, fullgraph=True, backend=compiler)

    def curvature(function):
        (slope,) = torch.autograd.grad(function(p, q), p, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), p)

    if compiler == "eager" and not IS_FUSED:
        torch.testing.assert_close(curvature(compiled), curvature(pair), rtol=1e-5, atol=1e-7)
        return
    with pytest.raises(RuntimeError, match=r"double backward|does not require grad"):
        curvature(compiled)


@by_pair
def test_a_transform_inside_compiled_code_is_the_formula(pair):
    tangents = torch.ones_like(P), torch.zeros_like(Q)
    compiled = torch.compile(lambda p, q: torch.func.jvp(pair, (p, q), tangents)[1], backend="aot_eager")
    torch.testing.assert_close(compiled(P, Q), torch.func.jvp(pair, (P, Q), tangents)[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["kl", "own", "rdrop"])
def test_autograd_keeps_at_most_one_array_beyond_the_inputs(name):
    p, q = leaves(P, Q)
    compiled = torch.compile(PAIRS[name], fullgraph=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        compiled(p, q)
    inputs = {x.data_ptr() for x in (p, q, SOFT)}
    assert (
        sum(x.numel() for x in kept if x.data_ptr() not in inputs and x.dtype.is_floating_point) <= P.numel() + 8 * ROWS
    )


def test_exported_programs_hold_no_op_of_ours():
    class Module(torch.nn.Module):
        def forward(self, p, q):
            return z.kl_divergence(p, q)

    program = torch.export.export(Module(), (P, Q))
    assert "zlpr" not in str(program.graph_module.graph)


def test_every_divergence_has_a_name():
    assert {kind.value for kind in _pair_ops.KINDS.values()} == {
        kind.value for kind in (_pair_ops.KL, _pair_ops.JEFFREYS, _pair_ops.REGRET)
    }
