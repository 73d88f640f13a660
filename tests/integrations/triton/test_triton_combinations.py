"""The kernels with options of every form together, by Triton's interpreter: values and gradients beside the oracle."""

import os

import numpy as np
import pytest
from cases import rounded
from combinations import called, every, pairwise, tensors_of
from harness.triton import Kernels
from tolerances import grad_error, value_error
from truth import dense

KERNELS = Kernels()
CALLS = every() if "ZLPR_TRITON_EVERY" in os.environ else pairwise()


def random(rng, dtype):
    """Makes arrays: of labels, of a mask, or of weights and thresholds and soft labels, which are between 0 and 1."""

    def make(shape, kind):
        if kind in ("bool", "int64"):
            return rng.random(shape) < 0.6 if kind == "bool" else (rng.random(shape) < 0.4).astype(kind)
        return rounded(rng.random(shape), dtype)

    return make


@pytest.mark.parametrize("combination", [pytest.param(c, id=called(c)) for c in CALLS])
def test_options_of_every_form_together(combination, worst):
    dtype, rng = combination[0], np.random.default_rng(len(called(combination)))
    _, targets, options = tensors_of(combination, (3, 5), random(rng, dtype), number=0.3125)
    logits = rounded(rng.normal(0, [[3], [3], [40]], (3, 5)), dtype)
    losses, grads, sizes = dense(logits, targets, {name: np.broadcast_to(x, (3, 5)) for name, x in options.items()})
    got = KERNELS.loss(logits, targets, dtype, **options), KERNELS.grad(logits, targets, dtype, **options)
    worst("value", KERNELS, dtype, value_error(got[0], losses, dtype))
    worst("gradient", KERNELS, dtype, grad_error(got[1], grads, sizes, dtype))
