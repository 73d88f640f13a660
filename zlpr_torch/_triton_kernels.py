# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""The Triton kernels that ``_cuda`` launches: the loss of each row with its gradient, the gradient alone, and targets.

Arguments are pointers, numbers and constants, one by one, because Triton 3.6 cannot take a tuple that holds None.
Everything that is read for a logit is a pointer and two strides. The bits of ``given`` say which options are there:

- absent: three zeros, never read;
- a tensor: its strides are 0 where it is broadcast;
- a number: the bits of its float64 in place of the pointer, because Triton makes float32 of a number.

For the same reason a constant that float32 cannot hold must be made by ``tl.full`` in the dtype that computes: beside
float64 a bare ``1 + 8 eps`` is 1.

``loss_kernel`` adds up a row with both shifts at 0. That needs no maximum, so the lanes of a program do not wait for
each other before the end of the row. Only a row with a sum above 2^64, for which a logit must be wrong by 35 or more,
is read two more times: for the largest term of each half, and for the sums that are scaled by it. At last the row is
read again, now from the L2 cache, and its gradient is written.

Of a row that ``parts`` programs share, each adds up its part, stores the sums, and waits for the others. It takes its
part by a ticket, in the order in which programs begin, and not by its id. So whoever waits has only programs before it
that have begun, which never wait before they store, and fewer than ``parts`` of its own row that have not. These find
room if ``parts`` programs fit the device at once, which ``_triton_plan`` sees to. The sums are added in order of
the parts, whoever comes first: results repeat.
"""

import triton
import triton.language as tl

MASK, WEIGHT, POS_WEIGHT, THRESHOLD = tl.constexpr(1), tl.constexpr(2), tl.constexpr(4), tl.constexpr(8)
WEIGHT_NUMBER, POS_WEIGHT_NUMBER, THRESHOLD_NUMBER = tl.constexpr(16), tl.constexpr(32), tl.constexpr(64)
"""The bits of ``given``: an option that is a tensor, and one that is a number."""


@triton.jit(do_not_specialize=["number"])
def loss_kernel(
    losses, sums, gradient, number, partial, counters,
    logits, logits_row, logits_step, targets, targets_row, targets_step, mask, mask_row, mask_step,
    weight, weight_row, weight_step, pos_weight, pos_weight_row, pos_weight_step,
    threshold, threshold_row, threshold_step, classes,
    given: tl.constexpr, slack: tl.constexpr, counted: tl.constexpr, with_gradient: tl.constexpr,
    parts: tl.constexpr, index: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The loss of each row, its sums, and the gradient of the mean over ``number`` rows. A program for each part."""
    dtype: tl.constexpr = losses.dtype.element_ty
    policy: tl.constexpr = "evict_last" if with_gradient else ""
    place = _place(counters, parts)
    row = (place // parts).to(tl.int64)
    cells = _row(
        row, logits, logits_row, logits_step, targets, targets_row, targets_step, mask, mask_row, mask_step,
        weight, weight_row, weight_step, pos_weight, pos_weight_row, pos_weight_step,
        threshold, threshold_row, threshold_step, given,
    )  # fmt: skip
    begin, end = _part(place % parts, classes, parts, index, block)
    shift_p, shift_n = tl.full([], 0, dtype), tl.full([], 0, dtype)
    sum_p, sum_n = _sums(cells, begin, end, classes, shift_p, shift_n, given, dtype, slack, policy, block)
    if tl.maximum(sum_p, sum_n) > 2.0**64:
        shift_p, shift_n = _shifts(cells, begin, end, classes, given, dtype, slack, policy, block)
        sum_p, sum_n = _sums(cells, begin, end, classes, shift_p, shift_n, given, dtype, slack, policy, block)
    if parts > 1:
        _store(partial + place.to(tl.int64) * 4, shift_p, sum_p, shift_n, sum_n)
        _meet(counters + 1 + row, parts)
        at = partial + row * (4 * parts)
        shift_p, sum_p = _merged(at, parts)
        shift_n, sum_n = _merged(at + 2, parts)
    rest_p, rest_n = sum_p + (tl.exp(-shift_p) - 1), sum_n + (tl.exp(-shift_n) - 1)
    if begin == 0:  # the first part
        tl.store(losses + row, (shift_p + _log1p(rest_p)) + (shift_n + _log1p(rest_n)))
        _store(sums + row * 4, shift_p, rest_p, shift_n, rest_n)
    if with_gradient:
        each = 1 / _number(number, counted, dtype)
        factor_p, factor_n = each / (1 + rest_p), each / (1 + rest_n)
        to = gradient + row * classes
        for start in range(begin, end, block):
            columns = start + tl.arange(0, block)
            _write(to, cells, columns, classes, shift_p, shift_n, factor_p, factor_n, given, dtype, slack)


@triton.jit(do_not_specialize=["number", "rows"])
def gradient_kernel(
    gradient, sums, upstream, upstream_step, number, rows,
    logits, logits_row, logits_step, targets, targets_row, targets_step, mask, mask_row, mask_step,
    weight, weight_row, weight_step, pos_weight, pos_weight_row, pos_weight_step,
    threshold, threshold_row, threshold_step, classes,
    given: tl.constexpr, slack: tl.constexpr, counted: tl.constexpr, is_written: tl.constexpr,
    index: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The gradient from the sums that ``loss_kernel`` left; nothing if that wrote it for this upstream, which is 1.

    Any number of programs take the blocks of all rows in turn.
    """
    dtype: tl.constexpr = sums.dtype.element_ty
    blocks = tl.cdiv(tl.full([], classes, tl.int64), block)
    chunks = tl.full([], rows, tl.int64) * blocks
    if is_written:
        chunks = tl.where(tl.load(upstream) == 1.0, 0, chunks)
    for chunk in range(tl.program_id(0).to(tl.int64), chunks, tl.num_programs(0)):
        row, columns = chunk // blocks, (chunk % blocks * block).to(index) + tl.arange(0, block)
        cells = _row(
            row, logits, logits_row, logits_step, targets, targets_row, targets_step, mask, mask_row, mask_step,
            weight, weight_row, weight_step, pos_weight, pos_weight_row, pos_weight_step,
            threshold, threshold_row, threshold_step, given,
        )  # fmt: skip
        at = sums + row * 4
        shift_p, rest_p, shift_n, rest_n = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
        each = tl.load(upstream + row * upstream_step).to(dtype) / _number(number, counted, dtype)
        factor_p, factor_n = each / (1 + rest_p), each / (1 + rest_n)
        to = gradient + row * classes
        _write(to, cells, columns, classes, shift_p, shift_n, factor_p, factor_n, given, dtype, slack)


@triton.jit(do_not_specialize=["first", "size"])
def mark_kernel(ids, slots, first, targets, size, block: tl.constexpr):
    """In bool ``targets`` of ``size`` classes True at the ids of those from ``first`` on. A program for each row.

    Until then it has those of as many classes before, and these are taken back.
    """
    row = tl.program_id(0).to(tl.int64)
    ids += row * slots
    targets += row * size
    _mark(ids, slots, first - size, targets, size, False, block)
    tl.debug_barrier()  # one thread may take a cell back that another marks
    _mark(ids, slots, first, targets, size, True, block)


@triton.jit
def _mark(ids, slots, first, targets, size, mark: tl.constexpr, block: tl.constexpr):
    for start in range(0, slots, block):
        slot = start + tl.arange(0, block)
        column = tl.load(ids + slot, slot < slots, -1).to(tl.int64) - first
        tl.store(targets + column, tl.full([block], mark, tl.int1), (slot < slots) & (column >= 0) & (column < size))


@triton.jit
def _place(counters, parts: tl.constexpr):
    """The number of the part that this program takes, counting those of all rows: the next that nobody has taken."""
    place = tl.program_id(0)
    if parts > 1:
        place = tl.atomic_add(counters, 1, sem="relaxed")
    return place


@triton.jit
def _part(part, classes, parts: tl.constexpr, index: tl.constexpr, block: tl.constexpr):
    """Where it begins, at a multiple of ``block``, and ends."""
    begin, end = tl.full([], 0, index), tl.full([], classes, index)
    if parts > 1:
        size = tl.cdiv(end, parts * block) * block
        begin = part * size
        end = tl.minimum(begin + size, end)
    return begin, end


@triton.jit
def _meet(counter, parts: tl.constexpr):
    """Wait for the programs that share a row. What each stored before is then seen by all."""
    tl.debug_barrier()
    seen = tl.atomic_add(counter, 1, sem="acq_rel") + 1
    while seen < parts:
        seen = tl.atomic_add(counter, 0, sem="acquire")
    tl.debug_barrier()


@triton.jit
def _merged(at, parts: tl.constexpr):
    """One shift and sum of those of all parts, which are whole numbers and the sums of terms that they scale."""
    ats = at + 4 * tl.arange(0, parts)
    shifts, sums = tl.load(ats, volatile=True), tl.load(ats + 1, volatile=True)
    shift = tl.max(shifts, 0)
    return shift, tl.sum(sums * tl.exp(shifts - shift), 0)


@triton.jit
def _store(at, shift_p, sum_p, shift_n, sum_n):
    tl.store(at, shift_p)
    tl.store(at + 1, sum_p)
    tl.store(at + 2, shift_n)
    tl.store(at + 3, sum_n)


@triton.jit
def _number(number, counted: tl.constexpr, dtype: tl.constexpr):
    """What the mean divides by: a number, or where one has been counted."""
    if counted:
        return tl.load(number).to(dtype)
    else:  # noqa: RET505 - Triton compiles the branch that is taken, and nothing after a return
        return tl.full([], number, dtype)


@triton.jit
def _row(
    row, logits, logits_row, logits_step, targets, targets_row, targets_step, mask, mask_row, mask_step,
    weight, weight_row, weight_step, pos_weight, pos_weight_row, pos_weight_step,
    threshold, threshold_row, threshold_step, given: tl.constexpr,
):  # fmt: skip
    """What is read for the logits of one row: pointers to its first cell, and strides. Numbers stay numbers."""
    if MASK & given:
        mask += row * mask_row
    if WEIGHT & given:
        weight += row * weight_row
    if POS_WEIGHT & given:
        pos_weight += row * pos_weight_row
    if THRESHOLD & given:
        threshold += row * threshold_row
    logits += row * logits_row
    targets += row * targets_row
    return (
        logits, logits_step, targets, targets_step, mask, mask_step,
        weight, weight_step, pos_weight, pos_weight_step, threshold, threshold_step,
    )  # fmt: skip


@triton.jit
def _sums(
    cells, begin, end, classes, shift_p, shift_n,
    given: tl.constexpr, dtype: tl.constexpr, slack: tl.constexpr, policy: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Of each half, ``e^-shift · Σ terms``; a shift is a whole number."""
    positives, negatives = tl.zeros([block], dtype), tl.zeros([block], dtype)
    for start in range(begin, end, block):
        columns = start + tl.arange(0, block)
        z, t, lost, weight_p, weight_n = _read(cells, columns, classes, given, dtype, slack, policy)
        positive, negative = _terms(z, t, lost, weight_p, weight_n, shift_p, shift_n)
        positives += positive
        negatives += negative
    return tl.sum(positives, 0), tl.sum(negatives, 0)


@triton.jit
def _shifts(
    cells, begin, end, classes,
    given: tl.constexpr, dtype: tl.constexpr, slack: tl.constexpr, policy: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The logarithm of each half's largest term, or of 1, rounded down; finite, so that inf - inf never is."""
    positives, negatives = tl.zeros([block], dtype), tl.zeros([block], dtype)
    for start in range(begin, end, block):
        columns = start + tl.arange(0, block)
        z, t, _, weight_p, weight_n = _read(cells, columns, classes, given, dtype, slack, policy)
        share = t.to(dtype)
        positives = tl.maximum(positives, _log_term(share * weight_p, -z))
        negatives = tl.maximum(negatives, _log_term((1 - share) * weight_n, z))
    largest = tl.full([], 1.7976931348623157e308 if dtype == tl.float64 else 3.4028234663852886e38, dtype)
    return tl.floor(tl.minimum(tl.max(positives, 0), largest)), tl.floor(tl.minimum(tl.max(negatives, 0), largest))


@triton.jit
def _write(
    to, cells, columns, classes, shift_p, shift_n, factor_p, factor_n,
    given: tl.constexpr, dtype: tl.constexpr, slack: tl.constexpr,
):  # fmt: skip
    """The gradient of one block."""
    z, t, lost, weight_p, weight_n = _read(cells, columns, classes, given, dtype, slack, "evict_first")
    positive, negative = _terms(z, t, lost, weight_p, weight_n, shift_p, shift_n)
    slope = tl.where(tl.abs(z) == float("inf"), 0.0, negative * factor_n - positive * factor_p)
    tl.store(to + columns, slope.to(to.dtype.element_ty), mask=columns < classes)


@triton.jit
def _read(cells, columns, classes, given: tl.constexpr, dtype: tl.constexpr, slack: tl.constexpr, policy: tl.constexpr):
    """``z``, target, the rounding error of ``z``, and the weights of a positive and of a negative.

    A cell that is masked, or beyond the last column, is a negative at -inf; one that holds anything illegal is NaN.
    """
    (
        logits, logits_step, targets, targets_step, mask, mask_step,
        weight, weight_step, pos_weight, pos_weight_step, threshold, threshold_step,
    ) = cells  # fmt: skip
    inside = columns < classes
    columns = columns.to(tl.int64)  # times a step they may leave the range of int32
    z = tl.load(logits + columns * logits_step, inside, float("-inf"), eviction_policy=policy).to(dtype)
    t = tl.load(targets + columns * targets_step, inside, 0, eviction_policy=policy)
    keep = tl.full(columns.shape, 1, tl.int1)
    if MASK & given:
        keep = tl.load(mask + columns * mask_step, inside, 0, eviction_policy=policy)
    weight_p, weight_n = tl.full(columns.shape, 1, dtype), tl.full(columns.shape, 1, dtype)
    lost = tl.zeros(columns.shape, dtype)
    if (WEIGHT | WEIGHT_NUMBER) & given:
        w = _option(weight, columns * weight_step, inside, WEIGHT & given, dtype, policy)
        z = tl.where((w >= 0) & (w < float("inf")), z, float("nan"))
        weight_n = tl.where(keep, w, 0.0)
        weight_p = weight_n
    if (POS_WEIGHT | POS_WEIGHT_NUMBER) & given:
        w = _option(pos_weight, columns * pos_weight_step, inside, POS_WEIGHT & given, dtype, policy)
        z = tl.where((w >= 0) & (w < float("inf")), z, float("nan"))
        weight_p = weight_p * tl.where(keep, w, 0.0)
    if (THRESHOLD | THRESHOLD_NUMBER) & given:
        theta = _option(threshold, columns * threshold_step, inside, THRESHOLD & given, dtype, policy)
        z, lost = _subtract(z, theta)
    if t.dtype.is_floating():
        soft = t if t.dtype == tl.float64 else t.to(tl.float32)
        least, most = tl.full([], -slack, soft.dtype), tl.full([], 1 + slack, soft.dtype)
        z = tl.where((soft >= least) & (soft <= most), z, float("nan"))
        t = tl.where(keep, tl.minimum(tl.maximum(soft.to(dtype), 0.0), 1.0), 0.0)
    else:
        if t.dtype != tl.int1:
            z = tl.where((t == 0) | (t == 1), z, float("nan"))
        t = (t == 1) & keep
    return tl.where(keep, z, float("-inf")), t, lost, weight_p, weight_n


@triton.jit
def _option(option, offsets, inside, is_tensor: tl.constexpr, dtype: tl.constexpr, policy: tl.constexpr):
    """A block of a tensor, or the number whose bits these are."""
    if is_tensor:
        return tl.load(option + offsets, inside, 0, eviction_policy=policy).to(dtype)
    else:  # noqa: RET505
        return tl.zeros(offsets.shape, dtype) + option.to(tl.int64).to(tl.float64, bitcast=True).to(dtype)


@triton.jit
def _subtract(z, threshold):
    """``z - threshold`` and its rounding error: ``zlpr_core._terms.subtract``."""
    finite = tl.where(tl.abs(z) < float("inf"), z, 0.0)
    difference = finite - threshold
    part = difference - finite
    lost = (finite - (difference - part)) - (threshold + part)
    return z - threshold, tl.where(tl.abs(lost) < 0.01, lost, 0.0)


@triton.jit
def _terms(z, t, lost, weight_p, weight_n, shift_p, shift_n):
    """The terms of the two halves, scaled by their shifts. A hard cell is in one of them: one exponential is enough."""
    if t.dtype == tl.int1:
        term = _weighted_exp(tl.where(t, weight_p, weight_n), tl.where(t, -z, z) - tl.where(t, shift_p, shift_n))
        term *= 1 + tl.where(t, -lost, lost)
        return tl.where(t, term, 0.0), tl.where(t, 0.0, term)
    else:  # noqa: RET505
        positive = _weighted_exp(t * weight_p, -z - shift_p) * (1 - lost)
        negative = _weighted_exp((1 - t) * weight_n, z - shift_n) * (1 + lost)
        return positive, negative


@triton.jit
def _weighted_exp(weight, x):
    """``weight · e^x``, 0 for a weight of 0. By halves: neither a weight of 1e-30 nor one of 1e30 leaves the range.

    ``tl.exp`` is 2^(x · log2 e) with a rounded product, which at x = -67 costs 4e-6. So x is split first, into
    2n · log 2 with a whole n, and a rest below log 2; log 2 is in two parts, of which n times the first is exact.
    """
    x = tl.where((weight == 0) & (x > 0), 0.0, x)
    if x.dtype == tl.float64:
        root = tl.exp(0.5 * x)
        return (weight * root) * root
    else:  # noqa: RET505
        x = tl.clamp(x, -1600.0, 1600.0, propagate_nan=tl.PropagateNan.ALL)  # e^x is 0 or inf long before
        n = (x * 0.7213475204444817 + 12582912.0) - 12582912.0  # 1.5 · 2^23 leaves no room for a fraction
        rest = (x - n * 1.38671875) - n * -0.000424388880241
        root = tl.exp2(n)
        return (weight * root) * (tl.exp2(rest * 1.4426950408889634) * root)


@triton.jit
def _log_term(weight, x):
    return tl.where(weight > 0, tl.log2(weight) * tl.full([], 0.6931471805599453, x.dtype) + x, 0.0)


@triton.jit
def _log1p(x):
    whole = 1 + x
    lost = tl.where(whole < float("inf"), x - (whole - 1), 0.0)
    return tl.log(whole) + lost / whole
