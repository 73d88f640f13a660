"""The Triton kernels compute what the contract says. By Triton's interpreter: no GPU, and a process of its own."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from cases import rounded
from harness.triton import Kernels, backward, forward
from tolerances import grad_error, value_error
from triton.runtime import interpreter
from truth import dense

from zlpr_core._options import Options
from zlpr_torch import _cuda, zlpr_loss

RNG = np.random.default_rng(3090)
WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import zlpr_torch
from zlpr_torch import _cuda, zlpr_loss
assert not _cuda.available()
"""
KERNELS = Kernels()


def test_this_process_interprets():
    """It does not if Triton was imported before this file."""
    assert isinstance(tl.sum, interpreter.InterpretedFunction)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("classes", [1, 7, 33, 127, 129, 1000, 2049])
def test_any_number_of_classes(classes, dtype, soft, worst):
    """One block, exactly one, and several with a rest; the second row is read again for its largest term."""
    logits, targets = RNG.normal(0, [[4], [90]], (2, classes)), RNG.random((2, classes))
    logits, targets = (rounded(x, dtype) for x in (logits, targets if soft else targets < 0.3))
    losses, grads, sizes = dense(logits, targets, {})
    worst("value", KERNELS, dtype, value_error(KERNELS.loss(logits, targets, dtype), losses, dtype))
    worst("gradient", KERNELS, dtype, grad_error(KERNELS.grad(logits, targets, dtype), grads, sizes, dtype))


@pytest.mark.parametrize("kind", [int, float])
def test_small_losses_of_both_halves_survive_the_threshold(kind, worst):
    logits = rounded(np.linspace([-70, 25], [-25, 70], 12), "float32")
    targets, theta = (logits > 0).astype(kind), rounded(0.3, "float32")
    losses, _, _ = dense(logits, targets, {"threshold": theta})
    got = KERNELS.loss(logits, targets, "float32", threshold=np.full((1, 1), theta))
    worst("value", KERNELS, "float32", value_error(got, losses, "float32"))


@pytest.mark.parametrize(("dtype", "weight", "far"), [("float32", 1e30, 120.0), ("float64", 1e300, 750.0)])
@pytest.mark.parametrize("kind", [int, float])
def test_a_weight_brings_back_what_is_beyond_the_range_of_exp(dtype, weight, far, kind, worst):
    logits, targets = np.asarray([[-far], [far]]), np.asarray([[0], [1]], kind)
    weights = rounded(np.full((2, 1), weight), dtype)
    losses, grads, sizes = dense(logits, targets, {"weight": weights})
    got = KERNELS.loss(logits, targets, dtype, weight=weights), KERNELS.grad(logits, targets, dtype, weight=weights)
    worst("value", KERNELS, dtype, value_error(got[0], losses, dtype))
    worst("gradient", KERNELS, dtype, grad_error(got[1], grads, sizes, dtype))


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
@pytest.mark.parametrize("kind", [int, float])
def test_an_illegal_weight_of_little_consequence(name, kind):
    """Its sign makes it illegal, however little its cell adds, and in either half."""
    weights = np.asarray([[1.0, -0.01, 1.0], [-0.01, 1.0, 1.0], [0.0, 0.0, 1.0]])
    got = KERNELS.loss([[1.0, 2.0, 3.0]] * 3, np.asarray([[1, 0, 1]] * 3, kind), "float32", **{name: weights})
    assert np.isnan(got).tolist() == [True, True, False]


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_masked_cells_hold_anything(soft):
    arguments = problem(soft)
    logits, targets, options = every(torch.clone, arguments)
    for cells in (logits, *([targets] if soft else []), *options[1:]):
        cells[~options.where] = torch.nan
    expected = both(arguments, torch.ones(5))
    torch.testing.assert_close(both((logits, targets, options), torch.ones(5)), expected, rtol=0, atol=0)


def test_shifts_are_whole_numbers():
    """Because subtracting a whole number from a logit loses no digit that shows."""
    logits = torch.tensor([[40.7, -60.3], [3.5, -2.5], [-60.3, 90.9]])
    shift, total = forward(logits, torch.tensor([[False, True]] * 3))[1].sums.unflatten(1, (2, 2)).unbind(-1)
    assert shift.tolist() == [[60, 40], [0, 0], [0, 0]]
    assert (total >= 0).all()


