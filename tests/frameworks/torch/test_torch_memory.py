"""Memory that a kernel of the CPU keeps for the next call: nothing that a call returns lies in it, and it is one thread's."""

import threading

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import zlpr_torch as z
from zlpr_torch._cpu_memory import kept_memory

SHAPE = (12, 1000)  # more cells than a small batch has, which keeps none
HARD = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) < 0.1
CALLS = {
    "kl": z.kl_divergence,
    "symmetric": z.symmetric_kl_divergence,
    "own": z.zlpr_divergence,
    "rdrop": lambda p, q, **options: z.rdrop_zlpr_loss(p, q, HARD, **options),
    "loss": lambda p, q, **options: z.zlpr_loss(p, HARD, **options) + z.zlpr_loss(q, HARD.float(), **options),
    "masked loss": lambda p, q, **options: z.zlpr_loss(p - q, HARD, mask=~HARD.roll(1, 1), **options),
}
by_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def step(call, seed, dtype=torch.float32, **options):
    """The value and both gradients, for logits drawn by ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.randn(SHAPE, generator=generator).to(dtype).requires_grad_() for _ in range(2))
    value = call(p, q, **options)
    return [value.detach(), *torch.autograd.grad(value.sum(), (p, q))]  # `backward` would copy what somebody holds


def same(got, expected):
    return all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@by_call
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_next_call_changes_no_result(call, reduction, dtype):
    first = step(call, 0, dtype, reduction=reduction)
    copies = [x.clone() for x in first]
    other = step(call, 1, dtype, reduction=reduction)
    assert same(first, copies)
    assert not same(other, copies)
    assert same(step(call, 0, dtype, reduction=reduction), copies)


@by_call
def test_memory_made_in_inference_mode_serves_training(call):
    expected = step(call, 0)
    kept_memory("pair", (1, 1), torch.float32)
    step(call, 0, torch.float64)  # so that the next call makes its memory anew
    with torch.inference_mode():
        call(torch.zeros(SHAPE), torch.ones(SHAPE))
    assert same(step(call, 0), expected)


@pytest.mark.parametrize("name", ["kl", "symmetric", "own", "rdrop"])
def test_new_memory_is_that_of_the_gradients(name):
    """Where glibc gives back what is freed, one array more takes R-Drop a tenth longer."""
    p, q = (torch.randn(SHAPE).requires_grad_() for _ in range(2))
    CALLS[name](p, q).backward()
    p.grad = q.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        CALLS[name](p, q).backward()
    assert len([event for event in profiled.events() if event.self_cpu_memory_usage >= p.nbytes]) == 2


@pytest.mark.parametrize(("name", "most"), [("kl", 11), ("symmetric", 5), ("own", 7), ("rdrop", 5)])
def test_arrays_beside_the_gradients(name, most):
    """Which serve as two more until they are written. With cold caches each array takes as long as an operation."""
    step(CALLS[name], 0, torch.float64)  # so that the next call makes its memory anew
    step(CALLS[name], 0)
    assert len(kept_memory("pair", SHAPE, torch.float32).arrays) == most


@by_call
def test_dtypes_take_turns(call):
    narrow, wide = step(call, 0), step(call, 0, torch.float64)
    assert narrow[1].dtype == torch.float32
    assert wide[1].dtype == torch.float64
    torch.testing.assert_close(narrow[0].double(), wide[0].double(), rtol=1e-5, atol=0)


def test_memory_is_kept_for_the_same_shape_in_the_same_thread():
    kept = kept_memory("pair", SHAPE, torch.float32)
    assert kept_memory("pair", SHAPE, torch.float32) is kept
    assert kept_memory("loss", SHAPE, torch.float32) is not kept
    found = []
    thread = threading.Thread(target=lambda: found.append(kept_memory("pair", SHAPE, torch.float32)))
    thread.start()
    thread.join()
    assert found[0] is not kept
    assert kept_memory("pair", (13, 1000), torch.float32) is not kept
    assert kept_memory("pair", SHAPE, torch.float32) is not kept


def test_one_row_is_not_kept():
    large = kept_memory("pair", (1, 10**6), torch.float32)
    assert kept_memory("pair", (1, 10**6), torch.float32) is not large
