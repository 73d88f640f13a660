"""How a linear layer and its loss are cut so that the logits fit a budget of memory."""

from typing import Any, Literal, NamedTuple

BUDGETS = {"cpu": 64 * 2**20, "cuda": 256 * 2**20}
"""Bytes beyond inputs and gradients, unless told."""

CELLS = 2**20
"""Logits of a chunk on a CPU: of more the passes leave the cache, and of fewer the products are slow."""

COPIES = 4
"""Arrays of the logits' size that are there at once."""

COPIES_ON_GPU = 2
"""The same of a chunk on a GPU: its gradient is written over its logits, beside a byte a logit for class ids."""

FEWEST_ROWS = 64
"""In a chunk of rows: with fewer, adding to the gradient of the whole weight takes longer than a second product."""

FEWEST_CLASSES = 128
"""In a chunk of classes, whatever the budget. More are a multiple of it: then rows of logits are aligned in memory."""


def read_budget(budget: Any) -> int | None:
    """The same. Raise unless it is None or a positive number of bytes."""
    if budget is None or (isinstance(budget, int) and not isinstance(budget, bool) and budget > 0):
        return budget
    msg = f"`memory_budget` must be a positive whole number of bytes. Received: {budget!r}."
    raise ValueError(msg)


class LinearPlan(NamedTuple):
    """What :func:`linear_zlpr_loss` does: print it to see.

    ``"dense"``: all logits at once. ``"rows"``: some rows with all their classes, and the gradient in the same sweep.
    ``"classes"``: some classes of all rows, in a sweep for the sums and another for the gradient, which computes the
    logits anew.

    Example:
        >>> print(LinearPlan.of(rows=256, classes=131_072))
        32 chunks of 4096 classes, two sweeps: 16 MiB beyond the gradients, where all logits take 128 MiB
    """

    way: Literal["dense", "rows", "classes"]
    rows: int
    classes: int
    size: int
    """Rows or classes of a chunk."""
    bytes_a_logit: int
    copies: int = COPIES
    """Arrays of the size of a chunk's logits."""

    @classmethod
    def of(
        cls,
        *,
        rows: int,
        classes: int,
        device: str = "cpu",
        memory_budget: int | None = None,
        bytes_a_logit: int = 4,
        one_sweep: bool = True,
    ) -> "LinearPlan":
        """By the sizes. ``one_sweep`` is False where the gradient cannot be made while the loss is.

        Chunks of rows add up the gradient of the weight, for which half precision has too few digits.
        """
        budget = read_budget(memory_budget) or BUDGETS.get(device, BUDGETS["cuda"])
        if COPIES * bytes_a_logit * rows * classes <= budget:
            return cls("dense", rows, classes, max(classes, 1), bytes_a_logit)
        copies = COPIES_ON_GPU if device == "cuda" else COPIES
        cells = max(budget // (copies * bytes_a_logit), 1)
        cells = min(cells, CELLS) if device == "cpu" else cells
        plan = cls("rows", rows, classes, min(cells // classes, rows), bytes_a_logit, copies)
        fewest = rows if bytes_a_logit < 4 else min(FEWEST_ROWS, rows)
        return plan if one_sweep and plan.size >= fewest else plan.by_classes(cells)

    def by_classes(self, cells: int | None = None) -> "LinearPlan":
        """The same by chunks of the classes; itself unless it is by rows."""
        if cells is None and self.way != "rows":
            return self
        cells = self.size * self.classes if cells is None else cells
        aligned = cells // max(self.rows, 1) // FEWEST_CLASSES * FEWEST_CLASSES
        size = min(max(aligned, FEWEST_CLASSES), max(self.classes, 1))
        # not by `_replace`, which PyTorch 2.6 does not compile
        return LinearPlan("classes", self.rows, self.classes, size, self.bytes_a_logit, self.copies)

    @property
    def chunks(self) -> int:
        """How many."""
        return -(-(self.rows if self.way == "rows" else self.classes) // self.size)

    @property
    def peak(self) -> int:
        """Bytes beyond inputs and gradients."""
        other = self.classes if self.way == "rows" else self.rows
        return self.copies * self.bytes_a_logit * self.size * other

    def __str__(self) -> str:
        sweeps = {"dense": "", "rows": ", one sweep", "classes": ", two sweeps"}[self.way]
        what = f"{self.chunks} chunks of {self.size} {self.way}" if sweeps else "all logits at once"
        whole = self.bytes_a_logit * self.rows * self.classes
        return (
            f"{what}{sweeps}: {_mebibytes(self.peak)} beyond the gradients, where all logits take {_mebibytes(whole)}"
        )


def _mebibytes(number: int) -> str:
    return f"{number / 2**20:.3g} MiB"
