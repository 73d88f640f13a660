"""How a launch of ``_triton_kernels`` is cut: classes to a block, warps, and programs that share a row.

Where an H100 was measured, the sizes are its fastest of those that spill no register when they are compiled. Wide rows
want large blocks with many warps: then few rows are read at once, and their second reading finds them in the L2 cache.
"""

from typing import NamedTuple

MOST_PARTS = 16
"""Programs that share a row: each waits for the others, so that many must fit the device at once."""

PART = 16384
"""Fewer classes are not worth a program more to the row."""


class Device(NamedTuple):
    """What matters of a GPU."""

    multiprocessors: int
    l2_bytes: int
    warp_size: int = 32  # threads; AMD's have 64


class Cut(NamedTuple):
    """The constants of a launch."""

    block: int
    warps: int
    parts: int


def cut_of(rows: int, classes: int, logit_bytes: int, target_bytes: int, options: int, device: Device) -> Cut:
    """For logits and targets of so many bytes each, and so many options that are tensors."""
    parts = _parts(rows, classes, (logit_bytes + target_bytes) * classes, device)
    block, warps = _block(-(-classes // parts), logit_bytes, target_bytes, parts > 1)
    if options or 8 in (logit_bytes, target_bytes):  # of which a thread holds more for each logit, in registers
        warps = min(max(block // 128, 1), 8)
        block = min(block, 128 * warps)
    return Cut(block, max(32 * warps // device.warp_size, 1), parts)  # no device takes more than 1 024 threads


def _block(width: int, logit_bytes: int, target_bytes: int, is_shared: bool) -> tuple[int, int]:
    if width <= 2048:
        block = max(_power_of_2_from(width), 32)
        return block, min(max(block * logit_bytes // 1024, 1), 8)  # 32 bytes of logits to a thread
    if width < PART:
        return 2048, 8
    if is_shared and (logit_bytes, target_bytes) == (2, 1) and width < 2 * PART:
        return 4096, 16  # with any other dtypes two of these, side by side, need more registers than there are
    return 8192, 16 if (logit_bytes, target_bytes) == (2, 2) and not is_shared else 32


def _parts(rows: int, classes: int, row_bytes: int, device: Device) -> int:
    """1 if the rows fill the device, and those that are read at once fit the L2 cache."""
    most = min(MOST_PARTS, device.multiprocessors // 2, classes // PART)
    wanted = 2 * device.multiprocessors // max(rows, 1)
    in_flight = min(rows, device.multiprocessors) * row_bytes
    if in_flight > 0.75 * device.l2_bytes:
        wanted = max(wanted, -(-8 * in_flight // device.l2_bytes))
    return _power_of_2_to(min(wanted, most))


def _power_of_2_from(number: int) -> int:
    return int(1 << (number - 1).bit_length())


def _power_of_2_to(number: int) -> int:
    return int(1 << max(number.bit_length() - 1, 0))