def problem(soft=True, classes=40):
    """Tensors with every option."""
    shape = (5, classes)
    targets = torch.rand(shape) if soft else torch.rand(shape) < 0.3
    options = {
        "where": torch.rand(shape) < 0.8,
        **{k: torch.rand(shape) for k in ("weight", "pos_weight", "threshold")},
    }
    return 20 * torch.randn(shape), targets, Options(**options)


def every(change, arguments):
    logits, targets, options = arguments
    return change(logits), change(targets), Options(*map(change, options))


def both(arguments, upstream):
    losses, residuals = forward(*arguments)
    return losses, backward(*arguments, residuals, upstream)


def in_one_pass(arguments):
    """The gradient that forward writes."""
    losses, residuals = forward(*arguments, reduction="sum")
    return losses, residuals.gradient


def transposed(x):
    return x.t().contiguous().t()


def every_other(x):
    return x.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2]


def unaligned(x):
    return torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape)


@pytest.mark.parametrize("change", [transposed, every_other, unaligned])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_any_strides(change, soft):
    arguments, upstream = problem(soft), torch.rand(5)
    got, expected = both(every(change, arguments), every_other(upstream[None])[0]), both(arguments, upstream)
    assert got[1].is_contiguous()
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_strides_of_zero(soft):
    """Expanded tensors: one row of options for all examples, one upstream gradient for all losses."""
    logits, targets, options = problem(soft)
    one_row = Options(*(x[:1].expand(5, -1) for x in options))
    got = both((logits, targets, one_row), torch.tensor(0.5).expand(5))
    expected = both((logits, targets, Options(*(x.contiguous() for x in one_row))), torch.full((5,), 0.5))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"])
def test_integer_targets(dtype):
    """Of any width; only 0 and 1 are labels."""
    logits, targets, _ = problem(soft=False)
    hard = targets.to(getattr(torch, dtype))
    torch.testing.assert_close(in_one_pass((logits, hard)), in_one_pass((logits, targets)), rtol=0, atol=0)
    hard[2, 3] = 2 if dtype.startswith("u") else -1
    assert forward(logits, hard)[0].isnan().tolist() == [False, False, True, False, False]


def test_operands_of_four_dtypes():
    """Everything is converted to the dtype of the losses; whether a target is legal is judged in the target's own."""
    logits, targets, options = problem()
    logits, targets, weight = logits.half(), targets.bfloat16().double(), options.weight.bfloat16()
    options = options._replace(weight=weight, threshold=options.threshold.double())
    got = both((logits, targets, options), torch.ones(5))
    options = options._replace(weight=weight.float(), threshold=options.threshold.float())
    expected = both((logits.float(), targets.float(), options), torch.ones(5))
    torch.testing.assert_close(got, (expected[0], expected[1].half()), rtol=0, atol=0)
    eps = torch.finfo(torch.float64).eps
    targets[0, 0], targets[1, 0] = 1 + 8 * eps, 1 + 9 * eps
    assert forward(logits, targets)[0].isnan().tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("name", ["weight", "pos_weight", "threshold"])
@pytest.mark.parametrize("number", [0.3, 2.0, 1e-300, 5e-324])
def test_numbers_keep_the_digits_of_float64(name, number):
    logits, targets, _ = problem()
    got = in_one_pass((logits.double(), targets, Options(**{name: number})))
    full = torch.full((5, 40), number if number != 5e-324 else 0.0, dtype=torch.float64)
    expected = in_one_pass((logits.double(), targets, Options(**{name: full})))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("form", ["number", "row", "full"])
@pytest.mark.parametrize("names", [("weight",), ("pos_weight",), ("threshold",), ("weight", "pos_weight", "threshold")])
def test_no_constant_of_float64_is_rounded_to_float32(names, form, worst):
    """Beside any of these a digit beyond float32 would show, in the careful way (the last two rows) as in the quick."""
    logits, targets = (
        RNG.normal(0, [[3], [3], [300], [800]], (4, 9)),
        RNG.random((4, 9)) * (1 + 8 * np.finfo(float).eps),
    )
    targets[1, :2] = 1 + 8 * np.finfo(float).eps, -8 * np.finfo(float).eps
    shape = {"number": (), "row": (1, 9), "full": (4, 9)}[form]
    options = {name: RNG.uniform(0.1, 3, shape) if shape else RNG.uniform(0.1, 3) for name in names}
    broadcast = {name: np.broadcast_to(value, (4, 9)) for name, value in options.items()}
    losses, grads, sizes = dense(logits, np.clip(targets, 0, 1), broadcast)
    got = KERNELS.loss(logits, targets, "float64", **options), KERNELS.grad(logits, targets, "float64", **options)
    worst("value", KERNELS, "float64", value_error(got[0], losses, "float64"))
    worst("gradient", KERNELS, "float64", grad_error(got[1], grads, sizes, "float64"))


