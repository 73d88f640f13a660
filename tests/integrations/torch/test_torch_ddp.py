"""``DistributedDataParallel`` on two processes: the gradient of the whole batch, whatever way it is shared out."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch_losses import HARD, SOFT, Training, assert_same
from torch_page import from_page

from zlpr_torch import LinearZLPRLoss, ZLPRLoss

mean_of_all = from_page("mean_of_all")
FEATURES = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
CLASSES = 300
TARGETS = {
    "hard": HARD,
    "soft": SOFT,
    "linear": torch.rand(6, CLASSES, generator=torch.Generator().manual_seed(1)) < 0.05,
}
SHARES = {"equal": 3, "unequal": 2}  # of the six examples, how many the first process has


def training(name, seed, **options):
    """Learned threshold and weight buffers; each process starts from other numbers, and DDP has to make them equal."""
    torch.manual_seed(seed)
    if name == "linear":  # its classes in chunks
        return LinearZLPRLoss(4, CLASSES, memory_budget=4 * 4 * 6 * 128, **options)
    threshold = nn.Parameter(torch.randn(5))
    return Training(ZLPRLoss(weight=torch.rand(5), pos_weight=torch.rand(5), threshold=threshold, **options))


def gradients(model):
    return {name.removeprefix("module."): parameter.grad for name, parameter in model.named_parameters()}


def step(rank, name, first, reduction):
    """The gradients that a process has when its backward pass is over."""
    model = nn.parallel.DistributedDataParallel(training(name, seed=rank, reduction=reduction))
    mine = slice(first) if rank == 0 else slice(first, None)
    loss = model(FEATURES[mine], TARGETS[name][mine])
    if reduction == "sum":
        loss = mean_of_all(loss, len(FEATURES[mine]))
    loss.backward()
    return gradients(model)


def process(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    steps = {
        f"{name} {share} {reduction}": step(rank, name, SHARES[share], reduction)
        for name in TARGETS
        for share in SHARES
        for reduction in ("mean", "sum")
    }
    torch.save(steps, folder / f"{rank}.pt")
    dist.destroy_process_group()


def run_both(tmp_path_factory, tries=3):
    """The folder of what they found. If one is aborted, as gloo's threads may (pytorch/gloo#514), both begin anew."""
    folder = tmp_path_factory.mktemp("ddp")
    try:
        torch.multiprocessing.spawn(process, (folder,), nprocs=2)
    except torch.multiprocessing.ProcessExitedException as error:
        if error.signal_name != "SIGABRT" or tries == 1:
            raise
        return run_both(tmp_path_factory, tries - 1)
    return folder


@pytest.fixture(scope="module")
def on_two_processes(tmp_path_factory):
    """The gradients of every case, which both processes have."""
    folder = run_both(tmp_path_factory)
    first, second = (torch.load(folder / f"{rank}.pt") for rank in (0, 1))
    assert_same(first, second, rtol=0, atol=0)
    return first


def on_one_process(name):
    model = training(name, seed=0)
    model(FEATURES, TARGETS[name]).backward()
    return gradients(model)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("case", ["equal mean", "equal sum", "unequal sum"])
def test_gradients_of_the_whole_batch(on_two_processes, name, case):
    assert_same(on_two_processes[f"{name} {case}"], on_one_process(name))


@pytest.mark.parametrize("name", TARGETS)
def test_a_mean_of_means_is_another_number(on_two_processes, name):
    got, whole = on_two_processes[f"{name} unequal mean"], on_one_process(name)
    assert max((got[part] - whole[part]).abs().max() for part in whole) > 1e-3
