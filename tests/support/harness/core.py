"""The core on NumPy, and on the strictest namespace there is."""

import array_api_strict
import numpy as np

import zlpr_core
from harness.base import Backend, widened


class Numpy(Backend):
    name = "numpy"
    package = zlpr_core
    dtypes = ("float16", "float32", "float64")
    autodiff = False
    adapter = False

    def native(self, values, dtype):
        return np.asarray(values).astype(dtype)

    def numpy(self, tensor):
        return widened(np.asarray(tensor))

    def dtype_name(self, tensor):
        return str(tensor.dtype).rpartition(".")[2]

    def call(self, name, arrays, options):
        return self.function(name)(*arrays, **options)

    def function(self, name):
        return getattr(zlpr_core, name)

    def own_options(self, name):
        return {"xp": None}

    def alarms(self):
        return np.errstate(all="raise", under="ignore")

    def native_slope(self, name, wrt, dtype="float64", *, mode=None, target_dtype=None, **arguments):
        assert (name, wrt) == ("zlpr", "logits")
        tensors = self.tensors(dtype, target_dtype, **arguments)
        return zlpr_core.zlpr_grad(tensors.pop("logits"), tensors.pop("targets"), **tensors)


class Strict(Numpy):
    name = "strict"
    dtypes = ("float32", "float64")

    def native(self, values, dtype):
        return array_api_strict.asarray(np.asarray(values).astype(dtype))


def make(name):
    return {"numpy": Numpy, "strict": Strict}[name]()
