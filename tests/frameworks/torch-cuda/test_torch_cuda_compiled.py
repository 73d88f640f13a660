"""Compiled training steps on a GPU, with CUDA graphs and without: right at every replay, by one graph for all batches."""

import pytest
import torch
import torch._dynamo
from harness.pytorch import CudaTorch

from zlpr_torch import ZLPRLoss, zlpr_loss

pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # Dynamo's own look
GENERATOR = torch.Generator().manual_seed(0)
LAYER = torch.randn(7, 40, generator=GENERATOR)
TARGETS = {"bool": torch.rand(12, 40, generator=GENERATOR) < 0.1, "soft": torch.rand(12, 40, generator=GENERATOR)}


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def batches(number, rows=12):
    return [torch.randn(rows, 7, generator=GENERATOR).to(CudaTorch.device) for _ in range(number)]


def step(loss, features, layer, target):
    """Value and gradient, as a step of training needs them, with the upstream gradient of a loss scale."""
    value = loss(features @ layer, target)
    return value.detach().clone(), torch.autograd.grad(1024 * value, layer)[0].clone()


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_every_replay_is_right(mode, name):
    """With ``reduce-overhead`` the first calls record a CUDA graph, and the others replay it on other numbers."""
    layer = LAYER.to(CudaTorch.device, copy=True).requires_grad_()
    target = TARGETS[name].to(CudaTorch.device)
    compiled = torch.compile(ZLPRLoss(), mode=mode, fullgraph=True)
    for features in batches(5):
        torch.compiler.cudagraph_mark_step_begin()
        got = step(compiled, features, layer, target)
        expected = step(lambda x, y: zlpr_loss(x, y, impl="plain"), features, layer, target)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    is_recorded = mode == "reduce-overhead" and CudaTorch.device == "cuda"
    assert not (is_recorded and torch._dynamo.utils.counters["inductor"]["cudagraph_skips"])


def test_other_batch_sizes_are_not_compiled_again():
    """Counted by Dynamo and not by the backend, which it asks twice for one graph where Inductor's cache is empty."""
    compiled = torch.compile(ZLPRLoss(), fullgraph=True, dynamic=True)
    layer = LAYER.to(CudaTorch.device, copy=True).requires_grad_()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in (12, 5, 9):
            step(compiled, *batches(1, rows), layer, TARGETS["bool"][:rows].to(CudaTorch.device, copy=True))
