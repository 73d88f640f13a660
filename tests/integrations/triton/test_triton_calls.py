"""What a call costs and moves: launches, operations, Python calls, and bytes, counted where no GPU can measure them."""

import sys
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from harness.triton import interpreter
from torch.utils._python_dispatch import TorchDispatchMode

from zlpr_core._options import DEFAULT, Options
from zlpr_torch import _cuda, zlpr_loss

torch.manual_seed(0)
LOGITS, TARGET = torch.randn(64, 20), torch.rand(64, 20) < 0.3
CALLS = {
    "plain": (LOGITS, TARGET, DEFAULT, (1,)),
    "every option": (LOGITS, TARGET, Options(None, torch.rand(20), 2.0, torch.rand(64, 1)), (1,)),
    "a mask": (LOGITS, TARGET, Options(torch.rand(64, 20) < 0.9), (1,)),
}


class Launches:
    """Stands in for the kernels: remembers what is launched, and does nothing."""

    def __init__(self):
        self.seen = []

    def __getattr__(self, name):
        return type(
            "Kernel", (), {"__getitem__": lambda _, grid: lambda *args, **how: self.seen.append((name, args))}
        )()


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def launches(monkeypatch):
    launches = Launches()
    monkeypatch.setattr(_cuda, "kernels", launches)
    return launches


def step(logits, target, options, axes, reduction="mean"):
    """What ``KernelLoss`` asks the kernels for."""
    loss, residuals = _cuda.forward(logits, target, options, axes, reduction, with_gradient=True)
    return _cuda.backward(torch.ones_like(loss), residuals, logits, target, options, axes, reduction, overwrite=True)


def python_calls(function, *arguments):
    """Of functions of zlpr_torch."""
    counted = Counter()

    def watch(frame, event, _):
        if event == "call" and "zlpr_torch" in frame.f_code.co_filename:
            counted[frame.f_code.co_name] += 1

    sys.setprofile(watch)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return counted


