"""What a chunk of the linear loss costs on a GPU: launches, operations and memory, and that nothing waits for it."""

import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from zlpr_core._indices import Ids
from zlpr_core._options import DEFAULT
from zlpr_torch import _chunks, _cuda, _cuda_chunks, _plan, linear_zlpr_loss, multi_hot, sparse_linear_zlpr_loss
from zlpr_torch._layer import Layer, Targets

pytestmark = pytest.mark.usefixtures("like_a_gpu")
ROWS, FEATURES, CLASSES = 4, 3, 640
GENERATOR = torch.Generator().manual_seed(41)
IDS = torch.randint(CLASSES, (ROWS, 3), generator=GENERATOR)
HARD = multi_hot(IDS, CLASSES)
OPTIONS = {"mask": HARD | (torch.rand(ROWS, CLASSES, generator=GENERATOR) < 0.5), "pos_weight": 2.0}
VIEWS = {
    "slice",
    "view",
    "t",
    "expand",
    "detach",
    "unsqueeze",
    "alias",
    "transpose",
    "unbind",
    "_unsafe_view",
    "select",
}
MEMORY = {"empty", "new_empty", "empty_like"}
WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "_unique2", "masked_select"}


class Operations(TorchDispatchMode):
    """What is launched, by its name; whatever would wait for the device is refused."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in WAITS, f"{name} waits for the device"
        assert not (name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1]))
        self.seen += [name] if name not in VIEWS | MEMORY else []
        return func(*args, **(kwargs or {}))


class Launches:
    """In place of the kernels: notes what is launched, and computes nothing."""

    def __init__(self, seen):
        self.seen = seen

    def __getattr__(self, name):
        return type("Kernel", (), {"__getitem__": lambda _, grid: lambda *args, **how: self.seen.append(name)})()


def layer(classes=CLASSES, dtype=torch.float32):
    shapes = (ROWS, FEATURES), (classes, FEATURES), (classes,)
    generator = torch.Generator().manual_seed(42)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def loss_of(arrays, target, **options):
    """In chunks of 128 classes, unless told."""
    function = sparse_linear_zlpr_loss if target is IDS else linear_zlpr_loss
    return function(arrays[0], arrays[1], target, arrays[2], **{"memory_budget": 1, **options})


def sweeps(monkeypatch, classes, target, **options):
    """What forward and backward launch. With a hook, because a call without one is an op for whoever looks on."""
    target = target if target is IDS else target[:, :classes]
    given = {name: x[:, :classes] if isinstance(x, torch.Tensor) else x for name, x in options.items()}
    with Operations() as forward:
        monkeypatch.setattr(_cuda, "kernels", Launches(forward.seen))
        loss = loss_of(layer(classes), target, weight_grad_hook=lambda *part: None, **given)
    with Operations() as backward:
        monkeypatch.setattr(_cuda, "kernels", Launches(backward.seen))
        loss.backward()
    return forward.seen, backward.seen


def a_chunk(monkeypatch, target, **options):
    """Launches of a chunk more, in either sweep."""
    counts = [[Counter(seen) for seen in sweeps(monkeypatch, n * 128, target, **options)] for n in (4, 5)]
    return [sorted((more - fewer).elements()) for fewer, more in zip(*counts, strict=True)]


PER_CHUNK = {
    "dense": (HARD, {}, ["addmm", "loss_kernel"], ["addmm", "addmm_", "gradient_kernel", "mm", "sum"]),
    "ids": (
        IDS,
        {},
        ["addmm", "loss_kernel", "mark_kernel"],
        ["addmm", "addmm_", "gradient_kernel", "mark_kernel", "mm", "sum"],
    ),
    "options": (
        HARD,
        OPTIONS,
        ["addmm", "any", "bitwise_or", "loss_kernel"],
        ["addmm", "addmm_", "gradient_kernel", "mm", "sum"],
    ),
}


@pytest.mark.parametrize(("target", "options", "forward", "backward"), PER_CHUNK.values(), ids=PER_CHUNK)
def test_launches_of_a_chunk(monkeypatch, target, options, forward, backward):
    """One kernel beside the products, and nothing that waits for the device."""
    assert a_chunk(monkeypatch, target, **options) == [forward, backward]


def test_launches_of_a_chunk_of_rows(monkeypatch):
    """The gradient is made by the kernel of the losses."""
    targets = Targets(None, Ids(IDS, IDS < 0, (IDS >= CLASSES).any(1)))
    whole, wanted = Layer(*map(torch.detach, layer()), targets, DEFAULT), _chunks.Wanted(True, True, True)
    with Operations() as forward:
        monkeypatch.setattr(_cuda, "kernels", Launches(forward.seen))
        _chunks.one_sweep(whole, 2, ROWS, wanted)
    chunk = ["addmm", "addmm_", "add_", "loss_kernel", "mark_kernel", "mm", "sum"]
    assert all(forward.seen.count(name) == 2 for name in chunk)


@pytest.mark.parametrize("target", [HARD, IDS], ids=["dense", "ids"])
def test_a_gradient_takes_the_place_of_its_logits(monkeypatch, target):
    """Those of the user stay as they are: only a chunk's own memory is written over."""
    seen, gradient = [], _cuda_chunks.gradient

    def watched(chunk, *others):
        found = gradient(chunk, *others)
        seen.append((found.data_ptr(), chunk.logits.data_ptr()))
        return found

    monkeypatch.setattr(_cuda_chunks, "gradient", watched)
    loss_of(layer(), target).backward()
    assert len(seen) == 5
    assert len({pointer for pair in seen for pointer in pair}) == 1


