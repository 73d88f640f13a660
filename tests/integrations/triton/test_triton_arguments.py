"""What reaches the Triton kernels from PyTorch: tensors on other devices, illegal cells. By Triton's interpreter."""

import harness.triton  # noqa: F401 - first, because it sets Triton to interpret
import numpy as np
import pytest
import torch

from zlpr_core._options import Options
from zlpr_torch import _cuda, zlpr_loss
from zlpr_torch._layout import layout_of

torch.manual_seed(0)
LOGITS = 3 * torch.randn(5, 4)
SOFT = torch.rand(5, 4)
HARD = SOFT < 0.5
MASK = torch.ones(5, 4, dtype=torch.bool).index_put((torch.tensor([1]), torch.tensor([3])), torch.tensor(False))


def both(target, options, logits=LOGITS, reduction="none"):
    """Loss and gradient as ``zlpr_loss`` asks the kernels for them."""
    with np.errstate(all="ignore"):
        loss, residuals = _cuda.forward(logits, target, options, (1,), reduction, with_gradient=True)
        return loss, _cuda.backward(torch.ones_like(loss), residuals, logits, target, options, (1,), reduction, overwrite=False)  # fmt: skip


def plain(target, options, logits=LOGITS):
    x = logits.clone().requires_grad_()
    named = {"mask": options.where, "weight": options.weight, "pos_weight": options.pos_weight}
    loss = zlpr_loss(x, target, **named, threshold=options.threshold, reduction="none", impl="plain")
    return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]


@pytest.mark.parametrize("target", [HARD, SOFT], ids=["bool", "soft"])
def test_tensors_without_axes(target):
    number = torch.tensor(0.75, dtype=torch.float64)
    options = Options(torch.tensor(True), number, number, -number)
    got = both(target, options)
    torch.testing.assert_close(got, both(target, Options(None, 0.75, 0.75, -0.75)), rtol=0, atol=0)
    torch.testing.assert_close(got, plain(target, options))


def test_tensors_without_axes_may_come_from_the_cpu():
    """As everywhere in PyTorch. A meta tensor stands for the GPU; the numbers are in the arguments already."""
    logits, number = LOGITS.to("meta"), torch.tensor(0.5)
    options = Options(torch.tensor(True), number, 2.0, -number)
    cells = _cuda.cells_of(layout_of(2, (1,)), logits, HARD.to("meta"), options)
    mask, *others = cells.arguments[6::3][:4]
    assert mask.device.type == "meta"
    assert others == [_cuda._bits(0.5), _cuda._bits(2.0), _cuda._bits(-0.5)]
    assert cells.kind == (torch.float32, torch.bool, 1 + 16 + 32 + 64)