def test_the_gradient_is_scaled_by_upstream():
    arguments = problem()
    upstream = torch.tensor([0.0, 1.0, -2.0, 65536.0, 2.0**-20])
    got, one = both(arguments, upstream)[1], both(arguments, torch.ones(5))[1]
    torch.testing.assert_close(got, one * upstream[:, None], rtol=5e-7, atol=0)


@pytest.mark.parametrize("classes", [1, 33, 2049])
def test_every_cell_of_every_output_is_written(monkeypatch, classes):
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *args, **kwargs: empty(*args, **kwargs).fill_(torch.nan))
    arguments = problem(classes=classes)
    losses, (sums, _, grad) = forward(*arguments, reduction="sum")
    again = backward(*arguments, forward(*arguments)[1], torch.ones(5))
    assert all(x.isfinite().all() for x in (losses, sums, grad, again))
    assert [tuple(x.shape) for x in (losses, sums, grad, again)] == [(5,), (5, 4), (5, classes), (5, classes)]


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_one_pass_gives_the_gradient_of_two(dtype, soft):
    """To the last bit, in rows that are read twice and in those that are read four times."""
    logits, targets, options = problem(soft, classes=2100)
    arguments = (logits * torch.tensor([[1.0], [5], [0.1], [1], [20]])).to(dtype), targets, options
    torch.testing.assert_close(in_one_pass(arguments), both(arguments, torch.tensor(1.0)), rtol=0, atol=0)


def test_an_upstream_of_one_leaves_what_forward_wrote():
    """And any other has it written anew, as float32 would have it, NaN and a loss scale included."""
    arguments = problem(soft=False)
    for upstream in (1.0, 65536.0, 1 / 3, -1.0, 0.0, torch.nan):
        _, residuals = forward(*arguments, reduction="sum")
        residuals.gradient.fill_(7)
        got = backward(*arguments, residuals, torch.tensor(upstream))
        assert got is residuals.gradient
        if upstream == 1:
            assert (got == 7).all()
        else:
            torch.testing.assert_close(
                got, both(arguments, torch.full((5,), upstream))[1], rtol=0, atol=0, equal_nan=True
            )


def test_inputs_are_not_modified():
    arguments = problem()
    copies = every(torch.clone, arguments)
    both(arguments, torch.ones(5))
    for x, copy in zip((*arguments[:2], *arguments[2]), (*copies[:2], *copies[2]), strict=True):
        torch.testing.assert_close(x, copy, rtol=0, atol=0)


def test_a_spoiled_half_spoils_the_gradient_of_both():
    """A NaN in one half makes the gradient of the whole row NaN, so that no step is made by half an example."""
    logits = torch.tensor([[torch.nan, 1.0, 2.0], [0.0, 1.0, 2.0]])
    grad = both((logits, torch.tensor([[True, True, False]] * 2), Options()), torch.ones(2))[1]
    assert grad.isnan().tolist() == [[True] * 3, [False] * 3]


def test_a_triton_that_is_too_old_is_left_alone(monkeypatch):
    for version, available in (("3.2.0+git0", False), ("3.3.0", True), ("3.10.0", True)):
        monkeypatch.setattr(triton, "__version__", version)
        assert _cuda.available.__wrapped__() is available


def test_without_triton():
    result = subprocess.run([sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loss_asked_to_use_the_kernels_agrees_with_plain_composition(dtype, reduction):
    """Reduction, upstream, class axis and options on their way to the kernels and back."""
    logits = torch.from_numpy(RNG.normal(0, 3, (7, 2, 5))).to(dtype)
    targets, mask = torch.from_numpy(RNG.random((7, 2, 5)) < 0.3), torch.from_numpy(RNG.random((7, 1, 5)) < 0.8)
    results = []
    for impl in ("plain", "triton"):
        x = logits.clone().requires_grad_()
        with np.errstate(all="ignore"):
            loss = zlpr_loss(x, targets, dim=(0, 2), mask=mask, weight=2.0, reduction=reduction, impl=impl)
            loss.backward(torch.linspace(1, 2, loss.numel()).reshape(loss.shape))
        results.append((loss.detach(), x.grad))
    torch.testing.assert_close(*results, rtol=1e-6 if dtype == torch.float32 else 8e-3, atol=1e-9)
