"""What is measured: shapes, targets and dtypes, and how they are drawn."""

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

SOFT = "soft"
SHAPES = {(64, 20): 1, (256, 80): 1, (256, 1000): 1, (512, 9605): 1, (64, 100_000): 1, (8, 10, 128, 128): 2}
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Case:
    """Logits of one shape and dtype, and their targets."""

    shape: tuple[int, ...]
    class_axes: int = 1  # how many of the last axes are classes
    targets: str = "3 %"  # the share of positives, or soft
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def soft(self) -> bool:
        """Targets between 0 and 1."""
        return self.targets == SOFT

    @property
    def share(self) -> float:
        """The share of positives among hard targets."""
        return int(self.targets.removesuffix(" %")) / 100

    @property
    def logit_bytes(self) -> int:
        """Of one logit."""
        return {"bfloat16": 2, "float32": 4}[self.dtype]

    @property
    def target_bytes(self) -> int:
        """Of one target: hard ones are bool, soft ones have the dtype of the logits."""
        return self.logit_bytes if self.soft else 1

    @property
    def size(self) -> int:
        """Number of logits."""
        return prod(self.shape)

    @property
    def axes(self) -> tuple[int, ...]:
        """The class axes, counted from the end."""
        return tuple(range(-self.class_axes, 0))

    def describe(self) -> dict[str, str]:
        """The case as columns of a table."""
        shape = "x".join(map(str, self.shape))
        return {"shape": shape, "targets": self.targets, "dtype": self.dtype, "device": self.device}


QUICK = (Case((64, 20)),)
WIDE = (512, 9605)  # measured at several shares of positives, which should make no difference
CPU = (
    *(
        Case(shape, axes, targets, dtype)
        for targets, dtype, (shape, axes) in product(("3 %", SOFT), DTYPES, SHAPES.items())
    ),
    *(Case(WIDE, targets=targets, dtype=dtype) for targets, dtype in product(("30 %", "70 %"), DTYPES)),
)
FAMILY = tuple(Case(shape) for shape in ((64, 20), (256, 1000), WIDE))
FEATURES, FEATURES_ON_GPU = 256, 768  # of the layer in the cases below, whose shapes are those of its logits
LINEAR = tuple(Case(shape, targets="three") for shape in ((2048, 10_000), (256, 131_072), (64, 670_000)))
ON_GPU = ((64, 20), (256, 1000), WIDE, (64, 100_000), (16, 1_000_000), (4096, 32_768), (8192, 131_072))
GPU = tuple(
    Case(shape, targets=targets, dtype=dtype, device="cuda")
    for targets, dtype, shape in product(("3 %", SOFT), ("bfloat16", "float32"), ON_GPU)
)
GPU_LINEAR = tuple(
    Case(shape, targets="eight", dtype="bfloat16", device="cuda")
    for shape in ((1024, 1_048_576), (128, 2_812_280), (8192, 131_072))
)


def draw(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """float32 logits, and bool or float32 targets: the same at every call."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal(case.shape, np.float32)
    uniform = rng.random(case.shape, np.float32)
    return logits, uniform if case.soft else uniform < case.share