class Broken:
    """A kernel that this Triton cannot compile."""

    tried = 0

    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            self.tried += 1
            msg = "no such type"
            raise AssertionError(msg)

        return launch


WAYS = {"classes": {"memory_budget": 1}, "rows": {"memory_budget": 2 * 4 * 2 * CLASSES}}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("kernel", "target", "what"),
    [
        ("mark_kernel", IDS, "torch.int64 class ids"),
        ("loss_kernel", IDS, "torch.float32 logits, torch.bool targets and no option"),
        ("gradient_kernel", HARD, "torch.float32 logits, torch.bool targets and no option"),
    ],
    ids=["ids", "losses", "gradient"],
)
def test_what_does_not_compile_is_left_to_the_formula(monkeypatch, kernel, target, what, way):
    """With one warning. Chunks of rows have no use for the kernel of the gradient alone."""
    arrays, broken = layer(), Broken()
    monkeypatch.setattr(_plan, "FEWEST_ROWS", 1)
    true = loss_of(arrays, target, **WAYS[way])
    slopes = torch.autograd.grad(true, arrays)
    monkeypatch.setattr(_cuda, "_refused", set())
    monkeypatch.setattr(_cuda.kernels, kernel, broken)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(2):
            loss = loss_of(arrays, target, **WAYS[way])
            torch.testing.assert_close(loss, true)
            torch.testing.assert_close(torch.autograd.grad(loss, arrays), slopes)
    tried = not (kernel == "gradient_kernel" and way == "rows")
    assert broken.tried == len(warned) == tried
    assert all(f"cannot run the kernel for {what}, so" in str(warning.message) for warning in warned)


def test_bfloat16_without_a_kernel(monkeypatch):
    """By the formula, which computes in float32; the products are those of bfloat16."""
    arrays = layer(dtype=torch.bfloat16)
    monkeypatch.setattr(_cuda, "_refused", {(torch.bfloat16, torch.bool, 0), (torch.bool, torch.int64, 0)})
    without = [loss_of(arrays, IDS)]
    without += torch.autograd.grad(without[0], arrays)
    monkeypatch.setattr(_cuda, "_refused", set())
    by_kernel = [loss_of(arrays, IDS)]
    by_kernel += torch.autograd.grad(by_kernel[0], arrays)
    assert by_kernel[0].dtype == torch.float32
    np.testing.assert_allclose(without[0].item(), by_kernel[0].item(), rtol=1e-6)
    torch.testing.assert_close(without[1:], by_kernel[1:], rtol=8e-3, atol=1e-6)
