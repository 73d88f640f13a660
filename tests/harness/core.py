"""The core on NumPy, and on the strictest namespace there is."""

import array_api_strict
import numpy as np

import zlpr_core
from harness.base import Backend, widened


class Numpy(Backend):
    name = "numpy"
    dtypes = ("float16", "float32", "float64")
    autodiff = False
    adapter = False

    def native(self, values, dtype):
        return np.asarray(values).astype(dtype)

    def numpy(self, tensor):
        return widened(np.asarray(tensor))

    def dtype_name(self, tensor):
        return str(tensor.dtype).rpartition(".")[2]

    def losses(self, logits, targets, **options):
        return zlpr_core.zlpr(logits, targets, **options)

    def terms(self, logits, targets, **options):
        return zlpr_core.zlpr_terms(logits, targets, **options)

    def helper(self, name):
        return getattr(zlpr_core, name)

    def raw_grad(self, logits, targets, dtype="float64", *, wrt="logits", mode=None, **options):
        assert wrt == "logits"
        arguments = self.problem(logits, targets, dtype, **options)
        return zlpr_core.zlpr_grad(arguments.pop("logits"), arguments.pop("targets"), **arguments)


class Strict(Numpy):
    name = "strict"
    dtypes = ("float32", "float64")

    def native(self, values, dtype):
        return array_api_strict.asarray(np.asarray(values).astype(dtype))


def make(name):
    return {"numpy": Numpy, "strict": Strict}[name]()
