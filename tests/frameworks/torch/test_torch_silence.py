"""Inside the kernels too nothing makes a NaN or an infinity of healthy input, and anomaly detection finds none.

The tools of PyTorch see a kernel as one operation, so it is called here by itself.
"""

import itertools

import pytest
import torch
from harness.pytorch import Watch

from zlpr_core._options import Options
from zlpr_torch import _cpu, zlpr_loss

torch.manual_seed(80)
FAR = torch.tensor(
    [[80.0, -80.0, 79.0, -79.0, 3.0], [-80.0] * 5, [80.0] * 5, [0.0] * 5, [3.0, 60.0, -1.0, 80.0, -80.0]]
)
MODERATE = 3 * torch.randn(5, 5)
SOFT = torch.rand(5, 5)
TARGETS = {"bool": SOFT < 0.5, "int": (SOFT < 0.5).long(), "ones": (SOFT < 0.5).float(), "soft": SOFT, "none": torch.zeros(5, 5)}  # fmt: skip
OPTIONS = {
    "none": Options(),
    "mask": Options(SOFT > 0.3),
    "nothing kept": Options(torch.zeros(5, 5, dtype=torch.bool)),
    "weights": Options(weight=torch.tensor([0.0, 1.0, 2.0, 0.5, 100.0]), pos_weight=10.0),
    "threshold": Options(threshold=torch.tensor([0.5, -1.0, 0.0, 2.0, -3.0])),
    "all": Options(SOFT > 0.3, torch.rand(5, 1), torch.rand(5), 0.25),
}
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_the_kernel_of_the_cpu(monkeypatch, target, options, dtype):
    """At once, in one block, in several, and in backward by itself as after a second use of the graph."""
    sizes = (_cpu.FEW, _cpu.CELLS), (0, _cpu.CELLS), (0, 10)
    for (few, cells), logits, reduction in itertools.product(sizes, (FAR, MODERATE), ("mean", "sum", "none")):
        monkeypatch.setattr(_cpu, "FEW", few)
        monkeypatch.setattr(_cpu, "CELLS", cells)
        arguments, way = (logits.to(dtype), target, options), ((1,), reduction)
        with Watch():
            loss, residuals = _cpu.forward(*arguments, *way, with_gradient=True)
            for kept in (residuals, None):
                _cpu.backward(torch.full_like(loss, 0.5), kept, *arguments, *way, overwrite=False)


def test_the_watch_sees_into_the_kernel():
    with Watch(), pytest.raises(FloatingPointError, match="NaN or infinity made by"):
        _cpu.forward(FAR + torch.inf, TARGETS["soft"], Options(), (1,), "mean", with_gradient=True)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@pytest.mark.parametrize("impl", ["auto", "plain"])
def test_anomaly_detection_in_second_order(impl):
    with torch.autograd.detect_anomaly():
        for target, options in itertools.product(TARGETS.values(), OPTIONS.values()):
            named = {{"where": "mask"}.get(name, name): option for name, option in options.by_name().items()}
            x = FAR.clone().requires_grad_()
            (slope,) = torch.autograd.grad(zlpr_loss(x, target, **named, impl=impl), x, create_graph=True)
            torch.autograd.grad(slope.sum(), x)