EXPECTED = {
    "plain": (["new_empty"] * 3 + ["mean"], 17),
    "every option": (["new_empty"] * 3 + ["mean"], 40),
    "a mask": (["expand", "any", "sum", "ones_like", "any", "maximum"] + ["new_empty"] * 3 + ["sum", "div"], 33),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_step_is_two_launches_and_few_calls(launches, name):
    operations, most = EXPECTED[name]
    step(*CALLS[name])  # what is remembered is remembered now
    launches.seen.clear()
    with Operations() as watched:
        step(*CALLS[name])
    assert [kernel for kernel, _ in launches.seen] == ["loss_kernel", "gradient_kernel"]
    assert [op for op in watched.seen if op != "ones_like"] == [op for op in operations if op != "ones_like"]
    assert not any(x is None or isinstance(x, (tuple, list)) for _, args in launches.seen for x in args)
    assert python_calls(step, *CALLS[name]).total() <= most


def test_a_loss_with_its_gradient_is_one_function(launches):
    """From ``zlpr_loss`` to the gradient: the whole way in Python."""
    x = LOGITS.clone().requires_grad_()

    def train():
        zlpr_loss(x, TARGET, impl="triton").backward()

    train()
    counted = python_calls(train)
    assert counted["forward"] == 2  # of the Function, and of the kernels
    assert counted.total() <= 38
    assert len(launches.seen) == 4


def test_without_a_gradient_forward_is_alone(launches):
    zlpr_loss(LOGITS, TARGET, impl="triton")
    assert [name for name, _ in launches.seen] == ["loss_kernel"]


class Bytes:
    """Bytes that kernels load, those of them for the first time, and bytes that they store."""

    def __init__(self, monkeypatch):
        self.loaded = self.stored = 0
        self.known = set()
        builder = interpreter.InterpreterBuilder
        load, store = builder.create_masked_load, builder.create_masked_store

        def watched_load(this, ptrs, mask, *rest, **kwargs):
            at, size = self.addresses(ptrs, mask)
            self.loaded += size * len(at)
            self.known.update((a, size) for a in at.tolist())
            return load(this, ptrs, mask, *rest, **kwargs)

        def watched_store(this, ptrs, value, mask, *rest, **kwargs):
            at, size = self.addresses(ptrs, mask)
            self.stored += size * len(at)
            return store(this, ptrs, value, mask, *rest, **kwargs)

        monkeypatch.setattr(builder, "create_masked_load", watched_load)
        monkeypatch.setattr(builder, "create_masked_store", watched_store)

    @staticmethod
    def addresses(ptrs, mask):
        return ptrs.data[mask.data.astype(bool)], max(ptrs.dtype.element_ty.primitive_bitwidth // 8, 1)

    @property
    def first(self):
        return sum(size for _, size in self.known)


CELLS, A_ROW = 4 * 5000, 4 * 64
MOVED = {
    # logits, targets: bytes a logit that are loaded for the first time and stored, by forward with the gradient
    "bfloat16 and bool": (torch.bfloat16, torch.bool, 5),
    "bfloat16 twice": (torch.bfloat16, torch.bfloat16, 6),
    "float32 and bool": (torch.float32, torch.bool, 9),
}


@pytest.mark.parametrize(("dtype", "kind", "expected"), MOVED.values(), ids=MOVED)
def test_bytes_a_logit(monkeypatch, dtype, kind, expected):
    logits, target = torch.randn(4, 5000).to(dtype), (torch.rand(4, 5000) < 0.3).to(kind)
    call, watched = (logits, target, DEFAULT, (1,), "mean"), Bytes(monkeypatch)
    _, residuals = _cuda.forward(*call, with_gradient=True)
    assert 0 <= watched.first + watched.stored - expected * CELLS <= A_ROW
    size = dtype.itemsize
    assert watched.loaded <= 2 * (expected - size) * CELLS + A_ROW  # the second time from the cache
    before = watched.loaded, watched.stored
    _cuda.backward(torch.ones(()), residuals, *call, overwrite=True)
    assert watched.stored == before[1]
    assert watched.loaded - before[0] <= 4 * 16  # a program reads the upstream, and nothing else
    _cuda.backward(torch.full((), 0.5), residuals, *call, overwrite=True)
    assert watched.stored - before[1] == size * CELLS


def test_bytes_a_logit_without_a_reduction(monkeypatch):
    logits, target = torch.randn(4, 5000).bfloat16(), torch.rand(4, 5000) < 0.3
    call, watched = (logits, target, DEFAULT, (1,), "none"), Bytes(monkeypatch)
    _, residuals = _cuda.forward(*call, with_gradient=True)
    _cuda.backward(torch.rand(4), residuals, *call, overwrite=True)
    assert 0 <= watched.loaded + watched.stored - 8 * CELLS <= 2 * A_ROW


class Broken:
    """A kernel that this Triton cannot compile."""

    def __init__(self):
        self.tried = 0

    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            self.tried += 1
            msg = "at 12:7:\nno such type"
            raise AssertionError(msg)

        return launch


@pytest.fixture
def nothing_refused(monkeypatch):
    monkeypatch.setattr(_cuda, "_refused", set())


def trained(**options):
    x = LOGITS.clone().requires_grad_()
    with np.errstate(all="ignore"):
        loss = zlpr_loss(x, TARGET, **options)
        (3 * loss).backward()
    return loss.detach(), x.grad


@pytest.mark.usefixtures("nothing_refused")
@pytest.mark.parametrize("kernel", ["loss_kernel", "gradient_kernel"])
@pytest.mark.parametrize("options", [{}, {"weight": 2.0, "mask": TARGET | (LOGITS > 0)}], ids=["plain", "options"])
def test_what_does_not_compile_is_left_to_the_formula(monkeypatch, kernel, options):
    """With one warning, whichever kernel it is, and never with an exception."""
    broken = Broken()
    monkeypatch.setattr(_cuda.kernels, kernel, broken)
    what = "mask, weight" if options else "no option"
    match = (
        f"cannot run the kernel for torch.float32 logits, torch.bool targets and {what}.*AssertionError: no such type"
    )
    with pytest.warns(RuntimeWarning, match=match) as warned:
        got = trained(**options, impl="triton")
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = trained(**options, impl="triton")
    assert broken.tried == 1
    for result in (got, again):
        torch.testing.assert_close(result, trained(**options, impl="plain"), rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("nothing_refused")
def test_another_kind_of_call_is_tried_all_the_same(monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(_cuda.kernels, "loss_kernel", Broken())
        with pytest.warns(RuntimeWarning, match="weight"):
            trained(weight=2.0, impl="triton")
    assert _cuda._refused == {(torch.float32, torch.bool, 16)}
    trained(impl="triton")
