"""A CPU that takes the way of a GPU through the linear loss: the kernels are Triton's interpreter's."""

import harness.triton  # noqa: F401 - first, because it sets Triton to interpret
import numpy as np
import pytest

import zlpr_torch._namespace
from zlpr_torch import LinearPlan, _chunks, _cuda_chunks, _linear_autograd, _sharded


@pytest.fixture
def like_a_gpu(monkeypatch):
    """Class ids are not read, chunks go to the kernels, and plans and dtypes of products are those of a GPU."""
    product_dtype, plan = _linear_autograd.product_dtype, LinearPlan.of
    for module in (_chunks, _sharded):
        monkeypatch.setattr(module, "kernel_of", lambda logits: _cuda_chunks)
    monkeypatch.setattr(_linear_autograd, "product_dtype", lambda device, *dtypes: product_dtype("cuda", *dtypes))
    monkeypatch.setattr(LinearPlan, "of", lambda **sizes: plan(**{**sizes, "device": "cuda"}))
    monkeypatch.setattr(zlpr_torch._namespace.xp, "readable", lambda x: False)
    with np.errstate(all="ignore"):  # the interpreter is NumPy, which warns where a GPU does not
        yield