@pytest.mark.parametrize("argument", ["target", "mask", "weight", "pos_weight", "threshold"])
def test_other_tensors_on_another_device_are_named(argument):
    target, options = HARD, Options()
    if argument == "target":
        target = HARD.to("meta")
    else:
        options = options._replace(**{{"mask": "where"}.get(argument, argument): HARD.float().to("meta")})
    match = rf"^`{argument}` must be on the device of `input`\. Received: meta and cpu\. Move it first\."
    for call in (
        lambda: _cuda.forward(LOGITS, target, options, (1,), "none", with_gradient=True),
        lambda: _cuda.backward(torch.ones(5), None, LOGITS, target, options, (1,), "none", overwrite=False),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def spoiled(values, value, column=2):
    return values.clone().index_put((torch.tensor(1), torch.tensor(column)), torch.tensor(value, dtype=values.dtype))


ONES = torch.ones(5, 4)
CASES = {
    "soft": (LOGITS, spoiled(SOFT, 1.5), Options()),
    "soft NaN": (LOGITS, spoiled(HARD.float(), torch.nan), Options()),
    "integer": (LOGITS, spoiled(HARD.long(), 2), Options()),
    "uint8": (LOGITS, spoiled(HARD.byte(), 255), Options()),
    "logit": (spoiled(LOGITS, torch.nan), SOFT, Options()),
    "logit, hard": (spoiled(LOGITS, torch.nan), HARD, Options()),
    "mask": (LOGITS, spoiled(SOFT, 7.0), Options(MASK)),
    "weight": (LOGITS, HARD, Options(MASK, spoiled(ONES, -1.0))),
    "pos_weight": (LOGITS, HARD, Options(MASK, None, spoiled(ONES, torch.inf))),
    "threshold": (LOGITS, SOFT, Options(threshold=spoiled(torch.zeros(5, 4), torch.nan))),
    "all": (LOGITS, spoiled(SOFT, 2.0), Options(MASK, torch.rand(5, 4), torch.rand(5, 4), 0.25)),
    "far out": (20 * LOGITS, spoiled(HARD.long(), 3), Options()),
    "infinite beside it": (spoiled(LOGITS, -torch.inf, 0), spoiled(torch.zeros(5, 4), torch.nan), Options()),
}


@pytest.mark.parametrize(("logits", "target", "options"), CASES.values(), ids=CASES)
def test_an_illegal_cell_makes_the_gradient_of_its_row_nan(logits, target, options):
    """As the plain formula does, in every cell that is kept and has a finite logit."""
    got, expected = both(target, options, logits), plain(target, options, logits)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7, equal_nan=True)
    kept = torch.ones(4, dtype=torch.bool) if options.where is None else options.where[1]
    assert got[0].isnan().tolist() == [False, True, False, False, False]
    assert torch.equal(got[1][1].isnan(), kept & ~logits[1].isinf())


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
@pytest.mark.parametrize("target", [HARD, ~HARD, SOFT], ids=["bool", "the other labels", "soft"])
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_an_infinite_logit_has_no_gradient(value, target, reduction):
    """On the right side of a hard label the loss is that of the others; else it is infinite, and no NaN comes of it."""
    logits = spoiled(LOGITS, value)
    got, expected = both(target, Options(), logits, reduction), plain(target, Options(), logits)
    assert got[1][1, 2] == 0
    torch.testing.assert_close(got[1], expected[1], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got[0].sum(), expected[0].sum(), rtol=1e-5, atol=1e-7)


def far_apart(values, stride):
    """The same values, with so many others between two rows or classes, of which no byte is ever touched."""
    strides = (stride, 1) if stride > 0 else (1, -stride)
    memory = torch.empty(4 * (sum(strides)) + 1, dtype=values.dtype)
    return memory.as_strided((5, 5), strides).copy_(values)


@pytest.mark.parametrize("stride", [2**29 + 1, -(2**29) - 1], ids=["rows", "classes"])
@pytest.mark.parametrize("which", ["logits", "target", "weight"])
def test_offsets_beyond_32_bits(which, stride):
    """2^31 and more logits in one tensor: the last row or class lies that far from the first."""
    logits, target, weight = torch.randn(5, 5), torch.rand(5, 5) < 0.5, torch.rand(5, 5)
    expected = both(target, Options(weight=weight), logits)
    given = {"logits": logits, "target": target, "weight": weight}
    given[which] = far_apart(given[which], stride)
    got = both(given["target"], Options(weight=given["weight"]), given["logits"])
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("target", [HARD, SOFT], ids=["bool", "soft"])
def test_a_loss_scale_reaches_what_half_precision_cannot_hold(target, dtype):
    """The scaled gradient is rounded once, so that small ones are not lost before the scale could save them."""
    logits = spoiled(LOGITS, -18.0).to(dtype)
    target, upstream, found = spoiled(target, False), torch.full((5,), 2.0**15), []
    for given in (logits, logits.float()):
        with np.errstate(all="ignore"):
            _, residuals = _cuda.forward(given, target, Options(), (1,), "none", with_gradient=True)
            found.append(_cuda.backward(upstream, residuals, given, target, Options(), (1,), "none", overwrite=False))
    assert torch.equal(found[0], found[1].to(dtype))
    assert found[0][1, 2] > 0
    assert (found[1][1, 2] / upstream[1]).half() == 0
