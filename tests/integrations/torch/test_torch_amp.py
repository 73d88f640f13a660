"""``GradScaler`` and float16: the gradients it gives back, and the steps it refuses."""

import pytest
import torch
from torch import nn

from zlpr_torch import LinearZLPRLoss, ZLPRLoss, zlpr_loss

FEATURES = torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0], [1.0, 1.0, -1.0], [-1.0, 1.0, -1.0]])
HARD = FEATURES > 0
SOFT = 0.5 + 0.4 * FEATURES
NAN_FEATURE = FEATURES.clone()
NAN_FEATURE[0, 0] = torch.nan
THREE_ROUNDINGS = 3 * torch.finfo(torch.float16).eps / 2  # of the logits' gradient, its products and their sum


def scaled_identity(scale):
    """A layer whose logits are the features times ``scale``."""
    layer = nn.Linear(3, 3, bias=False)
    nn.init.eye_(layer.weight).data.mul_(scale)
    return layer


def scaled_backward(layer, target, scaler, features=FEATURES):
    with torch.autocast("cpu", torch.float16):
        loss = zlpr_loss(layer(features), target)
    scaler.scale(loss).backward()
    return loss


@pytest.mark.parametrize("target", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("margin", [0.5, 4.0, 16.0])
def test_unscaled_gradients(target, margin):
    """Those of float32, also where float16 by itself could not hold them: at a margin of 16 they are 3e-8."""
    layer, expected, scaler = scaled_identity(margin), scaled_identity(margin), torch.amp.GradScaler("cpu")
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    scaled_backward(layer, target, scaler)
    scaler.unscale_(optimizer)
    zlpr_loss(expected(FEATURES), target).backward()
    bound = THREE_ROUNDINGS * expected.weight.grad.abs().max()
    assert (layer.weight.grad - expected.weight.grad).abs().max() <= bound
    assert expected.weight.grad.abs().max() > 0


def test_without_a_scale_they_vanish():
    layer = scaled_identity(20.0)
    scaled_backward(layer, HARD, torch.amp.GradScaler("cpu", enabled=False))
    assert not layer.weight.grad.any()
    scaled_backward(layer, HARD, torch.amp.GradScaler("cpu"))
    assert layer.weight.grad.diagonal().all()


MANY = 300
FEW_LABELS = torch.rand(4, MANY, generator=torch.Generator().manual_seed(1)) < 0.02
each_budget = pytest.mark.parametrize("budget", [None, 4 * 4 * 4 * 128], ids=["dense", "chunks"])


def step_of_head(head, features):
    """Forward and backward in float16 under a scale of 65 536."""
    scaler = torch.amp.GradScaler("cpu", init_scale=65_536.0)
    with torch.autocast("cpu", torch.float16):
        loss = head(features, FEW_LABELS)
    scaler.scale(loss).backward()
    return scaler, torch.optim.SGD(head.parameters(), lr=1.0)


@each_budget
@pytest.mark.parametrize("margin", [0.1, 20.0])
def test_unscaled_gradients_of_a_linear_loss(budget, margin):
    """Those of the rounded inputs and weights in float32, down to the negatives' that float16 cannot hold."""
    torch.manual_seed(0)
    head, true = LinearZLPRLoss(3, MANY, memory_budget=budget), nn.Linear(3, MANY)
    for layer in (head, true):
        layer.weight.data = (margin * torch.randn(MANY, 3, generator=torch.Generator().manual_seed(2))).half().float()
        layer.bias.data.zero_()
    scaler, optimizer = step_of_head(head, FEATURES)
    scaler.unscale_(optimizer)
    zlpr_loss(true(FEATURES), FEW_LABELS).backward()
    half = torch.finfo(torch.float16).eps / 2  # the dense gradient is rounded as that of a layer is
    for found, expected in ((head.weight.grad, true.weight.grad), (head.bias.grad, true.bias.grad)):
        torch.testing.assert_close(found, expected, rtol=half, atol=1e-12)


@each_budget
def test_a_nan_loss_of_a_linear_layer_skips_the_step(budget):
    head = LinearZLPRLoss(3, MANY, memory_budget=budget)
    before = head.weight.detach().clone()
    scaler, optimizer = step_of_head(head, NAN_FEATURE)
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(head.weight, before)
    assert scaler.get_scale() == 65_536 / 2


def step(layer, criterion, target, features=FEATURES):
    """The loss of one step of training, and the scale after it."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD([*layer.parameters(), *criterion.parameters()], lr=1.0)
    with torch.autocast("cpu", torch.float16):
        loss = criterion(layer(features), target)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return loss.item(), scaler.get_scale()


ILLEGAL = HARD.long()
ILLEGAL[0, 0] = 7


@pytest.mark.parametrize(("features", "target"), [(NAN_FEATURE, HARD), (FEATURES, ILLEGAL)], ids=["logit", "target"])
def test_a_nan_loss_skips_the_step(features, target):
    layer, criterion = scaled_identity(1.0), ZLPRLoss(threshold=nn.Parameter(torch.zeros(3)))
    loss, scale = step(layer, criterion, target, features)
    assert loss != loss
    assert scale == 512
    torch.testing.assert_close(layer.weight, torch.eye(3), rtol=0, atol=0, check_dtype=False)
    assert not criterion.threshold.any()


def test_an_infinite_loss_does_not_skip_the_step():
    """A logit that overflowed to infinity on the wrong side gives no gradient of its own: the others make the step."""
    layer, beyond = scaled_identity(1.0), FEATURES.clone()
    layer.weight.data[1, 1] = beyond[0, 1] = 300.0
    loss, scale = step(layer, ZLPRLoss(), HARD & (beyond < 300), beyond)
    assert loss == torch.inf
    assert scale == 1024
    assert layer.weight.isfinite().all()
    assert layer.weight[0, 0] > 1


def test_a_finite_loss_steps():
    layer, criterion = scaled_identity(1.0), ZLPRLoss()
    loss, scale = step(layer, criterion, HARD)
    assert loss > 0
    assert scale == 1024
    assert (layer.weight.diagonal() > 1).all()
