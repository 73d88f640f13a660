"""What training code asks of any module: saving, copies, threads, recomputation."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch_losses import (
    HARD,
    LINEAR,
    LOGITS,
    LOSSES,
    SOFT,
    Training,
    assert_same,
    each,
    each_loss,
    rows,
    value_and_gradients,
)

from zlpr_torch import ZLPRLoss

each_module = each(LOSSES | LINEAR)


def options(fill):
    return {"weight": torch.full((5,), fill), "pos_weight": torch.tensor(fill), "threshold": nn.Parameter(torch.full((5,), fill))}  # fmt: skip


def test_state_dict_through_a_file(tmp_path):
    """Buffers and parameters come back from a file that may hold nothing but tensors."""
    saved, loaded = ZLPRLoss(**options(0.5)), ZLPRLoss(**options(2.0))
    torch.save(saved.state_dict(), tmp_path / "loss.pt")
    loaded.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
    arguments = {"input": LOGITS, "target": SOFT}
    assert_same(value_and_gradients(loaded, arguments), value_and_gradients(saved, arguments), rtol=0, atol=0)
    assert loaded.state_dict().keys() == {"weight", "pos_weight", "threshold"}


@each_module
def test_whole_modules_through_a_file(tmp_path, make, arguments):
    module = make()
    torch.save(module, tmp_path / "loss.pt")
    for clone in (torch.load(tmp_path / "loss.pt", weights_only=False), copy.deepcopy(module)):
        assert_same(value_and_gradients(clone, arguments), value_and_gradients(module, arguments), rtol=0, atol=0)
        assert not {*map(id, clone.parameters())} & {*map(id, module.parameters())}


def state(module):
    """What a call could change: the attributes by identity, the tensors by identity and version."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    own = {name: id(value) for name, value in vars(module).items()}
    return own, {name: (id(tensor), tensor._version) for name, tensor in tensors}


@each_module
def test_a_call_leaves_the_module_alone(make, arguments):
    """``DataParallel`` copies parameters and buffers to each device; a tensor kept anywhere else would stay behind."""
    module = make()
    before = state(module)
    value_and_gradients(module, arguments)
    assert state(module) == before
    assert not [name for name, value in vars(module).items() if isinstance(value, Tensor)]


def by_threads_and_alone(module, arguments):
    """Different batch sizes, from two threads at once and one after another."""
    batches = [rows(arguments, number) for number in (6, 1, 4, 2)] * 5
    alone = [value_and_gradients(module, batch) for batch in batches]
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(lambda batch: value_and_gradients(module, batch), batches)), alone


@each_loss
def test_two_threads_share_a_module(make, arguments):
    assert_same(*by_threads_and_alone(make(), arguments), rtol=0, atol=0)


@each(LINEAR)
def test_two_threads_share_a_linear_layer(make, arguments):
    """PyTorch's products are rounded differently in another thread."""
    assert_same(*by_threads_and_alone(make(), arguments))


class Recomputed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *arguments, **named):
        return checkpoint(self.inner, *arguments, use_reentrant=False, **named)


@each_module
def test_a_recomputed_loss(make, arguments):
    module = make()
    got = value_and_gradients(Recomputed(module), arguments)
    assert_same(got, value_and_gradients(module, arguments), rtol=0, atol=0)


@pytest.mark.parametrize("target", [HARD, SOFT], ids=["hard", "soft"])
def test_a_recomputed_model(target):
    """``checkpoint`` around the model and its loss, or around the model alone."""
    training, arguments = Training(ZLPRLoss()), {"features": torch.randn(6, 4), "target": target}
    expected = value_and_gradients(training, arguments)
    assert_same(value_and_gradients(Recomputed(training), arguments), expected, rtol=0, atol=0)
    training.layer = Recomputed(training.layer)
    assert_same(value_and_gradients(training, arguments), expected, rtol=0, atol=0)
