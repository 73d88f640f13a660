"""Rows that several programs share: nobody waits for ever, and what they compute together is what one computes.

Triton's interpreter runs one program after another, so that one that waits would never end there. The waiting is
proven on a model, and the kernel runs on counters that say that all others have come.
"""

from itertools import count

import numpy as np
import pytest
import torch
from harness.triton import ROWS, interpreter

from zlpr_core._options import Options
from zlpr_torch import _cuda
from zlpr_torch._triton_plan import MOST_PARTS, Cut, Device, cut_of

torch.manual_seed(0)
BEGUN, PLACED, STORED, ARRIVED = range(4)


def moves(state, room, parts, rows, by_ticket):
    """All that can happen next. A state is the programs that run, as (place, step), and those that have ended."""
    running, ended = state
    known = dict(running)
    places = ended | set(known)
    free = [p for p in range(rows * parts) if p not in places]
    if len(running) < room and free:
        # by ticket a program gets the next place, by id any: nothing says in which order programs begin
        for place in free[:1] if by_ticket else free:
            yield running | {(place, PLACED)}, ended
    for place, step in running:
        others = running - {(place, step)}
        row = range(place // parts * parts, place // parts * parts + parts)
        if step < ARRIVED:
            yield others | {(place, step + 1)}, ended
        elif all(p in ended or known.get(p) == ARRIVED for p in row):
            yield others, ended | {place}


def stuck(room, parts, rows, by_ticket=True):
    """Every state that can be reached, in any order of moves, in which nothing can happen and not all have ended."""
    first = (frozenset(), frozenset())
    seen, left, found = {first}, [first], []
    while left:
        state = left.pop()
        following = [tuple(map(frozenset, s)) for s in moves(state, room, parts, rows, by_ticket)]
        if not following and len(state[1]) < rows * parts:
            found.append(state)
        new = set(following) - seen
        seen |= new
        left += new
    return found


@pytest.mark.parametrize(("parts", "rows"), [(2, 1), (2, 3), (3, 2), (4, 2)])
def test_nobody_waits_for_ever(parts, rows):
    """Each move is one of finitely many, so that without a state that is stuck every program ends."""
    assert not stuck(parts, parts, rows)
    assert not stuck(parts + 1, parts, rows)


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_what_that_depends_on(parts):
    """Room for all programs of a row, and places in the order in which programs begin."""
    assert stuck(parts - 1, parts, 2)
    assert stuck(parts, parts, 2, by_ticket=False)


@pytest.mark.parametrize("multiprocessors", [1, 2, 3, 8, 30, 132, 304])
def test_a_device_has_room_for_all_programs_of_a_row(multiprocessors):
    for rows in (1, 16, 100, 10_000):
        for classes in (1, 20_000, 1_000_000, 2**31 + 1):
            cut = cut_of(rows, classes, 2, 1, 0, Device(multiprocessors, 4 * 2**20))
            assert 1 <= cut.parts <= min(MOST_PARTS, max(multiprocessors // 2, 1))
            assert cut.parts.bit_count() == cut.block.bit_count() == cut.warps.bit_count() == 1


H100 = Device(132, 50 * 2**20)
CUTS = {
    (64, 20, 4, 1): Cut(32, 1, 1),
    (256, 1000, 2, 1): Cut(1024, 2, 1),
    (512, 9605, 2, 1): Cut(2048, 8, 1),
    (512, 9605, 4, 4): Cut(2048, 8, 1),
    (4096, 32_768, 2, 1): Cut(8192, 32, 1),
    (4096, 32_768, 2, 2): Cut(8192, 16, 1),
    (4096, 32_768, 4, 4): Cut(8192, 32, 1),
    (8192, 131_072, 2, 1): Cut(4096, 16, 8),
    (16, 1_000_000, 2, 1): Cut(8192, 32, 16),
    (16, 1_000_000, 4, 1): Cut(8192, 32, 16),
    (64, 100_000, 2, 1): Cut(4096, 16, 4),
    (64, 100_000, 4, 1): Cut(8192, 32, 4),
}


@pytest.mark.parametrize(("call", "expected"), CUTS.items(), ids=map(str, CUTS))
def test_the_cuts_of_an_h100(call, expected):
    assert cut_of(*call, 0, H100) == expected


@pytest.mark.parametrize(("call", "of_32"), CUTS.items(), ids=map(str, CUTS))
def test_as_many_threads_where_a_warp_has_64(call, of_32):
    """As on AMD's devices, which take no more than 1 024."""
    of_64 = cut_of(*call, 0, H100._replace(warp_size=64))
    assert 64 * of_64.warps == max(32 * of_32.warps, 64)
    assert of_64._replace(warps=of_32.warps) == of_32


def test_options_and_float64_leave_room_in_the_registers():
    for logit_bytes, options in ((2, 1), (4, 4), (8, 0)):
        for classes in (20, 1000, 9605, 32_768, 1_000_000):
            cut = cut_of(64, classes, logit_bytes, 1, options, H100)
            assert cut.block <= 128 * cut.warps <= 1024


@pytest.fixture
def shared(monkeypatch):
    """Four parts to a row. What programs store is kept for the next launch, whose programs find the others' sums."""
    partial, empty, zeros = {}, torch.Tensor.new_empty, torch.Tensor.new_zeros

    def kept(x, shape, **kwargs):
        if isinstance(shape, tuple) and len(shape) == 3:
            return partial.setdefault(shape, empty(x, shape, **kwargs).fill_(torch.nan))
        return empty(x, shape, **kwargs)

    def arrived(x, size, **kwargs):
        counters = zeros(x, size, **kwargs)
        counters[1:] = 4
        return counters

    def use(parts):
        monkeypatch.setattr(_cuda, "cut_of", lambda *_: Cut(32, 1, parts))
        _cuda._launch_of.cache_clear()

    monkeypatch.setattr(torch.Tensor, "new_empty", kept)
    monkeypatch.setattr(torch.Tensor, "new_zeros", arrived)
    yield use
    _cuda._launch_of.cache_clear()


def losses_and_gradient(logits, targets, options):
    with np.errstate(all="ignore"):
        losses, residuals = _cuda.losses_of_rows(_cuda.cells_of(ROWS, logits, targets, options), 5, with_gradient=True)
    return losses, residuals.sums, residuals.gradient


SPREAD = torch.tensor([[1.0], [5], [50], [0.1], [200]])


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [20, 128, 300])
def test_parts_add_up_to_the_row(shared, classes, dtype, soft):
    """Empty parts too, and those of which some are too large for a sum without a shift."""
    logits, targets = SPREAD * torch.randn(5, classes), torch.rand(5, classes)
    logits[:, classes // 2 :] *= 0.1
    options = Options(torch.rand(5, classes) < 0.9, torch.rand(5, classes), None, 0.25)
    arguments = logits.to(dtype), targets.to(dtype) if soft else targets < 0.3, options
    shared(1)
    losses, _, gradient = losses_and_gradient(*arguments)
    shared(4)
    losses_and_gradient(*arguments)
    got = losses_and_gradient(*arguments)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got[0], losses, rtol=4 * eps, atol=0)
    torch.testing.assert_close(got[2], gradient, rtol=32 * eps, atol=eps if soft else 1e-30)  # two parts, below 1/5
    again = losses_and_gradient(*arguments)
    torch.testing.assert_close(again, got, rtol=0, atol=0)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("column", [0, 130, 299])
def test_a_part_that_is_not_finite(shared, column, value):
    logits, targets = torch.randn(5, 300), torch.rand(5, 300) < 0.3
    logits[2, column], targets[2, column] = value, value < 0
    shared(1)
    expected = losses_and_gradient(logits, targets, Options())
    shared(4)
    losses_and_gradient(logits, targets, Options())
    got = losses_and_gradient(logits, targets, Options())
    torch.testing.assert_close(got[0], expected[0], rtol=1e-6, atol=0, equal_nan=True)
    torch.testing.assert_close(got[2], expected[2], rtol=1e-5, atol=1e-9, equal_nan=True)


def test_a_program_stores_its_sums_before_it_arrives(shared, monkeypatch):
    """And reads those of the others only then, as the programs of the model do."""
    events, clock = [], count()
    for name in ("create_atomic_rmw", "create_masked_store", "create_masked_load"):
        original = getattr(interpreter.InterpreterBuilder, name)

        def recorded(*arguments, name=name, original=original, **kwargs):
            events.append((next(clock), name, arguments[2 if name == "create_atomic_rmw" else 1].data.size))
            return original(*arguments, **kwargs)

        monkeypatch.setattr(interpreter.InterpreterBuilder, name, recorded)
    shared(4)
    losses_and_gradient(torch.randn(1, 20), torch.rand(1, 20) < 0.3, Options())
    atomics = [i for i, (_, name, _) in enumerate(events) if name == "create_atomic_rmw"]
    assert len(atomics) == 8  # a ticket and an arrival for each part
    first, second = atomics[:2]
    scalars = [name for _, name, size in events[first:second] if size == 1]
    assert scalars.count("create_masked_store") == 4
    assert not [size for _, name, size in events[first:second] if name == "create_masked_load" and size == 4]
    assert [size for _, name, size in events[second:] if name == "create_masked_load"].count(4) >= 4
