"""``torch.export`` and ONNX Runtime: the loss travels, alone and behind a model."""

import onnxruntime
import pytest
import torch
from torch_losses import HARD, LOGITS, LOSSES, SOFT, Training, assert_same, each, each_loss, rows, value_and_gradients

from zlpr_torch import ZLPRLoss

# PyTorch's own, inside its exporter
pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
EPS = torch.finfo(torch.float32).eps  # ONNX has no log1p: each half of the loss rounds 1 + x, by half an eps


def batches(arguments):
    return {name: {0: torch.export.Dim.DYNAMIC} for name in arguments}


@each_loss
def test_export_with_the_batch_dynamic(make, arguments):
    """One program for every batch size, that differentiates as the module does."""
    module = make()
    program = torch.export.export(module, (), arguments, dynamic_shapes=batches(arguments))
    for number in (6, 3, 1):
        batch = rows(arguments, number)
        assert_same(value_and_gradients(program.module(), batch), value_and_gradients(module, batch))


def test_an_exported_program_can_be_saved(tmp_path):
    arguments = {"input": LOGITS, "target": HARD}
    program = torch.export.export(ZLPRLoss(), (), arguments, dynamic_shapes=batches(arguments))
    torch.export.save(program, tmp_path / "loss.pt2")
    loaded = torch.export.load(tmp_path / "loss.pt2").module()
    assert_same(value_and_gradients(loaded, arguments), value_and_gradients(ZLPRLoss(), arguments))


def session(module, arguments):
    """A function of torch tensors that ONNX Runtime computes."""
    program = torch.onnx.export(
        module.eval(), kwargs=arguments, dynamic_shapes=batches(arguments), dynamo=True, verbose=False
    )
    runtime = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(**inputs):
        (loss,) = runtime.run(None, {name: x.numpy() for name, x in inputs.items()})
        return torch.from_numpy(loss)

    return run


@each({name: LOSSES[name] for name in ("bool", "soft", "options", "ids with options", "KL", "R-Drop with options")})
def test_onnx_runtime(make, arguments):
    module = make(reduction="none")
    run = session(module, arguments)
    for number in (6, 3, 1):
        batch = rows(arguments, number)
        assert_same(run(**batch), module(**batch).detach(), atol=0)


@pytest.mark.parametrize("target", [HARD, SOFT], ids=["hard", "soft"])
def test_onnx_runtime_behind_a_model(target):
    training = Training(ZLPRLoss())
    run = session(training, {"features": torch.randn(6, 4), "target": target})
    for number in (6, 2):
        batch = {"features": torch.randn(number, 4), "target": target[:number]}
        assert_same(run(**batch), training(**batch).detach(), atol=0)


inf, nan = torch.inf, torch.nan
EDGES = torch.tensor(
    [[1e4, -1e4, 1e4], [-1e4, 1e4, -1e4], [inf, -inf, 1], [-inf, 0, 0], [0, inf, 0], [nan, 0, 0], [60, -60, -60], [12, -13, -14], [0, 0, 0]]
)  # fmt: skip
EDGE_TARGETS = torch.tensor([[1, 0, 0]] * 8 + [[7, 0, 1]])


@pytest.mark.parametrize("target", [EDGE_TARGETS, EDGE_TARGETS.float()], ids=["int64", "soft"])
def test_onnx_runtime_at_the_edges(target):
    """Extreme, infinite, NaN and illegal cells end as in PyTorch; only losses far below 1 lose their digits."""
    arguments = {"input": EDGES, "target": target}
    module = ZLPRLoss(reduction="none")
    got = session(module, arguments)(**arguments)
    torch.testing.assert_close(got, module(**arguments), rtol=1e-6, atol=EPS, equal_nan=True)
    assert got.isinf().tolist() == [False] * 3 + [True] * 2 + [False] * 4
