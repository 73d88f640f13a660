"""Memory of the CPU kernels for what is between logits and gradient: arrays as large as a block of rows."""

import threading

import torch
from torch import Tensor


class NewMemory:
    """None for each array: every operation makes its result. Where arrays are small, and in traced code."""

    def of_rows(self, rows: int, **lent: Tensor | None) -> "NewMemory":
        """The same, whatever the number."""
        del rows, lent
        return self

    def lend(self, **arrays: Tensor | None) -> None:
        """None: ``_cpu.swept`` finds memory of its own then."""

    def __getitem__(self, name: str) -> None:
        return None


class Memory:
    """Arrays of a block's size by name, the same for every block."""

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        self.arrays: dict[str, Tensor] = {}

    def of_rows(self, rows: int, **lent: Tensor | None) -> "BlockMemory":
        """For a block of so many rows."""
        return BlockMemory(self, rows, lent)

    def array(self, name: str) -> Tensor:
        """Made when it is first asked for."""
        if name not in self.arrays:
            with torch.inference_mode(mode=False):  # the next call may be a training step
                self.arrays[name] = torch.empty(self.shape, dtype=self.dtype, device="cpu")
        return self.arrays[name]


class BlockMemory:
    """Of one block. Arrays that are ``lent`` for it are taken before any other, if they have the dtype.

    A caller lends what it writes to last: of 256x1000 with cold caches R-Drop takes a sixth less time if it works in
    the memory of its gradients.
    """

    def __init__(self, memory: Memory, rows: int, lent: dict[str, Tensor | None]) -> None:
        self.memory, self.rows = memory, rows
        self.lent = {name: x for name, x in lent.items() if x is not None and x.dtype == memory.dtype}

    def of_rows(self, rows: int) -> "BlockMemory":
        """It is of these rows already."""
        del rows
        return self

    def lend(self, **arrays: Tensor | None) -> "BlockMemory":
        """For the same block, with other arrays lent."""
        return BlockMemory(self.memory, self.rows, arrays)

    def __getitem__(self, name: str) -> Tensor:
        if name in self.lent:
            return self.lent[name]
        array = self.memory.array(name)
        return array if self.rows == self.memory.shape[0] else array[: self.rows]


AnyMemory = BlockMemory | NewMemory


class _Kept(threading.local):
    def __init__(self) -> None:
        self.memories: dict[str, Memory] = {}


_KEPT = _Kept()


def kept_memory(kernel: str, shape: tuple[int, int], dtype: torch.dtype) -> Memory:
    """That of the last call of this kernel in this thread, if it fits.

    Of new memory the first touch of each page takes the system as long as the arithmetic, and glibc gives back what is
    freed at the end of its heap: in a loop that does little else a divergence of 256x1000 takes half as long again.
    What is kept is a block of several rows, as the kernels cut them; one row may be as large as it likes.
    """
    kept = _KEPT.memories.get(kernel)
    if kept is None or (kept.shape, kept.dtype) != (shape, dtype):
        kept = Memory(shape, dtype)
        if shape[0] > 1:
            _KEPT.memories[kernel] = kept
    return kept
